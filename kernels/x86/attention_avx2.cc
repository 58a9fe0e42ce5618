// KV rows and attention over them (definition in kernels.h). A key row is widened once for up to
// four query heads; a piece of a value row once for up to eight.
#include "kernels/x86/vector_avx2.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

constexpr int64_t kMaxHeadDim = 512;
constexpr int64_t kHeads = 8;  // query heads handled together

// --- one row of keys or values: 8 elements from element i (a multiple of 8) on; n of them exist in
// load_some ---

struct RowF32 {
  static constexpr KvType kType = KvType::kF32;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return 4 * head_dim; }
  static SLUICE_INLINE __m256 load(const uint8_t* row, int64_t i) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + i);
  }
  static SLUICE_INLINE __m256 load_some(const uint8_t* row, int64_t i, int64_t n) {
    return _mm256_maskload_ps(reinterpret_cast<const float*>(row) + i, first_lanes(n));
  }
};

struct RowF16 {
  static constexpr KvType kType = KvType::kF16;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return 2 * head_dim; }
  static SLUICE_INLINE __m256 load(const uint8_t* row, int64_t i) {
    return _mm256_cvtph_ps(load_128(row + 2 * i));
  }
  static SLUICE_INLINE __m256 load_some(const uint8_t* row, int64_t i, int64_t n) {
    Half tail[8] = {};
    if (n > 8) n = 8;
    if (n > 0) __builtin_memcpy(tail, row + 2 * i, static_cast<size_t>(2 * n));
    return _mm256_cvtph_ps(load_128(tail));
  }
};

struct RowQ8_0 {
  static constexpr KvType kType = KvType::kQ8_0;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return head_dim / 32 * 34; }
  static SLUICE_INLINE __m256 load(const uint8_t* row, int64_t i) {
    const uint8_t* g = row + i / 32 * 34;
    const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(g + 2 + i % 32));
    const __m256 d = _mm256_cvtph_ps(_mm_set1_epi16(load_as<int16_t>(g)));
    return _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)));
  }
  static SLUICE_INLINE __m256 load_some(const uint8_t*, int64_t, int64_t) {
    return _mm256_setzero_ps();
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
    __m256 low[kN], high[kN];
    for (int h = 0; h < kN; ++h) low[h] = high[h] = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 16 <= head_dim; i += 16) {
      const __m256 a = Row::load(k, i), b = Row::load(k, i + 8);
      for (int h = 0; h < kN; ++h) {
        low[h] = _mm256_fmadd_ps(_mm256_load_ps(q[h] + i), a, low[h]);
        high[h] = _mm256_fmadd_ps(_mm256_load_ps(q[h] + i + 8), b, high[h]);
      }
    }
    if (i < head_dim) {
      const __m256 a = Row::load_some(k, i, head_dim - i),
                   b = Row::load_some(k, i + 8, head_dim - i - 8);
      for (int h = 0; h < kN; ++h) {
        low[h] = _mm256_fmadd_ps(_mm256_load_ps(q[h] + i), a, low[h]);
        high[h] = _mm256_fmadd_ps(_mm256_load_ps(q[h] + i + 8), b, high[h]);
      }
    }
    for (int h = 0; h < kN; ++h) scores[h][t] = scale * sum_partials(low[h], high[h]);
  }
}

template <class Row>
void score_page(const float (*q)[kMaxHeadDim],
                int64_t n_q,
                const uint8_t* k,
                int64_t head_dim,
                int64_t n,
                float scale,
                float (*scores)[kPageTokens]) {
  int64_t h = 0;
  for (; h + 4 <= n_q; h += 4) score_heads<Row, 4>(q + h, k, head_dim, n, scale, scores + h);
  for (; h + 2 <= n_q; h += 2) score_heads<Row, 2>(q + h, k, head_dim, n, scale, scores + h);
  if (h < n_q) score_heads<Row, 1>(q + h, k, head_dim, n, scale, scores + h);
}

// --- softmax state of one head ---

// Scores to probabilities relative to the new maximum; returns by how much the older ones shrink.
SLUICE_INLINE float update_head(float* p, int64_t n, AttentionPartial& part) {
  const float infinity = __builtin_inff();
  for (int64_t i = n; i < ((n + 15) & ~int64_t{15}); ++i) p[i] = -infinity;  // exp makes them 0
  __m256 m = _mm256_set1_ps(-infinity);
  for (int64_t i = 0; i < n; i += 8)
    m = _mm256_max_ps(_mm256_loadu_ps(p + i), m);  // m where p is NaN
  const float page_max = max_of_8(m) + 0.0f;
  const float new_max = page_max > part.max ? page_max : part.max;
  const float base = new_max == -infinity ? 0.0f : new_max;
  const __m256 bases = _mm256_set1_ps(base);
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  for (int64_t i = 0; i < n; i += 16) {
    const __m256 a = exp_8(_mm256_sub_ps(_mm256_loadu_ps(p + i), bases));
    const __m256 b = exp_8(_mm256_sub_ps(_mm256_loadu_ps(p + i + 8), bases));
    _mm256_storeu_ps(p + i, a);
    _mm256_storeu_ps(p + i + 8, b);
    low = _mm256_add_ps(low, a);
    high = _mm256_add_ps(high, b);
  }
  const float rescale = exp_f32(part.max - base);
  part.sum = __builtin_fmaf(part.sum, rescale, sum_partials(low, high));
  part.max = new_max;
  return rescale;
}

// --- values ---

// acc[h][i .. i + 8 * kPieces) of kN heads: rescaled, then one fma per token.
template <class Row, int kN, int kPieces>
SLUICE_INLINE void add_values(const float (*p)[kPageTokens],
                              const float* rescale,
                              const uint8_t* v,
                              int64_t row_bytes,
                              int64_t n,
                              int64_t i,
                              float* acc,
                              int64_t head_dim) {
  __m256 a[kN][kPieces];
  for (int h = 0; h < kN; ++h) {
    for (int c = 0; c < kPieces; ++c) {
      a[h][c] = _mm256_mul_ps(_mm256_loadu_ps(acc + h * head_dim + i + 8 * c),
                              _mm256_set1_ps(rescale[h]));
    }
  }
  for (int64_t t = 0; t < n; ++t) {
    for (int c = 0; c < kPieces; ++c) {
      const __m256 row = Row::load(v + t * row_bytes, i + 8 * c);
      for (int h = 0; h < kN; ++h) a[h][c] = _mm256_fmadd_ps(_mm256_set1_ps(p[h][t]), row, a[h][c]);
    }
  }
  for (int h = 0; h < kN; ++h) {
    for (int c = 0; c < kPieces; ++c) _mm256_storeu_ps(acc + h * head_dim + i + 8 * c, a[h][c]);
  }
}

template <class Row, int kN>
void add_page_heads(const float (*p)[kPageTokens],
                    const float* rescale,
                    const uint8_t* v,
                    int64_t head_dim,
                    int64_t n,
                    float* acc) {
  constexpr int kPieces = 8 / kN;
  const int64_t row_bytes = Row::row_bytes(head_dim);
  int64_t i = 0;
  for (; i + 8 * kPieces <= head_dim; i += 8 * kPieces) {
    add_values<Row, kN, kPieces>(p, rescale, v, row_bytes, n, i, acc, head_dim);
  }
  for (; i + 8 <= head_dim; i += 8) {
    add_values<Row, kN, 1>(p, rescale, v, row_bytes, n, i, acc, head_dim);
  }
  if (i == head_dim) return;
  const __m256i lanes = first_lanes(head_dim - i);
  for (int h = 0; h < kN; ++h) {
    float* out = acc + h * head_dim + i;
    __m256 a = _mm256_mul_ps(_mm256_maskload_ps(out, lanes), _mm256_set1_ps(rescale[h]));
    for (int64_t t = 0; t < n; ++t) {
      const __m256 row = Row::load_some(v + t * row_bytes, i, head_dim - i);
      a = _mm256_fmadd_ps(_mm256_set1_ps(p[h][t]), row, a);
    }
    _mm256_maskstore_ps(out, lanes, a);
  }
}

template <class Row>
void add_page(const float (*p)[kPageTokens],
              const float* rescale,
              int64_t n_q,
              const uint8_t* v,
              int64_t head_dim,
              int64_t n,
              float* acc) {
  int64_t h = 0;
  for (; h + 8 <= n_q; h += 8)
    add_page_heads<Row, 8>(p + h, rescale + h, v, head_dim, n, acc + h * head_dim);
  for (; h + 4 <= n_q; h += 4)
    add_page_heads<Row, 4>(p + h, rescale + h, v, head_dim, n, acc + h * head_dim);
  for (; h + 2 <= n_q; h += 2)
    add_page_heads<Row, 2>(p + h, rescale + h, v, head_dim, n, acc + h * head_dim);
  if (h < n_q) add_page_heads<Row, 1>(p + h, rescale + h, v, head_dim, n, acc + h * head_dim);
}

// Up to kHeads queries that see the same tokens.
template <class Row>
void attend_together(const AttentionQuery* queries,
                     int64_t n,
                     int64_t head_dim,
                     const void* const* k_pages,
                     const void* const* v_pages,
                     float scale,
                     float* acc,
                     AttentionPartial* part) {
  const int64_t row_bytes = Row::row_bytes(head_dim);
  const int64_t first = queries[0].first, last = queries[0].last;
  alignas(32) float q[kHeads][kMaxHeadDim];
  alignas(32) float p[kHeads][kPageTokens];
  float rescale[kHeads];
  for (int64_t h = 0; h < n; ++h) {
    const int64_t padded = (head_dim + 15) & ~int64_t{15};
    __builtin_memcpy(q[h], queries[h].q, static_cast<size_t>(head_dim) * 4);
    for (int64_t i = head_dim; i < padded; ++i) q[h][i] = 0.0f;
    part[h] = {-__builtin_inff(), 0.0f};
  }
  for (int64_t i = 0; i < n * head_dim; ++i) acc[i] = 0.0f;
  for (int64_t page = first / kPageTokens; page * kPageTokens < last; ++page) {
    const int64_t base = page * kPageTokens;
    const int64_t begin = base > first ? 0 : first - base;
    const int64_t end = last - base < kPageTokens ? last - base : kPageTokens;
    if (begin >= end) continue;
    const auto* k = static_cast<const uint8_t*>(k_pages[page]) + begin * row_bytes;
    const auto* v = static_cast<const uint8_t*>(v_pages[page]) + begin * row_bytes;
    score_page<Row>(q, n, k, head_dim, end - begin, scale, p);
    for (int64_t h = 0; h < n; ++h) rescale[h] = update_head(p[h], end - begin, part[h]);
    add_page<Row>(p, rescale, n, v, head_dim, end - begin, acc);
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
    attend_together<Row>(
        queries + h, n, head_dim, k_pages, v_pages, scale, acc + h * head_dim, part + h);
    h += n;
  }
}

void store_f16(const float* x, void* dst, int64_t head_dim) noexcept {
  auto* out = static_cast<uint8_t*>(dst);
  int64_t i = 0;
  for (; i + 8 <= head_dim; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  }
  for (; i < head_dim; ++i) {
    const Half h = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(out + 2 * i, &h, 2);
  }
}

template <class Row>
void set_kv(KernelTable& t) {
  t.attention_run[static_cast<int>(Row::kType)] = attention_run<Row>;
}

}  // namespace

void fill_attention_avx2(KernelTable& t) noexcept {
  set_kv<RowF32>(t);
  set_kv<RowF16>(t);
  set_kv<RowQ8_0>(t);
  t.kv_store[static_cast<int>(KvType::kF16)] = store_f16;
}

}  // namespace sluice::kernels::x86
