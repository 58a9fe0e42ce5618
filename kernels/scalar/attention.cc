// KV rows and attention over them, page by page (definition in kernels.h).
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/scalar/scalar.h"
#include "kernels/scalar/unpack.h"

namespace sluice::kernels::scalar {

namespace {

constexpr int64_t kMaxHeadDim = 512;

// --- one row of keys or values: how it is stored and read ---

struct RowF32 {
  static constexpr KvType kType = KvType::kF32;
  static void store(const float* x, void* dst, int64_t n) noexcept {
    std::memcpy(dst, x, static_cast<size_t>(n) * sizeof(float));
  }
  static void read(const uint8_t* row, float* y, int64_t n) noexcept {
    std::memcpy(y, row, static_cast<size_t>(n) * sizeof(float));
  }
};

struct RowF16 {
  static constexpr KvType kType = KvType::kF16;
  static void store(const float* x, void* dst, int64_t n) noexcept {
    for (int64_t i = 0; i < n; ++i) {
      const Half h = half_from_f32(x[i]);
      std::memcpy(static_cast<uint8_t*>(dst) + 2 * i, &h, 2);
    }
  }
  static void read(const uint8_t* row, float* y, int64_t n) noexcept {
    for (int64_t i = 0; i < n; ++i) y[i] = half_to_f32(load<Half>(row + 2 * i));
  }
};

// q = round(x / d) with d as it is stored, |q| <= 127. NaN or Inf among 32 values: d is NaN, q is
// 0.
struct RowQ8_0 {
  static constexpr KvType kType = KvType::kQ8_0;
  static void store(const float* x, void* dst, int64_t n) noexcept {
    auto* out = static_cast<uint8_t*>(dst);
    for (int64_t k = 0; k < n; k += 32, out += sizeof(GroupQ8_0)) {
      uint32_t amax_bits = 0;
      for (int i = 0; i < 32; ++i) {
        const uint32_t bits = std::bit_cast<uint32_t>(x[k + i]) & 0x7fffffffu;
        amax_bits = bits > amax_bits ? bits : amax_bits;
      }
      GroupQ8_0 g = {};
      if (amax_bits >= 0x7f800000u) {
        g.d = 0x7e00;
      } else {
        g.d = half_from_f32(std::bit_cast<float>(amax_bits) / 127.0f);
        const float d = half_to_f32(g.d);
        const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
        for (int i = 0; i < 32; ++i) {
          float v = x[k + i] * inverse;
          v = v < -127.0f ? -127.0f : v > 127.0f ? 127.0f : v;
          g.qs[i] = static_cast<int8_t>(static_cast<int>((v + 12582912.0f) - 12582912.0f));
        }
      }
      std::memcpy(out, &g, sizeof g);
    }
  }
  static void read(const uint8_t* row, float* y, int64_t n) noexcept {
    for (int64_t k = 0; k < n; k += 32, row += sizeof(GroupQ8_0)) {
      const auto g = load<GroupQ8_0>(row);
      const float d = half_to_f32(g.d);
      for (int i = 0; i < 32; ++i) y[k + i] = d * static_cast<float>(g.qs[i]);
    }
  }
};

template <class Row>
void attention_run(const AttentionQuery* queries,
                   int64_t n_q,
                   int64_t head_dim,
                   const void* const* k_pages,
                   const void* const* v_pages,
                   float scale,
                   float* acc,
                   AttentionPartial* part) noexcept {
  const int64_t row_bytes = kv_row_bytes(Row::kType, head_dim);
  float row[kMaxHeadDim];
  float p[kPageTokens];
  for (int64_t h = 0; h < n_q; ++h, acc += head_dim) {
    const auto [q, first, last] = queries[h];
    float max = -INFINITY, sum = 0.0f;
    for (int64_t d = 0; d < head_dim; ++d) acc[d] = 0.0f;
    for (int64_t page = first / kPageTokens; page * kPageTokens < last; ++page) {
      const int64_t begin = page * kPageTokens > first ? 0 : first - page * kPageTokens;
      const int64_t end = (page + 1) * kPageTokens < last ? kPageTokens : last - page * kPageTokens;
      const auto* k = static_cast<const uint8_t*>(k_pages[page]);
      const auto* v = static_cast<const uint8_t*>(v_pages[page]);
      for (int64_t t = begin; t < end; ++t) {
        Row::read(k + t * row_bytes, row, head_dim);
        p[t - begin] = scale * dot_f32(q, row, head_dim);
      }
      const float page_max = max_f32(p, end - begin);
      const float new_max = page_max > max ? page_max : max;
      const float base = new_max == -INFINITY ? 0.0f : new_max;
      const float rescale = exp_f32(max - base);
      for (int64_t i = 0; i < end - begin; ++i) p[i] = exp_f32(p[i] - base);
      sum = std::fma(sum, rescale, sum_f32(p, end - begin));
      for (int64_t d = 0; d < head_dim; ++d) acc[d] *= rescale;
      for (int64_t t = begin; t < end; ++t) {
        Row::read(v + t * row_bytes, row, head_dim);
        for (int64_t d = 0; d < head_dim; ++d) acc[d] = std::fma(p[t - begin], row[d], acc[d]);
      }
      max = new_max;
    }
    part[h] = {max, sum};
  }
}

void attention_merge(const float* acc,
                     int64_t acc_stride,
                     const AttentionPartial* parts,
                     int64_t part_stride,
                     int64_t n_runs,
                     int64_t head_dim,
                     float* out) noexcept {
  float max = -INFINITY;
  for (int64_t r = 0; r < n_runs; ++r) {
    const float m = parts[r * part_stride].max;
    max = m > max ? m : max;
  }
  const float base = max == -INFINITY ? 0.0f : max;
  float sum = 0.0f;
  for (int64_t d = 0; d < head_dim; ++d) out[d] = 0.0f;
  for (int64_t r = 0; r < n_runs; ++r) {
    const AttentionPartial& part = parts[r * part_stride];
    if (part.max == -INFINITY && part.sum == 0.0f)
      continue;  // no key: as if the run were not there
    const float weight = exp_f32(part.max - base);
    sum = std::fma(part.sum, weight, sum);
    const float* a = acc + r * acc_stride;
    for (int64_t d = 0; d < head_dim; ++d) out[d] = std::fma(a[d], weight, out[d]);
  }
  if (sum == 0.0f) return;
  for (int64_t d = 0; d < head_dim; ++d) out[d] /= sum;
}

template <class Row>
void fill_kv(KernelTable& t) noexcept {
  t.kv_store[static_cast<int>(Row::kType)] = Row::store;
  t.attention_run[static_cast<int>(Row::kType)] = attention_run<Row>;
}

}  // namespace

void fill_attention(KernelTable& t) noexcept {
  fill_kv<RowF32>(t);
  fill_kv<RowF16>(t);
  fill_kv<RowQ8_0>(t);
  t.attention_merge = attention_merge;
}

}  // namespace sluice::kernels::scalar
