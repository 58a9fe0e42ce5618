#include "scheduler/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "scheduler/sampler_math.h"

namespace sluice {

double log_sum_exp(std::span<const float> logits) {
  float most = -std::numeric_limits<float>::infinity();
  for (const float x : logits) most = x > most ? x : most;
  if (!std::isfinite(most)) return static_cast<double>(most);
  constexpr size_t kBatch = 512;
  double below[kBatch];
  double weight[kBatch];
  double sum = 0;
  for (size_t i = 0; i < logits.size(); i += kBatch) {
    const size_t n = std::min(kBatch, logits.size() - i);
    for (size_t j = 0; j < n; ++j) {
      const float x = logits[i + j];
      below[j] = x == x ? static_cast<double>(most) - static_cast<double>(x) : 1e300;      // NaN weighs nothing
    }
    exp_of_negative({below, n}, weight);
    for (size_t j = 0; j < n; ++j) sum += weight[j];
  }
  return static_cast<double>(most) + std::log(sum);
}

Sampled score_token(std::span<const float> logits, TokenId id, int n_top) {
  const double norm = log_sum_exp(logits);
  Sampled s;
  s.id = id;
  s.logprob = static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - norm);
  if (n_top <= 0) return s;
  // A short sorted list beats a heap for at most 20 entries.
  auto better = [&](TokenId a, TokenId b) {
    const float la = logits[static_cast<size_t>(a)];
    const float lb = logits[static_cast<size_t>(b)];
    return la > lb || (la == lb && a < b);
  };
  std::vector<TokenId> best;
  for (TokenId t = 0; t < static_cast<TokenId>(logits.size()); ++t) {
    const float l = logits[static_cast<size_t>(t)];
    if (l != l) continue;
    if (static_cast<int>(best.size()) == n_top && !better(t, best.back())) continue;
    best.insert(std::upper_bound(best.begin(), best.end(), t, better), t);
    if (static_cast<int>(best.size()) > n_top) best.pop_back();
  }
  for (const TokenId t : best) {
    s.top.emplace_back(t, static_cast<float>(static_cast<double>(logits[static_cast<size_t>(t)]) - norm));
  }
  return s;
}

}  // namespace sluice
