#include "scheduler/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>
#include <optional>

#include "scheduler/block_residency.h"
#include "scheduler/failure_window.h"
#include "scheduler/kv_cache.h"
#include "scheduler/logprobs.h"
#include "scheduler/pass.h"
#include "scheduler/predict.h"
#include "scheduler/residency.h"
#include "scheduler/thread_pool.h"
#include "storage/mapped_file.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Keeps a copy of the last logits, and scores the prompt's tokens when asked to.
class LastLogits final : public LogitsSink {
 public:
  std::function<void(std::span<const float>)> each;   // called before the row is kept
  std::vector<float> row;

  void on_logits(size_t, int64_t, std::span<const float> logits) override {
    if (each) each(logits);
    row.assign(logits.begin(), logits.end());
  }
};

constexpr int64_t kLikelyAnswer = 256;      // tokens

// Opens the residency with walks as long as a sixteenth of the budget allows, shorter ones if only they fit: a long walk
// merely spares readings of the weights.
Result<std::unique_ptr<Residency>> open_residency(const std::shared_ptr<const Model>& model,
                                                  const EngineOptions& options,
                                                  int n_threads,
                                                  Budget& budget,
                                                  PassOptions& walk) {
  const kernels::HParams& hp = model->hparams();
  const WalkSizes sizes(hp, n_threads, walk.max_seq_len, walk.max_tokens, walk.max_outputs);
  PlanNeeds needs;
  needs.kv_bytes = static_cast<uint64_t>(kernels::KvLayout::of(hp, options.kv_type).page_bytes());
  std::optional<Result<std::unique_ptr<Residency>>> opened;
  sizes.longest_that_fits(budget.effective(), [&](const WalkSize& size) {
    walk.max_tokens = size.max_tokens;
    walk.max_outputs = size.max_outputs;
    needs.activation_bytes = size.workspace_bytes;
    opened = Residency::create(model, options.io, needs, budget);
    return *opened || opened->error().code != "budget_below_floor";      // other errors no walk mends
  });
  return *std::move(opened);
}

}  // namespace

// What a prefill feeds: tokens that are not in the KV yet, with the role each is computed in.
struct Feed {
  std::vector<TokenId> ids;
  std::vector<Role> roles;
  int64_t final_length = 0;      // of the sequence when all are in

  void add(TokenId id, Role role) {
    ids.push_back(id);
    roles.push_back(role);
  }
};

struct Engine::Impl {
  std::shared_ptr<const Model> model;
  int64_t max_seq_len = 0;
  Budget* budget = nullptr;
  std::unique_ptr<Residency> residency;    // null: no limit
  std::unique_ptr<Pass> pass;
  std::unique_ptr<KvPool> kv_pool;
  std::unique_ptr<Sequence> kept;          // the last generation's sequence
  std::optional<TokenId> pending;          // its last token, when it was delivered but not computed yet
  std::atomic<uint64_t> most_pins{UINT64_MAX};
  std::atomic<uint64_t> kv_bytes{0};
  std::atomic<uint64_t> kv_wanted{0};      // by the running generation, including what it has
  int64_t final_length = 0;                // the most tokens it may come to
  std::mutex running;                      // held by a generation; guards `kept` and what belongs to it
  LastLogits last;                         // logits after the last token of `kept`, if last_valid
  bool last_valid = false;
  FailureWindow failures;  // of reads; guarded by `running`
  std::atomic<bool> failed{false};
  WalkCost* cost = nullptr;                // where walks are counted, during a generation

  Result<void> check(const GenerationRequest& r) const;
  void fill_pins();
  Feed plan_feed(const GenerationRequest& r, GenerationStats& stats);
  Result<void> prefill(const GenerationRequest& r, const Feed& feed, TokenSink& sink, const CancelToken& cancel);
  Result<void> decode(const GenerationRequest& r, TokenSink& sink, const CancelToken& cancel, GenerationStats& stats);
  Result<void> walk(std::span<const Run> runs, const CancelToken& cancel);
  void expect_kv(int64_t length);

  struct CountedWalks {
    CountedWalks(Impl& i, WalkCost& first) : impl(i) { impl.cost = &first; }
    ~CountedWalks() { impl.cost = nullptr; }
    CountedWalks(const CountedWalks&) = delete;
    CountedWalks& operator=(const CountedWalks&) = delete;
    Impl& impl;
  };
  // Pins that came with a budget that grew meanwhile, and those that a short answer did not get to.
  struct FilledAfterwards {
    explicit FilledAfterwards(Impl& i) : impl(i) {}
    ~FilledAfterwards() {
      if (impl.residency) impl.residency->fill_ahead();
    }
    FilledAfterwards(const FilledAfterwards&) = delete;
    FilledAfterwards& operator=(const FilledAfterwards&) = delete;
    Impl& impl;
  };
  // While a generation runs.
  struct ExpectedKv {
    ExpectedKv(Impl& i, int64_t prompt_length, int64_t max_tokens) : impl(i) {
      const int64_t most = max_tokens < 0 ? i.max_seq_len : std::min(max_tokens, i.max_seq_len);
      impl.final_length = std::min(prompt_length + most, i.max_seq_len);
      impl.expect_kv(prompt_length);
    }
    ~ExpectedKv() { impl.kv_wanted.store(0, std::memory_order_relaxed); }
    ExpectedKv(const ExpectedKv&) = delete;
    ExpectedKv& operator=(const ExpectedKv&) = delete;
    Impl& impl;
  };
};

Engine::Engine() : impl_(std::make_unique<Impl>()) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<const Model> model,
                                               const EngineOptions& options,
                                               Budget& budget,
                                               ThreadPool& pool) {
  const int64_t file_max = model->hparams().max_seq_len;
  if (options.max_seq_len < 0 || options.max_seq_len > file_max) {
    return Error{"invalid_request",
                 fmt::format("context {} is outside 1..{}, the model's own length", options.max_seq_len, file_max),
                 "set a smaller ctx"};
  }
  std::unique_ptr<Engine> engine(new Engine());
  Impl& impl = *engine->impl_;
  impl.model = std::move(model);
  impl.max_seq_len = options.max_seq_len == 0 ? file_max : options.max_seq_len;
  PassOptions pass_options;
  pass_options.max_seq_len = impl.max_seq_len;
  pass_options.max_tokens = std::min<int64_t>(pass_options.max_tokens, impl.max_seq_len);
  pass_options.kv_type = options.kv_type;
  pass_options.reference = options.reference;
  impl.budget = &budget;
  WeightSource* source = nullptr;
  if (budget.limit() != Budget::kUnlimited && !options.reference) {
    SLUICE_TRY(impl.residency, open_residency(impl.model, options, pool.n_threads(), budget, pass_options));
    source = &impl.residency->source();
  }
  SLUICE_TRY(impl.pass, Pass::create(impl.model, pass_options, budget, pool, source));
  impl.kv_pool = std::make_unique<KvPool>(impl.pass->kv_layout(), budget);
  impl.kept = std::make_unique<Sequence>(*impl.kv_pool);
  return engine;
}

const Model& Engine::model() const { return *impl_->model; }
int64_t Engine::max_seq_len() const { return impl_->max_seq_len; }

EngineMemory Engine::memory() const {
  EngineMemory m;
  if (impl_->residency) {
    const SliceStoreStats store = impl_->residency->store().stats();
    m.weights_resident = store.pinned_bytes;
    m.weights_charged = impl_->residency->store().pin_bytes(store.cut);
    m.weights_pinnable = impl_->residency->store().pin_bytes(store.n_slices);
    m.ring = impl_->residency->store().ring_bytes();
    m.streamed_bytes = store.streamed_bytes;
    m.stall_ms = store.stall_s * 1000;
  } else {
    m.weights_mapped = impl_->model->weight_bytes();
  }
  m.kv = impl_->kv_bytes.load(std::memory_order_relaxed);
  const uint64_t wanted = impl_->kv_wanted.load(std::memory_order_relaxed);
  m.kv_to_come = wanted > m.kv ? wanted - m.kv : 0;
  m.activations = impl_->pass->workspace_bytes();
  return m;
}

std::vector<BlockResidency> Engine::blocks() const {
  if (!impl_->residency) return {};
  return describe_blocks(*impl_->model, impl_->residency->store().block_stats());
}

bool Engine::failed() const { return impl_->failed.load(std::memory_order_relaxed); }

void Engine::trim() {
  impl_->kept->truncate(0);
  impl_->pending.reset();
  impl_->kv_bytes.store(0, std::memory_order_relaxed);
}

void Engine::warm() {
  Impl& i = *impl_;
  const std::unique_lock idle(i.running, std::try_to_lock);
  if (!idle || !i.residency) return;
  i.final_length = i.max_seq_len;
  i.expect_kv(i.kept->length());
  i.fill_pins();
  i.kv_wanted.store(0, std::memory_order_relaxed);
  i.residency->fill_ahead();
}

void Engine::give_back_pins(uint64_t bytes) {
  if (impl_->residency) impl_->residency->reclaim(bytes);
}

void Engine::limit_pins(uint64_t bytes) { impl_->most_pins.store(bytes, std::memory_order_relaxed); }

void Engine::give_back_kv() {
  const std::unique_lock idle(impl_->running, std::try_to_lock);
  if (idle) trim();
}

Result<void> Engine::Impl::check(const GenerationRequest& r) const {
  const int64_t vocab = model->hparams().vocab_size;
  const bool can_go_on = r.append && kept->length() > 0 && (pending || last_valid);
  if (r.prompt.empty() && !can_go_on) {
    return Error{"invalid_request", "the prompt holds no tokens", "send at least one token"};
  }
  for (const TokenId id : r.prompt) {
    if (id < 0 || id >= vocab) {
      return Error{"invalid_request", fmt::format("token id {} is outside 0..{}", id, vocab - 1)};
    }
  }
  const int64_t before = r.append ? kept->length() + (pending ? 1 : 0) : 0;
  const int64_t n = before + static_cast<int64_t>(r.prompt.size());
  if (n > max_seq_len - (r.max_tokens == 0 ? 0 : 1)) {
    return Error{"context_length_exceeded",
                 fmt::format("the prompt has {} tokens, the context holds {} and one must stay free for the answer",
                             n,
                             max_seq_len),
                 "shorten the prompt or raise ctx"};
  }
  return validate(r.sampling, vocab);
}

// Decides what must be computed. A new prompt cuts the kept sequence back to what both share; at least the last prompt
// token is computed anew, since its logits are wanted. Echoed log-probabilities need every token.
Feed Engine::Impl::plan_feed(const GenerationRequest& r, GenerationStats& stats) {
  Feed feed;
  std::vector<Role> roles(r.prompt.size(), Role::kPrompt);
  // The last prompt position follows the row definition: its logits start the generated text.
  std::fill(roles.end() - static_cast<std::ptrdiff_t>(std::min(r.n_generated + 1, roles.size())), roles.end(), Role::kRow);
  size_t first = 0;
  if (r.append) {
    if (pending) feed.add(*pending, Role::kRow);
  } else {
    const bool moving_frequencies = model->hparams().rope_scaling == kernels::RopeScaling::kDynamic;
    if (!r.echo_logprobs && !moving_frequencies) {
      first = static_cast<size_t>(
          std::min(kept->common_prefix(r.prompt, roles), static_cast<int64_t>(r.prompt.size()) - 1));
    }
    kept->truncate(static_cast<int64_t>(first));
    stats.cached_tokens = static_cast<int64_t>(first);
  }
  if (!r.append) pending.reset();        // otherwise it is pending until it was computed
  for (size_t i = first; i < r.prompt.size(); ++i) feed.add(r.prompt[i], roles[i]);
  feed.final_length = kept->length() + static_cast<int64_t>(feed.ids.size());
  return feed;
}

// What the budget has free becomes pins, but for the KV that this call is likely to need. More KV than that takes pins
// back page by page. Asked before every walk, so that a budget that grew is used at once; the passes fill the new pins with
// what they read anyway.
void Engine::Impl::fill_pins() {
  if (!residency) return;
  const uint64_t wanted = kv_wanted.load(std::memory_order_relaxed);
  const uint64_t held = kept->kv_bytes();
  // A failure means that somebody else took the room meanwhile: the pins stay as they are.
  (void)residency->fill(wanted > held ? wanted - held : 0, most_pins.load(std::memory_order_relaxed));
}

Result<void> Engine::Impl::walk(std::span<const Run> runs, const CancelToken& cancel) {
  last_valid = false;
  fill_pins();
  const SliceStoreStats before = residency ? residency->store().stats() : SliceStoreStats{};
  const auto start = Clock::now();
  Result<void> walked = pass->walk(runs, last, cancel);
  if (walked && cost != nullptr) {
    const SliceStoreStats after = residency ? residency->store().stats() : SliceStoreStats{};
    ++cost->walks;
    for (const Run& run : runs) cost->tokens += static_cast<int64_t>(run.ids.size());
    cost->seconds += ms_since(start) / 1000;
    cost->stall_s += after.stall_s - before.stall_s;
    cost->streamed_bytes += after.streamed_bytes - before.streamed_bytes;
  }
  // Nothing leaves that was computed from a file written to meanwhile.
  if (walked) {
    if (auto same = model->still_unchanged(); !same && same.error().code == "io.changed") walked = std::move(same);
    if (residency && residency->store().cut_off()) walked = file_cut_off(model->path());
  }
  if (!walked && walked.error().code == "io.read" &&
      failures.add(std::chrono::duration<double>(Clock::now().time_since_epoch()).count())) {
    failed.store(true, std::memory_order_relaxed);
  }
  last_valid = walked && runs.back().n_outputs > 0;
  kv_bytes.store(kept->kv_bytes(), std::memory_order_relaxed);
  expect_kv(kept->length());
  return walked;
}

// What the generation will take soon, for those who ask how far a budget can be lowered now.
void Engine::Impl::expect_kv(int64_t length) {
  const int64_t soon = std::min(length + kLikelyAnswer, final_length);
  const auto pages = static_cast<uint64_t>((soon + kernels::kPageTokens - 1) / kernels::kPageTokens);
  kv_wanted.store(pages * static_cast<uint64_t>(kv_pool->layout().page_bytes()), std::memory_order_relaxed);
}

Result<void> Engine::Impl::prefill(const GenerationRequest& r,
                                   const Feed& feed,
                                   TokenSink& sink,
                                   const CancelToken& cancel) {
  const size_t total = feed.ids.size();
  const auto chunk_tokens = static_cast<size_t>(pass->options().max_tokens);
  for (size_t done = 0; done < total;) {
    const size_t end = std::min(total, done + chunk_tokens);
    std::vector<Run> runs;        // neighbours of one role together: one or two, three after `append`
    for (size_t i = done; i < end;) {
      size_t j = i;
      while (j < end && feed.roles[j] == feed.roles[i]) ++j;
      const int64_t wanted = r.echo_logprobs ? Run::kAllOutputs : (j == total ? 1 : 0);
      runs.push_back({kept.get(), {feed.ids.data() + i, j - i}, feed.roles[i], feed.final_length, wanted});
      i = j;
    }
    if (r.echo_logprobs) {
      last.each = [&, next = done](std::span<const float> logits) mutable {
        if (++next >= total) return;
        sink.on_prompt_logprob(static_cast<int64_t>(next), score_token(logits, feed.ids[next], r.n_top_logprobs));
      };
    }
    auto walked = walk(runs, cancel);
    last.each = nullptr;
    SLUICE_TRY(std::move(walked));
    pending.reset();
    done = end;
    sink.on_prefill(static_cast<int64_t>(done), static_cast<int64_t>(total));
  }
  return success();
}

Result<void> Engine::Impl::decode(const GenerationRequest& r,
                                  TokenSink& sink,
                                  const CancelToken& cancel,
                                  GenerationStats& stats) {
  Sampler sampler(r.sampling);
  TokenCounts counts;
  for (const TokenId id : kept->ids()) counts.add(id);
  const int64_t limit = r.max_tokens < 0 ? std::numeric_limits<int64_t>::max() : r.max_tokens;
  const auto start = Clock::now();
  stats.finish = FinishReason::kLength;
  while (stats.completion_tokens < limit) {
    if (cancel.cancelled()) return Error{"cancelled", "the request was cancelled"};
    const auto position = static_cast<uint64_t>(kept->length());
    SLUICE_TRY(Sampled token,
               sampler.sample(last.row, counts, position, r.n_top_logprobs, r.want_logprobs || r.n_top_logprobs > 0));
    if (std::find(r.stop_tokens.begin(), r.stop_tokens.end(), token.id) != r.stop_tokens.end()) {
      stats.finish = FinishReason::kStop;
      break;
    }
    ++stats.completion_tokens;
    counts.add(token.id);
    pending = token.id;
    if (!sink.on_token(token)) {
      stats.finish = FinishReason::kStop;
      break;
    }
    if (stats.completion_tokens >= limit || kept->length() + 1 >= max_seq_len) break;
    const Run run{kept.get(), {&token.id, 1}, Role::kRow, kept->length() + 1, 1};
    SLUICE_TRY(walk({&run, 1}, cancel));
    pending.reset();
  }
  stats.decode_ms = ms_since(start);
  return success();
}

Result<GenerationStats> Engine::generate(const GenerationRequest& request, TokenSink& sink, const CancelToken& cancel) {
  Impl& impl = *impl_;
  const std::lock_guard running(impl.running);
  SLUICE_TRY(impl.check(request));
  GenerationStats stats;
  stats.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const auto start = Clock::now();
  const Feed feed = impl.plan_feed(request, stats);
  const Impl::ExpectedKv expected(impl, feed.final_length, request.max_tokens);
  const Impl::CountedWalks counted(impl, stats.prompt);
  const Impl::FilledAfterwards filled(impl);
  SLUICE_TRY(impl.prefill(request, feed, sink, cancel));
  stats.prefill_ms = ms_since(start);
  impl.cost = &stats.decode;
  SLUICE_TRY(impl.decode(request, sink, cancel, stats));
  return stats;
}

}  // namespace sluice
