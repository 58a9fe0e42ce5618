// Matrix times vectors on tiles of 16 tokens and 16 rows (definitions in kernels.h), for prompts. A
// panel of weights is unpacked once into the order of B tiles and stays in L2 while all tokens pass
// by. Two A tiles (32 tokens) meet two B tiles, so that each loaded tile is used twice; the four C
// tiles are spilled where the definition ends a sum, and scaled with AVX-512 while the next
// products run.
//
// Groups of 256: the weights are multiplied by their sub-scales when they are unpacked. The largest
// |w'| are Q2_K 45, Q3_K 128, Q4_K 945, Q5_K 1953, IQ4_XS 4064, Q6_K 4096. They are split exactly:
// w' = 128 * high + low, -32 <= high <= 32, 0 <= low <= 127: the two B tiles. Over a group
//   |sum of high * x| <= 256 * 32 * 128 = 2^20,  |sum of low * x| <= 256 * 127 * 128 < 2^22,
//   |isum| <= 256 * 4096 * 128 = 2^27,
// so that the sums in tiles, the shift by 7 and the definition's isum are exact in int32. Where w'
// fits a byte (Q2_K; Q3_K, moved down by 2) there is no high part, and the B tiles are two times 16
// rows.
// Groups of 32: the B tiles are two times 16 rows of one group.
#pragma once

#include "kernels/driver_widths.h"
#include "kernels/x86/definitions_avx512.h"
#include "kernels/x86/tiles_amx.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// Fewer tokens are left to the AVX-512 drivers, unless set otherwise. A last tile may begin before
// its first token, and must not begin before token 0.
constexpr int kAmxTokens = 16;
static_assert(kAmxTokens >= kTileTokens && kLeastTileTokens >= kTileTokens);
// Pairs of B tiles, for each of its groups, that a panel holds: about 150 KiB of the stack.
constexpr int64_t kPanelPairs = 8;

// For products of A tiles `depth` bytes wide.
constexpr TileConfig tile_config(int depth) {
  TileConfig c = {};
  c.palette = 1;
  for (int i = 0; i < 8; ++i) {
    c.rows[i] = static_cast<uint8_t>(i == kTileB || i == kTileB + 1 ? depth / 4 : 16);
    c.colsb[i] = static_cast<uint16_t>(i < kTileB ? depth : 64);
  }
  return c;
}

// The four C tiles of a sum: [A tile][B tile][token][row].
struct alignas(64) Spill {
  int32_t c[2][2][kTileTokens][kWide];
};

template <class Tiles, int kAs, int kBs>
SLUICE_INLINE void store_sums(Spill& s) {
  Tiles::template store<kTileC>(s.c[0][0], 64);
  if constexpr (kBs == 2) Tiles::template store<kTileC + 1>(s.c[0][1], 64);
  if constexpr (kAs == 2) Tiles::template store<kTileC + 2>(s.c[1][0], 64);
  if constexpr (kAs == 2 && kBs == 2) Tiles::template store<kTileC + 3>(s.c[1][1], 64);
}

// Adds the products of kAs A tiles, `offset` bytes after a[i], with kBs B tiles.
template <class Tiles, int kAs, int kBs>
SLUICE_INLINE void add_products(const uint8_t* const* a,
                                int64_t offset,
                                int64_t a_stride,
                                const __m512i* b0,
                                const __m512i* b1) {
  Tiles::template load<kTileB>(b0, 64);
  Tiles::template load<kTileA>(a[0] + offset, a_stride);
  Tiles::template dot<kTileC, kTileA, kTileB>();
  if constexpr (kBs == 2) {
    Tiles::template load<kTileB + 1>(b1, 64);
    Tiles::template dot<kTileC + 1, kTileA, kTileB + 1>();
  }
  if constexpr (kAs == 2) {
    Tiles::template load<kTileA + 1>(a[1] + offset, a_stride);
    Tiles::template dot<kTileC + 2, kTileA + 1, kTileB>();
    if constexpr (kBs == 2) Tiles::template dot<kTileC + 3, kTileA + 1, kTileB + 1>();
  }
}

// --- groups of 32 ---

template <class U>
struct Of32 {
  using Act = ActQ8x32;
  using Weights = typename U::Group;
  static constexpr WeightType kType = U::kType;
  static constexpr TileConfig kConfig = tile_config(32);
  static constexpr int64_t kGroup = 32;
  static constexpr int64_t kPanelGroups = 16;
  // A step of the driver: its groups, in so many parts, between which the step before is scaled.
  static constexpr int kStepGroups = 2, kParts = 2;
  static constexpr int kRowBlocks = 2;  // times 16 rows in a pair of B tiles

  struct Group {
    __m512i b[2][8];  // per block: per 4 weights one dword per row
    __m512 d[2], m[2];
  };

  static void fill(Group& out, int block, const uint8_t* const* at, int64_t offset) {
    __m512i q[8];
    for (int i = 0; i < 8; ++i) {
      q[i] = halves_512(U::unpack(at[i] + offset), U::unpack(at[i + 8] + offset));
      q[i] = _mm512_sub_epi8(q[i], _mm512_set1_epi8(U::kOffset));
    }
    transpose_16x8(q, out.b[block]);
    out.d[block] = scales_of_16<U>(at, offset);
    if constexpr (U::kHasMin) out.m[block] = gather_halves_16(at, offset + 2);
  }

  template <class Tiles, int kAs, int kBs>
  static SLUICE_INLINE void multiply(const Group* g,
                                     int64_t n_groups,
                                     int part,
                                     const uint8_t* const* a,
                                     int64_t a_stride,
                                     Spill* sums) {
    if (part >= n_groups) return;
    zero_sums<Tiles, kAs, kBs>();
    const int64_t offset =
        static_cast<int64_t>(offsetof(Act, qs)) + part * static_cast<int64_t>(sizeof(Act));
    add_products<Tiles, kAs, kBs>(a, offset, a_stride, g[part].b[0], g[part].b[1]);
    store_sums<Tiles, kAs, kBs>(sums[part]);
  }

  // 16 rows of one token.
  static SLUICE_INLINE __m512 scale(__m512 acc,
                                    const Group* g,
                                    int64_t n_groups,
                                    int block,
                                    const Spill* sums,
                                    int tile,
                                    int64_t token,
                                    const Act* x) {
    for (int64_t i = 0; i < n_groups; ++i) {
      const __m512i idot = load_512(sums[i].c[tile][block][token]);
      acc = accumulate<U>(acc, idot, g[i].d[block], g[i].m[block], x[i]);
    }
    return acc;
  }
};

// --- groups of 256 ---

template <class U>
struct Of256 {
  using Act = ActQ8x256;
  using Weights = typename U::Group;
  static constexpr WeightType kType = U::kType;
  static constexpr TileConfig kConfig = tile_config(64);
  static constexpr int64_t kGroup = 256;
  static constexpr int64_t kPanelGroups = 2;
  static constexpr int kStepGroups = 1, kParts = 4;
  static constexpr bool kSplit = kType != WeightType::kQ2_K && kType != WeightType::kQ3_K;
  static constexpr int kRowBlocks = kSplit ? 1 : 2;
  // Q3_K: w' is -124 to 128.
  static constexpr int kMove = kType == WeightType::kQ3_K ? 2 : 0;

  struct Group {
    __m512i b[2][64];  // high and low part, or per block: per 4 weights one dword per row
    struct {
      __m512i mins[8];  // per 32 weights: two minima per row
      __m512 d, dmin;
    } rows[kRowBlocks];
  };

  // Bytes of 16 rows to B tiles; v[j][i]: weights 32j .. 32j + 31 of row i.
  static void put(const __m256i (*v)[kWide], __m512i* out) {
#pragma GCC unroll 1
    for (int j = 0; j < 8; ++j) {
      __m512i q[8];
      for (int i = 0; i < 8; ++i) q[i] = halves_512(v[j][i], v[j][i + 8]);
      transpose_16x8(q, out + 8 * j);
    }
  }

  static void fill(Group& out, int block, const uint8_t* const* at, int64_t offset) {
    __m256i high[8][kWide], low[8][kWide], mins[kWide];
    const __m512i first_scales = halves_512(_mm256_setzero_si256(), _mm256_set1_epi16(1));
    for (int i = 0; i < kWide; ++i) {
      Unpacked256 u;
      U::unpack(at[i] + offset, u);
#pragma GCC unroll 1
      for (int j = 0; j < 8; ++j) {
        const __m512i scale =
            _mm512_permutexvar_epi16(_mm512_add_epi16(first_scales, _mm512_set1_epi16(2 * j)),
                                     _mm512_castsi256_si512(u.scales));
        const __m512i q =
            _mm512_sub_epi16(_mm512_cvtepi8_epi16(u.q[j]), _mm512_set1_epi16(U::kOffset));
        const __m512i w = _mm512_mullo_epi16(q, scale);
        if constexpr (kSplit) {
          high[j][i] = _mm512_cvtepi16_epi8(_mm512_srai_epi16(w, 7));
          low[j][i] = _mm512_cvtepi16_epi8(_mm512_and_si512(w, _mm512_set1_epi16(127)));
        } else {
          low[j][i] = _mm512_cvtepi16_epi8(_mm512_sub_epi16(w, _mm512_set1_epi16(kMove)));
        }
      }
      if constexpr (U::kHasMin) mins[i] = u.mins;
    }
    if constexpr (kSplit) put(high, out.b[0]);
    put(low, out.b[kSplit ? 1 : block]);
    out.rows[block].d = gather_halves_16(at, offset + U::kD);
    if constexpr (U::kHasMin) {
      transpose_words(mins, out.rows[block].mins);
      out.rows[block].dmin = gather_halves_16(at, offset + U::kDmin);
    }
  }

  template <class Tiles, int kAs, int kBs>
  static SLUICE_INLINE void multiply(
      const Group* g, int64_t, int part, const uint8_t* const* a, int64_t a_stride, Spill* sums) {
    if (part == 0) zero_sums<Tiles, kAs, kBs>();
    const int64_t offset = static_cast<int64_t>(offsetof(Act, qs)) + 64 * part;
    add_products<Tiles, kAs, kBs>(a, offset, a_stride, g->b[0] + 16 * part, g->b[1] + 16 * part);
    if (part == kParts - 1) store_sums<Tiles, kAs, kBs>(*sums);
  }

  static SLUICE_INLINE __m512 scale(__m512 acc,
                                    const Group* g,
                                    int64_t,
                                    int block,
                                    const Spill* sums,
                                    int tile,
                                    int64_t token,
                                    const Act* x) {
    const auto& rows = g->rows[block];
    Sums s;
    s.d = rows.d;
    s.dmin = rows.dmin;
    s.isum = load_512(sums->c[tile][kSplit ? 0 : block][token]);
    if constexpr (kSplit)
      s.isum = _mm512_add_epi32(_mm512_slli_epi32(s.isum, 7), load_512(sums->c[tile][1][token]));
    s.imin = _mm512_setzero_si512();
    for (int j = 0; j < 8; ++j) {
      const auto x_sums = [&] { return broadcast_i32_512(x->sums + 2 * j); };
      if constexpr (kMove != 0) s.isum = dot_words(s.isum, _mm512_set1_epi16(kMove), x_sums());
      if constexpr (U::kHasMin) s.imin = dot_words(s.imin, rows.mins[j], x_sums());
    }
    return accumulate<U>(acc, s, x->d);
  }
};

// --- the driver ---

// The arguments of KernelTable::matmul.
struct Call {
  const uint8_t* w;
  int64_t w_stride, n_rows, n_groups;
  const uint8_t* x;
  int64_t x_stride, n_tokens;
  float* y;
  int64_t y_stride;
};

// An A tile: tokens first .. first + 15, of which the first `skip` belong to the tile before.
struct TokenTile {
  int64_t first, skip;
};
SLUICE_INLINE TokenTile token_tile(int64_t t, int64_t n_tokens) {
  const int64_t last = n_tokens - kTileTokens;
  return t <= last ? TokenTile{t, 0} : TokenTile{last, t - last};
}

template <class D>
constexpr int64_t kPairRows = kWide* D::kRowBlocks;

template <class D>
struct PanelAmx {
  typename D::Group group[kPanelPairs][D::kPanelGroups];
  // Where it lies in the matrix.
  int64_t row, n_pairs, first_group, n_groups;
};

template <class D>
void fill_panel(PanelAmx<D>& p, const Call& c) {
  for (int64_t pair = 0; pair < p.n_pairs; ++pair) {
    for (int block = 0; block < D::kRowBlocks; ++block) {
      const int64_t r = p.row + pair * kPairRows<D> + block * kWide;
      if (r >= c.n_rows) break;
      const uint8_t* at[kWide];
      rows_of_16(c.w, c.w_stride, r, c.n_rows, at);
      for (int64_t g = 0; g < p.n_groups; ++g) {
        D::fill(p.group[pair][g],
                block,
                at,
                (p.first_group + g) * static_cast<int64_t>(sizeof(typename D::Weights)));
      }
    }
  }
}

// Asks for what a pair's rows will hold in the next panel.
template <class D>
SLUICE_INLINE void prefetch_next(const PanelAmx<D>& p, const Call& c, int64_t row) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(typename D::Weights));
  const int64_t g = p.first_group + D::kPanelGroups;
  const bool is_last = g >= c.n_groups;
  const int64_t first = is_last ? row + kPanelPairs * kPairRows<D> : row;
  const int64_t left = c.n_rows - first;
  const int64_t n = left < kPairRows<D> ? left : kPairRows<D>;
  const uint8_t* at = c.w + first * c.w_stride + (is_last ? 0 : g * kBytes);
  for (int64_t r = 0; r < n; ++r, at += c.w_stride) {
    for (int64_t i = 0; i < D::kPanelGroups * kBytes; i += 64)
      _mm_prefetch(reinterpret_cast<const char*>(at + i), _MM_HINT_T1);
  }
}

// Some groups of a pair, times the tokens of a block.
template <class D>
struct Step {
  const typename D::Group* groups;
  int64_t n_groups, first_group;  // first_group counts in the whole row
  int64_t row;
};

// Part `part` of the tokens of a step, whose sums are spilled. Long enough for a call, and called
// from many places.
template <class D, int kAs>
__attribute__((noinline)) void scale_part(
    const Call& c, const Step<D>& s, const Spill* sums, const TokenTile* tiles, int part) {
  constexpr int64_t kShare = kTileTokens / D::kParts;
  for (int tile = 0; tile < kAs; ++tile) {
    const int64_t begin = part * kShare;
    for (int64_t i = begin < tiles[tile].skip ? tiles[tile].skip : begin; i < begin + kShare; ++i) {
      const int64_t t = tiles[tile].first + i;
      const auto* x =
          reinterpret_cast<const typename D::Act*>(c.x + t * c.x_stride) + s.first_group;
      for (int block = 0; block < D::kRowBlocks; ++block) {
        const int64_t r = s.row + block * kWide;
        if (r >= c.n_rows) break;
        const __mmask16 rows = first_rows(c.n_rows - r);
        float* y = c.y + t * c.y_stride + r;
        const __m512 acc =
            s.first_group == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y);
        _mm512_mask_storeu_ps(
            y, rows, D::scale(acc, s.groups, s.n_groups, block, sums, tile, i, x));
      }
    }
  }
}

// A panel times the tokens of kAs tiles.
template <class D, class Tiles, int kAs>
void multiply_panel(const Call& c, const PanelAmx<D>& p, const TokenTile* tiles) {
  constexpr auto kActBytes = static_cast<int64_t>(sizeof(typename D::Act));
  Spill sums[2][D::kStepGroups];
  Step<D> before = {};
  int turn = 0;
  for (int64_t pair = 0; pair < p.n_pairs; ++pair) {
    const int64_t row = p.row + pair * kPairRows<D>;
    const bool two = D::kRowBlocks == 1 || row + kWide < c.n_rows;
    // The first tokens ask for the next weights, so that memory works while they are computed.
    if (tiles[0].first == 0) prefetch_next(p, c, row);
    for (int64_t g = 0; g < p.n_groups; g += D::kStepGroups, turn ^= 1) {
      const int64_t n = p.n_groups - g < D::kStepGroups ? p.n_groups - g : D::kStepGroups;
      const Step<D> step = {&p.group[pair][g], n, p.first_group + g, row};
      const uint8_t* a[kAs];
      for (int i = 0; i < kAs; ++i)
        a[i] = c.x + tiles[i].first * c.x_stride + step.first_group * kActBytes;
#pragma GCC unroll 4
      for (int part = 0; part < D::kParts; ++part) {
        if (two)
          D::template multiply<Tiles, kAs, 2>(step.groups, n, part, a, c.x_stride, sums[turn]);
        else
          D::template multiply<Tiles, kAs, 1>(step.groups, n, part, a, c.x_stride, sums[turn]);
        if (before.n_groups != 0) scale_part<D, kAs>(c, before, sums[turn ^ 1], tiles, part);
      }
      before = step;
    }
  }
  for (int part = 0; part < D::kParts; ++part)
    scale_part<D, kAs>(c, before, sums[turn ^ 1], tiles, part);
}

// KernelTable::matmul.
template <class D, class Tiles>
void matmul_amx(const void* w,
                int64_t w_stride,
                int64_t n_rows,
                int64_t n_cols,
                const void* x,
                int64_t x_stride,
                int64_t n_tokens,
                float* y,
                int64_t y_stride) noexcept {
  if (n_tokens < tile_tokens(D::kType, kAmxTokens)) {
    avx512_kernels().matmul[static_cast<int>(D::kType)](
        w, w_stride, n_rows, n_cols, x, x_stride, n_tokens, y, y_stride);
    return;
  }
  const Call c = {static_cast<const uint8_t*>(w),
                  w_stride,
                  n_rows,
                  n_cols / D::kGroup,
                  static_cast<const uint8_t*>(x),
                  x_stride,
                  n_tokens,
                  y,
                  y_stride};
  static constexpr TileConfig kConfig = D::kConfig;
  Tiles::configure(kConfig);
  PanelAmx<D> p;
  for (p.row = 0; p.row < n_rows; p.row += kPanelPairs * kPairRows<D>) {
    const int64_t pairs = (n_rows - p.row + kPairRows<D> - 1) / kPairRows<D>;
    p.n_pairs = pairs < kPanelPairs ? pairs : kPanelPairs;
    for (p.first_group = 0; p.first_group < c.n_groups; p.first_group += D::kPanelGroups) {
      const int64_t left = c.n_groups - p.first_group;
      p.n_groups = left < D::kPanelGroups ? left : D::kPanelGroups;
      fill_panel(p, c);
      for (int64_t t = 0; t < n_tokens; t += 2 * kTileTokens) {
        const TokenTile tiles[2] = {token_tile(t, n_tokens), token_tile(t + kTileTokens, n_tokens)};
        if (t + kTileTokens < n_tokens)
          multiply_panel<D, Tiles, 2>(c, p, tiles);
        else
          multiply_panel<D, Tiles, 1>(c, p, tiles);
      }
    }
  }
  Tiles::release();
}

template <class Tiles, class D>
void set_matmul_amx(KernelTable& t) {
  t.matmul[static_cast<int>(D::kType)] = matmul_amx<D, Tiles>;
}

template <class Tiles>
void fill_matmul_tiles(KernelTable& t) {
  t.tiles = true;
  set_matmul_amx<Tiles, Of32<U8_0>>(t);
  set_matmul_amx<Tiles, Of32<U8_1>>(t);
  set_matmul_amx<Tiles, Of32<U4_0>>(t);
  set_matmul_amx<Tiles, Of32<U4_1>>(t);
  set_matmul_amx<Tiles, Of32<U5_0>>(t);
  set_matmul_amx<Tiles, Of32<U5_1>>(t);
  set_matmul_amx<Tiles, Of32<UIQ4_NL>>(t);
  set_matmul_amx<Tiles, Of32<UMXFP4>>(t);
  set_matmul_amx<Tiles, Of256<U2_K>>(t);
  set_matmul_amx<Tiles, Of256<U3_K>>(t);
  set_matmul_amx<Tiles, Of256<U4_K>>(t);
  set_matmul_amx<Tiles, Of256<U5_K>>(t);
  set_matmul_amx<Tiles, Of256<U6_K>>(t);
  set_matmul_amx<Tiles, Of256<UIQ4_XS>>(t);
}

}  // namespace
}  // namespace sluice::kernels::x86
