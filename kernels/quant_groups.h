// Layouts of the quantised weight groups as they lie in GGUF files, and of quantised activations.
// Source: the GGUF/ggml file format. Every size is asserted.
#pragma once

#include <cstdint>

namespace sluice::kernels {

enum class WeightType : uint8_t {
  kF64, kF32, kF16, kBF16,
  kQ8_0, kQ8_1, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kIQ4_NL, kMXFP4,   // groups of 32
  kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_XS,                  // groups of 256
  kCount
};
inline constexpr int kNWeightTypes = static_cast<int>(WeightType::kCount);

using Half = uint16_t;  // IEEE binary16 bits

struct GroupQ4_0 { Half d; uint8_t qs[16]; };                     // w = d * (q - 8); low nibbles first
struct GroupQ4_1 { Half d, m; uint8_t qs[16]; };                  // w = d * q + m
struct GroupQ5_0 { Half d; uint8_t qh[4]; uint8_t qs[16]; };      // w = d * (q - 16); bit 4 in qh
struct GroupQ5_1 { Half d, m; uint8_t qh[4]; uint8_t qs[16]; };   // w = d * q + m
struct GroupQ8_0 { Half d; int8_t qs[32]; };                      // w = d * q
struct GroupQ8_1 { Half d, s; int8_t qs[32]; };                   // w = d * q; s = d * sum(q)
struct GroupIQ4_NL { Half d; uint8_t qs[16]; };                   // w = d * kIQ4Values[q]
struct GroupMXFP4 { uint8_t e; uint8_t qs[16]; };                 // w = 2^(e-128) * kMXFP4Values[q]
struct GroupQ2_K { uint8_t scales[16]; uint8_t qs[64]; Half d, dmin; };
struct GroupQ3_K { uint8_t hmask[32]; uint8_t qs[64]; uint8_t scales[12]; Half d; };
struct GroupQ4_K { Half d, dmin; uint8_t scales[12]; uint8_t qs[128]; };
struct GroupQ5_K { Half d, dmin; uint8_t scales[12]; uint8_t qh[32]; uint8_t qs[128]; };
struct GroupQ6_K { uint8_t ql[128]; uint8_t qh[64]; int8_t scales[16]; Half d; };
struct GroupIQ4_XS { Half d; uint16_t scales_h; uint8_t scales_l[4]; uint8_t qs[128]; };

static_assert(sizeof(GroupQ4_0) == 18 && sizeof(GroupQ4_1) == 20 && sizeof(GroupQ5_0) == 22);
static_assert(sizeof(GroupQ5_1) == 24 && sizeof(GroupQ8_0) == 34 && sizeof(GroupQ8_1) == 36);
static_assert(sizeof(GroupIQ4_NL) == 18 && sizeof(GroupMXFP4) == 17 && sizeof(GroupQ2_K) == 84);
static_assert(sizeof(GroupQ3_K) == 110 && sizeof(GroupQ4_K) == 144 && sizeof(GroupQ5_K) == 176);
static_assert(sizeof(GroupQ6_K) == 210 && sizeof(GroupIQ4_XS) == 136);

// Activations, quantised once per distinct input vector (DESIGN 7). d is f32: an f16 scale overflows.
struct ActQ8x32 { float d; int32_t sum; int8_t qs[32]; };             // sum = sum(qs), exact
struct ActQ8x256 { float d; int16_t sums[16]; int8_t qs[256]; };      // sums[i] = sum(qs[16i .. 16i+15])
static_assert(sizeof(ActQ8x32) == 40 && sizeof(ActQ8x256) == 292);

// How a definition wants its activations: the first half of it.
// kBF16: a vector of odd length is followed by a zero.
enum class ActFormat : uint8_t { kF32, kQ8x32, kQ8x256, kBF16, kCount };
inline constexpr int kNActFormats = static_cast<int>(ActFormat::kCount);

struct WeightTypeInfo {
  const char* name;       // "Q4_K"
  uint32_t group_size;    // weights per group
  uint32_t group_bytes;
  ActFormat act;          // of the row definition
};
// Indexed by WeightType.
extern const WeightTypeInfo kWeightTypes[kNWeightTypes];

inline const WeightTypeInfo& info(WeightType t) noexcept { return kWeightTypes[static_cast<int>(t)]; }

// Bytes of a row of n weights; n must be a multiple of the group size.
inline uint64_t row_bytes(WeightType t, uint64_t n) noexcept {
  return n / info(t).group_size * info(t).group_bytes;
}
// Bytes of one quantised activation vector of n elements (n a multiple of the format's group).
inline uint64_t act_bytes(ActFormat f, uint64_t n) noexcept {
  switch (f) {
    case ActFormat::kQ8x32: return n / 32 * sizeof(ActQ8x32);
    case ActFormat::kQ8x256: return n / 256 * sizeof(ActQ8x256);
    case ActFormat::kBF16: return (n + 1) / 2 * 4;
    default: return n * sizeof(float);
  }
}

}  // namespace sluice::kernels
