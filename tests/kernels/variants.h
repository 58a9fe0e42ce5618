// What the kernel tests share: the list of variants, bit comparison, and a small seeded generator.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/test_tables.h"

namespace sluice::kernels {

// Those of this instruction set, whether or not this CPU has them; the best last.
#if defined(__x86_64__)
inline constexpr const char* kVariants[] = {"scalar", "avx2", "avxvnni", "avx512", "avx512_bf16", "amx"};
// With the tables of tests alone (test_tables.h).
inline constexpr const char* kMatmulVariants[] = {
    "scalar", "avx2", "avxvnni", "avxvnni_evex", "avx512", "avx512_bf16", "amx", "amx_model"};
#elif defined(__aarch64__)
inline constexpr const char* kVariants[] = {"scalar", "neon", "neon_i8mm"};
inline constexpr const char* kMatmulVariants[] = {"scalar", "neon", "neon_i8mm"};
#else
inline constexpr const char* kVariants[] = {"scalar"};
inline constexpr const char* kMatmulVariants[] = {"scalar"};
#endif

inline std::string variant_name(const ::testing::TestParamInfo<const char*>& info) {
  return info.param;
}

// Skips aloud where the CPU lacks the variant.
#define REQUIRE_TABLE(table, name)                      \
  const KernelTable* const table = table_by_name(name); \
  if (table == nullptr) GTEST_SKIP() << "this CPU has no " << (name) << "; run on one that does"

// Equal bits, or both NaN: which NaN a machine makes is not part of any definition.
inline bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

inline ::testing::AssertionResult same_bits(const std::vector<float>& got,
                                            const std::vector<float>& want) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (size_t i = 0; i < got.size(); ++i) {
    if (!same_bits(got[i], want[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << " is " << got[i] << " for " << want[i];
    }
  }
  return ::testing::AssertionSuccess();
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-23f - 1.0f; }  // [-1, 1)
  // Bell-shaped, standard deviation about 1, rarely above 4.
  float normal() {
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return 0.5f * sum;
  }
  std::vector<float> normals(int64_t n, float scale = 1.0f) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = scale * normal();
    return v;
  }
  std::vector<uint8_t> bytes(uint64_t n) {
    std::vector<uint8_t> v(n);
    for (uint8_t& x : v) x = static_cast<uint8_t>(next() >> 56);
    return v;
  }

 private:
  uint64_t state_;
};

}  // namespace sluice::kernels
