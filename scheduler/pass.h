// One walk over all blocks that advances every run at once: decode tokens, chunks of prompts, of any number of
// sequences. The only way to compute. Sessions never walk separately, so n clients share one reading of the weights.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "kernels/kernels.h"
#include "kernels/transformer/block.h"
#include "scheduler/engine.h"
#include "scheduler/kv_cache.h"
#include "scheduler/model_loader.h"
#include "scheduler/thread_pool.h"
#include "scheduler/weight_source.h"
#include "storage/anonymous_memory.h"

namespace sluice {

// The tokens by which a walk advances one sequence. Positions follow the sequence's length, and earlier runs of the
// same sequence in the same walk (the last prompt token has another role than those before it).
struct Run {
  Sequence* sequence = nullptr;
  std::span<const TokenId> ids;
  Role role = Role::kPrompt;
  int64_t call_length = 0;     // length of the sequence when the whole call ends: dynamic NTK depends on it
  int64_t n_outputs = 0;       // logits wanted for the last n tokens; kAllOutputs: for each
  static constexpr int64_t kAllOutputs = INT64_MAX;
};

class LogitsSink {
 public:
  virtual ~LogitsSink() = default;
  // Logits (vocab_size) after token `index` of run `run`; in ascending order, valid during the call.
  virtual void on_logits(size_t run, int64_t index, std::span<const float> logits) = 0;
};

struct PassOptions {
  int64_t max_tokens = 256;    // of all runs of one walk together
  int64_t max_seq_len = 0;
  int64_t max_outputs = 8;     // rows of logits computed at once; more are computed in turns
  kernels::KvType kv_type = kernels::KvType::kF16;
  bool reference = false;      // with f32 KV
};

// Not thread-safe; holds the workspace, charged to the budget.
class Pass {
 public:
  // source: where weights come from; it outlives the pass. Null: the model's mapping. Errors: budget_exceeded,
  // out_of_memory.
  static Result<std::unique_ptr<Pass>> create(std::shared_ptr<const Model> model,
                                              const PassOptions& options,
                                              Budget& budget,
                                              ThreadPool& pool,
                                              WeightSource* source = nullptr);
  ~Pass();

  // Reserves KV, walks, appends the tokens to their sequences, delivers logits. On error or cancellation no sequence
  // has changed. Errors: cancelled, budget_exceeded, io.*.
  Result<void> walk(std::span<const Run> runs,
                    LogitsSink& sink,
                    const CancelToken& cancel,
                    kernels::TapSink* taps = nullptr);

  const PassOptions& options() const { return options_; }
  const kernels::KvLayout& kv_layout() const { return kv_layout_; }
  uint64_t workspace_bytes() const { return workspace_bytes_; }
  const kernels::KernelTable& kernels() const;

 private:
  struct Wanted {
    size_t run;
    int64_t index;     // within the run
    int64_t token;     // within the walk
  };
  Pass(std::shared_ptr<const Model> model, const PassOptions& options, ThreadPool& pool, WeightSource* source);
  Result<void> reserve_tokens(std::span<const Run> runs);
  void place_tokens(std::span<const Run> runs);
  void list_wanted(std::span<const Run> runs);
  bool walk_blocks(kernels::WalkContext& c, const CancelToken& cancel);
  // compacted: ws_.x holds only the wanted tokens by now.
  bool deliver(kernels::WalkContext& c, LogitsSink& sink, bool compacted);

  std::shared_ptr<const Model> model_;
  PassOptions options_;
  ThreadPool* pool_;
  std::unique_ptr<WeightSource> own_source_;
  WeightSource* source_;
  kernels::KvLayout kv_layout_;
  Reservation reservation_;
  AnonymousMemory memory_;
  uint64_t workspace_bytes_ = 0;
  kernels::Workspace ws_;
  std::vector<int64_t> starts_;                      // per run: position of its first token
  std::vector<int64_t> positions_;                   // per token of the walk
  std::vector<std::byte* const*> pages_;
  std::vector<Role> roles_;
  std::vector<TokenId> ids_;
  std::vector<Wanted> wanted_;                       // outputs, in the order of their tokens
  std::vector<int64_t> kept_, kept_positions_;       // the wanted tokens, for the last block
  std::vector<std::byte* const*> kept_pages_;
  std::vector<Role> kept_roles_;
  std::vector<float> inv_freq_;
};

}  // namespace sluice
