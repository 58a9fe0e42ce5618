// From a group as it lies in the file to signed bytes in registers, one description per type. An
// offset (q - 8 and the like) is taken away here: sdot and smmla multiply signed by signed, so that
// the drivers never meet one.
#pragma once

#include "kernels/arm/vector_neon.h"

namespace sluice::kernels::arm {
namespace {

SLUICE_INLINE int8x16_t as_signed(uint8x16_t q) { return vreinterpretq_s8_u8(q); }
SLUICE_INLINE int8x16_t as_signed(uint8x16_t q, int offset) {
  return vsubq_s8(vreinterpretq_s8_u8(q), vdupq_n_s8(static_cast<int8_t>(offset)));
}
SLUICE_INLINE uint8x16_t masked(uint8x16_t q, int mask) {
  return vandq_u8(q, vdupq_n_u8(static_cast<uint8_t>(mask)));
}

// Low nibbles of 16 bytes, then high nibbles.
SLUICE_INLINE uint8x16x2_t nibbles_32(const uint8_t* p) {
  const uint8x16_t b = vld1q_u8(p);
  return {{masked(b, 15), vshrq_n_u8(b, 4)}};
}

// The same with 16 added where bit i of 32 is set.
SLUICE_INLINE uint8x16x2_t nibbles_with_fifth_bits(const uint8_t* nibbles, const uint8_t* bits) {
  const uint8x16_t four = vreinterpretq_u8_u32(vdupq_n_u32(load_as<uint32_t>(bits)));
  const uint8x16_t first = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
  const uint8x16_t low = vtstq_u8(vqtbl1q_u8(four, first), bit);
  const uint8x16_t high = vtstq_u8(vqtbl1q_u8(four, vaddq_u8(first, vdupq_n_u8(2))), bit);
  uint8x16x2_t q = nibbles_32(nibbles);
  q.val[0] = vorrq_u8(q.val[0], masked(low, 16));
  q.val[1] = vorrq_u8(q.val[1], masked(high, 16));
  return q;
}

SLUICE_INLINE int8x16_t iq4_values() {
  return int8x16_t{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
}
SLUICE_INLINE int8x16_t mxfp4_values() {
  return int8x16_t{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
}
SLUICE_INLINE void look_up(int8x16_t table, uint8x16x2_t index, int8x16_t* q) {
  q[0] = vqtbl1q_s8(table, index.val[0]);
  q[1] = vqtbl1q_s8(table, index.val[1]);
}

// --- groups of 32: q[0] holds weights 0..15, q[1] the rest ---

// d of 4 rows, where it is a half at the group's start.
struct HalfScale {
  static SLUICE_INLINE float32x4_t scales(const uint8_t* const* at, int64_t offset) {
    return gather_halves(at, offset);
  }
};

struct U8_0 : HalfScale {
  using Group = GroupQ8_0;
  static constexpr bool kHasMin = false;
  static constexpr WeightType kType = WeightType::kQ8_0;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    q[0] = as_signed(vld1q_u8(g + 2));
    q[1] = as_signed(vld1q_u8(g + 18));
  }
};
struct U8_1 : HalfScale {
  using Group = GroupQ8_1;
  static constexpr bool kHasMin = false;
  static constexpr WeightType kType = WeightType::kQ8_1;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    q[0] = as_signed(vld1q_u8(g + 4));
    q[1] = as_signed(vld1q_u8(g + 20));
  }
};
struct U4_0 : HalfScale {
  using Group = GroupQ4_0;
  static constexpr bool kHasMin = false;
  static constexpr WeightType kType = WeightType::kQ4_0;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    const uint8x16x2_t u = nibbles_32(g + 2);
    q[0] = as_signed(u.val[0], 8);
    q[1] = as_signed(u.val[1], 8);
  }
};
struct U4_1 : HalfScale {
  using Group = GroupQ4_1;
  static constexpr bool kHasMin = true;
  static constexpr WeightType kType = WeightType::kQ4_1;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    const uint8x16x2_t u = nibbles_32(g + 4);
    q[0] = as_signed(u.val[0]);
    q[1] = as_signed(u.val[1]);
  }
};
struct U5_0 : HalfScale {
  using Group = GroupQ5_0;
  static constexpr bool kHasMin = false;
  static constexpr WeightType kType = WeightType::kQ5_0;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    const uint8x16x2_t u = nibbles_with_fifth_bits(g + 6, g + 2);
    q[0] = as_signed(u.val[0], 16);
    q[1] = as_signed(u.val[1], 16);
  }
};
struct U5_1 : HalfScale {
  using Group = GroupQ5_1;
  static constexpr bool kHasMin = true;
  static constexpr WeightType kType = WeightType::kQ5_1;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    const uint8x16x2_t u = nibbles_with_fifth_bits(g + 8, g + 4);
    q[0] = as_signed(u.val[0]);
    q[1] = as_signed(u.val[1]);
  }
};
struct UIQ4_NL : HalfScale {
  using Group = GroupIQ4_NL;
  static constexpr bool kHasMin = false;
  static constexpr WeightType kType = WeightType::kIQ4_NL;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    look_up(iq4_values(), nibbles_32(g + 2), q);
  }
};
struct UMXFP4 {
  using Group = GroupMXFP4;
  static constexpr bool kHasMin = false;
  static constexpr WeightType kType = WeightType::kMXFP4;
  static SLUICE_INLINE void unpack(const uint8_t* g, int8x16_t* q) {
    look_up(mxfp4_values(), nibbles_32(g + 1), q);
  }
  // 2^(e - 128) of 4 rows.
  static SLUICE_INLINE float32x4_t scales(const uint8_t* const* at, int64_t offset) {
    int32_t bytes[4];
    for (int i = 0; i < 4; ++i) bytes[i] = at[i][offset];
    const int32x4_t e = vld1q_s32(bytes);
    const int32x4_t normal = vshlq_n_s32(vsubq_s32(e, vdupq_n_s32(1)), 23);
    const int32x4_t tiny = vshlq_s32(vdupq_n_s32(0x00200000), e);
    return vreinterpretq_f32_s32(vbslq_s32(vcltq_s32(e, vdupq_n_s32(2)), tiny, normal));
  }
};

// --- groups of 256 ---

struct Unpacked256 {
  int8x16_t q[16];      // 16 weights each
  int16x8_t scales[2];  // one per 16 weights, in order
  int16x8_t mins[2];    // the same; only where kHasMin
};

// 16 bytes, one per 16 weights.
SLUICE_INLINE void widen_scales(int8x16_t s, int16x8_t* out) {
  out[0] = vmovl_s8(vget_low_s8(s));
  out[1] = vmovl_high_s8(s);
}
// 8 bytes that hold for 32 weights each.
SLUICE_INLINE void repeat_scales(int8x8_t s, int16x8_t* out) {
  const int16x8_t wide = vmovl_s8(s);
  out[0] = vzip1q_s16(wide, wide);
  out[1] = vzip2q_s16(wide, wide);
}

// Eight 6-bit scales and mins from 12 bytes.
SLUICE_INLINE void unpack_scales_6bit(const uint8_t* p, Unpacked256& u) {
  const auto a = load_as<uint32_t>(p), b = load_as<uint32_t>(p + 4), c = load_as<uint32_t>(p + 8);
  const uint64_t scales_low = a & 0x3f3f3f3fu;
  const uint64_t scales_high = (c & 0x0f0f0f0fu) | (a >> 6 & 0x03030303u) << 4;
  const uint64_t mins_low = b & 0x3f3f3f3fu;
  const uint64_t mins_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 6 & 0x03030303u) << 4;
  repeat_scales(vcreate_s8(scales_high << 32 | scales_low), u.scales);
  repeat_scales(vcreate_s8(mins_high << 32 | mins_low), u.mins);
}

struct U2_K {
  using Group = GroupQ2_K;
  static constexpr bool kHasMin = true;
  static constexpr int kScaled = 16;  // weights that share a scale
  static constexpr WeightType kType = WeightType::kQ2_K;
  static constexpr int64_t kD = 80, kDmin = 82;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    for (int h = 0; h < 4; ++h) {  // 16 bytes hold quarters of weights 32 apart
      const uint8x16_t b = vld1q_u8(g + 16 + 16 * h);
      int8x16_t* q = u.q + h / 2 * 8 + h % 2;
      q[0] = as_signed(masked(b, 3));
      q[2] = as_signed(masked(vshrq_n_u8(b, 2), 3));
      q[4] = as_signed(masked(vshrq_n_u8(b, 4), 3));
      q[6] = as_signed(vshrq_n_u8(b, 6));
    }
    const uint8x16_t s = vld1q_u8(g);
    widen_scales(as_signed(masked(s, 15)), u.scales);
    widen_scales(as_signed(vshrq_n_u8(s, 4)), u.mins);
  }
};

struct U3_K {
  using Group = GroupQ3_K;
  static constexpr bool kHasMin = false;
  static constexpr int kScaled = 16;
  static constexpr WeightType kType = WeightType::kQ3_K;
  static constexpr int64_t kD = 108, kDmin = 0;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    for (int i = 0; i < 2; ++i) {  // either half of each 32 weights
      uint8x16_t high = vld1q_u8(g + 16 * i);
      for (int h = 0; h < 2; ++h) {
        const uint8x16_t b = vld1q_u8(g + 32 + 32 * h + 16 * i);
        int8x16_t* q = u.q + 8 * h + i;
        q[0] = as_signed(vorrq_u8(masked(b, 3), masked(vshlq_n_u8(high, 2), 4)), 4);
        q[2] = as_signed(vorrq_u8(masked(vshrq_n_u8(b, 2), 3), masked(vshlq_n_u8(high, 1), 4)), 4);
        q[4] = as_signed(vorrq_u8(masked(vshrq_n_u8(b, 4), 3), masked(high, 4)), 4);
        q[6] = as_signed(vorrq_u8(vshrq_n_u8(b, 6), masked(vshrq_n_u8(high, 1), 4)), 4);
        high = vshrq_n_u8(high, 4);
      }
    }
    const auto a = load_as<uint64_t>(g + 96);  // low nibbles of scales 0..7, high nibbles 8..15
    const auto c = load_as<uint32_t>(g + 104);
    const uint64_t nibble = 0x0f0f0f0f0f0f0f0fu;
    const uint64_t high_low = static_cast<uint64_t>(c >> 2 & 0x03030303u) << 32 | (c & 0x03030303u);
    const uint64_t high_high =
        static_cast<uint64_t>(c >> 6 & 0x03030303u) << 32 | (c >> 4 & 0x03030303u);
    const uint8x16_t s = vcombine_u8(vcreate_u8((a & nibble) | high_low << 4),
                                     vcreate_u8((a >> 4 & nibble) | high_high << 4));
    widen_scales(as_signed(s, 32), u.scales);
  }
};

struct U4_K {
  using Group = GroupQ4_K;
  static constexpr bool kHasMin = true;
  static constexpr int kScaled = 32;
  static constexpr WeightType kType = WeightType::kQ4_K;
  static constexpr int64_t kD = 0, kDmin = 2;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    for (int h = 0; h < 8; ++h) {
      const uint8x16x2_t n = nibbles_32(g + 16 + 16 * h);
      int8x16_t* q = u.q + h / 2 * 4 + h % 2;
      q[0] = as_signed(n.val[0]);
      q[2] = as_signed(n.val[1]);
    }
    unpack_scales_6bit(g + 4, u);
  }
};

struct U5_K {
  using Group = GroupQ5_K;
  static constexpr bool kHasMin = true;
  static constexpr int kScaled = 32;
  static constexpr WeightType kType = WeightType::kQ5_K;
  static constexpr int64_t kD = 0, kDmin = 2;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    uint8x16_t high[2] = {vld1q_u8(g + 16), vld1q_u8(g + 32)};
    for (int h = 0; h < 8; ++h) {
      const uint8x16x2_t n = nibbles_32(g + 48 + 16 * h);
      int8x16_t* q = u.q + h / 2 * 4 + h % 2;
      // Two fifth bits of each weight pair lie lowest, the ones used up are shifted out.
      uint8x16_t& bits = high[h % 2];
      q[0] = as_signed(vorrq_u8(n.val[0], masked(vshlq_n_u8(bits, 4), 16)));
      q[2] = as_signed(vorrq_u8(n.val[1], masked(vshlq_n_u8(bits, 3), 16)));
      bits = vshrq_n_u8(bits, 2);
    }
    unpack_scales_6bit(g + 4, u);
  }
};

struct U6_K {
  using Group = GroupQ6_K;
  static constexpr bool kHasMin = false;
  static constexpr int kScaled = 16;
  static constexpr WeightType kType = WeightType::kQ6_K;
  static constexpr int64_t kD = 208, kDmin = 0;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    for (int h = 0; h < 4; ++h) {
      const int64_t half = h / 2, i = h % 2;
      const uint8x16x2_t a = nibbles_32(g + 64 * half + 16 * i);
      const uint8x16x2_t b = nibbles_32(g + 64 * half + 32 + 16 * i);
      const uint8x16_t c = vld1q_u8(g + 128 + 32 * half + 16 * i);
      int8x16_t* q = u.q + 8 * half + i;
      q[0] = as_signed(vorrq_u8(a.val[0], masked(vshlq_n_u8(c, 4), 48)), 32);
      q[2] = as_signed(vorrq_u8(b.val[0], masked(vshlq_n_u8(c, 2), 48)), 32);
      q[4] = as_signed(vorrq_u8(a.val[1], masked(c, 48)), 32);
      q[6] = as_signed(vorrq_u8(b.val[1], masked(vshrq_n_u8(c, 2), 48)), 32);
    }
    widen_scales(as_signed(vld1q_u8(g + 192)), u.scales);
  }
};

struct UIQ4_XS {
  using Group = GroupIQ4_XS;
  static constexpr bool kHasMin = false;
  static constexpr int kScaled = 32;
  static constexpr WeightType kType = WeightType::kIQ4_XS;
  static constexpr int64_t kD = 0, kDmin = 0;
  static SLUICE_INLINE void unpack(const uint8_t* g, Unpacked256& u) {
    for (int j = 0; j < 8; ++j) look_up(iq4_values(), nibbles_32(g + 8 + 16 * j), u.q + 2 * j);
    // Four bytes of two low nibbles each; eight pairs of high bits in 16 bits.
    const uint8x8_t packed = vreinterpret_u8_u32(vdup_n_u32(load_as<uint32_t>(g + 4)));
    const uint8x8_t low =
        vzip1_u8(vand_u8(packed, vdup_n_u8(15)), vshr_n_u8(packed, 4));  // scale 0, 1, 2 ...
    const int16x8_t shift = {0, -2, -4, -6, -8, -10, -12, -14};
    const uint16x8_t highs = vshlq_u16(vdupq_n_u16(load_as<uint16_t>(g + 2)), shift);
    const uint8x8_t high = vand_u8(vmovn_u16(highs), vdup_n_u8(3));
    const uint8x8_t scales = vorr_u8(low, vshl_n_u8(high, 4));
    repeat_scales(vsub_s8(vreinterpret_s8_u8(scales), vdup_n_s8(32)), u.scales);
  }
};

}  // namespace
}  // namespace sluice::kernels::arm
