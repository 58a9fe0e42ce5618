// Activation quantisation and matrix times vectors, straight from the definitions in kernels.h.
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/scalar/scalar.h"
#include "kernels/scalar/unpack.h"

namespace sluice::kernels::scalar {

namespace {

// Tokens that share one unpacking of a weight group. No influence on the result.
constexpr int64_t kTokenBlock = 16;

// --- activations ---

// Round to nearest even for |v| < 2^22, without the rounding mode's libm call.
int8_t round_to_int8(float v) noexcept {
  return static_cast<int8_t>(static_cast<int>((v + 12582912.0f) - 12582912.0f));
}

// q[0..n) and the scale. NaN or Inf among x: NaN and zeros. A group too small for 127 / amax to be
// finite (amax < 4e-37) counts as zeros.
float quantize_group(const float* x, int8_t* q, int n) noexcept {
  uint32_t amax_bits = 0;  // as integers, so that NaN > Inf > every number
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    amax_bits = bits > amax_bits ? bits : amax_bits;
  }
  const float amax = std::bit_cast<float>(amax_bits);
  const float inverse = 127.0f / amax;
  if (amax_bits >= 0x7f800000u || std::isinf(inverse)) {
    std::memset(q, 0, static_cast<size_t>(n));
    return amax_bits >= 0x7f800000u ? NAN : 0.0f;
  }
  for (int i = 0; i < n; ++i) q[i] = round_to_int8(x[i] * inverse);
  return amax / 127.0f;
}

void quantize_f32(const float* x, void* y, int64_t n) noexcept {
  std::memcpy(y, x, static_cast<size_t>(n) * sizeof(float));
}

void quantize_q8x32(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<ActQ8x32*>(y);
  for (int64_t k = 0; k < n; k += 32, ++out) {
    out->d = quantize_group(x + k, out->qs, 32);
    out->sum = 0;
    for (int i = 0; i < 32; ++i) out->sum += out->qs[i];
  }
}

void quantize_q8x256(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<ActQ8x256*>(y);
  for (int64_t k = 0; k < n; k += 256, ++out) {
    out->d = quantize_group(x + k, out->qs, 256);
    for (int j = 0; j < 16; ++j) {
      int sum = 0;
      for (int i = 0; i < 16; ++i) sum += out->qs[16 * j + i];
      out->sums[j] = static_cast<int16_t>(sum);
    }
  }
}

// --- matrices ---

int32_t dot_i8(const int8_t* a, const int8_t* b, int n) noexcept {
  int32_t sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// One group of one row against one token.
template <class T>
struct Row32 {
  using Act = ActQ8x32;
  using Group = typename T::Group;
  static constexpr int64_t kGroup = 32;
  int8_t q[32];
  float d, m = 0;

  void unpack(const void* w) noexcept {
    const auto g = load<Group>(w);
    T::unpack(g, q);
    d = T::scale(g);
    if constexpr (T::kHasMin) m = T::min(g);
  }
  float accumulate(const Act& x, float acc) const noexcept {
    acc = std::fma(d * x.d, static_cast<float>(dot_i8(q, x.qs, 32)), acc);
    if constexpr (T::kHasMin) acc = std::fma(m, x.d * static_cast<float>(x.sum), acc);
    return acc;
  }
};

template <class T>
struct Row256 {
  using Act = ActQ8x256;
  using Group = typename T::Group;
  static constexpr int64_t kGroup = 256;
  Parts256 p;

  void unpack(const void* w) noexcept { T::unpack(load<Group>(w), p); }
  float accumulate(const Act& x, float acc) const noexcept {
    int32_t isum = 0, isum_min = 0;
    for (int j = 0; j < 16; ++j) {
      isum += p.scales[j] * dot_i8(p.q + 16 * j, x.qs + 16 * j, 16);
      if constexpr (T::kHasMin) isum_min += p.mins[j] * x.sums[j];
    }
    acc = std::fma(p.d * x.d, static_cast<float>(isum), acc);
    if constexpr (T::kHasMin) acc = std::fma(-(p.dmin * x.d), static_cast<float>(isum_min), acc);
    return acc;
  }
};

template <class Row>
void matmul_quantised(const void* w,
                      int64_t w_stride,
                      int64_t n_rows,
                      int64_t n_cols,
                      const void* x,
                      int64_t x_stride,
                      int64_t n_tokens,
                      float* y,
                      int64_t y_stride) noexcept {
  Row row;
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t t0 = 0; t0 < n_tokens; t0 += kTokenBlock) {
      const int64_t n = n_tokens - t0 < kTokenBlock ? n_tokens - t0 : kTokenBlock;
      float acc[kTokenBlock] = {};
      const auto* group = static_cast<const uint8_t*>(w) + r * w_stride;
      for (int64_t g = 0; g < n_cols / Row::kGroup; ++g, group += sizeof(typename Row::Group)) {
        row.unpack(group);
        for (int64_t t = 0; t < n; ++t) {
          const auto* act = static_cast<const uint8_t*>(x) + (t0 + t) * x_stride;
          acc[t] = row.accumulate(reinterpret_cast<const typename Row::Act*>(act)[g], acc[t]);
        }
      }
      for (int64_t t = 0; t < n; ++t) y[(t0 + t) * y_stride + r] = acc[t];
    }
  }
}

// F64, F32, F16, BF16: a stretch of a row is widened once for a block of tokens; the 16 partial
// sums of each token are carried from stretch to stretch.
template <WeightType kType>
void matmul_float(const void* w,
                  int64_t w_stride,
                  int64_t n_rows,
                  int64_t n_cols,
                  const void* x,
                  int64_t x_stride,
                  int64_t n_tokens,
                  float* y,
                  int64_t y_stride) noexcept {
  constexpr int64_t kStretch = 256;  // a multiple of 16
  constexpr int64_t kBytes = kType == WeightType::kF64 ? 8 : kType == WeightType::kF32 ? 4 : 2;
  const auto dequant = scalar_kernels().dequant[static_cast<int>(kType)];
  float wide[kStretch];
  for (int64_t r = 0; r < n_rows; ++r) {
    const auto* row = static_cast<const uint8_t*>(w) + r * w_stride;
    for (int64_t t0 = 0; t0 < n_tokens; t0 += kTokenBlock) {
      const int64_t n = n_tokens - t0 < kTokenBlock ? n_tokens - t0 : kTokenBlock;
      float p[kTokenBlock][16] = {};
      for (int64_t k0 = 0; k0 < n_cols; k0 += kStretch) {
        const int64_t len = n_cols - k0 < kStretch ? n_cols - k0 : kStretch;
        dequant(row + k0 * kBytes, wide, len);
        for (int64_t t = 0; t < n; ++t) {
          const auto* act =
              reinterpret_cast<const float*>(static_cast<const uint8_t*>(x) + (t0 + t) * x_stride);
          for (int64_t k = 0; k < len; ++k) {
            p[t][k % 16] = std::fma(wide[k], act[k0 + k], p[t][k % 16]);
          }
        }
      }
      for (int64_t t = 0; t < n; ++t) y[(t0 + t) * y_stride + r] = sum_partials(p[t]);
    }
  }
}

// --- BF16 prompts ---

float without_denormals(float x) noexcept {
  return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
}

float f32_from_bf16(uint16_t h) noexcept {
  return without_denormals(std::bit_cast<float>(uint32_t{h} << 16));
}

// The pad of an odd length makes pairs for those that multiply pairs.
void quantize_bf16(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<uint16_t*>(y);
  for (int64_t k = 0; k < n; ++k) {
    const auto bits = std::bit_cast<uint32_t>(without_denormals(x[k]));
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    out[k] = static_cast<uint16_t>((std::isnan(x[k]) ? bits | 0x400000 : rounded) >> 16);
  }
  if (n % 2 != 0) out[n] = 0;
}

// fma, a tiny result flushed. Tiny is told by rounding to 24 bits however small the exponent: where
// the fma gave 2^-126 itself, by the exact sum. It lies within the 53 bits of a double when it is
// near the border, and products of BF16 always do.
float fma_flushed(float a, float b, float c) noexcept {
  const float r = std::fma(a, b, c);
  if (!(std::fabs(r) <= 0x1p-126f)) return r;
  const double exact = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
  return std::fabs(exact) < 0x1p-126 - 0x1p-151 ? std::copysign(0.0f, r) : r;
}

void matmul_bf16(const void* w,
                 int64_t w_stride,
                 int64_t n_rows,
                 int64_t n_cols,
                 const void* x,
                 int64_t x_stride,
                 int64_t n_tokens,
                 float* y,
                 int64_t y_stride) noexcept {
  for (int64_t r = 0; r < n_rows; ++r) {
    const auto* row = static_cast<const uint8_t*>(w) + r * w_stride;
    const auto weight = [&](int64_t k) { return f32_from_bf16(load<uint16_t>(row + 2 * k)); };
    for (int64_t t = 0; t < n_tokens; ++t) {
      const auto* act =
          reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(x) + t * x_stride);
      float acc = 0.0f;
      for (int64_t k = 0; k < n_cols; k += 2) {
        const float odd = k + 1 < n_cols ? weight(k + 1) : 0.0f;
        acc = fma_flushed(odd, f32_from_bf16(act[k + 1]), acc);
        acc = fma_flushed(weight(k), f32_from_bf16(act[k]), acc);
      }
      y[t * y_stride + r] = acc;
    }
  }
}

float add_flushed(float a, float b) noexcept { return fma_flushed(a, 1.0f, b); }

void matmul_bf16_tiles(const void* w,
                       int64_t w_stride,
                       int64_t n_rows,
                       int64_t n_cols,
                       const void* x,
                       int64_t x_stride,
                       int64_t n_tokens,
                       float* y,
                       int64_t y_stride) noexcept {
  constexpr int64_t kStep = 32;
  for (int64_t r = 0; r < n_rows; ++r) {
    const auto* row = static_cast<const uint8_t*>(w) + r * w_stride;
    for (int64_t t = 0; t < n_tokens; ++t) {
      const auto* act =
          reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(x) + t * x_stride);
      const auto add_product = [&](int64_t k, float sum) {
        const bool inside = k < n_cols;
        return fma_flushed(inside ? f32_from_bf16(load<uint16_t>(row + 2 * k)) : 0.0f,
                           inside ? f32_from_bf16(act[k]) : 0.0f,
                           sum);
      };
      float acc = 0.0f;
      for (int64_t k0 = 0; k0 < n_cols; k0 += kStep) {
        float even = 0.0f, odd = 0.0f;
        for (int64_t k = k0; k < k0 + kStep; k += 2) {
          even = add_product(k, even);
          odd = add_product(k + 1, odd);
        }
        acc = add_flushed(acc, add_flushed(even, odd));
      }
      y[t * y_stride + r] = acc;
    }
  }
}

}  // namespace

void fill_matvec(KernelTable& t) noexcept {
  t.quantize[static_cast<int>(ActFormat::kF32)] = quantize_f32;
  t.quantize[static_cast<int>(ActFormat::kQ8x32)] = quantize_q8x32;
  t.quantize[static_cast<int>(ActFormat::kQ8x256)] = quantize_q8x256;
  t.quantize[static_cast<int>(ActFormat::kBF16)] = quantize_bf16;

  auto set = [&t](WeightType type, KernelTable::MatmulFn f) {
    t.matmul[static_cast<int>(type)] = f;
  };
  set(WeightType::kF64, matmul_float<WeightType::kF64>);
  set(WeightType::kF32, matmul_float<WeightType::kF32>);
  set(WeightType::kF16, matmul_float<WeightType::kF16>);
  set(WeightType::kBF16, matmul_float<WeightType::kBF16>);
  set(WeightType::kQ8_0, matmul_quantised<Row32<Q8_0>>);
  set(WeightType::kQ8_1, matmul_quantised<Row32<Q8_1>>);
  set(WeightType::kQ4_0, matmul_quantised<Row32<Q4_0>>);
  set(WeightType::kQ4_1, matmul_quantised<Row32<Q4_1>>);
  set(WeightType::kQ5_0, matmul_quantised<Row32<Q5_0>>);
  set(WeightType::kQ5_1, matmul_quantised<Row32<Q5_1>>);
  set(WeightType::kIQ4_NL, matmul_quantised<Row32<IQ4_NL>>);
  set(WeightType::kMXFP4, matmul_quantised<Row32<MXFP4>>);
  set(WeightType::kQ2_K, matmul_quantised<Row256<Q2_K>>);
  set(WeightType::kQ3_K, matmul_quantised<Row256<Q3_K>>);
  set(WeightType::kQ4_K, matmul_quantised<Row256<Q4_K>>);
  set(WeightType::kQ5_K, matmul_quantised<Row256<Q5_K>>);
  set(WeightType::kQ6_K, matmul_quantised<Row256<Q6_K>>);
  set(WeightType::kIQ4_XS, matmul_quantised<Row256<IQ4_XS>>);
}

void fill_matmul_bf16(KernelTable& t) noexcept {
  constexpr int kBF16 = static_cast<int>(WeightType::kBF16);
  t.prompt_definition = PromptDefinition::kBF16Dot;
  t.matmul_prompt[kBF16] = matmul_bf16;
  t.prompt_act[kBF16] = ActFormat::kBF16;
}

void fill_matmul_bf16_tiles(KernelTable& t) noexcept {
  constexpr int kBF16 = static_cast<int>(WeightType::kBF16);
  t.prompt_definition = PromptDefinition::kBF16Tiles;
  t.matmul_prompt[kBF16] = matmul_bf16_tiles;
  t.prompt_act[kBF16] = ActFormat::kBF16;
}

}  // namespace sluice::kernels::scalar
