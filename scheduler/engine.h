// The door of the scheduler: open a model, run generations. Token ids only; text lives in the daemon.
// One generation runs at a time per engine (the caller's RunQueue sees to it); the calling thread computes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/kernels.h"
#include "scheduler/model_loader.h"
#include "scheduler/sampler.h"
#include "storage/budget.h"
#include "storage/io_queue.h"

namespace sluice {

class ThreadPool;
struct BlockResidency;

// Set from any thread; looked at between blocks, so that work stops within one block's compute.
class CancelToken {
 public:
  void cancel() { flag_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return flag_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> flag_{false};
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };

struct GenerationRequest {
  std::vector<TokenId> prompt;           // at least one token, unless `append`
  size_t n_generated = 0;                // its last ones were generated before: the generation that gave them goes on
  bool append = false;                   // goes on from the last generation: `prompt` is what is added, or empty
  SamplingParams sampling;
  int64_t max_tokens = -1;               // -1: up to the context limit
  std::vector<TokenId> stop_tokens;      // ends with kStop; the token itself is not delivered
  int n_top_logprobs = 0;                // 0..20
  bool want_logprobs = false;
  bool echo_logprobs = false;            // also deliver logprobs of the prompt's tokens (from the second on)
};

// Called on the generating thread. Return false to stop (a stop string was found): ends with kStop.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual bool on_token(const Sampled& token) = 0;
  virtual void on_prefill(int64_t done, int64_t total) { (void)done, (void)total; }
  // With echo_logprobs: prompt token i (>= 1) as scored by the model.
  virtual void on_prompt_logprob(int64_t i, const Sampled& token) { (void)i, (void)token; }
};

// What walks took, of which waiting for slices, and what they read.
struct WalkCost {
  int64_t walks = 0, tokens = 0;
  double seconds = 0, stall_s = 0;
  uint64_t streamed_bytes = 0;
};

struct GenerationStats {
  FinishReason finish = FinishReason::kStop;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;             // prompt tokens whose KV was still there
  int64_t completion_tokens = 0;
  double prefill_ms = 0;
  double decode_ms = 0;
  WalkCost prompt, decode;               // without sampling and delivering
};

struct EngineOptions {
  int n_threads = 0;                     // 0: affinity and cgroup quota
  int64_t max_seq_len = 0;               // 0: the file's context length (KV grows page by page)
  bool reference = false;                // --f32: portable kernels, float activations, f32 KV
  kernels::KvType kv_type = kernels::KvType::kF16;
  IoOptions io;                          // how slices are read when the budget has a limit
};

struct EngineMemory {                    // bytes
  uint64_t weights_mapped = 0;           // of the file, when there is no limit and the page cache holds it
  uint64_t weights_resident = 0;         // pinned in our own memory
  uint64_t weights_charged = 0;          // for pins, those on their way in included
  uint64_t weights_pinnable = 0;         // what all pins would take; 0: nothing is streamed
  uint64_t ring = 0, kv = 0, activations = 0;
  uint64_t kv_to_come = 0;               // what the running generation is likely to take besides
  uint64_t streamed_bytes = 0;           // read through the ring so far
  double stall_ms = 0;                   // waited for slices so far
};

class Engine {
 public:
  // With a limit in the budget weights stream through a Residency, otherwise the mapping is used.
  // Errors: budget_below_floor, budget_exceeded, invalid_request (context length).
  static Result<std::unique_ptr<Engine>> create(std::shared_ptr<const Model> model,
                                                const EngineOptions& options,
                                                Budget& budget,
                                                ThreadPool& pool);
  ~Engine();

  const Model& model() const;
  int64_t max_seq_len() const;           // prompt + output tokens one generation may hold
  EngineMemory memory() const;           // any thread
  // Block by block; any thread. Empty when nothing is streamed: the mapping's pages are the kernel's.
  std::vector<BlockResidency> blocks() const;

  // Blocks until finished. Keeps the KV of the last generation and reuses its common prefix.
  // Errors: context_length_exceeded (with the numbers), invalid_request, numeric.nan, io.*.
  Result<GenerationStats> generate(const GenerationRequest& request, TokenSink& sink, const CancelToken& cancel);

  // Any thread: reads of the model failed three times within a minute (FailureWindow). What is open
  // may be what is broken: opening the model anew is worth a try, going on is not.
  bool failed() const;

  // Drops the kept KV pages.
  void trim();

  // Any thread: if no generation runs, what the budget has free becomes pins, but for the KV that
  // an answer takes, and they are read in the background. For after a load and after a budget was
  // raised; a generation ends with it by itself.
  void warm();

  // Any thread: what may be taken from an engine that is idle, or was a moment ago. Pins go from the end of their order
  // and come back with the next generation; kept KV stays if a generation has begun.
  void give_back_pins(uint64_t bytes);
  void give_back_kv();
  // Any thread: pins grow no further than this. Those above it stay until they are taken.
  void limit_pins(uint64_t bytes);

 private:
  Engine();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
