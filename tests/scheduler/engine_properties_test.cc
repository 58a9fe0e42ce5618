// What must hold of every generation, on every golden model: the reference's tokens, independence
// of threads and of what was kept from earlier calls, limits, stops, cancellation.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include "scheduler/engine.h"
#include "scheduler/thread_pool.h"
#include "tests/support/golden_model.h"
#include "tests/support/safetensors.h"

namespace sluice {
namespace {

using Ids = std::vector<TokenId>;

class Collected final : public TokenSink {
 public:
  std::vector<Sampled> tokens;
  std::map<int64_t, Sampled> prompt;
  std::vector<std::pair<int64_t, int64_t>> prefill;
  std::function<bool(size_t)> on_nth;  // after the n-th token (from 1); false stops
  std::function<void()> on_chunk;

  bool on_token(const Sampled& token) override {
    tokens.push_back(token);
    return !on_nth || on_nth(tokens.size());
  }
  void on_prefill(int64_t done, int64_t total) override {
    prefill.emplace_back(done, total);
    if (on_chunk) on_chunk();
  }
  void on_prompt_logprob(int64_t i, const Sampled& token) override { prompt[i] = token; }

  Ids ids() const {
    Ids out;
    for (const Sampled& t : tokens) out.push_back(t.id);
    return out;
  }
};

EngineOptions reference_options() {
  EngineOptions o;
  o.reference = true;
  return o;
}

EngineOptions context_of(int64_t max_seq_len) {
  EngineOptions o;
  o.max_seq_len = max_seq_len;
  return o;
}

struct Rig {
  Budget budget;
  ThreadPool pool;
  std::unique_ptr<Engine> engine;

  explicit Rig(const std::shared_ptr<const Model>& model,
               EngineOptions options = {},
               int threads = 1,
               uint64_t limit = Budget::kUnlimited)
      : budget(limit), pool(threads) {
    auto made = Engine::create(model, options, budget, pool);
    EXPECT_TRUE(made) << (made ? "" : made.error().what);
    if (made) engine = std::move(made.value());
  }

  Result<GenerationStats> run(const GenerationRequest& request, Collected& out) {
    const CancelToken never;
    return engine->generate(request, out, never);
  }

  Ids tokens(const GenerationRequest& request) {
    Collected out;
    const auto r = run(request, out);
    EXPECT_TRUE(r) << (r ? "" : r.error().what);
    return out.ids();
  }
};

GenerationRequest greedy(Ids prompt, int64_t max_tokens) {
  GenerationRequest r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.sampling.temperature = 0;
  return r;
}

GenerationRequest drawn(Ids prompt, int64_t max_tokens, uint64_t seed) {
  GenerationRequest r = greedy(std::move(prompt), max_tokens);
  r.sampling.temperature = 0.9f;
  r.sampling.top_k = 50;
  r.sampling.top_p = 0.97f;
  r.sampling.repetition_penalty = 1.1f;
  r.sampling.seed = seed;
  return r;
}

Ids random_ids(const Model& model, size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  Ids ids(n);
  for (TokenId& id : ids) {
    id = static_cast<TokenId>(rng() % static_cast<uint64_t>(model.hparams().vocab_size));
  }
  return ids;
}

// A prompt length that leaves room for `n` more tokens in any of the models.
size_t prompt_length(const Model& model, int64_t n) {
  return static_cast<size_t>(std::min<int64_t>(40, model.hparams().max_seq_len - n));
}

bool moving_frequencies(const Model& model) {
  return model.hparams().rope_scaling == kernels::RopeScaling::kDynamic;
}

class EngineOnModels : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    model_ = test::load_golden_model(GetParam());
    ASSERT_TRUE(model_);
  }
  std::shared_ptr<const Model> model_;
};

INSTANTIATE_TEST_SUITE_P(Golden,
                         EngineOnModels,
                         testing::ValuesIn(test::golden_model_cases()),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(EngineOnModels, ReferenceGeneratesTheGoldenTokens) {
  const auto golden = test::read_safetensors(test::golden_path(GetParam(), "golden.safetensors"));
  const Ids prompt = golden.at("input_ids").ints();
  const Ids want = golden.at("greedy_tokens").ints();
  Rig rig(model_, reference_options());
  auto request = greedy(prompt, static_cast<int64_t>(want.size()));
  if (static_cast<int64_t>(prompt.size() + want.size()) > rig.engine->max_seq_len()) {
    GTEST_SKIP() << "the case runs past the context of " << rig.engine->max_seq_len();
  }
  const bool with_top = golden.contains("greedy_top10_ids");
  request.n_top_logprobs = with_top ? 10 : 0;
  Collected out;
  const auto r = rig.run(request, out);
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_EQ(out.ids(), want);
  EXPECT_EQ(r.value().finish, FinishReason::kLength);
  EXPECT_EQ(r.value().prompt_tokens, static_cast<int64_t>(prompt.size()));
  EXPECT_EQ(r.value().completion_tokens, static_cast<int64_t>(want.size()));
  if (!with_top || out.ids() != want) return;
  const Ids top = golden.at("greedy_top10_ids").ints();
  const auto logprobs = golden.at("greedy_top10_logprobs").floats();
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(out.tokens[i].top.size(), 10u);
    EXPECT_EQ(out.tokens[i].top[0].first, top[i * 10]);
    EXPECT_FLOAT_EQ(out.tokens[i].logprob, out.tokens[i].top[0].second);
    // Values by rank: neighbours closer than the tolerance may change places.
    for (size_t j = 0; j < 10; ++j) {
      EXPECT_NEAR(out.tokens[i].top[j].second, logprobs[i * 10 + j], 5e-4f) << i << " " << j;
    }
  }
}

TEST_P(EngineOnModels, EchoedLogprobsAreTheGoldenLosses) {
  const auto golden = test::read_safetensors(test::golden_path(GetParam(), "golden.safetensors"));
  const Ids prompt = golden.at("input_ids").ints();
  const Ids labels = golden.at("labels").ints();
  const auto losses = golden.at("token_loss").floats();
  Rig rig(model_, reference_options());
  if (static_cast<int64_t>(prompt.size()) > rig.engine->max_seq_len()) {
    GTEST_SKIP() << "the case runs past the context of " << rig.engine->max_seq_len();
  }
  auto request = greedy(prompt, 0);
  request.echo_logprobs = true;
  Collected out;
  ASSERT_TRUE(rig.run(request, out));
  EXPECT_TRUE(out.tokens.empty());
  ASSERT_EQ(out.prompt.size(), prompt.size() - 1);
  int compared = 0;
  for (size_t i = 1; i < prompt.size(); ++i) {
    const Sampled& s = out.prompt.at(static_cast<int64_t>(i));
    EXPECT_EQ(s.id, prompt[i]);
    if (labels[i] != prompt[i]) continue;  // ignored, or another label
    EXPECT_NEAR(-s.logprob, losses[i - 1], 5e-4f) << i;
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

// The path that ships: tokens and log-probabilities, bit for bit.
TEST_P(EngineOnModels, ThreadCountChangesNoBit) {
  const Ids prompt = random_ids(*model_, prompt_length(*model_, 16), 1);
  std::vector<Sampled> first;
  for (const int threads : {1, 2, 3, 5}) {
    Rig rig(model_, {}, threads);
    auto request = drawn(prompt, 16, 7);
    request.want_logprobs = true;
    Collected out;
    ASSERT_TRUE(rig.run(request, out));
    ASSERT_EQ(out.tokens.size(), 16u);
    if (first.empty()) first = out.tokens;
    for (size_t i = 0; i < first.size(); ++i) {
      ASSERT_EQ(out.tokens[i].id, first[i].id) << threads << " threads, token " << i;
      ASSERT_EQ(std::memcmp(&out.tokens[i].logprob, &first[i].logprob, sizeof(float)), 0)
          << threads << " threads, token " << i;
    }
  }
}

// From the smallest budget that is admitted, on a grid, to one that holds everything.
TEST_P(EngineOnModels, BudgetChangesNoBit) {
  const Ids prompt = random_ids(*model_, prompt_length(*model_, 12), 6);
  auto request = drawn(prompt, 12, 9);
  request.want_logprobs = true;
  Collected want;
  Rig unlimited(model_);
  ASSERT_TRUE(unlimited.run(request, want));
  constexpr uint64_t kStep = 256 << 10;
  ThreadPool pool(2);
  int admitted = 0;
  for (uint64_t limit = kStep; limit <= 64 << 20 && admitted < 6;) {
    Budget budget(limit);
    const auto engine = Engine::create(model_, {}, budget, pool);
    if (!engine) {
      EXPECT_TRUE(engine.error().code.starts_with("budget_")) << engine.error().code;
      limit += kStep;
      continue;
    }
    Collected out;
    const CancelToken never;
    const auto r = engine.value()->generate(request, out, never);
    EXPECT_LE(budget.used(), limit);
    // The first admitted one may still be too small for the KV of this generation.
    if (!r && r.error().code == "budget_exceeded" && admitted == 0) {
      limit += kStep;
      continue;
    }
    ASSERT_TRUE(r) << limit << ": " << r.error().what;
    ASSERT_EQ(out.ids(), want.ids()) << limit;
    for (size_t i = 0; i < want.tokens.size(); ++i) {
      ASSERT_EQ(std::memcmp(&out.tokens[i].logprob, &want.tokens[i].logprob, sizeof(float)), 0);
    }
    limit += ++admitted < 4 ? kStep : limit;
  }
  EXPECT_GE(admitted, 4);
}

TEST_P(EngineOnModels, KeptPrefixChangesNoToken) {
  const size_t n = prompt_length(*model_, 12);
  const size_t shared = n / 2;
  const Ids a = random_ids(*model_, n, 2);
  Ids b = random_ids(*model_, n, 3);
  std::copy_n(a.begin(), shared, b.begin());
  if (b[shared] == a[shared]) b[shared] ^= 1;
  const auto request = drawn(b, 12, 5);
  Rig fresh(model_);
  const Ids want = fresh.tokens(request);

  Rig used(model_);
  used.tokens(drawn(a, 6, 1));
  Collected out;
  auto r = used.run(request, out);
  ASSERT_TRUE(r);
  EXPECT_EQ(out.ids(), want);
  EXPECT_EQ(r.value().cached_tokens,
            moving_frequencies(*model_) ? 0 : static_cast<int64_t>(shared));
  // The very same prompt once more: all but its last token is there.
  Collected again;
  r = used.run(request, again);
  ASSERT_TRUE(r);
  EXPECT_EQ(again.ids(), want);
  EXPECT_EQ(r.value().cached_tokens, moving_frequencies(*model_) ? 0 : static_cast<int64_t>(n) - 1);
  // A prefix of it.
  const Ids shorter(b.begin(), b.begin() + static_cast<ptrdiff_t>(n) - 3);
  EXPECT_EQ(used.tokens(drawn(shorter, 8, 5)), Rig(model_).tokens(drawn(shorter, 8, 5)));
}

// Interrupted anywhere, with other work in between that leaves nothing of its KV, and taken up
// again from the ids alone.
TEST_P(EngineOnModels, TakenUpAgainItIsTheTextThatWasBegun) {
  if (moving_frequencies(*model_)) GTEST_SKIP() << "its rotations depend on the length of the call";
  constexpr int64_t kTokens = 12;
  const Ids prompt = random_ids(*model_, prompt_length(*model_, kTokens + 1), 5);
  const Ids other = random_ids(*model_, prompt.size() / 2 + 1, 6);
  Rig rig(model_);
  for (GenerationRequest whole : {greedy(prompt, kTokens), drawn(prompt, kTokens, 11)}) {
    whole.want_logprobs = true;
    Collected at_once;
    ASSERT_TRUE(rig.run(whole, at_once));
    ASSERT_EQ(at_once.tokens.size(), static_cast<size_t>(kTokens));
    for (const size_t first : {size_t{1}, size_t{5}, size_t{11}}) {
      Collected begun;
      begun.on_nth = [&](size_t n) { return n < first; };
      ASSERT_TRUE(rig.run(whole, begun));
      ASSERT_EQ(begun.tokens.size(), first);
      rig.tokens(greedy(other, 2));
      GenerationRequest rest = whole;
      const Ids ids = begun.ids();
      rest.prompt.insert(rest.prompt.end(), ids.begin(), ids.end());
      rest.n_generated = first;
      rest.max_tokens = kTokens - static_cast<int64_t>(first);
      Collected ended;
      ASSERT_TRUE(rig.run(rest, ended));
      begun.tokens.insert(begun.tokens.end(), ended.tokens.begin(), ended.tokens.end());
      ASSERT_EQ(begun.ids(), at_once.ids()) << "after " << first;
      for (size_t i = 0; i < begun.tokens.size(); ++i)
        ASSERT_EQ(begun.tokens[i].logprob, at_once.tokens[i].logprob) << first << ' ' << i;
    }
  }
}

TEST_P(EngineOnModels, AppendingNothingGoesOnAsIfItHadNotStopped) {
  if (moving_frequencies(*model_)) GTEST_SKIP() << "call lengths differ by definition";
  const Ids prompt = random_ids(*model_, prompt_length(*model_, 20), 4);
  const Ids want = Rig(model_).tokens(drawn(prompt, 20, 3));
  ASSERT_EQ(want.size(), 20u);
  Rig rig(model_);
  Ids got = rig.tokens(drawn(prompt, 7, 3));
  for (const int64_t more : {1, 8, 4}) {
    auto request = drawn({}, more, 3);
    request.append = true;
    const Ids next = rig.tokens(request);
    got.insert(got.end(), next.begin(), next.end());
  }
  EXPECT_EQ(got, want);
}

// ---- one model: the rules of a generation ----

class EngineTest : public testing::Test {
 protected:
  void SetUp() override {
    model_ = test::load_golden_model("qwen2-tiny-f32");
    ASSERT_TRUE(model_);
  }
  std::shared_ptr<const Model> model_;
};

TEST_F(EngineTest, SeedAndChoiceDecideTheText) {
  const Ids prompt = random_ids(*model_, 30, 1);
  Rig rig(model_);
  auto request = drawn(prompt, 24, 42);
  request.sampling.temperature = 3;  // flat: different streams soon differ
  request.sampling.top_p = 1;
  const Ids want = rig.tokens(request);
  EXPECT_EQ(rig.tokens(request), want);
  EXPECT_EQ(Rig(model_, {}, 3).tokens(request), want);
  request.sampling.seed = 43;
  EXPECT_NE(rig.tokens(request), want);
  request.sampling.seed = 42;
  request.sampling.choice = 1;
  EXPECT_NE(rig.tokens(request), want);
}

TEST_F(EngineTest, EndsWithLengthAtTheContextLimit) {
  for (const int64_t n : {1, 40, 62, 63}) {
    Rig rig(model_, context_of(64));
    EXPECT_EQ(rig.engine->max_seq_len(), 64);
    Collected out;
    const auto r = rig.run(greedy(random_ids(*model_, static_cast<size_t>(n), 5), -1), out);
    ASSERT_TRUE(r) << r.error().what;
    EXPECT_EQ(r.value().finish, FinishReason::kLength);
    EXPECT_EQ(static_cast<int64_t>(out.tokens.size()), 64 - n);
    EXPECT_EQ(r.value().completion_tokens, 64 - n);
  }
}

TEST_F(EngineTest, TooLongAPromptIsRefusedWithTheNumbers) {
  Rig rig(model_, context_of(64));
  Collected out;
  const auto r = rig.run(greedy(random_ids(*model_, 64, 5), 1), out);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, "context_length_exceeded");
  EXPECT_NE(r.error().what.find("64"), std::string::npos) << r.error().what;
  EXPECT_TRUE(out.tokens.empty());
  // With no answer wanted the prompt may fill the context, and not one token more.
  EXPECT_TRUE(rig.run(greedy(random_ids(*model_, 64, 5), 0), out));
  EXPECT_FALSE(rig.run(greedy(random_ids(*model_, 65, 5), 0), out));
}

TEST_F(EngineTest, ContextOutsideTheModelsOwnIsRefused) {
  Budget budget;
  ThreadPool pool(1);
  for (const int64_t ctx : {int64_t{-1}, model_->hparams().max_seq_len + 1, INT64_MAX}) {
    const auto r = Engine::create(model_, context_of(ctx), budget, pool);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, "invalid_request");
  }
}

TEST_F(EngineTest, NoTokensWantedNoneDelivered) {
  Rig rig(model_);
  Collected out;
  const auto r = rig.run(greedy(random_ids(*model_, 10, 6), 0), out);
  ASSERT_TRUE(r);
  EXPECT_EQ(r.value().finish, FinishReason::kLength);
  EXPECT_EQ(r.value().completion_tokens, 0);
  EXPECT_TRUE(out.tokens.empty());
  ASSERT_FALSE(out.prefill.empty());
  EXPECT_EQ(out.prefill.back(), (std::pair<int64_t, int64_t>{10, 10}));
}

TEST_F(EngineTest, StopTokenEndsAndIsNotDelivered) {
  Rig rig(model_);
  auto request = greedy(random_ids(*model_, 10, 6), 20);
  const Ids all = rig.tokens(request);
  ASSERT_EQ(all.size(), 20u);
  request.stop_tokens = {all[7], -5};
  const auto first = static_cast<size_t>(std::find(all.begin(), all.end(), all[7]) - all.begin());
  Collected out;
  const auto r = rig.run(request, out);
  ASSERT_TRUE(r);
  EXPECT_EQ(r.value().finish, FinishReason::kStop);
  EXPECT_EQ(out.ids(), Ids(all.begin(), all.begin() + static_cast<ptrdiff_t>(first)));
  EXPECT_EQ(r.value().completion_tokens, static_cast<int64_t>(first));
}

TEST_F(EngineTest, SinkMayStopAfterAnyToken) {
  Rig rig(model_);
  const auto request = greedy(random_ids(*model_, 10, 6), 20);
  const Ids all = rig.tokens(request);
  for (const size_t stop_at : {1u, 2u, 20u}) {
    Collected out;
    out.on_nth = [&](size_t n) { return n < stop_at; };
    const auto r = rig.run(request, out);
    ASSERT_TRUE(r);
    EXPECT_EQ(r.value().finish, FinishReason::kStop);
    EXPECT_EQ(out.ids(), Ids(all.begin(), all.begin() + static_cast<ptrdiff_t>(stop_at)));
  }
}

TEST_F(EngineTest, CancelStopsAndLeavesTheEngineUsable) {
  const auto request = drawn(random_ids(*model_, 300, 8), 20, 1);
  const Ids want = Rig(model_).tokens(request);
  Rig rig(model_);
  CancelToken before;
  before.cancel();
  Collected none;
  auto r = rig.engine->generate(request, none, before);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, "cancelled");
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(rig.tokens(request), want);

  CancelToken in_decode;
  Collected some;
  some.on_nth = [&](size_t n) {
    if (n == 3) in_decode.cancel();
    return true;
  };
  r = rig.engine->generate(request, some, in_decode);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, "cancelled");
  EXPECT_EQ(some.ids(), Ids(want.begin(), want.begin() + 3));
  EXPECT_EQ(rig.tokens(request), want);

  rig.engine->trim();
  CancelToken in_prefill;
  Collected nothing;
  nothing.on_chunk = [&] { in_prefill.cancel(); };
  r = rig.engine->generate(request, nothing, in_prefill);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, "cancelled");
  EXPECT_TRUE(nothing.tokens.empty());
  EXPECT_EQ(nothing.prefill.size(), 1u);  // 300 tokens are more than one chunk
  EXPECT_EQ(rig.tokens(request), want);
}

TEST_F(EngineTest, AppendedTurnsFollowTheConversation) {
  // In the reference path prompt and generated tokens are computed alike, so that a conversation in
  // turns equals one prompt.
  const EngineOptions reference = reference_options();
  const Ids first = random_ids(*model_, 20, 9);
  const Ids second = random_ids(*model_, 15, 10);
  Rig rig(model_, reference);
  const Ids answer = rig.tokens(greedy(first, 6));
  auto request = greedy(second, 10);
  request.append = true;
  const Ids got = rig.tokens(request);
  Ids whole = first;
  whole.insert(whole.end(), answer.begin(), answer.end());
  whole.insert(whole.end(), second.begin(), second.end());
  EXPECT_EQ(got, Rig(model_, reference).tokens(greedy(whole, 10)));
}

TEST_F(EngineTest, AppendNeedsSomethingToGoOnFrom) {
  Rig rig(model_);
  auto request = greedy({}, 4);
  Collected out;
  EXPECT_EQ(rig.run(request, out).error().code, "invalid_request");
  request.append = true;
  EXPECT_EQ(rig.run(request, out).error().code, "invalid_request");
  rig.tokens(greedy(random_ids(*model_, 5, 1), 0));  // logits of the last token are enough
  EXPECT_TRUE(rig.run(request, out));
  rig.engine->trim();
  EXPECT_FALSE(rig.run(request, out));
}

TEST_F(EngineTest, RefusesIdsOutsideTheVocabularyAndBadParameters) {
  Rig rig(model_);
  const auto vocab = static_cast<TokenId>(model_->hparams().vocab_size);
  for (const TokenId id : {-1, vocab, std::numeric_limits<TokenId>::max()}) {
    Collected out;
    const auto r = rig.run(greedy({1, id, 2}, 4), out);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, "invalid_request");
    EXPECT_NE(r.error().what.find(std::to_string(id)), std::string::npos);
  }
  auto request = greedy({1, 2, 3}, 4);
  request.sampling.top_p = 0;
  Collected out;
  EXPECT_EQ(rig.run(request, out).error().code, "invalid_request");
  EXPECT_TRUE(out.tokens.empty());
}

TEST_F(EngineTest, TrimGivesTheMemoryBackAndChangesNoToken) {
  Rig rig(model_);
  const auto request = drawn(random_ids(*model_, 200, 11), 10, 2);
  const uint64_t idle = rig.budget.used();
  const Ids want = rig.tokens(request);
  EXPECT_GT(rig.engine->memory().kv, 0u);
  EXPECT_EQ(rig.budget.used(MemoryClass::kKv), rig.engine->memory().kv);
  rig.engine->trim();
  EXPECT_EQ(rig.engine->memory().kv, 0u);
  EXPECT_EQ(rig.budget.used(), idle);
  Collected out;
  const auto r = rig.run(request, out);
  ASSERT_TRUE(r);
  EXPECT_EQ(out.ids(), want);
  EXPECT_EQ(r.value().cached_tokens, 0);
  rig.engine.reset();
  EXPECT_EQ(rig.budget.used(), 0u);
}

TEST_F(EngineTest, RunningOutOfBudgetIsAnErrorAndNotTheEnd) {
  // Finds what the engine and a short generation hold, then allows no more than that. The reference
  // path computes from the mapping whatever the limit is, so that only KV can run out.
  const EngineOptions reference = reference_options();
  uint64_t limit = 0;
  const auto small = greedy(random_ids(*model_, 8, 12), 4);
  const auto large = greedy(random_ids(*model_, 300, 12), 4);
  Ids want;
  {
    Rig rig(model_, reference);
    want = rig.tokens(small);
    limit = rig.budget.used();
  }
  Rig rig(model_, reference, 1, limit);
  EXPECT_EQ(rig.tokens(small), want);
  Collected out;
  const auto r = rig.run(large, out);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, "budget_exceeded");
  EXPECT_LE(rig.budget.used(), limit);
  EXPECT_EQ(rig.tokens(small), want);

  Budget none(1000);
  ThreadPool pool(1);
  const auto refused = Engine::create(model_, reference, none, pool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "budget_exceeded");
  EXPECT_EQ(none.used(), 0u);
}

// Random requests of one engine against a fresh engine for each: nothing that was kept may show.
TEST_F(EngineTest, HistoryNeverShows) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  Rig used(model_, {}, 2);
  Ids last = random_ids(*model_, 50, seed);
  for (int round = 0; round < 25; ++round) {
    Ids prompt = last;
    prompt.resize(1 + rng() % (last.size() + 1));
    if (prompt.back() == 0 && prompt.size() > last.size()) prompt.back() = 17;
    const Ids tail = random_ids(*model_, rng() % 40, static_cast<uint32_t>(rng()));
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    if (prompt.size() > 400) prompt.resize(60);
    auto request = drawn(prompt, static_cast<int64_t>(rng() % 10), rng());
    request.echo_logprobs = rng() % 5 == 0;
    if (rng() % 4 == 0) {
      Collected partial;
      CancelToken cancel;
      partial.on_nth = [&](size_t n) {
        if (n == 2) cancel.cancel();
        return true;
      };
      (void)used.engine->generate(request, partial, cancel);
    }
    const Ids got = used.tokens(request);
    ASSERT_EQ(got, Rig(model_).tokens(request)) << "round " << round;
    last = prompt;
    last.insert(last.end(), got.begin(), got.end());
  }
}

}  // namespace
}  // namespace sluice
