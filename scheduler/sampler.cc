#include "scheduler/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <tuple>

#include "scheduler/logprobs.h"
#include "scheduler/philox.h"
#include "scheduler/sampler_math.h"

namespace sluice {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

Error out_of_range(const char* name, float value, const char* range) {
  Error e{"invalid_request", fmt::format("{} is {}, allowed is {}", name, value, range)};
  e.field = name;
  return e;
}

Error no_finite_logit() {
  return Error{"numeric.nan",
               "the model computed no usable logit: all are NaN or -inf",
               "check the model file: sluiced check FILE"};
}

// Sorts few instead of all: keys >= 0 fall into bins of ascending key, so that a cut by cumulative
// weight needs only the one bin that it falls into sorted. Below kSortAll entries everything is one
// bin.
class Bins {
 public:
  Bins(std::span<const double> keys, std::span<const double> weights) : keys_(keys) {
    double largest = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      if (weights[i] > 0 && keys[i] > largest) largest = keys[i];
    }
    // Past 64 there is next to no weight: e^-64.
    if (keys.size() > kSortAll && largest > 0) scale_ = kBins / std::min(largest, 64.0);
    for (size_t i = 0; i < keys.size(); ++i) mass_[of(keys[i])] += weights[i];
  }

  static constexpr size_t kBins = 1024;

  size_t of(double key) const {
    return static_cast<size_t>(std::min(key * scale_, double{kBins - 1}));
  }
  double mass(size_t bin) const { return mass_[bin]; }

  // Entries of one bin, ascending by key, then by index.
  std::vector<uint32_t> sorted(size_t bin) const {
    std::vector<uint32_t> out;
    for (size_t i = 0; i < keys_.size(); ++i) {
      if (of(keys_[i]) == bin) out.push_back(static_cast<uint32_t>(i));
    }
    std::sort(out.begin(), out.end(), [this](uint32_t a, uint32_t b) {
      return std::tie(keys_[a], a) < std::tie(keys_[b], b);
    });
    return out;
  }

 private:
  static constexpr size_t kSortAll = 512;
  std::span<const double> keys_;
  double scale_ = 0;
  std::array<double, kBins> mass_{};
};

}  // namespace

Result<void> validate(const SamplingParams& p, int64_t vocab_size) {
  // Written so that NaN fails every test.
  if (!(p.temperature >= 0 && p.temperature <= 100))
    return out_of_range("temperature", p.temperature, "0..100");
  if (p.top_k < 0) return out_of_range("top_k", static_cast<float>(p.top_k), "0 (off) or more");
  if (!(p.top_p > 0 && p.top_p <= 1)) return out_of_range("top_p", p.top_p, "above 0 up to 1");
  if (!(p.min_p >= 0 && p.min_p <= 1)) return out_of_range("min_p", p.min_p, "0..1");
  if (!(p.typical_p > 0 && p.typical_p <= 1))
    return out_of_range("typical_p", p.typical_p, "above 0 up to 1");
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 100)) {
    return out_of_range("repetition_penalty", p.repetition_penalty, "above 0 up to 100");
  }
  if (!(p.presence_penalty >= -2 && p.presence_penalty <= 2)) {
    return out_of_range("presence_penalty", p.presence_penalty, "-2..2");
  }
  if (!(p.frequency_penalty >= -2 && p.frequency_penalty <= 2)) {
    return out_of_range("frequency_penalty", p.frequency_penalty, "-2..2");
  }
  Error e{"invalid_request", ""};
  e.field = "logit_bias";
  if (p.logit_bias.size() > kMaxLogitBias) {
    e.what = fmt::format(
        "logit_bias has {} entries, allowed are {}", p.logit_bias.size(), kMaxLogitBias);
    return e;
  }
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      e.what = fmt::format("logit_bias names token {}, allowed is 0..{}", id, vocab_size - 1);
      return e;
    }
    if (!(bias >= -100 && bias <= 100)) {
      e.what = fmt::format("logit_bias of token {} is {}, allowed is -100..100", id, bias);
      return e;
    }
  }
  return success();
}

double philox_uniform(uint64_t seed, uint32_t choice, uint64_t position) {
  const PhiloxCounter r = philox4x32_10(
      {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), choice, 0},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>((uint64_t{r[1]} << 32 | r[0]) >> 11) * 0x1p-53;
}

void TokenCounts::add(TokenId id) {
  if (id < 0) return;
  const auto i = static_cast<size_t>(id);
  if (i >= index_.size()) index_.resize(std::max(i + 1, index_.size() * 2));
  if (index_[i] == 0) {
    entries_.emplace_back(id, 0);
    index_[i] = static_cast<uint32_t>(entries_.size());
  }
  ++entries_[index_[i] - 1].second;
}

bool Sampler::changes_logits(const TokenCounts& counts) const {
  const bool penalties = params_.repetition_penalty != 1 || params_.presence_penalty != 0 ||
                         params_.frequency_penalty != 0;
  return !params_.logit_bias.empty() || (penalties && !counts.entries().empty());
}

// Fills shaped_: logits with bias and penalties.
void Sampler::penalise(std::span<const float> logits, const TokenCounts& counts) {
  shaped_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto l = static_cast<double>(logits[i]);
    shaped_[i] = l == l ? l : -kInf;
  }
  for (const auto& [id, bias] : params_.logit_bias) {
    if (id >= 0 && static_cast<size_t>(id) < logits.size()) {
      shaped_[static_cast<size_t>(id)] += static_cast<double>(bias);
    }
  }
  if (!changes_logits(counts)) return;
  const auto repetition = static_cast<double>(params_.repetition_penalty);
  const auto frequency = static_cast<double>(params_.frequency_penalty);
  const auto presence = static_cast<double>(params_.presence_penalty);
  for (const auto& [id, count] : counts.entries()) {
    if (static_cast<size_t>(id) >= logits.size()) continue;
    double& l = shaped_[static_cast<size_t>(id)];
    l = l < 0 ? l * repetition : l / repetition;
    l = l - static_cast<double>(count) * frequency - presence;
  }
}

// The largest logit after bias and penalties; the lowest id among equals.
Result<TokenId> Sampler::greedy(std::span<const float> logits, const TokenCounts& counts) {
  TokenId best = -1;
  auto scan = [&best](const auto& values) {
    auto most = -std::numeric_limits<
        typename std::remove_cvref_t<decltype(values)>::value_type>::infinity();
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] > most) {
        most = values[i];
        best = static_cast<TokenId>(i);
      }
    }
  };
  if (changes_logits(counts)) {
    penalise(logits, counts);
    scan(shaped_);
  } else {
    scan(logits);
  }
  if (best < 0) return no_finite_logit();
  return best;
}

// The k-th largest of shaped_ (k >= 1), or -inf when there are fewer: one pass that keeps at most
// 2k + 512 values.
double Sampler::kth_logit(size_t k) {
  if (k >= shaped_.size()) return -kInf;
  const size_t room = 2 * k + 512;
  double bar = -kInf;  // the k-th largest so far, once k were seen
  scratch_.clear();
  auto select = [&] {
    std::nth_element(scratch_.begin(),
                     scratch_.begin() + static_cast<ptrdiff_t>(k - 1),
                     scratch_.end(),
                     std::greater<>());
    scratch_.resize(k);
    bar = scratch_.back();
  };
  for (const double l : shaped_) {
    if (!(l > bar)) continue;
    scratch_.push_back(l);
    if (scratch_.size() == room) select();
  }
  if (scratch_.size() >= k) select();
  return bar;
}

// The survivors of top-k: logits >= kth. Their depth below `most`, the largest.
void Sampler::collect(double kth, double most) {
  ids_.resize(shaped_.size());
  depth_.resize(shaped_.size());
  const double temperature = static_cast<double>(params_.temperature);
  const bool infinite = most == kInf;
  size_t n = 0;
  for (size_t i = 0; i < shaped_.size(); ++i) {
    const double l = shaped_[i];
    ids_[n] = static_cast<TokenId>(i);
    depth_[n] = infinite ? 0 : (most - l) / temperature;
    n += l >= kth && l > -kInf && (!infinite || l == kInf) ? 1 : 0;
  }
  ids_.resize(n);
  depth_.resize(n);
  weight_.resize(n);
  exp_of_negative(depth_, weight_.data());
  sum_ = 0;
  for (const double w : weight_) sum_ += w;
}

// Keeps the survivors i with keep(i) and sums their weights anew.
template <class Keep>
void Sampler::filter(Keep keep) {
  size_t n = 0;
  double sum = 0;
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (!keep(i)) continue;
    ids_[n] = ids_[i];
    depth_[n] = depth_[i];
    weight_[n] = weight_[i];
    sum += weight_[n];
    ++n;
  }
  ids_.resize(n);
  depth_.resize(n);
  weight_.resize(n);
  sum_ = sum;
}

// Drops the tail whose cumulative weight, from the bottom, is at most 1 - top_p; among equals
// higher ids go first. The top one stays.
void Sampler::keep_top_p() {
  const double limit = (1.0 - static_cast<double>(params_.top_p)) * sum_;
  const Bins bins(depth_, weight_);
  double tail = 0;
  size_t bin = Bins::kBins - 1;
  while (bin > 0 && tail + bins.mass(bin) <= limit) tail += bins.mass(bin--);
  const auto order = bins.sorted(bin);
  size_t n = order.size();
  while (n > 1 && tail + weight_[order[n - 1]] <= limit) tail += weight_[order[--n]];
  const uint32_t last = order[n - 1];
  const double cut = depth_[last];
  const TokenId cut_id = ids_[last];
  filter([&](size_t i) { return depth_[i] < cut || (depth_[i] == cut && ids_[i] <= cut_id); });
}

// The largest weight is exactly 1 and has survived so far, so that min_p is a bound on the weight
// itself.
void Sampler::keep_min_p() {
  const auto bound = static_cast<double>(params_.min_p);
  filter([&](size_t i) { return weight_[i] >= bound; });
}

// Locally typical sampling (Meister et al. 2022): keeps the tokens whose surprise is closest to the
// entropy until their mass reaches typical_p. |-log p - entropy| is |depth - mean depth|: the
// normaliser cancels.
void Sampler::keep_typical_p() {
  double mean = 0;
  for (size_t i = 0; i < ids_.size(); ++i) mean += weight_[i] * depth_[i];
  mean /= sum_;
  scratch_.resize(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) scratch_[i] = std::abs(depth_[i] - mean);
  const double wanted = static_cast<double>(params_.typical_p) * sum_;
  const Bins bins(scratch_, weight_);
  double mass = 0;
  size_t bin = 0;
  while (bin < Bins::kBins - 1 && mass + bins.mass(bin) < wanted) mass += bins.mass(bin++);
  double cut = kInf;
  for (const uint32_t i : bins.sorted(bin)) {
    cut = scratch_[i];
    mass += weight_[i];
    if (mass >= wanted) break;
  }
  filter([&](size_t i) { return scratch_[i] <= cut; });
}

Result<void> Sampler::shape(std::span<const float> logits, const TokenCounts& counts) {
  penalise(logits, counts);
  double most = -kInf;
  for (const double l : shaped_) most = l > most ? l : most;
  if (most == -kInf) return no_finite_logit();
  collect(params_.top_k > 0 ? kth_logit(static_cast<size_t>(params_.top_k)) : -kInf, most);
  if (params_.top_p < 1) keep_top_p();
  if (params_.min_p > 0) keep_min_p();
  if (params_.typical_p < 1) keep_typical_p();
  return success();
}

TokenId Sampler::draw(uint64_t position) const {
  const double target = philox_uniform(params_.seed, params_.choice, position) * sum_;
  double sum = 0;
  size_t last = 0;  // the last survivor of any weight: the product may round up to sum_
  for (size_t i = 0; i < ids_.size(); ++i) {
    sum += weight_[i];
    if (sum > target) return ids_[i];
    if (weight_[i] > 0) last = i;
  }
  return ids_[last];
}

Result<Sampled> Sampler::sample(std::span<const float> logits,
                                const TokenCounts& counts,
                                uint64_t position,
                                int n_top,
                                bool with_logprob) {
  Sampled out;
  if (params_.temperature == 0) {
    SLUICE_TRY(out.id, greedy(logits, counts));
  } else {
    SLUICE_TRY(shape(logits, counts));
    out.id = draw(position);
  }
  if (with_logprob || n_top > 0) return score_token(logits, out.id, n_top);
  return out;
}

Result<std::vector<float>> Sampler::distribution(std::span<const float> logits,
                                                 const TokenCounts& counts) {
  std::vector<float> p(logits.size(), 0.0f);
  if (params_.temperature == 0) {
    SLUICE_TRY(const TokenId id, greedy(logits, counts));
    p[static_cast<size_t>(id)] = 1.0f;
    return p;
  }
  SLUICE_TRY(shape(logits, counts));
  for (size_t i = 0; i < ids_.size(); ++i)
    p[static_cast<size_t>(ids_[i])] = static_cast<float>(weight_[i] / sum_);
  return p;
}

}  // namespace sluice
