// One row of a group of 256 as four vectors of 64 unsigned bytes.
#pragma once

#include "kernels/x86/unpack_avx2.h"
#include "kernels/x86/vector_avx512.h"

namespace sluice::kernels::x86 {
namespace {

template <class U>
constexpr int kBias = U::kSigned ? 128 : U::kOffset;

// The order in which a type's weights come easily: sub-blocks of 32 in pairs (0, 1) (2, 3) .. or
// (0, 2) (1, 3) (4, 6) (5, 7).
enum class Order : uint8_t { kNatural, kCrossed };

// Sub-block in half `half` of vector i.
template <Order kOrder>
constexpr int sub_block(int i, int half) {
  return kOrder == Order::kNatural ? 2 * i + half : 4 * (i / 2) + i % 2 + 2 * half;
}

// The activations of a group in a type's order.
template <Order kOrder>
SLUICE_INLINE void arrange(const int8_t* qs, __m512i* x) {
  for (int i = 0; i < 4; ++i) {
    x[i] = halves_512(load_256(qs + 32 * sub_block<kOrder>(i, 0)),
                      load_256(qs + 32 * sub_block<kOrder>(i, 1)));
  }
}

// Packed to int16 in pairs of vectors (packs_epi32(dot 2h, dot 2h + 1)), which of `per` scales a
// group goes with which word.
struct ScaleWords {
  int16_t at[2][32];
};
template <Order kOrder, int kPer>
constexpr ScaleWords scale_words() {
  ScaleWords s = {};
  for (int h = 0; h < 2; ++h) {
    for (int w = 0; w < 32; ++w) {
      const int lane = w / 8, i = 2 * h + w % 8 / 4;
      const int block = sub_block<kOrder>(i, lane / 2);
      s.at[h][w] = static_cast<int16_t>(kPer == 8 ? block : 2 * block + lane % 2);
    }
  }
  return s;
}
template <Order kOrder, int kPer>
constexpr ScaleWords kScaleWords = scale_words<kOrder, kPer>();

SLUICE_INLINE void unpack_two_bits(__m256i b, __m512i& q01, __m512i& q23) {
  const __m512i v = twice_512(b), three = _mm512_set1_epi8(3);
  q01 = _mm512_and_si512(_mm512_srlv_epi64(v, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2)), three);
  q23 = _mm512_and_si512(_mm512_srlv_epi64(v, _mm512_setr_epi64(4, 4, 4, 4, 6, 6, 6, 6)), three);
}

struct Row2_K : U2_K {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    unpack_two_bits(load_256(g + 16), q[0], q[1]);
    unpack_two_bits(load_256(g + 48), q[2], q[3]);
  }
};

struct Row3_K : U3_K {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i mask = twice_512(load_256(g)), four = _mm512_set1_epi8(4);
    unpack_two_bits(load_256(g + 32), q[0], q[1]);
    unpack_two_bits(load_256(g + 64), q[2], q[3]);
    // Bit j of a byte of the mask belongs to sub-block j: it goes to place 2.
    const __m512i up = _mm512_sllv_epi64(mask, _mm512_setr_epi64(2, 2, 2, 2, 1, 1, 1, 1));
    const __m512i b23 = _mm512_srlv_epi64(mask, _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1));
    const __m512i b45 = _mm512_srlv_epi64(mask, _mm512_setr_epi64(2, 2, 2, 2, 3, 3, 3, 3));
    const __m512i b67 = _mm512_srlv_epi64(mask, _mm512_setr_epi64(4, 4, 4, 4, 5, 5, 5, 5));
    q[0] = _mm512_or_si512(q[0], _mm512_and_si512(up, four));
    q[1] = _mm512_or_si512(q[1], _mm512_and_si512(b23, four));
    q[2] = _mm512_or_si512(q[2], _mm512_and_si512(b45, four));
    q[3] = _mm512_or_si512(q[3], _mm512_and_si512(b67, four));
  }
};

struct Row4_K : U4_K {
  static constexpr Order kOrder = Order::kCrossed;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int h = 0; h < 2; ++h) {
      const __m512i b = load_512(g + 16 + 64 * h);
      q[2 * h] = _mm512_and_si512(b, low);
      q[2 * h + 1] = _mm512_and_si512(_mm512_srli_epi16(b, 4), low);
    }
  }
};

struct Row5_K : U5_K {
  static constexpr Order kOrder = Order::kCrossed;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i low = _mm512_set1_epi8(15), bit = _mm512_set1_epi8(16);
    const __m512i high = twice_512(load_256(g + 16));
    for (int h = 0; h < 2; ++h) {
      const __m512i b = load_512(g + 48 + 64 * h);
      // Bit j of a byte of `high` belongs to sub-block j: it goes to place 4.
      const __m512i even = h == 0
                               ? _mm512_sllv_epi64(high, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2))
                               : _mm512_srlv_epi64(high, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2));
      const __m512i odd = h == 0
                              ? _mm512_sllv_epi64(high, _mm512_setr_epi64(3, 3, 3, 3, 1, 1, 1, 1))
                              : _mm512_srlv_epi64(high, _mm512_setr_epi64(1, 1, 1, 1, 3, 3, 3, 3));
      q[2 * h] = _mm512_or_si512(_mm512_and_si512(b, low), _mm512_and_si512(even, bit));
      q[2 * h + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(b, 4), low),
                                     _mm512_and_si512(odd, bit));
    }
  }
};

struct Row6_K : U6_K {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i low = _mm512_set1_epi8(15), bits = _mm512_set1_epi8(48);
    for (int h = 0; h < 2; ++h) {
      const __m512i a = load_512(g + 64 * h), c = twice_512(load_256(g + 128 + 32 * h));
      const __m512i c01 = _mm512_sllv_epi64(c, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2));
      const __m512i c23 = _mm512_srlv_epi64(c, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2));
      q[2 * h] = _mm512_or_si512(_mm512_and_si512(a, low), _mm512_and_si512(c01, bits));
      q[2 * h + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(a, 4), low),
                                     _mm512_and_si512(c23, bits));
    }
  }
};

struct Row4_XS : UIQ4_XS {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i values = biased_iq4_values();
    const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    for (int i = 0; i < 4; ++i) {
      const __m512i two = twice_512(load_256(g + 8 + 32 * i));  // 16 bytes a sub-block: a b a b
      const __m512i b = _mm512_shuffle_i64x2(two, two, 0x50);   // a a b b
      q[i] = _mm512_shuffle_epi8(
          values, _mm512_and_si512(_mm512_srlv_epi64(b, shift), _mm512_set1_epi8(15)));
    }
  }
};

}  // namespace
}  // namespace sluice::kernels::x86
