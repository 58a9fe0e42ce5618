// y = x W^T for matrices whose rows arrive in slices; inputs are quantised once per format and shared.
#pragma once

#include <type_traits>

#include "kernels/transformer/block.h"

namespace sluice::kernels {

// Input rows of a stage: floats, and quantised copies in the formats its matrices ask for.
struct Inputs {
  const float* rows = nullptr;
  int64_t stride = 0;            // floats
  int64_t n_cols = 0;
  int64_t n = 0;
  const Role* roles = nullptr;   // (n) by which definition each is multiplied; null: Role::kRow

  Role role(int64_t t) const noexcept { return roles != nullptr ? roles[t] : Role::kRow; }
};

// Where matrix i of a stage puts its results: row r of token t at y[t * stride + r].
struct Output {
  float* y = nullptr;
  int64_t stride = 0;
};

// What computes row t of a stage's input, if it is not there yet. Refers to a callable that outlives it.
class MakeRow {
 public:
  MakeRow() = default;
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, MakeRow>)
  MakeRow(F&& f) noexcept
      : fn_([](const void* ctx, int64_t t) { (*static_cast<const std::remove_reference_t<F>*>(ctx))(t); }), ctx_(&f) {}
  explicit operator bool() const noexcept { return fn_ != nullptr; }
  void operator()(int64_t t) const noexcept { fn_(ctx_, t); }

 private:
  void (*fn_)(const void* ctx, int64_t t) = nullptr;
  const void* ctx_ = nullptr;
};

// Quantises `in` into the workspace, each token for every format that refs[0..n_refs) need in its role; first, in the same
// run over tokens, its row is made.
void prepare_inputs(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in,
                    const MakeRow& make_row = {}) noexcept;

// outputs[i] = refs[i] * in, for all tokens; prepare_inputs(in) came before.
bool multiply(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in, const Output* outputs) noexcept;

struct TokenRange {
  int64_t first = 0;
  int64_t n = 0;
};

// As multiply, but matrix i is applied only to the input rows of ranges[i].
bool multiply_grouped(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in, const TokenRange* ranges,
                      const Output* outputs) noexcept;

}  // namespace sluice::kernels
