// Chat templates against HF transformers: prompts byte for byte, and the cases that Python's jinja2 computed.
#include <gtest/gtest.h>

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

TEST(ChatTemplate, RaiseExceptionGivesItsOwnText) {
  EXPECT_EQ(render("{{ raise_exception('no system role') }}"), "template.error: no system role");
}

TEST(ChatTemplate, NothingOutsideOfTheTemplateIsReachable) {
  for (const char* source : {"{% include '/etc/passwd' %}", "{% import 'x' as p %}", "{% from 'x' import y %}",
                             "{% extends 'x' %}", "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__ }}",
                             "{{ self._TemplateReference__context }}", "{{ no_such_function() }}",
                             "{{ messages.append(1) }}", "{{ x.update({}) }}", "{{ [].__class__.__base__ }}",
                             "{{ 'a'.format(1) }}", "{{ range.__globals__.os }}", "{{ ''|attr('__class__')|attr('x') }}"}) {
    const std::string code = error_of(source, R"({"messages": [], "x": {}})");
    EXPECT_TRUE(code == "template.error" || code.empty()) << source << " -> " << code;
  }
}

}  // namespace
}  // namespace sluice
