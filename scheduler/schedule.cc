#include "scheduler/schedule.h"

namespace sluice {
namespace {

void append(const Model& model, const kernels::MatrixRef& ref, Schedule& out) {
  if (!ref.present()) return;
  const auto range = model.slices().of(static_cast<uint32_t>(ref.tensor));
  for (uint32_t i = 0; i < range.count; ++i) {
    out.slices.push_back(range.first + i);
    out.bytes += model.slices()[range.first + i].n_bytes;
  }
}

void append_experts(const Model& model, const kernels::MatrixRef& stack, Schedule& out) {
  if (!stack.present()) return;
  for (int32_t e = 0; e < static_cast<int32_t>(model.hparams().n_experts); ++e) {
    const auto range = model.slices().of(static_cast<uint32_t>(stack.tensor), e);
    for (uint32_t i = 0; i < range.count; ++i) out.experts.push_back(range.first + i);
  }
}

}  // namespace

// The order is block.cc's: q, k, v; output projection; gate, up; down (or the router); at last the head.
Schedule make_schedule(const Model& model) {
  Schedule s;
  for (const kernels::BlockWeights& w : model.blocks()) {
    for (const auto* ref : {&w.wq, &w.wk, &w.wv}) append(model, *ref, s);
    s.n_without_outputs = s.slices.size();
    for (const auto* ref : {&w.wo, &w.router, &w.w1, &w.w3, &w.w2}) append(model, *ref, s);
    for (const auto* ref : {&w.w1_exps, &w.w3_exps, &w.w2_exps}) append_experts(model, *ref, s);
  }
  append(model, model.output_head(), s);
  return s;
}

}  // namespace sluice
