// Weights to f32, bit for bit as the format defines them (no fma: product and sum round
// separately).
#include <bit>
#include <cstring>

#include "kernels/scalar/scalar.h"
#include "kernels/scalar/unpack.h"

namespace sluice::kernels::scalar {

namespace {

void dequant_f64(const void* w, float* y, int64_t n) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(w);
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(load<double>(bytes + 8 * i));
}

void dequant_f32(const void* w, float* y, int64_t n) noexcept {
  std::memcpy(y, w, static_cast<size_t>(n) * sizeof(float));
}

void dequant_f16(const void* w, float* y, int64_t n) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(w);
  for (int64_t i = 0; i < n; ++i) y[i] = half_to_f32(load<Half>(bytes + 2 * i));
}

void dequant_bf16(const void* w, float* y, int64_t n) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(w);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(bytes + 2 * i)) << 16);
  }
}

template <class T>
void dequant_32(const void* w, float* y, int64_t n) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(w);
  int8_t q[32];
  for (int64_t k = 0; k < n; k += 32, bytes += sizeof(typename T::Group)) {
    const auto g = load<typename T::Group>(bytes);
    T::unpack(g, q);
    const float d = T::scale(g);
    for (int i = 0; i < 32; ++i) {
      y[k + i] = d * static_cast<float>(q[i]);
      if constexpr (T::kHasMin) y[k + i] += T::min(g);
    }
  }
}

template <class T>
void dequant_256(const void* w, float* y, int64_t n) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(w);
  Parts256 p;
  for (int64_t k = 0; k < n; k += 256, bytes += sizeof(typename T::Group)) {
    T::unpack(load<typename T::Group>(bytes), p);
    for (int j = 0; j < 16; ++j) {
      const float d = p.d * static_cast<float>(p.scales[j]);
      for (int i = 16 * j; i < 16 * j + 16; ++i) {
        y[k + i] = d * static_cast<float>(p.q[i]);
        if constexpr (T::kHasMin) y[k + i] -= p.dmin * static_cast<float>(p.mins[j]);
      }
    }
  }
}

}  // namespace

void fill_dequant(KernelTable& t) noexcept {
  auto set = [&t](WeightType type, void (*f)(const void*, float*, int64_t) noexcept) {
    t.dequant[static_cast<int>(type)] = f;
  };
  set(WeightType::kF64, dequant_f64);
  set(WeightType::kF32, dequant_f32);
  set(WeightType::kF16, dequant_f16);
  set(WeightType::kBF16, dequant_bf16);
  set(WeightType::kQ8_0, dequant_32<Q8_0>);
  set(WeightType::kQ8_1, dequant_32<Q8_1>);
  set(WeightType::kQ4_0, dequant_32<Q4_0>);
  set(WeightType::kQ4_1, dequant_32<Q4_1>);
  set(WeightType::kQ5_0, dequant_32<Q5_0>);
  set(WeightType::kQ5_1, dequant_32<Q5_1>);
  set(WeightType::kIQ4_NL, dequant_32<IQ4_NL>);
  set(WeightType::kMXFP4, dequant_32<MXFP4>);
  set(WeightType::kQ2_K, dequant_256<Q2_K>);
  set(WeightType::kQ3_K, dequant_256<Q3_K>);
  set(WeightType::kQ4_K, dequant_256<Q4_K>);
  set(WeightType::kQ5_K, dequant_256<Q5_K>);
  set(WeightType::kQ6_K, dequant_256<Q6_K>);
  set(WeightType::kIQ4_XS, dequant_256<IQ4_XS>);
}

}  // namespace sluice::kernels::scalar
