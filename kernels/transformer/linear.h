// y = x W^T for matrices whose rows arrive in slices; inputs are quantised once per format and shared.
#pragma once

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

// Quantises `in` into the workspace, each token for every format that refs[0..n_refs) need in its role. Runs over tokens
// in parallel.
void prepare_inputs(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in) noexcept;

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
