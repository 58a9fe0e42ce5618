// Logits -> token id. Order: logit bias, repetition penalty (HF), frequency and presence penalty
// (OpenAI), temperature, top-k, top-p, min-p, typical-p, softmax, one Philox draw. All in double,
// with our own exp, on one thread; every sum and the draw's cumulative distribution run over the
// survivors in ascending id order.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "scheduler/model_loader.h"

namespace sluice {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: off; ties with the k-th are kept
  float top_p = 1.0f;
  float min_p = 0.0f;
  float typical_p = 1.0f;
  float repetition_penalty = 1.0f;  // over prompt and output, as HF
  float presence_penalty = 0.0f;    // over prompt and output tokens alike
  float frequency_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;
  uint32_t choice = 0;  // which of n parallel choices: part of the random stream's key
};

inline constexpr size_t kMaxLogitBias = 1024;

// Checks ranges. Errors: invalid_request naming parameter (also as `field`), value and allowed
// range.
Result<void> validate(const SamplingParams& p, int64_t vocab_size);

struct Sampled {
  TokenId id = -1;
  float logprob = 0;                           // of the chosen token, before any of the above
  std::vector<std::pair<TokenId, float>> top;  // most likely first, before any of the above
};

// Counts of tokens seen so far, for the penalties.
class TokenCounts {
 public:
  void add(TokenId id);
  std::span<const std::pair<TokenId, uint32_t>> entries() const { return entries_; }

 private:
  std::vector<std::pair<TokenId, uint32_t>> entries_;
  std::vector<uint32_t> index_;  // id -> entry + 1, grown as needed
};

// Not thread-safe: one generation owns it. Holds about 4 MiB of scratch for a vocabulary of
// 151,936.
class Sampler {
 public:
  explicit Sampler(SamplingParams params) : params_(std::move(params)) {}

  // Draws the token at `position` (number of tokens before it). `logits` (vocab_size) is not
  // changed. n_top: how many alternatives to report, 0..20; with_logprob: also when n_top is 0. A
  // NaN or -inf logit is never drawn; if some are +inf, only those are, each with the same
  // probability. Errors: numeric.nan when every logit is NaN or -inf.
  Result<Sampled> sample(std::span<const float> logits,
                         const TokenCounts& counts,
                         uint64_t position,
                         int n_top,
                         bool with_logprob);

  // The distribution that sample() draws from: vocab_size probabilities. At temperature 0: 1 at the
  // greedy token.
  Result<std::vector<float>> distribution(std::span<const float> logits, const TokenCounts& counts);

  const SamplingParams& params() const { return params_; }

 private:
  bool changes_logits(const TokenCounts& counts) const;
  void penalise(std::span<const float> logits, const TokenCounts& counts);
  Result<TokenId> greedy(std::span<const float> logits, const TokenCounts& counts);
  Result<void> shape(std::span<const float> logits, const TokenCounts& counts);
  double kth_logit(size_t k);
  void collect(double kth, double most);
  void keep_top_p();
  void keep_min_p();
  void keep_typical_p();
  template <class Keep>
  void filter(Keep keep);
  TokenId draw(uint64_t position) const;

  SamplingParams params_;
  std::vector<double> shaped_;  // logits after bias and penalties, by id; NaN became -inf
  std::vector<double> scratch_;
  // Survivors, always in ascending id order: that is the order of every sum and of the draw.
  std::vector<TokenId> ids_;
  std::vector<double> depth_;   // (largest logit - logit) / temperature, >= 0
  std::vector<double> weight_;  // exp(-depth)
  double sum_ = 0;              // of weight_
};

// Philox4x32-10 with key = seed and counter = {position, choice, 0}: uniform in [0, 1), 53 bits.
double philox_uniform(uint64_t seed, uint32_t choice, uint64_t position);

}  // namespace sluice
