// One description per quantised type: how a group becomes small integers and scales. dequant.cc and
// matvec.cc are written once on top of these. Layouts: quant_groups.h; the bit order is the
// GGUF/ggml file format's.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace sluice::kernels::scalar {

// Groups lie at any address in a file's bytes.
template <class T>
T load(const void* p) noexcept {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline constexpr int8_t kIQ4Values[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// e2m1 values, doubled.
inline constexpr int8_t kMXFP4Values[16] = {
    0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(e - 128): half of e8m0's value, because the table above is doubled.
inline float mxfp4_scale(uint8_t e) noexcept {
  const uint32_t bits = e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23;
  return std::bit_cast<float>(bits);
}

// Low nibbles are weights 0..15, high nibbles 16..31.
inline void nibbles(const uint8_t* qs, int8_t* q) noexcept {
  for (int i = 0; i < 16; ++i) {
    q[i] = static_cast<int8_t>(qs[i] & 15);
    q[i + 16] = static_cast<int8_t>(qs[i] >> 4);
  }
}
inline void add_fifth_bit(const uint8_t* qh, int8_t* q) noexcept {
  const uint32_t bits = load<uint32_t>(qh);
  for (int i = 0; i < 32; ++i) q[i] = static_cast<int8_t>(q[i] | ((bits >> i & 1u) << 4));
}
inline void shift_down(int8_t* q, int n, int by) noexcept {
  for (int i = 0; i < n; ++i) q[i] = static_cast<int8_t>(q[i] - by);
}

// --- groups of 32: w[i] = scale * q[i] (+ min) ---

struct Q8_0 {
  using Group = GroupQ8_0;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, int8_t* q) noexcept { std::memcpy(q, g.qs, 32); }
  static float scale(const Group& g) noexcept { return half_to_f32(g.d); }
};
struct Q8_1 {
  using Group = GroupQ8_1;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, int8_t* q) noexcept { std::memcpy(q, g.qs, 32); }
  static float scale(const Group& g) noexcept { return half_to_f32(g.d); }
};
struct Q4_0 {
  using Group = GroupQ4_0;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, int8_t* q) noexcept {
    nibbles(g.qs, q);
    shift_down(q, 32, 8);
  }
  static float scale(const Group& g) noexcept { return half_to_f32(g.d); }
};
struct Q4_1 {
  using Group = GroupQ4_1;
  static constexpr bool kHasMin = true;
  static void unpack(const Group& g, int8_t* q) noexcept { nibbles(g.qs, q); }
  static float scale(const Group& g) noexcept { return half_to_f32(g.d); }
  static float min(const Group& g) noexcept { return half_to_f32(g.m); }
};
struct Q5_0 {
  using Group = GroupQ5_0;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, int8_t* q) noexcept {
    nibbles(g.qs, q);
    add_fifth_bit(g.qh, q);
    shift_down(q, 32, 16);
  }
  static float scale(const Group& g) noexcept { return half_to_f32(g.d); }
};
struct Q5_1 {
  using Group = GroupQ5_1;
  static constexpr bool kHasMin = true;
  static void unpack(const Group& g, int8_t* q) noexcept {
    nibbles(g.qs, q);
    add_fifth_bit(g.qh, q);
  }
  static float scale(const Group& g) noexcept { return half_to_f32(g.d); }
  static float min(const Group& g) noexcept { return half_to_f32(g.m); }
};
struct IQ4_NL {
  using Group = GroupIQ4_NL;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, int8_t* q) noexcept {
    for (int i = 0; i < 16; ++i) {
      q[i] = kIQ4Values[g.qs[i] & 15];
      q[i + 16] = kIQ4Values[g.qs[i] >> 4];
    }
  }
  static float scale(const Group& g) noexcept { return half_to_f32(g.d); }
};
struct MXFP4 {
  using Group = GroupMXFP4;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, int8_t* q) noexcept {
    for (int i = 0; i < 16; ++i) {
      q[i] = kMXFP4Values[g.qs[i] & 15];
      q[i + 16] = kMXFP4Values[g.qs[i] >> 4];
    }
  }
  static float scale(const Group& g) noexcept { return mxfp4_scale(g.e); }
};

// --- groups of 256: w[i] = (d * scales[i / 16]) * q[i]  (- dmin * mins[i / 16]) ---
// Types whose sub-groups have 32 weights repeat the scale.

struct Parts256 {
  int8_t q[256];
  int16_t scales[16];
  int16_t mins[16];
  float d, dmin;
};

struct Q2_K {
  using Group = GroupQ2_K;
  static constexpr bool kHasMin = true;
  static void unpack(const Group& g, Parts256& p) noexcept {
    p.d = half_to_f32(g.d);
    p.dmin = half_to_f32(g.dmin);
    for (int j = 0; j < 16; ++j) {
      p.scales[j] = static_cast<int16_t>(g.scales[j] & 15);
      p.mins[j] = static_cast<int16_t>(g.scales[j] >> 4);
    }
    for (int h = 0; h < 2; ++h) {
      for (int s = 0; s < 4; ++s) {
        for (int i = 0; i < 32; ++i) {
          p.q[h * 128 + s * 32 + i] = static_cast<int8_t>(g.qs[h * 32 + i] >> (2 * s) & 3);
        }
      }
    }
  }
};

struct Q3_K {
  using Group = GroupQ3_K;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, Parts256& p) noexcept {
    p.d = half_to_f32(g.d);
    for (int j = 0; j < 16; ++j) {  // 4 low bits in bytes 0..7, 2 high bits in bytes 8..11
      const int low = j < 8 ? g.scales[j] & 15 : g.scales[j - 8] >> 4;
      const int high = g.scales[8 + j % 4] >> (2 * (j / 4)) & 3;
      p.scales[j] = static_cast<int16_t>((low | high << 4) - 32);
    }
    for (int h = 0; h < 2; ++h) {
      for (int s = 0; s < 4; ++s) {
        for (int i = 0; i < 32; ++i) {
          const int low = g.qs[h * 32 + i] >> (2 * s) & 3;
          const int high = g.hmask[i] >> (h * 4 + s) & 1;
          p.q[h * 128 + s * 32 + i] = static_cast<int8_t>(low + 4 * high - 4);
        }
      }
    }
  }
};

// The 12 bytes that hold eight 6-bit scales and eight 6-bit mins, of Q4_K and Q5_K.
inline void scales_6bit(const uint8_t* s, Parts256& p) noexcept {
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    if (j < 4) {
      scale = s[j] & 63;
      min = s[j + 4] & 63;
    } else {
      scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
      min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
    p.scales[2 * j] = p.scales[2 * j + 1] = static_cast<int16_t>(scale);
    p.mins[2 * j] = p.mins[2 * j + 1] = static_cast<int16_t>(min);
  }
}

struct Q4_K {
  using Group = GroupQ4_K;
  static constexpr bool kHasMin = true;
  static void unpack(const Group& g, Parts256& p) noexcept {
    p.d = half_to_f32(g.d);
    p.dmin = half_to_f32(g.dmin);
    scales_6bit(g.scales, p);
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < 32; ++i) {
        p.q[64 * j + i] = static_cast<int8_t>(g.qs[32 * j + i] & 15);
        p.q[64 * j + 32 + i] = static_cast<int8_t>(g.qs[32 * j + i] >> 4);
      }
    }
  }
};

struct Q5_K {
  using Group = GroupQ5_K;
  static constexpr bool kHasMin = true;
  static void unpack(const Group& g, Parts256& p) noexcept {
    p.d = half_to_f32(g.d);
    p.dmin = half_to_f32(g.dmin);
    scales_6bit(g.scales, p);
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < 32; ++i) {
        const int low = g.qs[32 * j + i];
        const int high = g.qh[i] >> (2 * j);
        p.q[64 * j + i] = static_cast<int8_t>((low & 15) | (high & 1) << 4);
        p.q[64 * j + 32 + i] = static_cast<int8_t>(low >> 4 | (high & 2) << 3);
      }
    }
  }
};

struct Q6_K {
  using Group = GroupQ6_K;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, Parts256& p) noexcept {
    p.d = half_to_f32(g.d);
    for (int j = 0; j < 16; ++j) p.scales[j] = g.scales[j];
    for (int h = 0; h < 2; ++h) {
      const uint8_t* ql = g.ql + 64 * h;
      const uint8_t* qh = g.qh + 32 * h;
      int8_t* q = p.q + 128 * h;
      for (int i = 0; i < 32; ++i) {
        q[i] = static_cast<int8_t>(((ql[i] & 15) | (qh[i] & 3) << 4) - 32);
        q[i + 32] = static_cast<int8_t>(((ql[i + 32] & 15) | (qh[i] >> 2 & 3) << 4) - 32);
        q[i + 64] = static_cast<int8_t>((ql[i] >> 4 | (qh[i] >> 4 & 3) << 4) - 32);
        q[i + 96] = static_cast<int8_t>((ql[i + 32] >> 4 | (qh[i] >> 6) << 4) - 32);
      }
    }
  }
};

struct IQ4_XS {
  using Group = GroupIQ4_XS;
  static constexpr bool kHasMin = false;
  static void unpack(const Group& g, Parts256& p) noexcept {
    p.d = half_to_f32(g.d);
    for (int j = 0; j < 8; ++j) {
      const int low = g.scales_l[j / 2] >> (4 * (j % 2)) & 15;
      const int high = g.scales_h >> (2 * j) & 3;
      p.scales[2 * j] = p.scales[2 * j + 1] = static_cast<int16_t>((low | high << 4) - 32);
      for (int i = 0; i < 16; ++i) {
        p.q[32 * j + i] = kIQ4Values[g.qs[16 * j + i] & 15];
        p.q[32 * j + 16 + i] = kIQ4Values[g.qs[16 * j + i] >> 4];
      }
    }
  }
};

}  // namespace sluice::kernels::scalar
