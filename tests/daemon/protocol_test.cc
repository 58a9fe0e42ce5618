#include "daemon/protocol/messages.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

Result<ChatRequest> chat(const std::string& fields) {
  auto v = parse_json(R"({"messages":[{"role":"user","content":"hi"}])" +
                      (fields.empty() ? "" : "," + fields) + "}");
  if (!v) return std::move(v).error();
  return chat_request_from_json(v.value());
}

Result<CompletionRequest> completion(const std::string& text) {
  auto v = parse_json(text);
  if (!v) return std::move(v).error();
  return completion_request_from_json(v.value());
}

std::string chat_code(const std::string& fields) {
  const auto r = chat(fields);
  return r ? "" : r.error().code;
}

TEST(ChatRequest, DefaultsAreTheApis) {
  const auto r = chat("");
  ASSERT_TRUE(r) << r.error().what;
  const GenerationParams& p = r.value().params;
  EXPECT_EQ(p.temperature, 1);
  EXPECT_EQ(p.top_p, 1);
  EXPECT_EQ(p.n, 1);
  EXPECT_FALSE(p.stream || p.max_tokens || p.seed || p.logprobs);
  EXPECT_TRUE(p.stop.empty() && p.ignored.empty());
}

TEST(ChatRequest, ReadsEveryField) {
  const auto r = chat(
      R"("model":"m","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":7,
    "max_tokens":9,"temperature":0,"top_p":0.5,"top_k":40,"min_p":0.1,"typical_p":0.9,"repetition_penalty":1.1,
    "presence_penalty":-2,"frequency_penalty":2,"logit_bias":{"5":-100,"6":1.5},"seed":-1,"stop":["a","b"],"n":4,
    "logprobs":true,"top_logprobs":20,"response_format":{"type":"text"},"user":"u","tools":[{"type":"function",
    "function":{"name":"f","parameters":{}}}],"tool_choice":"auto","enable_thinking":false,
    "sluice":{"keep_alive":"5m","priority":"high","ctx":512})");
  ASSERT_TRUE(r) << r.error().what;
  const GenerationParams& p = r.value().params;
  EXPECT_EQ(p.model, "m");
  EXPECT_TRUE(p.stream && p.include_usage && p.logprobs);
  EXPECT_EQ(p.max_tokens, 7);
  EXPECT_EQ(p.seed, UINT64_MAX);
  EXPECT_EQ(p.stop.size(), 2u);
  EXPECT_EQ(p.logit_bias.size(), 2u);
  EXPECT_EQ(p.keep_alive_ms, 300'000);
  EXPECT_EQ(p.priority, RequestPriority::kHigh);
  EXPECT_EQ(p.ctx, 512);
  EXPECT_EQ(p.ignored, std::vector<std::string>{"user"});
  EXPECT_EQ(r.value().chat.tools.size(), 1u);
  EXPECT_EQ(r.value().chat.template_kwargs.at("enable_thinking"), false);
}

TEST(ChatRequest, RangesAreCheckedAtTheirEdges) {
  const auto field = [](const char* name, const std::string& v) {
    return "\"" + std::string(name) + "\":" + v;
  };
  struct Case {
    const char* name;
    const char* good[2];
    const char* bad[2];
  };
  for (const Case& c : {Case{"temperature", {"0", "2"}, {"-0.001", "2.001"}},
                        Case{"top_p", {"0", "1"}, {"-0.1", "1.1"}},
                        Case{"presence_penalty", {"-2", "2"}, {"-2.1", "2.1"}},
                        Case{"frequency_penalty", {"-2", "2"}, {"-2.1", "2.1"}},
                        Case{"n", {"1", "4"}, {"0", "5"}},
                        Case{"max_tokens", {"1", "2147483647"}, {"0", "2147483648"}},
                        Case{"seed",
                             {"-9223372036854775808", "18446744073709551615"},
                             {"1.5", "18446744073709551616"}},
                        Case{"stop", {"\"a\"", "[]"}, {"\"\"", "[7]"}}}) {
    for (const char* v : c.good) EXPECT_EQ(chat_code(field(c.name, v)), "") << c.name << "=" << v;
    for (const char* v : c.bad)
      EXPECT_EQ(chat_code(field(c.name, v)), "invalid_request") << c.name << "=" << v;
  }
  EXPECT_EQ(chat_code(R"("logprobs":true,"top_logprobs":21)"), "invalid_request");
  EXPECT_EQ(chat_code(R"("top_logprobs":1)"), "invalid_request");
  std::string stops = "\"stop\":[\"a\"";
  for (size_t i = 1; i < kMaxStopStrings; ++i) stops += ",\"a\"";
  EXPECT_EQ(chat_code(stops + "]"), "");
  EXPECT_EQ(chat_code(stops + ",\"a\"]"), "invalid_request");
}

TEST(ChatRequest, WrongTypesNameTheParameter) {
  for (const char* field : {"\"temperature\":\"hot\"",
                            "\"stream\":\"yes\"",
                            "\"max_tokens\":1.5",
                            "\"stop\":7",
                            "\"logit_bias\":[]",
                            "\"logit_bias\":{\"x\":1}",
                            "\"logit_bias\":{\"1\":101}",
                            "\"seed\":\"x\"",
                            "\"tools\":{}",
                            "\"sluice\":1",
                            "\"model\":[]",
                            "\"top_p\":[]"}) {
    const auto r = chat(field);
    ASSERT_FALSE(r) << field;
    EXPECT_EQ(r.error().code, "invalid_request") << field;
    EXPECT_FALSE(r.error().field.empty()) << field;
  }
  for (const char* messages : {"7",
                               "\"hi\"",
                               "[7]",
                               "{}",
                               "null",
                               "[]",
                               R"([{"role":7,"content":[]}])",
                               R"([{"role":"wizard","content":"x"}])",
                               R"([{"role":"user"}])",
                               R"([{"role":"user","content":7}])",
                               R"([{"role":"user","content":[{"type":"text"}]}])"}) {
    EXPECT_FALSE(
        chat_request_from_json(parse_json("{\"messages\":" + std::string(messages) + "}").value()))
        << messages;
  }
}

TEST(ChatRequest, WhatWouldChangeTheTextIsRefusedNotIgnored) {
  for (const char* field : {R"("response_format":{"type":"json_object"})",
                            R"("response_format":{"type":"json_schema"})",
                            R"("tool_choice":"required")",
                            R"("tool_choice":{"type":"function"})",
                            R"("audio":{})",
                            R"("modalities":["audio"])",
                            R"("temprature":1)",
                            R"("sluice":{"prio":1})"}) {
    EXPECT_EQ(chat_code(field), "unsupported_parameter") << field;
  }
  EXPECT_NE(chat("\"temprature\":1").error().hint.find("temperature"), std::string::npos);
}

TEST(ChatRequest, NullsCountAsAbsent) {
  EXPECT_EQ(
      chat_code(
          R"("stop":null,"seed":null,"n":null,"stream":null,"tools":null,"logit_bias":null,"foo_bar":1)"),
      "unsupported_parameter");
  EXPECT_EQ(
      chat_code(R"("stop":null,"seed":null,"n":null,"stream":null,"tools":null,"logit_bias":null)"),
      "");
}

TEST(ChatRequest, MessagesBecomeWhatTemplatesExpect) {
  const auto v = parse_json(
      R"({"messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
    {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}}]},
    {"role":"tool","content":"r","tool_call_id":"1"}]})");
  const auto r = chat_request_from_json(v.value());
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_EQ(
      json_text(r.value().chat.messages),
      R"([{"role":"system","content":"ab"},{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"x":1}}}]},{"role":"tool","content":"r","tool_call_id":"1"}])");
}

TEST(CompletionRequest, PromptsComeInFourShapes) {
  EXPECT_EQ(std::get<std::string>(completion(R"({"prompt":"a"})").value().prompts.at(0)), "a");
  EXPECT_EQ(completion(R"({"prompt":["a","b"]})").value().prompts.size(), 2u);
  EXPECT_EQ(std::get<std::vector<int64_t>>(completion(R"({"prompt":[1,2]})").value().prompts.at(0))
                .size(),
            2u);
  EXPECT_EQ(completion(R"({"prompt":[[1],[2,3]]})").value().prompts.size(), 2u);
  for (const char* bad : {R"({})",
                          R"({"prompt":7})",
                          R"({"prompt":[]})",
                          R"({"prompt":[[]]})",
                          R"({"prompt":[1,"a"]})",
                          R"({"prompt":[1.5]})",
                          R"({"prompt":{}})",
                          R"({"prompt":"a","suffix":"b"})",
                          R"({"prompt":"a","logprobs":6})",
                          R"({"prompt":"a","logprobs":true})",
                          R"({"prompt":"a","max_tokens":0})"}) {
    EXPECT_FALSE(completion(bad)) << bad;
  }
  EXPECT_TRUE(completion(R"({"prompt":"a","max_tokens":0,"echo":true})"));
}

TEST(Errors, EveryCodeHasItsStatusAndExitCode) {
  EXPECT_EQ(http_status_of("context_length_exceeded"), 400);
  EXPECT_EQ(http_status_of("not_permitted"), 403);
  EXPECT_EQ(http_status_of("model_not_found"), 404);
  EXPECT_EQ(http_status_of("name_taken"), 409);
  EXPECT_EQ(http_status_of("gguf.magic"), 422);
  EXPECT_EQ(http_status_of("queue_full"), 429);
  EXPECT_EQ(http_status_of("shutting_down"), 503);
  EXPECT_EQ(http_status_of("io.read"), 500);
  EXPECT_EQ(exit_code_of("daemon_unreachable"), 3);
  EXPECT_EQ(exit_code_of("not_permitted"), 4);
  EXPECT_EQ(exit_code_of("model_not_found"), 5);
  EXPECT_EQ(exit_code_of("model_does_not_fit"), 6);
  EXPECT_EQ(exit_code_of("overloaded"), 7);
  EXPECT_EQ(exit_code_of("a_code_of_tomorrow", 404), 5);
}

TEST(Errors, DocumentsComeBackAsTheyWere) {
  ApiError e{.error = Error{
                 "gguf.offset_range", "found 9, allowed 0..8", "hint", "/m.gguf", "tensor a", 77}};
  const std::string text = json_text(error_document(e, "req_1"));
  const ApiError back = parse_error_document(text, 422);
  EXPECT_EQ(back.error.code, e.error.code);
  EXPECT_EQ(back.error.what, "/m.gguf: offset 77: tensor a: found 9, allowed 0..8");
  EXPECT_EQ(back.error.hint, e.error.hint);
  EXPECT_EQ(back.error.file, e.error.file);
  EXPECT_EQ(back.error.field, e.error.field);
  EXPECT_EQ(back.error.offset, 77u);
  const ApiError plain = parse_error_document(
      json_text(
          error_document(ApiError{.error = Error{"invalid_request", "x", "", "", "seed"}}, "")),
      400);
  EXPECT_EQ(plain.param, "seed");
  EXPECT_EQ(parse_error_document("<html>", 502).error.code, "internal");
}

TEST(NativeDocs, StatusComesBackAsItWas) {
  StatusDoc d;
  d.version = "1.2.3";
  d.pid = 7;
  d.budget.limit_bytes = 5'000'000'000;
  d.budget.by_class = {{"kv", 9}};
  LoadedModelDoc& m = d.models.emplace_back();
  m.name = "m";
  m.state = "idle";
  m.kv_bytes = 3;
  m.expires_in_ms = 10;
  RequestDoc& r = d.requests.emplace_back();
  r.id = "r-1";
  r.phase = "prefill";
  r.done = 3;
  d.queue_max = 64;
  const auto back = status_from_json(parse_json(json_text(to_json(d))).value());
  ASSERT_TRUE(back) << back.error().what;
  EXPECT_EQ(json_text(to_json(back.value())), json_text(to_json(d)));
  EXPECT_FALSE(status_from_json(parse_json(R"({"pid":"seven"})").value()));
}

TEST(OpenAiAnswers, ChunksHaveTheExactShape) {
  const AnswerId id{"chatcmpl-1", 1790000000, "m"};
  EXPECT_EQ(
      json_text(chat_chunk(id, {{"role", "assistant"}, {"content", ""}}, {})),
      R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})");
  ChunkOptions o;
  o.choice = 2;
  o.finish = "length";
  o.with_usage_null = true;
  EXPECT_EQ(
      json_text(chat_chunk(id, {}, o)),
      R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[{"index":2,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null})");
  EXPECT_EQ(
      json_text(usage_chunk(id, true, {10, 5, 3})),
      R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":3}}})");
}

TEST(OpenAiAnswers, LogprobsOfPartialCodePointsAreValidJson) {
  TokenLogprob t;
  t.bytes = "\xe2\x82";
  t.logprob = -1e300;
  t.top = {{"\xff", -0.5}, {"\xfe", -0.75}};
  const auto text = json_text(chat_logprobs({t}));
  ASSERT_TRUE(parse_json(text)) << text;
  EXPECT_NE(text.find("\"bytes\":[226,130]"), std::string::npos);
  EXPECT_NE(text.find("-9999.0"), std::string::npos);
  ASSERT_TRUE(parse_json(json_text(completion_logprobs({t}))));
}

}  // namespace
}  // namespace sluice
