#include "scheduler/predict.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/transformer/kv_layout.h"
#include "kernels/transformer/workspace.h"
#include "scheduler/engine.h"
#include "storage/pin_order.h"
#include "storage/slice_store.h"

namespace sluice {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr int64_t kMinWalkTokens = 16;
// Measured with sluice-bench on two processors (1.5B, 200..1000 MiB): 1.16 times the longer one
// where both take equally long, no more than 1.02 times where one takes twice as long as the other.
constexpr double kOverlap = 4;
// At this share of the memory's own speed the processor mostly waits for it.
constexpr double kMemoryBound = 0.7;

// Weights that one token is multiplied with.
double computed_bytes(const PassSizes& s) {
  return static_cast<double>(s.weight_bytes) +
         static_cast<double>(s.expert_bytes) * s.experts_active;
}

struct Pace {
  double disk_bytes_per_s, decode_s, prompt_token_s;
};

// `towards` -1: the slow end of every estimate, +1: the fast one.
Pace pace_of(const Speeds& s, int towards) {
  const auto rate = [&](const Estimate& e) {
    return e.value * (towards >= 0 ? 1 + e.spread * towards : 1 / (1 + e.spread));
  };
  const auto cost = [&](const Estimate& e) {
    return e.value / (towards >= 0 ? 1 + e.spread * towards : 1 / (1 + e.spread));
  };
  return {rate(s.disk_bytes_per_s), cost(s.decode_s), cost(s.prompt_token_s)};
}

struct Walk {
  double read_s, compute_s;
  double total() const { return overlapped_s(read_s, compute_s); }
};

Walk walk_of(double bytes, double compute_s, const Pace& pace) {
  const double read_s = pace.disk_bytes_per_s > 0 ? bytes / pace.disk_bytes_per_s : 0;
  return {read_s, compute_s + bytes * kReadCostPerByte_s};
}

double prompt_s(const PassSizes& s, size_t cut, const BudgetQuestion& q, const Pace& pace) {
  double sum = 0;
  for (int64_t done = 0; done < q.prompt_tokens;) {
    const int64_t n = std::min(std::max<int64_t>(q.walk_tokens, 1), q.prompt_tokens - done);
    done += n;
    // A short walk costs no less than a token: it reads the weights from memory all the same.
    const double compute = std::max(pace.decode_s, static_cast<double>(n) * pace.prompt_token_s);
    sum += walk_of(walk_read_bytes(s, cut, n, done == q.prompt_tokens), compute, pace).total();
  }
  return sum;
}

// In the order low, likely, high of what `f` gives for the slow, likely and fast ends.
template <class F>
Range range_of(const Speeds& speeds, F&& f) {
  const double a = f(pace_of(speeds, -1));
  const double b = f(pace_of(speeds, 1));
  return {std::min(a, b), f(pace_of(speeds, 0)), std::max(a, b)};
}

void fold(Estimate& e, double x) {
  constexpr double kWeight = 0.3;
  constexpr double kFirstSpread = 0.15;
  constexpr double kLeastSpread = 0.05;
  if (!(x > 0) || !std::isfinite(x)) return;
  if (e.value <= 0) {
    e = {x, kFirstSpread};
    return;
  }
  const double away = std::abs(x - e.value) / e.value;
  e.spread = std::clamp(e.spread + kWeight * (away - e.spread), kLeastSpread, 1.0);
  e.value += kWeight * (x - e.value);
}

}  // namespace

void learn(Speeds& learned, const WalkCost& prompt, const WalkCost& decode) {
  constexpr int64_t kFewestWalks = 8;
  constexpr int64_t kFewestTokens = 128;    // of a walk
  constexpr double kMostlyComputing = 0.1;  // of a walk's time spent waiting
  constexpr double kMostlyReading = 0.4;
  // Short prompts cost what a token costs: nothing to learn from them.
  if (prompt.tokens >= kFewestTokens * std::max<int64_t>(prompt.walks, 1)) {
    fold(learned.prompt_token_s,
         (prompt.seconds - prompt.stall_s) / static_cast<double>(prompt.tokens));
  }
  if (decode.walks < kFewestWalks || decode.seconds <= 0) return;
  const auto walks = static_cast<double>(decode.walks);
  const double walk_s = decode.seconds / walks;
  const double bytes = static_cast<double>(decode.streamed_bytes) / walks;
  const double waiting = decode.stall_s / decode.seconds;
  const double compute_s = walk_s * (1 - waiting);
  if (waiting <= kMostlyComputing) fold(learned.decode_s, compute_s - bytes * kReadCostPerByte_s);
  if (waiting >= kMostlyReading && bytes > 0)
    fold(learned.disk_bytes_per_s, bytes / read_s_of(walk_s, compute_s));
}

Speeds best_of(const Speeds& learned, const Speeds& probed) {
  const auto pick = [](const Estimate& a, const Estimate& b) { return a.value > 0 ? a : b; };
  return {pick(learned.disk_bytes_per_s, probed.disk_bytes_per_s),
          pick(learned.decode_s, probed.decode_s),
          pick(learned.prompt_token_s, probed.prompt_token_s),
          probed.memory_bytes_per_s};
}

const char* speed_limit_name(SpeedLimit l) {
  static const char* const kNames[] = {"disk", "compute", "memory bandwidth"};
  return kNames[static_cast<size_t>(l)];
}

double overlapped_s(double read_s, double compute_s) {
  const double most = std::max(read_s, compute_s);
  if (most <= 0) return 0;
  return most * std::pow(1 + std::pow(std::min(read_s, compute_s) / most, kOverlap), 1 / kOverlap);
}

double read_s_of(double walk_s, double compute_s) {
  if (walk_s <= compute_s) return 0;
  return walk_s * std::pow(1 - std::pow(compute_s / walk_s, kOverlap), 1 / kOverlap);
}

PassSizes pass_sizes(const SliceIndex& index,
                     const Schedule& schedule,
                     const kernels::HParams& hp,
                     kernels::KvType kv_type) {
  PassSizes s;
  const auto order = make_pin_order(schedule.slices);
  s.pin_offsets = SliceStore::pin_offsets_of(index, order, schedule.experts);
  s.n_dense = schedule.slices.size();
  std::vector<bool> late(index.slices().size(), false);
  for (size_t i = schedule.n_without_outputs; i < schedule.slices.size(); ++i)
    late[schedule.slices[i]] = true;
  s.skipped.reserve(order.size());
  for (const SliceId id : order) s.skipped.push_back(late[id]);
  s.skipped.resize(s.pin_offsets.size() - 1, false);
  s.weight_bytes = s.pin_offsets[s.n_dense];
  s.expert_bytes = s.pin_bytes() - s.weight_bytes;
  if (hp.n_experts > 0)
    s.experts_active = static_cast<double>(hp.n_experts_active) / static_cast<double>(hp.n_experts);
  s.slot_bytes = SliceStore::slot_bytes_of(index);
  s.row_read_bytes = SliceStore::row_read_bytes_of(index);
  s.kv_token_bytes =
      static_cast<uint64_t>(kernels::KvLayout::of(hp, kv_type).page_bytes()) /
      kernels::kPageTokens;
  return s;
}

double walk_read_bytes(const PassSizes& s, size_t cut, int64_t tokens, bool wants_outputs) {
  uint64_t dense = 0;
  for (size_t rank = cut; rank < s.n_dense; ++rank) {
    if (wants_outputs || !s.skipped[rank]) dense += s.pin_offsets[rank + 1] - s.pin_offsets[rank];
  }
  const uint64_t experts = s.pin_bytes() - s.pin_offsets[std::max(cut, s.n_dense)];
  const double asked_for = 1 - std::pow(1 - s.experts_active, static_cast<double>(tokens));
  return static_cast<double>(dense) + static_cast<double>(experts) * asked_for;
}

Prediction predict(const PassSizes& s, const BudgetQuestion& q, const Speeds& speeds) {
  Prediction p;
  p.needs = q.needs;
  p.needs.activation_bytes += s.row_read_bytes;
  p.needs.slot_bytes = s.slot_bytes;
  p.needs.weight_bytes = s.pin_bytes();
  p.floor_bytes = floor_of(p.needs);
  auto plan = make_plan(q.budget_bytes, p.needs);
  if (!plan) return p;
  p.fits = true;
  p.plan = plan.value();
  p.cut = SliceStore::cut_for(s.pin_offsets, p.plan.pin_bytes);
  p.pinned_bytes = SliceStore::pin_bytes(s.pin_offsets, p.cut);
  p.pinned_ratio = s.pin_bytes() > 0 ? static_cast<double>(s.pin_offsets[p.cut]) /
                                           static_cast<double>(s.pin_bytes())
                                     : 1;
  const double bytes = walk_read_bytes(s, p.cut, 1, true);
  p.streamed_bytes = static_cast<uint64_t>(bytes);
  // Keys and values of the conversation so far are walked like weights.
  const double kv = static_cast<double>(s.kv_token_bytes) * static_cast<double>(q.prompt_tokens);
  const double longer = computed_bytes(s) > 0 ? 1 + kv / computed_bytes(s) : 1;
  p.tok_per_s = range_of(speeds, [&](const Pace& pace) {
    const double total = walk_of(bytes, pace.decode_s * longer, pace).total();
    return total > 0 ? 1 / total : 0;
  });
  p.ttft_s = range_of(speeds, [&](const Pace& pace) { return prompt_s(s, p.cut, q, pace); });
  p.load_s = range_of(speeds, [&](const Pace& pace) {
    return pace.disk_bytes_per_s > 0
               ? static_cast<double>(s.pin_offsets[p.cut]) / pace.disk_bytes_per_s
               : 0;
  });
  const Pace likely = pace_of(speeds, 0);
  const Walk walk = walk_of(bytes, likely.decode_s * longer, likely);
  const bool memory = likely.decode_s > 0 && computed_bytes(s) / likely.decode_s >=
                                                 kMemoryBound * speeds.memory_bytes_per_s;
  if (walk.read_s > walk.compute_s) {
    p.limited_by = SpeedLimit::kDisk;
  } else if (memory && speeds.memory_bytes_per_s > 0) {
    p.limited_by = SpeedLimit::kMemoryBandwidth;
  }
  return p;
}

WalkSizes::WalkSizes(const kernels::HParams& hparams,
                     int n_threads,
                     int64_t max_seq_len,
                     int64_t max_tokens,
                     int64_t max_outputs)
    : hparams_(hparams),
      n_threads_(n_threads),
      max_seq_len_(max_seq_len),
      max_tokens_(std::min(max_tokens, max_seq_len)),
      max_outputs_(max_outputs) {}

WalkSize WalkSizes::sized(int64_t max_tokens, int64_t max_outputs) const {
  return {max_tokens,
          max_outputs,
          kernels::workspace_bytes(hparams_, {max_tokens, max_seq_len_, max_outputs, n_threads_})};
}

WalkSize WalkSizes::first(uint64_t budget_bytes) const {
  WalkSize walk = sized(max_tokens_, max_outputs_);
  while (walk.workspace_bytes > budget_bytes / 16) {
    const auto next = shorter(walk);
    if (!next) break;
    walk = *next;
  }
  return walk;
}

std::optional<WalkSize> WalkSizes::shorter(const WalkSize& walk) const {
  if (walk.max_tokens <= kMinWalkTokens) return std::nullopt;
  return sized(std::max(kMinWalkTokens, walk.max_tokens / 2),
               std::max<int64_t>(1, walk.max_outputs / 2));
}

Prediction predict(const EngineCase& c, uint64_t budget_bytes, const Speeds& speeds) {
  BudgetQuestion q;
  q.budget_bytes = budget_bytes;
  q.needs.fixed_bytes = c.fixed_bytes;
  q.needs.kv_bytes = c.kv_bytes;
  q.prompt_tokens = c.prompt_tokens;
  Prediction p;
  c.walks.longest_that_fits(budget_bytes, [&](const WalkSize& walk) {
    q.needs.activation_bytes = walk.workspace_bytes;
    q.walk_tokens = walk.max_tokens;
    p = predict(c.sizes, q, speeds);
    return p.fits;
  });
  return p;
}

uint64_t smallest_budget(const EngineCase& c) { return predict(c, 0, {}).floor_bytes; }

uint64_t resident_budget(const EngineCase& c) {
  const auto all = [&](uint64_t mib) {
    const Prediction p = predict(c, mib * kMiB, {});
    return p.fits && p.plan.pin_bytes >= c.sizes.pin_bytes();
  };
  uint64_t low = 0;
  uint64_t high = 1;
  while (!all(high)) {
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    const uint64_t middle = low + (high - low) / 2;
    (all(middle) ? high : low) = middle;
  }
  return high * kMiB;
}

std::vector<uint64_t> budget_ladder(const EngineCase& c, size_t n) {
  const uint64_t low = smallest_budget(c);
  const uint64_t high = resident_budget(c);
  std::vector<uint64_t> out{low};
  // Whole numbers that people would type, at least 2 % of the way apart.
  const uint64_t step = (high - low) / std::max<uint64_t>(n - 1, 1);
  uint64_t round = kMiB;
  for (const uint64_t nice : {10 * kMiB, 50 * kMiB, 100 * kMiB, 512 * kMiB, 1024 * kMiB}) {
    if (nice <= step) round = nice;
  }
  for (size_t i = 1; i + 1 < n; ++i) {
    const uint64_t budget = (low + i * step + round / 2) / round * round;
    if (budget > out.back() && budget < high) out.push_back(budget);
  }
  if (high > out.back()) out.push_back(high);
  return out;
}

}  // namespace sluice
