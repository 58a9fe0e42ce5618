// Chat templates against HF transformers: prompts byte for byte, and the cases that Python's jinja2
// computed.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "daemon/text/chat_template.h"
#include "tests/support/vocab.h"

namespace sluice {
namespace {

namespace json = boost::json;
using testing::golden_path;
using testing::ids_of;
using testing::load_tokenizer;
using testing::read_file;
using testing::read_json;

// The rendered text, or "CODE: what" of the error.
std::string render(const std::string& source, const json::object& context = {}) {
  const auto parsed = ChatTemplate::parse(source);
  if (!parsed) return parsed.error().code + ": " + parsed.error().what;
  const auto text = parsed.value().render(context);
  return text ? text.value() : text.error().code + ": " + text.error().what;
}

std::string render(const std::string& source, const char* context) {
  return render(source, json::parse(context).as_object());
}

// The code alone.
std::string error_of(const std::string& source, const char* context = "{}") {
  const std::string text = render(source, context);
  return text.substr(0, text.find(':'));
}

TEST(ChatTemplateGolden, RendersAsTransformers) {
  const auto tokenizer = load_tokenizer(golden_path("public/tokenizer/vocab.gguf"));
  ASSERT_TRUE(tokenizer);
  const auto golden = read_json(golden_path("public/chat/case.json"));
  ASSERT_GE(golden.at("cases").as_array().size(), 60u);
  for (const auto& c : golden.at("cases").as_array()) {
    const std::string name(c.at("template").as_string());
    auto parsed = ChatTemplate::parse(read_file(golden_path("public/chat/" + name + ".jinja")));
    ASSERT_TRUE(parsed) << parsed.error().what;
    json::object context;
    for (const char* key : {"messages", "tools", "add_generation_prompt", "enable_thinking"}) {
      if (const auto* v = c.as_object().if_contains(key)) context[key] = *v;
    }
    const auto text = parsed.value().render(context);
    ASSERT_TRUE(text) << c.at("name") << ": " << text.error().what;
    EXPECT_EQ(text.value(), std::string(c.at("text").as_string())) << name << ' ' << c.at("name");
    EXPECT_EQ(tokenizer->encode(text.value(), true).value(), ids_of(c.at("ids"))) << c.at("name");
  }
}

TEST(ChatTemplateGolden, RendersTheTemplateOfARealModel) {
  SLUICE_NEED_REAL_MODEL(path, "qwen2.5-coder-0.5b");
  auto file = GgufFile::open(path);
  ASSERT_TRUE(file);
  const auto vocab = check_vocab(file.value());
  ASSERT_TRUE(vocab);
  const auto tokenizer = Tokenizer::create(vocab.value());
  const auto parsed = ChatTemplate::parse(std::string(vocab.value().chat_template));
  ASSERT_TRUE(parsed) << parsed.error().what;
  const auto golden = read_json(golden_path("real/qwen2.5-coder-0.5b.json"));
  for (const auto& c : golden.at("chats").as_array()) {
    json::object context{{"messages", c.at("messages")}, {"add_generation_prompt", true}};
    const auto text = parsed.value().render(context);
    ASSERT_TRUE(text) << text.error().what;
    EXPECT_EQ(text.value(), std::string(c.at("prompt").as_string()));
    EXPECT_EQ(tokenizer.value()->encode(text.value(), true).value(), ids_of(c.at("ids")));
  }
}

// tests/tools/make_template_cases.py: snippets, whole templates of several families, random
// programs.
TEST(ChatTemplateGolden, AgreesWithPythonsJinja) {
  const auto golden = read_json(golden_path("templates/cases.json"));
  const auto& templates = golden.at("templates").as_array();
  int texts = 0;
  int errors = 0;
  for (const auto& c : golden.at("cases").as_array()) {
    const std::string source(
        templates.at(static_cast<size_t>(c.at("template").as_int64())).as_string());
    const auto* own = c.as_object().if_contains("context");
    const auto& context = own != nullptr ? own->as_object() : golden.at("context").as_object();
    const auto parsed = ChatTemplate::parse(source);
    const auto text = parsed ? parsed.value().render(context) : Result<std::string>(parsed.error());
    if (const auto* expected = c.as_object().if_contains("text")) {
      ++texts;
      ASSERT_TRUE(text) << source << ": " << text.error().what;
      EXPECT_EQ(text.value(), std::string(expected->as_string())) << source;
    } else {
      ++errors;
      EXPECT_FALSE(text) << source << " gave " << text.value() << "; Python: " << c.at("error");
    }
  }
  EXPECT_GT(texts, 300);
  EXPECT_GT(errors, 40);
}

TEST(ChatTemplate, RaiseExceptionGivesItsOwnText) {
  EXPECT_EQ(render("{{ raise_exception('no system role') }}"), "template.error: no system role");
  EXPECT_EQ(render("{{ raise_exception(x) }}", R"({"x": [1]})"), "template.error: [1]");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_TRUE(render("a\nb {{ x.y.z }}").starts_with("template.error: line 2: 'y' is undefined") ||
              render("a\nb {{ x.y.z }}").starts_with("template.error: line 2: 'x' is undefined"));
  EXPECT_TRUE(render("a\n\n{% if %}").starts_with("template.syntax: line 3: "))
      << render("a\n\n{% if %}");
  EXPECT_TRUE(render("{{ 'a'|frobnicate }}").find("frobnicate") != std::string::npos);
  // What a template or a message says cannot break the line.
  EXPECT_EQ(render("{{ x['a\\nb'].c }}", R"({"x": {}})").find('\n'), std::string::npos);
}

TEST(ChatTemplate, IntegersBeyondInt64AreKept) {
  EXPECT_EQ(
      render("{{ x|tojson }} {{ x }} {{ x == x }} {{ x > 1 }}", R"({"x": 18446744073709551615})"),
      "18446744073709551615 18446744073709551615 True True");
  EXPECT_EQ(render("{{ x|tojson }}", R"({"x": [-9223372036854775808, 1.0, 1e100, 0.1]})"),
            "[-9223372036854775808, 1.0, 1e+100, 0.1]");
}

TEST(ChatTemplate, KeysThatLookLikeMethods) {
  // As in Python, a dict's own methods hide keys behind a dot but not in brackets.
  EXPECT_EQ(render("{{ d['items'] }}{{ d.items()|length }}{{ d.name }}{{ d['get'] }}",
                   R"({"d": {"items": 1, "name": 2, "get": 3}})"),
            "1323");
}

TEST(ChatTemplate, StrftimeNowIsTheCurrentTime) {
  const std::string year = render("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4u);
  EXPECT_GE(year, "2024");
  EXPECT_EQ(render("{% if strftime_now is defined %}yes{% endif %}"), "yes");
  const std::string date = render("{{ strftime_now('%d %b %Y') }}");
  EXPECT_EQ(date.size(), 11u) << date;
}

TEST(ChatTemplate, TheContextComesBeforeTheFunctions) {
  EXPECT_EQ(render("{{ range }}", R"({"range": "mine"})"), "mine");
}

TEST(ChatTemplate, RendersOnManyThreads) {
  const auto parsed = ChatTemplate::parse(read_file(golden_path("public/chat/qwen3.jinja")));
  ASSERT_TRUE(parsed);
  const auto context =
      json::parse(
          R"({"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true})")
          .as_object();
  const std::string expected = parsed.value().render(context).value();
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        const auto text = parsed.value().render(context);
        wrong += !text || text.value() != expected;
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ChatTemplate, NothingOutsideOfTheTemplateIsReachable) {
  for (const char* source : {"{% include '/etc/passwd' %}",
                             "{% import 'x' as p %}",
                             "{% from 'x' import y %}",
                             "{% extends 'x' %}",
                             "{{ ''.__class__.__mro__ }}",
                             "{{ cycler.__init__ }}",
                             "{{ self._TemplateReference__context }}",
                             "{{ no_such_function() }}",
                             "{{ messages.append(1) }}",
                             "{{ x.update({}) }}",
                             "{{ [].__class__.__base__ }}",
                             "{{ 'a'.format(1) }}",
                             "{{ range.__globals__.os }}",
                             "{{ ''|attr('__class__')|attr('x') }}"}) {
    const std::string code = error_of(source, R"({"messages": [], "x": {}})");
    EXPECT_TRUE(code == "template.error" || code.empty()) << source << " -> " << code;
  }
}

}  // namespace
}  // namespace sluice
