#include "kernels/transformer/linear.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kRowGrain = 16;

// Rows that tokens of one role after the other are multiplied with, so that memory gives them once.
constexpr int64_t kMixedRows = 32;

// How many of the tokens from `first` to `end` one definition of `type` multiplies.
int64_t of_one_definition(const WalkContext& c, WeightType type, const Inputs& in, int64_t first, int64_t end) noexcept {
  if (in.roles == nullptr || c.table.matmul_prompt[static_cast<int>(type)] == nullptr) return end - first;
  int64_t t = first + 1;
  while (t < end && in.roles[t] == in.roles[first]) ++t;
  return t - first;
}

// One piece of a slice: rows [begin, end) of it, for the tokens of its matrix, neighbours of one role together.
void multiply_rows(WalkContext& c, const MatrixRef& ref, const RowSlice& slice, int64_t begin, int64_t end,
                   const Inputs& in, const TokenRange& tokens, const Output& out, int thread) noexcept {
  const auto w_stride = static_cast<int64_t>(row_bytes(ref.type, static_cast<uint64_t>(ref.n_cols)));
  const auto* w = static_cast<const std::byte*>(slice.data) + begin * w_stride;
  float* y = out.y + slice.row0 + begin;
  if (c.reference) {
    float* scratch = c.ws.row_scratch + thread * kReferenceRows * row_stride(c.ws.widest);
    matmul_reference(c.table, ref.type, w, w_stride, end - begin, ref.n_cols, in.rows + tokens.first * in.stride,
                     in.stride, tokens.n, y + tokens.first * out.stride, out.stride, scratch);
    return;
  }
  const int64_t tokens_end = tokens.first + tokens.n;
  if (of_one_definition(c, ref.type, in, tokens.first, tokens_end) < tokens.n && end - begin > kMixedRows) {
    for (int64_t r = begin; r < end; r += kMixedRows) {
      multiply_rows(c, ref, slice, r, r + kMixedRows < end ? r + kMixedRows : end, in, tokens, out, thread);
    }
    return;
  }
  for (int64_t t = tokens.first, n = 0; t < tokens_end; t += n) {
    n = of_one_definition(c, ref.type, in, t, tokens_end);
    const KernelTable::Product product = c.table.product(ref.type, in.role(t));
    const auto format = static_cast<int>(product.act);
    const bool floats = product.act == ActFormat::kF32;
    const int64_t x_stride = floats ? in.stride * static_cast<int64_t>(sizeof(float)) : c.ws.act_stride[format];
    const auto* x = floats ? reinterpret_cast<const std::byte*>(in.rows) : c.ws.act[format];
    product.matmul(w, w_stride, end - begin, ref.n_cols, x + t * x_stride, x_stride, n, y + t * out.stride, out.stride);
  }
}

// All slices of one visit as one range of rows, so that a visit costs one barrier.
template <class TokensOf>
void multiply_slices(WalkContext& c, const MatrixRef* refs, const RowSlice* slices, int n_slices, const Inputs& in,
                     const Output* outputs, TokensOf&& tokens_of) noexcept {
  int64_t total = 0;
  for (int i = 0; i < n_slices; ++i) total += slices[i].n_rows;
  parallel_for(c.parallel, total, kRowGrain, [&](int64_t begin, int64_t end, int thread) {
    int64_t base = 0;
    for (int i = 0; i < n_slices && base < end; ++i) {
      const RowSlice& s = slices[i];
      const int64_t lo = begin > base ? begin - base : 0;
      const int64_t hi = end < base + s.n_rows ? end - base : s.n_rows;
      base += s.n_rows;
      if (lo >= hi) continue;
      const TokenRange tokens = tokens_of(s.matrix);
      if (tokens.n == 0) continue;
      multiply_rows(c, refs[s.matrix], s, lo, hi, in, tokens, outputs[s.matrix], thread);
    }
  });
}

}  // namespace

void prepare_inputs(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in,
                    const MakeRow& make_row) noexcept {
  constexpr auto kF32 = static_cast<int>(ActFormat::kF32);
  bool needed[2][kNActFormats] = {};      // [role]
  bool any = false;
  for (int i = 0; i < n_refs && !c.reference; ++i) {
    for (int role = 0; role < 2; ++role) {
      needed[role][static_cast<int>(c.table.product(refs[i].type, static_cast<Role>(role)).act)] = true;
    }
  }
  for (int role = 0; role < 2; ++role) {
    needed[role][kF32] = false;  // they are floats already
    for (const bool f : needed[role]) any = any || f;
  }
  if (!any && !make_row) return;
  parallel_for(c.parallel, in.n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (make_row) make_row(t);
      for (int f = 0; f < kNActFormats; ++f) {
        if (!needed[static_cast<int>(in.role(t))][f]) continue;
        c.table.quantize[f](in.rows + t * in.stride, c.ws.act[f] + t * c.ws.act_stride[f], in.n_cols);
      }
    }
  });
}

bool multiply(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in, const Output* outputs) noexcept {
  return visit_rows(c.source, refs, n_refs, [&](const RowSlice* slices, int n_slices) {
    multiply_slices(c, refs, slices, n_slices, in, outputs, [&](int32_t) { return TokenRange{0, in.n}; });
  });
}

bool multiply_grouped(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in, const TokenRange* ranges,
                      const Output* outputs) noexcept {
  return visit_rows(c.source, refs, n_refs, [&](const RowSlice* slices, int n_slices) {
    multiply_slices(c, refs, slices, n_slices, in, outputs, [&](int32_t m) { return ranges[m]; });
  });
}

}  // namespace sluice::kernels
