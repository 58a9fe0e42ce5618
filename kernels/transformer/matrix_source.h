// How the maths asks for weights: rows of matrices arrive in slices, when they are ready, in any order. The scheduler
// implements it over storage; a test implements it over plain memory.
#pragma once

#include <cstdint>

#include "kernels/tensor_view.h"

namespace sluice::kernels {

// Rows [row0, row0 + n_rows) of refs[matrix], readable until the visit callback returns.
struct RowSlice {
  const void* data = nullptr;
  int64_t row0 = 0;
  int64_t n_rows = 0;
  int32_t matrix = 0;
};

class MatrixSource {
 public:
  virtual ~MatrixSource() = default;

  using VisitFn = void (*)(void* ctx, const RowSlice* slices, int n_slices);
  // Calls fn until every row of every matrix was handed over exactly once. False: reading failed or the pass was
  // cancelled; what was computed is then worthless. Runs on the thread that walks the pass.
  virtual bool visit(const MatrixRef* refs, int n_refs, VisitFn fn, void* ctx) noexcept = 0;

  // The router has chosen: these matrices will be visited soon, in about this order. For sources
  // that have to fetch them; visits without it give the same rows. Same thread as visit.
  virtual void announce(const MatrixRef* refs, int n_refs) noexcept { (void)refs, (void)n_refs; }

  // Single rows, for the embedding: first all that will be asked for (false on failure), then each in that order. A row
  // is valid until the next prepare_rows.
  virtual bool prepare_rows(const MatrixRef& ref, const int32_t* rows, int64_t n) noexcept = 0;
  virtual const void* row(const MatrixRef& ref, int64_t row) noexcept = 0;
};

template <class F>
bool visit_rows(MatrixSource& source, const MatrixRef* refs, int n_refs, F&& fn) noexcept {
  return source.visit(
      refs,
      n_refs,
      [](void* ctx, const RowSlice* slices, int n) { (*static_cast<F*>(ctx))(slices, n); },
      &fn);
}

}  // namespace sluice::kernels
