// Weights straight from the model's mapping: the page cache is the residency. Without a budget.
#pragma once

#include "scheduler/model_loader.h"
#include "scheduler/weight_source.h"

namespace sluice {

class MappedSource final : public WeightSource {
 public:
  explicit MappedSource(const Model& model) : model_(model) {}

  void begin_walk(const CancelToken& cancel, bool) override { cancel_ = &cancel; }
  Error failure() const override;
  bool visit(const kernels::MatrixRef* refs, int n_refs, VisitFn fn, void* ctx) noexcept override;
  bool prepare_rows(const kernels::MatrixRef& ref, const int32_t* rows, int64_t n) noexcept override;
  const void* row(const kernels::MatrixRef& ref, int64_t row) noexcept override;

 private:
  const Model& model_;
  const CancelToken* cancel_ = nullptr;
};

}  // namespace sluice
