// Hostile templates: every parse and every render ends within its limits, in little memory and a
// small stack.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>

#include <chrono>
#include <functional>

#include "base/text_escape.h"
#include "daemon/text/chat_template.h"
#include "tests/support/vocab.h"

namespace sluice {
namespace {

namespace json = boost::json;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

std::string times(std::string_view unit, size_t n) {
  std::string out;
  out.reserve(unit.size() * n);
  for (size_t i = 0; i < n; ++i) out += unit;
  return out;
}

json::object conversation() {
  return json::parse(R"({"messages": [{"role": "system", "content": "be good"},
                                      {"role": "user", "content": "hello {{ 1 }}"}],
                         "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})")
      .as_object();
}

// "", or the code of the error.
std::string outcome(const std::string& source,
                    const json::object& context = conversation(),
                    TemplateLimits limits = {}) {
  const auto parsed = ChatTemplate::parse(source, limits);
  if (!parsed) return parsed.error().code;
  const auto text = parsed.value().render(context);
  return text ? "" : text.error().code;
}

// Runs `work` on a thread with a small stack: the daemon's own threads may have no more.
void on_small_stack(const std::function<void()>& work) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kSanitized ? 8 << 20 : 256 << 10);
  pthread_t thread;
  ASSERT_EQ(pthread_create(
                &thread,
                &attributes,
                [](void* w) -> void* {
                  (*static_cast<const std::function<void()>*>(w))();
                  return nullptr;
                },
                const_cast<std::function<void()>*>(&work)),
            0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

int64_t peak_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

struct Hostile {
  std::string what;
  std::string source;
  // What must come out: "" is a text, "?" anything that ends.
  std::string code;
};

std::vector<Hostile> hostile_templates() {
  const size_t deep = 20000;
  std::string nested;
  for (int i = 0; i < 5; ++i) nested += "{% for a" + std::to_string(i) + " in range(100000) %}";
  nested += times("{% endfor %}", 5);
  const std::string limit = "template.limit";
  const std::string error = "template.error";
  const std::string syntax = "template.syntax";
  // clang-format off
  return {
      {"range of 10^9", "{% for i in range(1000000000) %}x{% endfor %}", limit},
      {"range of 10^18", "{% for i in range(1000000000000000000) %}{% endfor %}", limit},
      {"range over all integers", "{{ range(-9223372036854775807, 9223372036854775807, 1)|length }}", limit},
      {"five nested ranges of 10^5", nested, limit},
      {"macro that calls itself", "{% macro x() %}{{ x() }}{% endmacro %}{{ x() }}", limit},
      {"two macros that call each other",
       "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", limit},
      {"macro that calls itself twice",
       "{% macro x(n) %}{% if n %}{{ x(n-1) }}{{ x(n-1) }}{% endif %}{% endmacro %}{{ x(64) }}", limit},
      {"wide recursion", "{% macro x(n) %}{% if n %}{{ x(n-1) }}{{ x(n-1) }}{% endif %}{% endmacro %}{{ x(30) }}", limit},
      {"doubling string", "{% set ns = namespace(v='ab') %}{% for i in range(64) %}{% set ns.v = ns.v ~ ns.v %}{% endfor %}{{ ns.v }}", limit},
      {"doubling string by +", "{% set ns = namespace(v='ab') %}{% for i in range(64) %}{% set ns.v = ns.v + ns.v %}{% endfor %}{{ ns.v }}", limit},
      {"doubling list", "{% set ns = namespace(v=[1]) %}{% for i in range(64) %}{% set ns.v = ns.v + ns.v %}{% endfor %}{{ ns.v|length }}", limit},
      {"doubling by a block", "{% set v = 'abcdefgh' %}" + times("{% set v %}{{ v }}{{ v }}{% endset %}", 64) + "{{ v|length }}", limit},
      {"doubling tree of lists", "{% set ns = namespace(v=[1]) %}{% for i in range(64) %}{% set ns.v = [ns.v, ns.v] %}{% endfor %}{{ ns.v }}", limit},
      {"doubling tree compared", "{% set ns = namespace(v=[1], w=[1]) %}{% for i in range(64) %}{% set ns.v = [ns.v, ns.v] %}{% set ns.w = [ns.w, ns.w] %}{% endfor %}{{ ns.v == ns.w }}", limit},
      {"doubling tree as JSON", "{% set ns = namespace(v=[1]) %}{% for i in range(64) %}{% set ns.v = {'a': ns.v, 'b': ns.v} %}{% endfor %}{{ ns.v|tojson|length }}", limit},
      {"list nested 10^5 deep", "{% set ns = namespace(v=[]) %}{% for i in range(100000) %}{% set ns.v = [ns.v] %}{% endfor %}{{ ns.v }}", limit},
      {"dict nested 10^5 deep", "{% set ns = namespace(v=[]) %}{% for i in range(100000) %}{% set ns.v = {'a': ns.v} %}{% endfor %}{{ ns.v }}", limit},
      {"namespaces in namespaces", "{% set ns = namespace(v=1) %}{% for i in range(100000) %}{% set ns.v = namespace(v=ns.v) %}{% endfor %}{{ ns.v }}", limit},
      {"loops that keep loops", "{% set ns = namespace(v=1) %}{% for i in range(100000) %}{% for x in [ns.v] %}{% set ns.v = loop %}{% endfor %}{% endfor %}{{ ns.v }}", limit},
      {"methods that keep loops", "{% set ns = namespace(v=1) %}{% for i in range(100000) %}{% for x in [ns.v] %}{% set ns.v = loop.cycle %}{% endfor %}{% endfor %}{{ ns.v }}", limit},
      {"a loop that remembers itself", "{% set ns = namespace() %}{% for x in [1] %}{% set ns.l = loop %}{{ loop.changed(loop, [loop]) }}{% endfor %}{{ ns.l.changed(ns.l) }}", "?"},
      {"string times 10^9", "{{ 'a' * 1000000000 }}", limit},
      {"list times 10^9", "{{ [0] * 1000000000 }}", limit},
      {"string times 2^62", "{{ 'abcd' * 4611686018427387904 }}", limit},
      {"9**9**9", "{{ 9 ** 9 ** 9 }}", limit},
      {"product beyond 64 bits", "{{ 9223372036854775807 * 2 }}", limit},
      {"sum beyond 64 bits", "{{ 9223372036854775807 + 1 }}", limit},
      {"least integer divided", "{{ (-9223372036854775807 - 1) // -1 }}", limit},
      {"least integer modulo", "{{ (-9223372036854775807 - 1) % -1 }}", "?"},
      {"least integer negated", "{{ -(-9223372036854775807 - 1) }}", error},
      {"integer of 100000 digits", "{{ " + times("9", 100000) + " }}", limit},
      {"deep parentheses", "{{ " + times("(", deep) + "1" + times(")", deep) + " }}", limit},
      {"deep lists", "{{ " + times("[", deep) + times("]", deep) + " }}", limit},
      {"deep dicts", "{{ " + times("{1:", deep) + "1" + times("}", deep) + " }}", limit},
      {"deep if blocks", times("{% if true %}", deep) + times("{% endif %}", deep), limit},
      {"deep for blocks", times("{% for x in [1] %}", deep) + times("{% endfor %}", deep), limit},
      {"deep targets", "{% for " + times("(", deep) + "a" + times(")", deep) + " in x %}{% endfor %}", limit},
      {"deep not", "{{ " + times("not ", deep) + "true }}", limit},
      {"deep conditions", "{{ " + times("1 if 1 else ", deep) + "1 }}", limit},
      {"deep calls", "{{ " + times("x(", deep) + times(")", deep) + " }}", limit},
      {"deep subscripts", "{{ " + times("x[", deep) + "1" + times("]", deep) + " }}", limit},
      {"long filter chain", "{{ 'a'" + times("|upper", deep) + " }}", limit},
      {"long test chain", "{{ 'a'" + times(" is defined", deep) + " }}", "?"},
      {"long attribute chain", "{{ messages" + times(".x", deep) + " }}", limit},
      {"long call chain", "{{ x" + times("()", deep) + " }}", limit},
      {"long sum", "{{ 1" + times("+1", deep) + " }}", limit},
      {"long concatenation", "{{ 1" + times("~1", deep) + " }}", ""},
      {"long and", "{{ 1" + times(" and 1", deep) + " }}", limit},
      {"long comparison", "{{ 1" + times(" == 1", deep) + " }}", ""},
      {"unary minus chain", "{{ " + times("-", deep) + "1 }}", limit},
      {"elif chain", "{% if false %}" + times("{% elif false %}", deep) + "{% endif %}", ""},
      {"map of map of map", "{{ [1]|map('map', 'map', 'map', 'map')|list }}", "?"},
      {"python class walk", "{{ ''.__class__.__mro__[1].__subclasses__() }}", error},
      {"globals of cycler", "{{ cycler.__init__.__globals__.os.popen('id').read() }}", error},
      {"self internals", "{{ self._TemplateReference__context }}", error},
      {"attr filter walk", "{{ ''|attr('__class__')|attr('__base__') }}", ""},
      {"include of a file", "{% include '/etc/passwd' %}", error},
      {"import of a file", "{% import '/etc/passwd' as p %}{{ p }}", error},
      {"extends a file", "{% extends '../../../../etc/passwd' %}", error},
      {"center to 10^9", "{{ 'x'|center(999999999) }}", limit},
      {"ljust to 2^63", "{{ 'x'.ljust(9223372036854775807) }}", limit},
      {"indent by 10^9", "{{ 'x\\ny'|indent(999999999) }}", limit},
      {"tojson indent 10^9", "{{ messages|tojson(indent=999999999) }}", limit},
      {"printf width 10^9", "{{ '%999999999s'|format('x') }}", error},
      {"replace empty by long", "{{ ('x' * 100000)|replace('x', 'y' * 100000) }}", limit},
      {"replace between all", "{{ ('x' * 100000)|replace('', 'y' * 100000) }}", limit},
      {"batch by 1 of 10^8", "{{ range(100000000)|batch(1)|list|length }}", limit},
      {"batch filled up", "{{ range(100000)|batch(1000000, 0)|list|length }}", "?"},
      {"join of a large range", "{{ range(100000000)|join('aaaa') }}", limit},
      {"join of long strings", "{{ range(100000)|join('a' * 1000) }}", limit},
      {"split into characters", "{{ ('a,' * 1000000).split(',')|length }}", limit},
      {"split at spaces", "{{ ('a ' * 1000000).split()|length }}", limit},
      {"lines", "{{ ('a\\n' * 1000000).splitlines()|length }}", limit},
      {"list of characters", "{{ ('a' * 2000000)|list|length }}", limit},
      {"sort of many", "{{ range(100000)|sort(reverse=true)|first }}", "?"},
      {"unique of many", "{{ range(100000)|unique|list|length }}", limit},
      {"large output", "{% for i in range(1000) %}{{ 'a' * 10000 }}{% endfor %}", limit},
      {"large capture", "{% set x %}{% for i in range(1000) %}{{ 'a' * 10000 }}{% endfor %}{% endset %}", limit},
      {"captures in captures", times("{% set x %}{{ 'a' * 1000000 }}", 100) + times("{% endset %}", 100), limit},
      {"many variables", [] {
         std::string s;
         for (int i = 0; i < 40000; ++i) s += "{% set a" + std::to_string(i) + "=1 %}";
         return s;
       }(), "?"},
      {"unclosed for", "{% for m in messages %}{{ m }}", syntax},
      {"unclosed expression", "{{ messages", syntax},
      {"unclosed comment", "{# never ends", syntax},
      {"unclosed raw", "{% raw %}{{", syntax},
      {"unclosed string", "{{ 'abc", syntax},
      {"unknown filter", "{{ messages|no_such_filter }}", error},
      {"unknown tag", "{% no_such_tag %}", syntax},
      {"undefined call", "{{ undefined_thing() }}", error},
      {"division by zero", "{{ 1 / 0 }}", error},
      {"modulo zero", "{{ 1 % 0 }}", error},
      {"floor division by zero", "{{ 1.5 // 0 }}", error},
      {"extreme slices", "{{ 'abc'[-9223372036854775807:9223372036854775807:-1] }}{{ [1, 2][9223372036854775807:-9223372036854775807:-9223372036854775807] }}{{ 'abc'[::9223372036854775807] }}", ""},
      {"slice bound beyond 64 bits", "{{ 'abc'[-9223372036854775808:9223372036854775807:-1] }}", limit},
      {"slice step 0", "{{ 'abc'[::0] }}", error},
      {"index far outside", "{{ messages[9223372036854775807] }}", ""},
      {"cyclic namespace as JSON", "{% set n = namespace() %}{% set n.me = n %}{{ n|tojson }}", error},
      {"cyclic namespace as text", "{% set n = namespace() %}{% set n.me = n %}{{ n }}", limit},
      {"cyclic namespace in lists", "{% set n = namespace() %}{% set n.me = [n, {'a': n}] %}{{ n }}", limit},
      {"cycle compared", "{% set n = namespace() %}{% set n.me = [n] %}{% set m = namespace() %}{% set m.me = [m] %}{{ n.me == m.me }}", "?"},
      {"recursive loop", "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", syntax},
      {"calls a loop", "{% for x in [1] %}{{ loop([x]) }}{% endfor %}", error},
      {"always raises", "{{ raise_exception('no') }}", error},
      {"drops every message", "constant", ""},
      {"invalid UTF-8", "{{ '\xff\xfe' }}\xc0\xaf", ""},
      {"NUL inside", std::string("{{ 'a\0b' }}\0{{ x }}", 19), ""},
      {"900 KiB of text", times("a", 900 << 10), ""},
      {"900 KiB of braces", times("{", 900 << 10), "?"},
      {"900 KiB of quotes", "{{ " + times("'", 900 << 10), "?"},
      {"900 KiB of comments", times("{##}", 225 << 10), ""},
      {"900 KiB of prints", times("{{1}}", 180 << 10), "?"},
      {"900 KiB of raw", times("{% raw %}", 100 << 10), syntax},
      {"900 KiB of unfinished endraw", "{% raw %}" + times("{% endraw ", 90 << 10), syntax},
      {"900 KiB of spaced tags", times("{%  ", 225 << 10), syntax},
      {"empty tags", times("{{}}", 200000), syntax},
      {"only spaces", times(" ", 1 << 19), ""},
      {"spaces around tags", times(times(" ", 500) + "{%- if 1 -%}{%- endif -%}", 1500), ""},
      {"forges roles from content", "{% for m in messages %}<s>{{ m.role }}{{ m.content }}</s><s>system{{ m.content }}{% endfor %}", ""},
      {"long date format", "{{ strftime_now('%A' * 1000) }}", limit},
      {"date format with a NUL", std::string("{{ strftime_now('a\0b') }}", 25), error},
      {"odd date format", "{{ strftime_now('%') }}{{ strftime_now('%Q%!%') }}", ""},
      {"range step of the least integer", "{{ range(5, -5, -9223372036854775807 - 1)|list }}", ""},
      {"format on dict changes", "{{ messages[0].update({'a': 1}) }}", error},
  };
  // clang-format on
}

TEST(TemplateLimits, HostileTemplatesEndWithinTheirLimits) {
  on_small_stack([] {
    for (const Hostile& h : hostile_templates()) {
      const int64_t before = peak_kib();
      const auto start = std::chrono::steady_clock::now();
      const std::string code = outcome(h.source);
      const auto took = std::chrono::steady_clock::now() - start;
      const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
      // 250 ms for the render; the rest is for parsing and for machines that are busy with
      // something else.
      EXPECT_LT(ms, kSanitized ? 20000 : 3000) << h.what;
      if (!kSanitized) {
        EXPECT_LT(peak_kib() - before, 64 << 10) << h.what;
      }
      if (h.code == "?") {
        EXPECT_TRUE(code.empty() || code.starts_with("template.")) << h.what << ": " << code;
      } else {
        EXPECT_EQ(code, h.code) << h.what;
      }
    }
  });
}

// 255 levels of everything that nests: what is allowed also fits the small stack, parsed and
// rendered.
TEST(TemplateLimits, TheDeepestAllowedTemplatesFitASmallStack) {
  on_small_stack([] {
    const std::vector<std::pair<std::string, std::string>> shells = {
        {"{% if true %}", "{% endif %}"},
        {"{% for x in [1] %}", "{% endfor %}"},
        {"{% set x %}", "{% endset %}"},
        {"{% filter upper %}", "{% endfilter %}"},
        {"{% with a = 1 %}", "{% endwith %}"}};
    for (const auto& [open, close] : shells) {
      EXPECT_EQ(outcome(times(open, 250) + "x" + times(close, 250)), "") << open;
      EXPECT_EQ(outcome(times(open, 260) + "x" + times(close, 260)), "template.limit") << open;
    }
    const std::vector<std::pair<std::string, std::string>> expressions = {
        {"(", ")"},
        {"[", "]"},
        {"not ", ""},
        {"-", ""},
        {"{1:", "}"},
        {"x[", "]"},
        {"1 if 1 else (", ")"},
        {"namespace(a=", ")"},
        {"[1]|map('default', ", ")|list"},
        {"x|default(", ")"},
        {"1 == (", ")"},
        {"1 ~ (", ")"}};
    for (const auto& [open, close] : expressions) {
      for (const size_t n : {60u, 120u, 240u, 250u}) {
        const std::string code = outcome("{{ " + times(open, n) + "1" + times(close, n) + " }}");
        EXPECT_TRUE(code.empty() || code == "template.limit" || code == "template.error")
            << open << n << code;
      }
      EXPECT_EQ(
          outcome("{{ " + times(open, 60) + "1" + times(close, 60) + " }}").find("template.limit"),
          std::string::npos)
          << open;
    }
    // Macros inside macros, with the deepest expression in each.
    EXPECT_EQ(outcome("{% macro m(n) %}{% if n %}{{ ((((((m(n - 1))))))) }}{% endif %}{% endmacro "
                      "%}{{ m(20) }}"),
              "");
    EXPECT_EQ(outcome("{% macro m(n) %}{% for x in [1] %}{% set y %}{{ [[[m(n - "
                      "1)]]]|map('first')|list }}{% endset %}{% endfor %}{% endmacro %}{{ m(9) }}"),
              "template.limit");
  });
}

TEST(TemplateLimits, DeepDataFromTheCallerIsNotFollowed) {
  json::value deep = 1;
  for (int i = 0; i < 3000; ++i) deep = json::array{std::move(deep)};
  const json::object context{
      {"x", deep}, {"y", deep}};  // made and destroyed on a large stack: that recursion is not ours
  on_small_stack([&] {
    EXPECT_EQ(outcome("{{ x|tojson }}", context), "template.limit");
    EXPECT_EQ(outcome("{{ x }}", context), "template.limit");
    EXPECT_EQ(outcome("{{ x == y }}", context), "template.limit");
    EXPECT_EQ(outcome("{{ x < y }}", context), "template.limit");
    EXPECT_EQ(outcome("{{ [x, y]|unique|list|length }}", context), "template.limit");
  });
}

TEST(TemplateLimits, EachLimitIsReachedAndNamed) {
  TemplateLimits small;
  small.source_bytes = 100;
  EXPECT_EQ(outcome(std::string(100, 'x'), {}, small), "");
  EXPECT_EQ(outcome(std::string(101, 'x'), {}, small), "template.limit");
  small = {};
  small.output_bytes = 10;
  EXPECT_EQ(outcome("0123456789", {}, small), "");
  EXPECT_EQ(outcome("0123456789a", {}, small), "template.limit");
  EXPECT_EQ(outcome("{% for i in range(4) %}abc{% endfor %}", {}, small), "template.limit");
  small = {};
  small.loop_steps = 100;
  EXPECT_EQ(outcome("{% for i in range(100) %}{% endfor %}", {}, small), "");
  EXPECT_EQ(outcome("{% for i in range(101) %}{% endfor %}", {}, small), "template.limit");
  EXPECT_EQ(
      outcome(
          "{% for i in range(10) %}{% for j in range(10) %}{% endfor %}{% endfor %}", {}, small),
      "template.limit");
  EXPECT_EQ(outcome("{% for i in range(101) if false %}{% endfor %}", {}, small), "template.limit");
  small = {};
  small.live_bytes = 10000;
  EXPECT_EQ(outcome("{{ ('a' * 9000)|length }}", {}, small), "");
  EXPECT_EQ(outcome("{{ ('a' * 11000)|length }}", {}, small), "template.limit");
  // What is let go is given back.
  EXPECT_EQ(outcome("{% for i in range(50) %}{% set x = 'a' * 5000 %}{% endfor %}", {}, small), "");
  small = {};
  small.render_ms = 20;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(outcome("{% for i in range(1000) %}{% for j in range(900) %}{% set x = [i, j, 'a' ~ "
                    "j]|tojson %}{% endfor %}{% endfor %}",
                    {},
                    small),
            "template.limit");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  small = {};
  small.nesting = 5;
  EXPECT_EQ(outcome("{{ (((1))) }}", {}, small), "");
  EXPECT_EQ(outcome("{{ (((((1))))) }}", {}, small), "template.limit");
}

TEST(TemplateLimits, ALargeConversationRenders) {
  json::array messages;
  for (int i = 0; i < 5000; ++i) {
    messages.push_back(json::object{{"role", i % 2 == 0 ? "user" : "assistant"},
                                    {"content", std::string(200, 'x')}});
  }
  const json::object context{{"messages", messages}, {"add_generation_prompt", true}};
  TemplateLimits patient;
  patient.render_ms = 10000;  // some 10 ms are enough, but not under a sanitizer on a busy machine
  for (const std::string name : {"qwen2.5", "qwen3"}) {
    const std::string path = testing::golden_path("public/chat/" + name + ".jinja");
    EXPECT_EQ(outcome(testing::read_file(path), context, patient), "") << name;
  }
}

// Programs cut and changed at random: whatever they are, they end, and what they give is valid
// UTF-8.
TEST(TemplateLimits, DamagedTemplatesEnd) {
  const json::object context = conversation();
  std::vector<std::string> seeds = {
      testing::read_file(testing::golden_path("public/chat/qwen3.jinja"))};
  for (const Hostile& h : hostile_templates()) {
    if (h.source.size() < 400) seeds.push_back(h.source);
  }
  uint64_t state = 42;
  const auto random = [&](uint64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
  };
  static constexpr std::string_view kPieces[] = {"{{", "}}",   "{%", "%}", "(", ")",  "[",   "]",
                                                 "|",  ".",    "'",  "-",  "~", "if", "for", "x",
                                                 "{#", "\xff", "1",  ":",  ",", "="};
  TemplateLimits limits;
  limits.render_ms = 20;
  for (int round = 0; round < 3000; ++round) {
    std::string source = seeds[random(seeds.size())];
    for (uint64_t edits = 1 + random(4); edits > 0 && !source.empty(); --edits) {
      const size_t at = random(source.size());
      switch (random(3)) {
        case 0:
          source.erase(at, 1 + random(8));
          break;
        case 1:
          source.insert(at, kPieces[random(std::size(kPieces))]);
          break;
        default:
          source[at] = static_cast<char>(random(256));
          break;
      }
    }
    const auto parsed = ChatTemplate::parse(source, limits);
    if (!parsed) continue;
    const auto text = parsed.value().render(context);
    if (text) {
      EXPECT_EQ(to_valid_utf8(text.value()), text.value());
    }
  }
}

}  // namespace
}  // namespace sluice
