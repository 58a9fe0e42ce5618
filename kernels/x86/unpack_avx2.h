// From a group as it lies in the file to bytes in a register, one description per type. Unsigned
// types (kSigned false) yield q + kOffset in 0..kMaxQ, so that one maddubs needs no sign; the
// drivers subtract kOffset times the activations' sum, exactly, in int32.
#pragma once

#include "kernels/x86/vector_avx2.h"

namespace sluice::kernels::x86 {
namespace {

// Low nibbles of 16 bytes, then high nibbles.
SLUICE_INLINE __m256i nibbles_32(const void* p) {
  const __m128i b = load_128(p);
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(b, 4), b), _mm256_set1_epi8(15));
}

// Byte i: 16 where bit i is set, else 0.
SLUICE_INLINE __m256i fifth_bits(const void* p) {
  const __m256i spread = _mm256_setr_epi8(0,
                                          0,
                                          0,
                                          0,
                                          0,
                                          0,
                                          0,
                                          0,
                                          1,
                                          1,
                                          1,
                                          1,
                                          1,
                                          1,
                                          1,
                                          1,
                                          2,
                                          2,
                                          2,
                                          2,
                                          2,
                                          2,
                                          2,
                                          2,
                                          3,
                                          3,
                                          3,
                                          3,
                                          3,
                                          3,
                                          3,
                                          3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  const __m256i bytes = _mm256_and_si256(_mm256_shuffle_epi8(broadcast_i32(p), spread), bit);
  return _mm256_and_si256(_mm256_cmpeq_epi8(bytes, bit), _mm256_set1_epi8(16));
}

SLUICE_INLINE __m256i iq4_values() {
  return _mm256_broadcastsi128_si256(
      _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
}

// kMXFP4Values + 12.
SLUICE_INLINE __m128i mxfp4_values() {
  return _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
}

// --- groups of 32 ---

struct U8_0 {
  using Group = GroupQ8_0;
  static constexpr bool kSigned = true, kHasMin = false, kHalfScale = true;
  static constexpr int kMaxQ = 128, kOffset = 0;
  static constexpr WeightType kType = WeightType::kQ8_0;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) { return load_256(g + 2); }
};
struct U8_1 {
  using Group = GroupQ8_1;
  static constexpr bool kSigned = true, kHasMin = false, kHalfScale = true;
  static constexpr int kMaxQ = 128, kOffset = 0;
  static constexpr WeightType kType = WeightType::kQ8_1;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) { return load_256(g + 4); }
};
struct U4_0 {
  using Group = GroupQ4_0;
  static constexpr bool kSigned = false, kHasMin = false, kHalfScale = true;
  static constexpr int kMaxQ = 15, kOffset = 8;
  static constexpr WeightType kType = WeightType::kQ4_0;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) { return nibbles_32(g + 2); }
};
struct U4_1 {
  using Group = GroupQ4_1;
  static constexpr bool kSigned = false, kHasMin = true, kHalfScale = true;
  static constexpr int kMaxQ = 15, kOffset = 0;
  static constexpr WeightType kType = WeightType::kQ4_1;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) { return nibbles_32(g + 4); }
};
struct U5_0 {
  using Group = GroupQ5_0;
  static constexpr bool kSigned = false, kHasMin = false, kHalfScale = true;
  static constexpr int kMaxQ = 31, kOffset = 16;
  static constexpr WeightType kType = WeightType::kQ5_0;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) {
    return _mm256_or_si256(nibbles_32(g + 6), fifth_bits(g + 2));
  }
};
struct U5_1 {
  using Group = GroupQ5_1;
  static constexpr bool kSigned = false, kHasMin = true, kHalfScale = true;
  static constexpr int kMaxQ = 31, kOffset = 0;
  static constexpr WeightType kType = WeightType::kQ5_1;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) {
    return _mm256_or_si256(nibbles_32(g + 8), fifth_bits(g + 4));
  }
};
struct UIQ4_NL {
  using Group = GroupIQ4_NL;
  static constexpr bool kSigned = true, kHasMin = false, kHalfScale = true;
  static constexpr int kMaxQ = 128, kOffset = 0;
  static constexpr WeightType kType = WeightType::kIQ4_NL;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) {
    return _mm256_shuffle_epi8(iq4_values(), nibbles_32(g + 2));
  }
};
struct UMXFP4 {
  using Group = GroupMXFP4;
  static constexpr bool kSigned = false, kHasMin = false, kHalfScale = false;
  static constexpr int kMaxQ = 24, kOffset = 12;
  static constexpr WeightType kType = WeightType::kMXFP4;
  static SLUICE_INLINE __m256i unpack(const uint8_t* g) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(mxfp4_values()), nibbles_32(g + 1));
  }
  // 2^(e - 128) of 8 rows.
  static SLUICE_INLINE __m256 scales(const uint8_t* const* at, int64_t offset) {
    auto e8 = [&](int i) { return static_cast<int>(at[i][offset]); };
    const __m256i e = _mm256_setr_epi32(e8(0), e8(1), e8(2), e8(3), e8(4), e8(5), e8(6), e8(7));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    const __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, is_tiny));
  }
};

// d of 8 rows.
template <class U>
SLUICE_INLINE __m256 scales_32(const uint8_t* const* at, int64_t offset) {
  if constexpr (U::kHalfScale) {
    return gather_halves(at, offset);
  } else {
    return U::scales(at, offset);
  }
}

// --- groups of 256 ---

struct Unpacked256 {
  __m256i q[8];    // 32 weights each
  __m256i scales;  // int16 per 16 weights, in order
  __m256i mins;    // the same; only where kHasMin
};

// 8 int16 that hold for 32 weights each -> 16 that hold for 16.
SLUICE_INLINE __m256i widen_scales(__m128i s) {
  return _mm256_set_m128i(_mm_unpackhi_epi16(s, s), _mm_unpacklo_epi16(s, s));
}

// Eight 6-bit scales and mins from 12 bytes.
SLUICE_INLINE void unpack_scales_6bit(const uint8_t* p, Unpacked256& u) {
  const auto a = load_as<uint32_t>(p), b = load_as<uint32_t>(p + 4), c = load_as<uint32_t>(p + 8);
  const uint32_t scales_low = a & 0x3f3f3f3fu;
  const uint32_t scales_high = (c & 0x0f0f0f0fu) | (a >> 6 & 0x03030303u) << 4;
  const uint32_t mins_low = b & 0x3f3f3f3fu;
  const uint32_t mins_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 6 & 0x03030303u) << 4;
  const auto scales = static_cast<int64_t>(static_cast<uint64_t>(scales_high) << 32 | scales_low);
  const auto mins = static_cast<int64_t>(static_cast<uint64_t>(mins_high) << 32 | mins_low);
  u.scales = widen_scales(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(scales)));
  u.mins = widen_scales(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(mins)));
}

struct U2_K {
  using Group = GroupQ2_K;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kMaxQ = 3, kOffset = 0;
  static constexpr WeightType kType = WeightType::kQ2_K;
  static constexpr int64_t kD = 80, kDmin = 82;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    const __m256i three = _mm256_set1_epi8(3);
    for (int h = 0; h < 2; ++h) {
      const __m256i b = load_256(g + 16 + 32 * h);
      u.q[4 * h] = _mm256_and_si256(b, three);
      u.q[4 * h + 1] = _mm256_and_si256(_mm256_srli_epi16(b, 2), three);
      u.q[4 * h + 2] = _mm256_and_si256(_mm256_srli_epi16(b, 4), three);
      u.q[4 * h + 3] = _mm256_and_si256(_mm256_srli_epi16(b, 6), three);
    }
    unpack_scales(g, u);
  }
  static SLUICE_INLINE void unpack_scales(const uint8_t* g, Unpacked256& u) {
    const __m128i s = load_128(g), low = _mm_set1_epi8(15);
    u.scales = _mm256_cvtepu8_epi16(_mm_and_si128(s, low));
    u.mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(s, 4), low));
  }
};

struct U3_K {
  using Group = GroupQ3_K;
  static constexpr bool kSigned = false, kHasMin = false;
  static constexpr int kMaxQ = 7, kOffset = 4;
  static constexpr WeightType kType = WeightType::kQ3_K;
  static constexpr int64_t kD = 108, kDmin = 0;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    const __m256i three = _mm256_set1_epi8(3), four = _mm256_set1_epi8(4);
    const __m256i mask = load_256(g);
    for (int h = 0; h < 2; ++h) {
      const __m256i b = load_256(g + 32 + 32 * h);
      const __m256i high = _mm256_srli_epi16(mask, 4 * h);  // bits 4h.. of a byte at its bits 0..3
      u.q[4 * h] = _mm256_or_si256(_mm256_and_si256(b, three),
                                   _mm256_and_si256(_mm256_slli_epi16(high, 2), four));
      u.q[4 * h + 1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 2), three),
                                       _mm256_and_si256(_mm256_slli_epi16(high, 1), four));
      u.q[4 * h + 2] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 4), three),
                                       _mm256_and_si256(high, four));
      u.q[4 * h + 3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 6), three),
                                       _mm256_and_si256(_mm256_srli_epi16(high, 1), four));
    }
    unpack_scales(g, u);
  }
  static SLUICE_INLINE void unpack_scales(const uint8_t* g, Unpacked256& u) {
    const auto a = load_as<uint64_t>(g + 96);  // low nibbles of scales 0..7, high nibbles 8..15
    const auto c = load_as<uint32_t>(g + 104);
    const uint64_t nibble = 0x0f0f0f0f0f0f0f0fu;
    const uint64_t high_low = static_cast<uint64_t>(c >> 2 & 0x03030303u) << 32 | (c & 0x03030303u);
    const uint64_t high_high =
        static_cast<uint64_t>(c >> 6 & 0x03030303u) << 32 | (c >> 4 & 0x03030303u);
    const __m128i s = _mm_set_epi64x(static_cast<int64_t>((a >> 4 & nibble) | high_high << 4),
                                     static_cast<int64_t>((a & nibble) | high_low << 4));
    u.scales = _mm256_sub_epi16(_mm256_cvtepu8_epi16(s), _mm256_set1_epi16(32));
  }
};

struct U4_K {
  using Group = GroupQ4_K;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kMaxQ = 15, kOffset = 0;
  static constexpr WeightType kType = WeightType::kQ4_K;
  static constexpr int64_t kD = 0, kDmin = 2;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const __m256i b = load_256(g + 16 + 32 * j);
      u.q[2 * j] = _mm256_and_si256(b, low);
      u.q[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16(b, 4), low);
    }
    unpack_scales_6bit(g + 4, u);
  }
};

struct U5_K {
  using Group = GroupQ5_K;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kMaxQ = 31, kOffset = 0;
  static constexpr WeightType kType = WeightType::kQ5_K;
  static constexpr int64_t kD = 0, kDmin = 2;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    const __m256i low = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16);
    __m256i high = load_256(g + 16);
    for (int j = 0; j < 4; ++j) {
      const __m256i b = load_256(g + 48 + 32 * j);
      // Bits 2j and 2j + 1 are at 0 and 1 of each byte here; neighbours' bits are masked away.
      u.q[2 * j] = _mm256_or_si256(_mm256_and_si256(b, low),
                                   _mm256_and_si256(_mm256_slli_epi16(high, 4), bit));
      u.q[2 * j + 1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 4), low),
                                       _mm256_and_si256(_mm256_slli_epi16(high, 3), bit));
      high = _mm256_srli_epi16(high, 2);
    }
    unpack_scales_6bit(g + 4, u);
  }
};

struct U6_K {
  using Group = GroupQ6_K;
  static constexpr bool kSigned = false, kHasMin = false;
  static constexpr int kMaxQ = 63, kOffset = 32;
  static constexpr WeightType kType = WeightType::kQ6_K;
  static constexpr int64_t kD = 208, kDmin = 0;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    const __m256i low = _mm256_set1_epi8(15), bits = _mm256_set1_epi8(48);
    for (int h = 0; h < 2; ++h) {
      const __m256i a = load_256(g + 64 * h), b = load_256(g + 64 * h + 32);
      const __m256i c = load_256(g + 128 + 32 * h);
      u.q[4 * h] = _mm256_or_si256(_mm256_and_si256(a, low),
                                   _mm256_and_si256(_mm256_slli_epi16(c, 4), bits));
      u.q[4 * h + 1] = _mm256_or_si256(_mm256_and_si256(b, low),
                                       _mm256_and_si256(_mm256_slli_epi16(c, 2), bits));
      u.q[4 * h + 2] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(a, 4), low),
                                       _mm256_and_si256(c, bits));
      u.q[4 * h + 3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 4), low),
                                       _mm256_and_si256(_mm256_srli_epi16(c, 2), bits));
    }
    unpack_scales(g, u);
  }
  static SLUICE_INLINE void unpack_scales(const uint8_t* g, Unpacked256& u) {
    u.scales = _mm256_cvtepi8_epi16(load_128(g + 192));
  }
};

struct UIQ4_XS {
  using Group = GroupIQ4_XS;
  static constexpr bool kSigned = true, kHasMin = false;
  static constexpr int kMaxQ = 128, kOffset = 0;
  static constexpr WeightType kType = WeightType::kIQ4_XS;
  static constexpr int64_t kD = 0, kDmin = 0;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    for (int j = 0; j < 8; ++j)
      u.q[j] = _mm256_shuffle_epi8(iq4_values(), nibbles_32(g + 8 + 16 * j));
    unpack_scales(g, u);
  }
  static SLUICE_INLINE void unpack_scales(const uint8_t* g, Unpacked256& u) {
    const __m128i shift = _mm_setr_epi32(0, 4, 8, 12);
    // Four bytes of two low nibbles each, eight pairs of high bits in 16 bits.
    const __m128i packed = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(load_as<int32_t>(g + 4)));
    const __m128i highs = _mm_srlv_epi32(_mm_set1_epi32(load_as<uint16_t>(g + 2)), shift);
    const __m128i even = _mm_or_si128(_mm_and_si128(packed, _mm_set1_epi32(15)),
                                      _mm_slli_epi32(_mm_and_si128(highs, _mm_set1_epi32(3)), 4));
    const __m128i odd =
        _mm_or_si128(_mm_srli_epi32(packed, 4),
                     _mm_slli_epi32(_mm_and_si128(_mm_srli_epi32(highs, 2), _mm_set1_epi32(3)), 4));
    const __m128i scales = _mm_or_si128(even, _mm_slli_epi32(odd, 16));
    u.scales = widen_scales(_mm_sub_epi16(scales, _mm_set1_epi16(32)));
  }
};

}  // namespace
}  // namespace sluice::kernels::x86
