#include "scheduler/block_residency.h"

#include <fmt/format.h>

namespace sluice {
namespace {

bool is_tied(const Model& model) { return model.output_head().tensor == model.token_embedding().tensor; }

}  // namespace

const char* block_kind_name(BlockKind kind) {
  switch (kind) {
    case BlockKind::kEmbed:
      return "embed";
    case BlockKind::kLayer:
      return "layer";
    case BlockKind::kOutput:
      return "output";
  }
  return "";
}

std::vector<uint32_t> blocks_of_slices(const Model& model) {
  const auto n_layers = static_cast<uint32_t>(model.blocks().size());
  std::vector<uint32_t> of_tensor;
  const auto set = [&](const kernels::MatrixRef& ref, uint32_t block) {
    if (!ref.present()) return;
    const auto tensor = static_cast<size_t>(ref.tensor);
    // Small tensors belong to no matrix; nobody streams them.
    if (of_tensor.size() <= tensor) of_tensor.resize(tensor + 1, n_layers);
    of_tensor[tensor] = block;
  };
  for (uint32_t i = 0; i < n_layers; ++i) {
    const kernels::BlockWeights& w = model.blocks()[i];
    for (const auto* ref :
         {&w.wq, &w.wk, &w.wv, &w.wo, &w.w1, &w.w2, &w.w3, &w.router, &w.w1_exps, &w.w2_exps, &w.w3_exps}) {
      set(*ref, i);
    }
  }
  set(model.token_embedding(), n_layers);
  set(model.output_head(), n_layers + 1);
  std::vector<uint32_t> out;
  for (const Slice& s : model.slices().slices()) {
    out.push_back(s.tensor < of_tensor.size() ? of_tensor[s.tensor] : n_layers);
  }
  return out;
}

std::vector<BlockResidency> describe_blocks(const Model& model, std::vector<SliceBlockStats> stats) {
  const auto n_layers = static_cast<uint32_t>(model.blocks().size());
  stats.resize(n_layers + 2);
  // Rows of an untied embedding are read one by one: it is in no pass's schedule, so the store does not count its size.
  if (!is_tied(model)) {
    const auto range = model.slices().of(static_cast<uint32_t>(model.token_embedding().tensor));
    for (uint32_t i = 0; i < range.count; ++i) stats[n_layers].bytes += model.slices()[range.first + i].n_bytes;
  }
  std::vector<BlockResidency> out;
  if (!is_tied(model)) out.push_back({n_layers, BlockKind::kEmbed, "token_embd", stats[n_layers]});
  for (uint32_t i = 0; i < n_layers; ++i) out.push_back({i, BlockKind::kLayer, fmt::format("blk.{}", i), stats[i]});
  out.push_back({n_layers + 1, BlockKind::kOutput, is_tied(model) ? "token_embd" : "output", stats[n_layers + 1]});
  return out;
}

}  // namespace sluice
