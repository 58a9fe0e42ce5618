// KV rows and attention over them (definition in kernels.h). A piece of a key or value row is
// widened once for up to four query heads.
#include "kernels/arm/arm.h"
#include "kernels/arm/vector_neon.h"

namespace sluice::kernels::arm {
namespace {

constexpr int64_t kMaxHeadDim = 512;
constexpr int64_t kHeads = 4;   // query heads handled together
constexpr int64_t kPiece = 16;  // elements of a row handled together

// --- one row of keys or values: kPiece elements from element i (a multiple of it) on; n of them
// exist in load_some ---

struct RowF32 {
  static constexpr KvType kType = KvType::kF32;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return 4 * head_dim; }
  static SLUICE_INLINE void load(const uint8_t* row, int64_t i, float32x4_t* v) {
    const auto* p = reinterpret_cast<const float*>(row) + i;
    for (int j = 0; j < 4; ++j) v[j] = vld1q_f32(p + 4 * j);
  }
  static SLUICE_INLINE void load_some(const uint8_t* row, int64_t i, int64_t n, float32x4_t* v) {
    const auto* p = reinterpret_cast<const float*>(row) + i;
    for (int j = 0; j < 4; ++j) v[j] = arm::load_some(p + 4 * j, n - 4 * j);
  }
};

struct RowF16 {
  static constexpr KvType kType = KvType::kF16;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return 2 * head_dim; }
  static SLUICE_INLINE void load(const uint8_t* row, int64_t i, float32x4_t* v) {
    widen_halves(row + 2 * i, v);
    widen_halves(row + 2 * i + 16, v + 2);
  }
  static SLUICE_INLINE void load_some(const uint8_t* row, int64_t i, int64_t n, float32x4_t* v) {
    uint8_t tail[2 * kPiece] = {};
    __builtin_memcpy(tail, row + 2 * i, static_cast<uint64_t>(2 * n));
    load(tail, 0, v);
  }
};

struct RowQ8_0 {
  static constexpr KvType kType = KvType::kQ8_0;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return head_dim / 32 * 34; }
  static SLUICE_INLINE void load(const uint8_t* row, int64_t i, float32x4_t* v) {
    const uint8_t* g = row + i / 32 * 34;
    widen_bytes(vreinterpretq_s8_u8(vld1q_u8(g + 2 + i % 32)), v);
    const float d = half_to_float(g);
    for (int j = 0; j < 4; ++j) v[j] = vmulq_n_f32(v[j], d);
  }
  // head_dim is a multiple of 32: no piece is ever cut.
  static SLUICE_INLINE void load_some(const uint8_t*, int64_t, int64_t, float32x4_t* v) {
    for (int j = 0; j < 4; ++j) v[j] = vdupq_n_f32(0.0f);
  }
};

// --- scores ---

// scores[h][t] of kN heads for tokens [0, n). The queries are padded with zeros to a multiple of
// 16: that can only turn a partial sum of -0 into +0, which neither the maximum nor an exponential
// shows.
template <class Row, int kN>
void score_heads(const float (*q)[kMaxHeadDim],
                 const uint8_t* k,
                 int64_t head_dim,
                 int64_t n,
                 float scale,
                 float (*scores)[kPageTokens]) {
  const int64_t row_bytes = Row::row_bytes(head_dim);
  for (int64_t t = 0; t < n; ++t, k += row_bytes) {
    float32x4_t p[kN][4], row[4];
    for (int h = 0; h < kN; ++h) {
      for (int j = 0; j < 4; ++j) p[h][j] = vdupq_n_f32(0.0f);
    }
    const auto add_piece = [&](int64_t i) {
      for (int h = 0; h < kN; ++h) {
        for (int j = 0; j < 4; ++j)
          p[h][j] = vfmaq_f32(p[h][j], vld1q_f32(q[h] + i + 4 * j), row[j]);
      }
    };
    int64_t i = 0;
    for (; i + kPiece <= head_dim; i += kPiece) {
      Row::load(k, i, row);
      add_piece(i);
    }
    if (i < head_dim) {
      Row::load_some(k, i, head_dim - i, row);
      add_piece(i);
    }
    for (int h = 0; h < kN; ++h) scores[h][t] = scale * sum_partials(p[h]);
  }
}

// --- softmax state of one head ---

// Scores to probabilities relative to the new maximum; returns by how much the older ones shrink.
SLUICE_INLINE float update_head(float* p, int64_t n, AttentionPartial& part) {
  const float infinity = __builtin_inff();
  for (int64_t i = n; i < ((n + 15) & ~int64_t{15}); ++i) p[i] = -infinity;  // exp makes them 0
  float32x4_t m = vdupq_n_f32(-infinity);
  for (int64_t i = 0; i < n; i += 4) m = larger(vld1q_f32(p + i), m);
  const float page_max = vmaxvq_f32(m) + 0.0f;
  const float new_max = page_max > part.max ? page_max : part.max;
  const float base = new_max == -infinity ? 0.0f : new_max;
  float32x4_t sums[4];
  for (float32x4_t& v : sums) v = vdupq_n_f32(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    for (int j = 0; j < 4; ++j) {
      const float32x4_t v = exp_4(vsubq_f32(vld1q_f32(p + i + 4 * j), vdupq_n_f32(base)));
      vst1q_f32(p + i + 4 * j, v);
      sums[j] = vaddq_f32(sums[j], v);
    }
  }
  const float rescale = exp_f32(part.max - base);
  part.sum = __builtin_fmaf(part.sum, rescale, sum_partials(sums));
  part.max = new_max;
  return rescale;
}

// --- values ---

// acc[h][i .. i + kPiece) of kN heads: rescaled, then one fma per token. kWhole: all of the piece
// exists.
template <class Row, int kN, bool kWhole>
SLUICE_INLINE void add_values(const float (*p)[kPageTokens],
                              const float* rescale,
                              const uint8_t* v,
                              int64_t n,
                              int64_t i,
                              float* acc,
                              int64_t head_dim) {
  const int64_t row_bytes = Row::row_bytes(head_dim);
  const int64_t some = kWhole ? kPiece : head_dim - i;
  float32x4_t a[kN][4], row[4];
  for (int h = 0; h < kN; ++h) {
    for (int j = 0; j < 4; ++j) {
      const float* at = acc + h * head_dim + i + 4 * j;
      a[h][j] = vmulq_n_f32(load_some(at, some - 4 * j), rescale[h]);
    }
  }
  for (int64_t t = 0; t < n; ++t) {
    if constexpr (kWhole) {
      Row::load(v + t * row_bytes, i, row);
    } else {
      Row::load_some(v + t * row_bytes, i, some, row);
    }
    for (int h = 0; h < kN; ++h) {
      for (int j = 0; j < 4; ++j) a[h][j] = vfmaq_n_f32(a[h][j], row[j], p[h][t]);
    }
  }
  for (int h = 0; h < kN; ++h) {
    for (int j = 0; j < 4; ++j) {
      store_some(acc + h * head_dim + i + 4 * j, some - 4 * j, a[h][j]);
    }
  }
}

template <class Row, int kN>
void add_heads(const float (*p)[kPageTokens],
               const float* rescale,
               const uint8_t* v,
               int64_t head_dim,
               int64_t n,
               float* acc) {
  int64_t i = 0;
  for (; i + kPiece <= head_dim; i += kPiece) {
    add_values<Row, kN, true>(p, rescale, v, n, i, acc, head_dim);
  }
  if (i < head_dim) add_values<Row, kN, false>(p, rescale, v, n, i, acc, head_dim);
}

// --- queries ---

// kN queries that see the same tokens.
template <class Row, int kN>
void attend_together(const AttentionQuery* queries,
                     int64_t head_dim,
                     const void* const* k_pages,
                     const void* const* v_pages,
                     float scale,
                     float* acc,
                     AttentionPartial* part) {
  const int64_t row_bytes = Row::row_bytes(head_dim);
  const int64_t first = queries[0].first, last = queries[0].last;
  float q[kN][kMaxHeadDim];
  float p[kN][kPageTokens];
  float rescale[kN];
  for (int h = 0; h < kN; ++h) {
    const int64_t padded = (head_dim + 15) & ~int64_t{15};
    __builtin_memcpy(q[h], queries[h].q, static_cast<uint64_t>(head_dim) * 4);
    for (int64_t i = head_dim; i < padded; ++i) q[h][i] = 0.0f;
    part[h] = {-__builtin_inff(), 0.0f};
  }
  for (int64_t i = 0; i < kN * head_dim; ++i) acc[i] = 0.0f;
  for (int64_t page = first / kPageTokens; page * kPageTokens < last; ++page) {
    const int64_t base = page * kPageTokens;
    const int64_t begin = base > first ? 0 : first - base;
    const int64_t end = last - base < kPageTokens ? last - base : kPageTokens;
    if (begin >= end) continue;
    const auto* k = static_cast<const uint8_t*>(k_pages[page]) + begin * row_bytes;
    const auto* v = static_cast<const uint8_t*>(v_pages[page]) + begin * row_bytes;
    score_heads<Row, kN>(q, k, head_dim, end - begin, scale, p);
    for (int h = 0; h < kN; ++h) rescale[h] = update_head(p[h], end - begin, part[h]);
    add_heads<Row, kN>(p, rescale, v, head_dim, end - begin, acc);
  }
}

template <class Row>
void attention_run(const AttentionQuery* queries,
                   int64_t n_q,
                   int64_t head_dim,
                   const void* const* k_pages,
                   const void* const* v_pages,
                   float scale,
                   float* acc,
                   AttentionPartial* part) noexcept {
  for (int64_t h = 0; h < n_q;) {
    int64_t n = 1;
    while (h + n < n_q && n < kHeads && queries[h + n].first == queries[h].first &&
           queries[h + n].last == queries[h].last) {
      ++n;
    }
    if (n == 3) n = 2;
    const auto together = [&]<int kN>() {
      attend_together<Row, kN>(
          queries + h, head_dim, k_pages, v_pages, scale, acc + h * head_dim, part + h);
    };
    if (n == 4) {
      together.template operator()<4>();
    } else if (n == 2) {
      together.template operator()<2>();
    } else {
      together.template operator()<1>();
    }
    h += n;
  }
}

void store_f16(const float* x, void* dst, int64_t head_dim) noexcept {
  auto* out = static_cast<uint8_t*>(dst);
  for (int64_t i = 0; i < head_dim; i += 4) {
    const float16x4_t h = vcvt_f16_f32(load_some(x + i, head_dim - i));
    const int64_t n = head_dim - i < 4 ? head_dim - i : 4;
    __builtin_memcpy(out + 2 * i, &h, static_cast<uint64_t>(2 * n));
  }
}

template <class Row>
void set_kv(KernelTable& t) {
  t.attention_run[static_cast<int>(Row::kType)] = attention_run<Row>;
}

}  // namespace

void fill_attention_neon(KernelTable& t) noexcept {
  set_kv<RowF32>(t);
  set_kv<RowF16>(t);
  set_kv<RowQ8_0>(t);
  t.kv_store[static_cast<int>(KvType::kF16)] = store_f16;
}

}  // namespace sluice::kernels::arm
