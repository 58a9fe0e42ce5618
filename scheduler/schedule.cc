#include "scheduler/schedule.h"

#include <utility>

namespace sluice {
namespace {

void append(const SliceIndex& index, const kernels::MatrixRef& ref, Schedule& out) {
  if (!ref.present()) return;
  const auto range = index.of(static_cast<uint32_t>(ref.tensor));
  for (uint32_t i = 0; i < range.count; ++i) {
    out.slices.push_back(range.first + i);
    out.bytes += index[range.first + i].n_bytes;
  }
}

void append_experts(const SliceIndex& index,
                    int64_t n_experts,
                    const kernels::BlockWeights& w,
                    Schedule& out) {
  if (!w.w1_exps.present()) return;
  const uint32_t group = out.experts.empty() ? 0 : out.experts.back().group + 1;
  for (int32_t e = 0; e < static_cast<int32_t>(n_experts); ++e) {
    ExpertSlices x{group, {}};
    for (const auto* stack : {&w.w1_exps, &w.w3_exps, &w.w2_exps}) {
      const auto range = index.of(static_cast<uint32_t>(stack->tensor), e);
      for (uint32_t i = 0; i < range.count; ++i) x.slices.push_back(range.first + i);
    }
    out.experts.push_back(std::move(x));
  }
}

// The order is block.cc's: q, k, v; output projection; gate, up; down (or the router); at last the head.
Schedule schedule_of(const std::vector<kernels::BlockWeights>& blocks,
                     const kernels::MatrixRef& head,
                     const SliceIndex& index,
                     int64_t n_experts) {
  Schedule s;
  for (const kernels::BlockWeights& w : blocks) {
    for (const auto* ref : {&w.wq, &w.wk, &w.wv}) append(index, *ref, s);
    s.n_without_outputs = s.slices.size();
    for (const auto* ref : {&w.wo, &w.router, &w.w1, &w.w3, &w.w2}) append(index, *ref, s);
    append_experts(index, n_experts, w, s);
  }
  append(index, head, s);
  return s;
}

}  // namespace

Schedule make_schedule(const Model& model) {
  return schedule_of(model.blocks(), model.output_head(), model.slices(), model.hparams().n_experts);
}

Schedule make_schedule(const ModelLayout& layout, const kernels::HParams& hparams) {
  return schedule_of(layout.blocks, layout.head, *layout.slices, hparams.n_experts);
}

}  // namespace sluice
