// What a budget buys, before anything is loaded: pure arithmetic over the same plan, pin order,
// schedule and cut as the real Residency, and the speeds that somebody measured.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "kernels/kernels.h"
#include "kernels/transformer/hparams.h"
#include "scheduler/plan.h"
#include "scheduler/schedule.h"
#include "storage/slice_index.h"

namespace sluice {

// What one model's passes read, in the order in which slices are pinned.
struct PassSizes {
  std::vector<uint64_t> pin_offsets;  // pin memory before each slice, then cell; and the end
  std::vector<bool> skipped;          // by rank: not read by a walk that wants no logits
  size_t n_dense = 0;                 // slices that every pass reads; cells come after them
  uint64_t weight_bytes = 0;          // of the dense slices, and of a cell for every expert
  uint64_t expert_bytes = 0;
  double experts_active = 0;  // share of a layer's experts that one token asks for
  uint64_t slot_bytes = 0;
  uint64_t row_read_bytes = 0;
  uint64_t kv_token_bytes = 0;  // keys and values of one token

  uint64_t pin_bytes() const { return pin_offsets.empty() ? 0 : pin_offsets.back(); }
};
PassSizes pass_sizes(const SliceIndex& index,
                     const Schedule& schedule,
                     const kernels::HParams& hparams,
                     kernels::KvType kv_type = kernels::KvType::kF16);

// Bytes that a walk of `tokens` tokens reads of the slices behind the cut. Experts are taken to be
// chosen evenly: whichever of a block are in its cells, one that is asked for is there in cells of
// experts cases, so that cells count as if their share of every expert stayed.
double walk_read_bytes(const PassSizes& sizes, size_t cut, int64_t tokens, bool wants_outputs);

// A measured number; the truth lies within value * (1 +- spread) most of the time.
struct Estimate {
  double value = 0;
  double spread = 0;
};

struct Speeds {
  Estimate disk_bytes_per_s;
  Estimate decode_s;              // computing one token with all weights in memory
  Estimate prompt_token_s;        // computing one token of a long prompt
  double memory_bytes_per_s = 0;  // 0: not known
};

// Folds a finished run into what earlier ones taught: an exponential average and how far runs lie
// from it. A zero value is one that nothing has taught yet.
struct WalkCost;
void learn(Speeds& learned, const WalkCost& prompt, const WalkCost& decode);
// What runs taught where they did, else what was probed.
Speeds best_of(const Speeds& learned, const Speeds& probed);

struct BudgetQuestion {
  uint64_t budget_bytes = 0;
  PlanNeeds needs;              // slot and weight sizes are filled in here
  int64_t walk_tokens = 256;    // most tokens of a prompt that one walk advances
  int64_t prompt_tokens = 512;  // for the time to the first token
};

struct Range {
  double low = 0, likely = 0, high = 0;
};

enum class SpeedLimit : uint8_t { kDisk, kCompute, kMemoryBandwidth };
const char* speed_limit_name(SpeedLimit l);  // "disk", "compute", "memory bandwidth"

struct Prediction {
  PlanNeeds needs;
  uint64_t floor_bytes = 0;
  bool fits = false;  // all below is zero if not
  Plan plan;
  size_t cut = 0;               // slices of the pin order that stay
  uint64_t pinned_bytes = 0;    // pin memory of those
  double pinned_ratio = 0;      // of all that passes read
  uint64_t streamed_bytes = 0;  // read from disk for each token
  Range tok_per_s;              // decode
  Range ttft_s;                 // of a loaded model that was used before
  Range load_s;                 // what its first use adds: the pins are read
  SpeedLimit limited_by = SpeedLimit::kCompute;
};

Prediction predict(const PassSizes& sizes, const BudgetQuestion& question, const Speeds& speeds);

// Time of a walk that reads `read_s` long and computes `compute_s` long at the same time, and the
// converse: how long it must have read if it took `walk_s`. The shorter of both hides behind the
// longer, but where they are about equal now the one and now the other is waited for.
double overlapped_s(double read_s, double compute_s);
double read_s_of(double walk_s, double compute_s);
// Processor time that reading takes from computing: checksums, copies, wake-ups.
inline constexpr double kReadCostPerByte_s = 0.05e-9;

// How an engine divides a budget: walks as long as a sixteenth of it allows. Errors: as make_plan.
struct WalkSize {
  int64_t max_tokens = 0, max_outputs = 0;
  uint64_t workspace_bytes = 0;
};
class WalkSizes {
 public:
  WalkSizes(const kernels::HParams& hparams,
            int n_threads,
            int64_t max_seq_len,
            int64_t max_tokens,
            int64_t max_outputs);
  // The longest walk whose workspace is within a sixteenth of the budget, or the shortest there is.
  WalkSize first(uint64_t budget_bytes) const;
  // Half of it; none below the shortest.
  std::optional<WalkSize> shorter(const WalkSize& walk) const;
  // Asks fits(WalkSize) of the first and of ever shorter ones, until it says yes or there is none shorter.
  template <class F>
  void longest_that_fits(uint64_t budget_bytes, F&& fits) const {
    std::optional<WalkSize> walk = first(budget_bytes);
    while (walk && !fits(*walk)) walk = shorter(*walk);
  }

 private:
  WalkSize sized(int64_t max_tokens, int64_t max_outputs) const;
  const kernels::HParams& hparams_;
  const int n_threads_;
  const int64_t max_seq_len_, max_tokens_, max_outputs_;
};

// A model as an engine would open it under any budget.
struct EngineCase {
  const PassSizes& sizes;
  const WalkSizes& walks;
  uint64_t fixed_bytes = 0;  // the process itself and what else stays
  uint64_t kv_bytes = 0;     // of the context asked for
  int64_t prompt_tokens = 512;
};
Prediction predict(const EngineCase& c, uint64_t budget_bytes, const Speeds& speeds);
// The smallest budget that works, and the smallest at which nothing streams; whole MiB.
uint64_t smallest_budget(const EngineCase& c);
uint64_t resident_budget(const EngineCase& c);
// Budgets worth a row when nobody names any: from the smallest to all resident, at most n of them.
std::vector<uint64_t> budget_ladder(const EngineCase& c, size_t n);

}  // namespace sluice
