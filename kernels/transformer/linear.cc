#include "kernels/transformer/linear.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kRowGrain = 16;

// One piece of a slice: rows [begin, end) of it, for the tokens of its matrix.
void multiply_rows(WalkContext& c, const MatrixRef& ref, const RowSlice& slice, int64_t begin, int64_t end,
                   const Inputs& in, const TokenRange& tokens, const Output& out, int thread) noexcept {
  const auto w_stride = static_cast<int64_t>(row_bytes(ref.type, static_cast<uint64_t>(ref.n_cols)));
  const auto* w = static_cast<const std::byte*>(slice.data) + begin * w_stride;
  float* y = out.y + tokens.first * out.stride + slice.row0 + begin;
  const int type = static_cast<int>(ref.type);
  if (c.reference) {
    float* scratch = c.ws.row_scratch + thread * row_stride(c.ws.widest);
    c.table.matmul_reference[type](w, w_stride, end - begin, ref.n_cols, in.rows + tokens.first * in.stride,
                                   in.stride, tokens.n, y, out.stride, scratch);
    return;
  }
  const ActFormat format = info(ref.type).act;
  const void* x = nullptr;
  int64_t x_stride = 0;
  if (format == ActFormat::kF32) {
    x_stride = in.stride * static_cast<int64_t>(sizeof(float));
    x = in.rows + tokens.first * in.stride;
  } else {
    const int slot = format == ActFormat::kQ8x32 ? 0 : 1;
    x_stride = c.ws.act_stride[slot];
    x = c.ws.act[slot] + tokens.first * x_stride;
  }
  c.table.matmul[type](w, w_stride, end - begin, ref.n_cols, x, x_stride, tokens.n, y, out.stride);
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

void prepare_inputs(WalkContext& c, const MatrixRef* refs, int n_refs, const Inputs& in) noexcept {
  if (c.reference) return;
  bool need[2] = {false, false};
  for (int i = 0; i < n_refs; ++i) {
    const ActFormat f = info(refs[i].type).act;
    if (f == ActFormat::kQ8x32) need[0] = true;
    if (f == ActFormat::kQ8x256) need[1] = true;
  }
  if (!need[0] && !need[1]) return;
  parallel_for(c.parallel, in.n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int slot = 0; slot < 2; ++slot) {
        if (!need[slot]) continue;
        const auto format = static_cast<int>(slot == 0 ? ActFormat::kQ8x32 : ActFormat::kQ8x256);
        c.table.quantize[format](in.rows + t * in.stride, c.ws.act[slot] + t * c.ws.act_stride[slot], in.n_cols);
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
