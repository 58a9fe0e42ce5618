#include "scheduler/pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/transformer/rope.h"
#include "scheduler/mapped_source.h"

namespace sluice {

using kernels::row_stride;

Pass::Pass(std::shared_ptr<const Model> model, const PassOptions& options, ThreadPool& pool, WeightSource* source)
    : model_(std::move(model)),
      options_(options),
      pool_(&pool),
      own_source_(source == nullptr ? std::make_unique<MappedSource>(*model_) : nullptr),
      source_(source == nullptr ? own_source_.get() : source),
      kv_layout_(kernels::KvLayout::of(model_->hparams(),
                                       options.reference ? kernels::KvType::kF32 : options.kv_type)) {}

Result<std::unique_ptr<Pass>> Pass::create(std::shared_ptr<const Model> model,
                                           const PassOptions& options,
                                           Budget& budget,
                                           ThreadPool& pool,
                                           WeightSource* source) {
  std::unique_ptr<Pass> pass(new Pass(std::move(model), options, pool, source));
  const kernels::HParams& hp = pass->model_->hparams();
  const kernels::WorkspaceShape shape{options.max_tokens, options.max_seq_len, options.max_outputs, pool.n_threads(),
                                      options.reference};
  pass->workspace_bytes_ = kernels::workspace_bytes(hp, shape);
  SLUICE_TRY(pass->reservation_, budget.reserve(pass->workspace_bytes_, MemoryClass::kActivations));
  SLUICE_TRY(pass->memory_, AnonymousMemory::create(pass->workspace_bytes_, "the workspace"));
  pass->ws_ = kernels::make_workspace(hp, shape, pass->memory_.data());
  pass->inv_freq_.resize(static_cast<size_t>(hp.rope_dim / 2));
  return pass;
}

Pass::~Pass() = default;

const kernels::KernelTable& Pass::kernels() const { return kernels::kernels(); }

// Where each run starts, and KV pages up to where it ends.
Result<void> Pass::reserve_tokens(std::span<const Run> runs) {
  starts_.clear();
  int64_t total = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    int64_t start = runs[r].sequence->length();
    for (size_t i = 0; i < r; ++i) {
      if (runs[i].sequence == runs[r].sequence) start += static_cast<int64_t>(runs[i].ids.size());
    }
    starts_.push_back(start);
    const auto n = static_cast<int64_t>(runs[r].ids.size());
    total += n;
    SLUICE_CHECK(start + n <= options_.max_seq_len);
    SLUICE_TRY(runs[r].sequence->reserve(start + n));
  }
  SLUICE_CHECK(total > 0 && total <= options_.max_tokens);
  return success();
}

// Fills positions, page tables, roles and rotations of every token of the walk.
void Pass::place_tokens(std::span<const Run> runs) {
  const kernels::HParams& hp = model_->hparams();
  positions_.clear();
  pages_.clear();
  roles_.clear();
  ids_.clear();
  for (size_t r = 0; r < runs.size(); ++r) {
    const Run& run = runs[r];
    const float scaling =
        kernels::rope_frequencies(hp, model_->rope_factors(), run.call_length, inv_freq_.data());
    for (size_t i = 0; i < run.ids.size(); ++i) {
      const int64_t position = starts_[r] + static_cast<int64_t>(i);
      float* table = ws_.cos_sin + static_cast<int64_t>(positions_.size()) * row_stride(hp.rope_dim);
      kernels::rope_cos_sin(inv_freq_.data(), hp.rope_dim, position, scaling, table);
      positions_.push_back(position);
      pages_.push_back(run.sequence->page_table());
      roles_.push_back(run.role);
      ids_.push_back(run.ids[i]);
    }
  }
}

Result<void> Pass::walk(std::span<const Run> runs, LogitsSink& sink, const CancelToken& cancel, kernels::TapSink* taps) {
  SLUICE_TRY(reserve_tokens(runs));
  place_tokens(runs);
  list_wanted(runs);
  source_->begin_walk(cancel, !wanted_.empty() || taps != nullptr);
  kernels::WalkContext c{.hp = model_->hparams(),
                         .table = kernels(),
                         .parallel = *pool_,
                         .source = *source_,
                         .ws = ws_,
                         .kv = kv_layout_,
                         .reference = options_.reference,
                         .taps = taps};
  const bool ok = kernels::embed_tokens(c, model_->token_embedding(), ids_.data(), static_cast<int64_t>(ids_.size())) &&
                  walk_blocks(c, cancel) && deliver(c, sink, taps == nullptr);
  if (!ok) return source_->failure();
  for (const Run& run : runs) run.sequence->append(run.ids, run.role);
  return success();
}

void Pass::list_wanted(std::span<const Run> runs) {
  wanted_.clear();
  kept_.clear();
  kept_positions_.clear();
  kept_pages_.clear();
  kept_roles_.clear();
  int64_t base = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto n = static_cast<int64_t>(runs[r].ids.size());
    for (int64_t i = n - std::min(n, std::max<int64_t>(runs[r].n_outputs, 0)); i < n; ++i) {
      wanted_.push_back({r, i, base + i});
      kept_.push_back(base + i);
      kept_positions_.push_back(positions_[static_cast<size_t>(base + i)]);
      kept_pages_.push_back(pages_[static_cast<size_t>(base + i)]);
      kept_roles_.push_back(runs[r].role);
    }
    base += n;
  }
}

// All blocks in order. In the last one only the wanted tokens go past their keys and values, unless taps look at all.
bool Pass::walk_blocks(kernels::WalkContext& c, const CancelToken& cancel) {
  const kernels::WalkTokens tokens{static_cast<int64_t>(ids_.size()), positions_.data(), pages_.data(), roles_.data()};
  const auto& blocks = model_->blocks();
  const size_t last = blocks.size() - 1;
  for (size_t layer = 0; layer <= last; ++layer) {
    if (cancel.cancelled()) return false;
    const auto l = static_cast<int64_t>(layer);
    if (layer == last && c.taps == nullptr) {
      const kernels::WalkTokens kept{static_cast<int64_t>(kept_.size()), kept_positions_.data(), kept_pages_.data(),
                                     kept_roles_.data()};
      return kernels::run_last_block(c, blocks[layer], l, tokens, kept_.data(), kept);
    }
    if (!kernels::run_block(c, blocks[layer], l, tokens)) return false;
  }
  return true;
}

// Computes the wanted logits, max_outputs rows at a time.
bool Pass::deliver(kernels::WalkContext& c, LogitsSink& sink, bool compacted) {
  const kernels::HParams& hp = model_->hparams();
  const int64_t stride = row_stride(hp.dim);
  const auto batch_rows = static_cast<size_t>(options_.max_outputs);
  for (size_t i = 0; i < wanted_.size(); i += batch_rows) {
    const size_t rows = std::min(wanted_.size() - i, batch_rows);
    for (size_t j = 0; j < rows; ++j) {
      const int64_t row = compacted ? static_cast<int64_t>(i + j) : wanted_[i + j].token;
      std::memcpy(ws_.out_x + static_cast<int64_t>(j) * stride, ws_.x + row * stride,
                  static_cast<size_t>(hp.dim) * sizeof(float));
    }
    if (!kernels::run_head(c, model_->output_norm(), model_->output_head(), static_cast<int64_t>(rows))) return false;
    for (size_t j = 0; j < rows; ++j) {
      const float* logits = ws_.logits + static_cast<int64_t>(j) * row_stride(hp.vocab_size);
      sink.on_logits(wanted_[i + j].run, wanted_[i + j].index, {logits, static_cast<size_t>(hp.vocab_size)});
    }
  }
  return true;
}

}  // namespace sluice
