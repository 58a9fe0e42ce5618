// Attention over KV pages, AVX-512 (definition in kernels.h). Sixteen keys, or values, are widened
// to floats once and meet all queries while they are in L1; the sums over a head's elements are
// made for sixteen keys in one tree.
#include "kernels/x86/vector_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

constexpr int64_t kMaxHeadDim = 512;
constexpr int64_t kQueries = 64;                 // handled together; more go by parts
constexpr int64_t kBlock = 16;                   // keys or values widened at once
constexpr int64_t kScoreRow = kPageTokens + 16;  // scores of a page, with room for the last vector

// --- 16 elements of a row of keys or values from element i (a multiple of 16) on, those of `mask`
// only ---

struct RowF32 {
  static constexpr KvType kType = KvType::kF32;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return 4 * head_dim; }
  static SLUICE_INLINE __m512 load(const uint8_t* row, int64_t i, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, row + 4 * i);
  }
};

struct RowF16 {
  static constexpr KvType kType = KvType::kF16;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return 2 * head_dim; }
  static SLUICE_INLINE __m512 load(const uint8_t* row, int64_t i, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + 2 * i));
  }
};

struct RowQ8_0 {
  static constexpr KvType kType = KvType::kQ8_0;
  static SLUICE_INLINE int64_t row_bytes(int64_t head_dim) { return head_dim / 32 * 34; }
  static SLUICE_INLINE __m512 load(const uint8_t* row, int64_t i, __mmask16) {
    const uint8_t* g = row + i / 32 * 34;
    const __m512 d = _mm512_cvtph_ps(_mm256_set1_epi16(load_as<int16_t>(g)));
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(g + 2 + i % 32))));
  }
};

// Elements from i on that a head has, as a mask of 16.
SLUICE_INLINE __mmask16 elements_from(int64_t i, int64_t head_dim) {
  return first_rows(head_dim - i);
}

// exp_f32 of kernels/scalar/math.cc, operation by operation.
SLUICE_INLINE __m512 exp_16(__m512 x) {
  const __m512 magic = _mm512_set1_ps(12582912.0f);
  x = _mm512_min_ps(_mm512_set1_ps(89.0f), x);  // min and max return x where it is NaN
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);
  const __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(1.44269504f), magic);
  const __m512 n = _mm512_sub_ps(t, magic);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  const __m512i k = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_castps_si512(magic));
  const __m512i half = _mm512_srai_epi32(k, 1);
  const __m512i bias = _mm512_set1_epi32(127);
  const __m512i s1 = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
  const __m512i s2 = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(k, half), bias), 23);
  return _mm512_mul_ps(_mm512_mul_ps(p, _mm512_castsi512_ps(s1)), _mm512_castsi512_ps(s2));
}

SLUICE_INLINE float sum_partials_512(__m512 v) {
  return sum_partials(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

// --- the three steps of a page ---

// Rows [begin, end) of 16 to floats: vector c of row r at out + 16 * (r * row_step + c *
// vector_step).
template <class Row>
SLUICE_INLINE void widen(const uint8_t* rows,
                         int64_t begin,
                         int64_t end,
                         int64_t head_dim,
                         int64_t row_step,
                         int64_t vector_step,
                         float* out) {
  const int64_t row_bytes = Row::row_bytes(head_dim);
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t c = 0; 16 * c < head_dim; ++c) {
      _mm512_store_ps(out + (r * row_step + c * vector_step) * 16,
                      Row::load(rows + r * row_bytes, 16 * c, elements_from(16 * c, head_dim)));
    }
  }
}

// Scores of two queries with 16 keys (vector c of key k at keys + 16 * (16 * c + k)), eight at a
// time; what comes out for keys that a query does not see is not used.
SLUICE_INLINE void score_block(const float* q0,
                               const float* q1,
                               const float* keys,
                               int64_t head_dim,
                               float scale,
                               float* out0,
                               float* out1) {
  __m512 scores[2];
  for (int half = 0; half < 2; ++half) {
    __m512 sum[16];
    for (int k = 0; k < 16; ++k) sum[k] = _mm512_setzero_ps();
    const float* key = keys + 8 * 16 * half;
    for (int64_t i = 0; i < head_dim; i += 16, key += kBlock * 16) {
      const __mmask16 mask = elements_from(i, head_dim);
      const __m512 a = _mm512_maskz_loadu_ps(mask, q0 + i), b = _mm512_maskz_loadu_ps(mask, q1 + i);
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        const __m512 v = _mm512_load_ps(key + 16 * k);
        sum[k] = _mm512_fmadd_ps(a, v, sum[k]);
        sum[8 + k] = _mm512_fmadd_ps(b, v, sum[8 + k]);
      }
    }
    scores[half] = _mm512_mul_ps(_mm512_set1_ps(scale), sum_partials_of_16(sum));
  }
  _mm512_storeu_ps(out0, _mm512_shuffle_f32x4(scores[0], scores[1], 0x44));
  _mm512_storeu_ps(out1, _mm512_shuffle_f32x4(scores[0], scores[1], 0xee));
}

// Scores p[0, n) to probabilities relative to the new maximum; returns by how much the older ones
// shrink. p has room for 15 more.
SLUICE_INLINE float update_query(float* p, int64_t n, AttentionPartial& part) {
  const float infinity = __builtin_inff();
  __m512 m = _mm512_set1_ps(-infinity);
  for (int64_t i = 0; i < n; i += 16) {
    const __m512 s = _mm512_mask_loadu_ps(_mm512_set1_ps(-infinity), first_rows(n - i), p + i);
    _mm512_storeu_ps(p + i, s);  // exp makes those behind the last one 0
    m = _mm512_max_ps(s, m);     // m where s is NaN
  }
  const float page_max =
      max_of_8(_mm256_max_ps(_mm512_castps512_ps256(m), _mm512_extractf32x8_ps(m, 1))) + 0.0f;
  const float new_max = page_max > part.max ? page_max : part.max;
  const float base = new_max == -infinity ? 0.0f : new_max;
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; i += 16) {
    const __m512 e = exp_16(_mm512_sub_ps(_mm512_loadu_ps(p + i), _mm512_set1_ps(base)));
    _mm512_storeu_ps(p + i, e);
    sum = _mm512_add_ps(sum, e);
  }
  const float rescale = exp_f32(part.max - base);
  part.sum = __builtin_fmaf(part.sum, rescale, sum_partials_512(sum));
  part.max = new_max;
  return rescale;
}

// Vectors [c, c + kVectors) of kN queries' acc, head_dim apart: rescaled, then one fma per token of
// [begin, end), ascending.
template <int kN, int kVectors>
SLUICE_INLINE void add_values(const float (*p)[kScoreRow],
                              int64_t block,
                              const float* values,
                              int64_t begin,
                              int64_t end,
                              int64_t n_vectors,
                              int64_t c,
                              const float* rescale,
                              float* acc,
                              int64_t head_dim) {
  __m512 a[kN][kVectors];
  for (int h = 0; h < kN; ++h) {
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 mask = elements_from(16 * (c + v), head_dim);
      a[h][v] = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, acc + h * head_dim + 16 * (c + v)),
                              _mm512_set1_ps(rescale[h]));
    }
  }
  const float* row = values + (begin * n_vectors + c) * 16;
  for (int64_t t = begin; t < end; ++t, row += n_vectors * 16) {
    __m512 weight[kN];
    for (int h = 0; h < kN; ++h) weight[h] = _mm512_set1_ps(p[h][block + t]);
    for (int v = 0; v < kVectors; ++v) {
      const __m512 value = _mm512_load_ps(row + 16 * v);
      for (int h = 0; h < kN; ++h) a[h][v] = _mm512_fmadd_ps(weight[h], value, a[h][v]);
    }
  }
  for (int h = 0; h < kN; ++h) {
    for (int v = 0; v < kVectors; ++v) {
      _mm512_mask_storeu_ps(
          acc + h * head_dim + 16 * (c + v), elements_from(16 * (c + v), head_dim), a[h][v]);
    }
  }
}

// All vectors of kN queries that see the same tokens.
template <int kN>
SLUICE_INLINE void add_block(const float (*p)[kScoreRow],
                             int64_t block,
                             const float* values,
                             int64_t begin,
                             int64_t end,
                             int64_t n_vectors,
                             float* rescale,
                             float* acc,
                             int64_t head_dim) {
  int64_t c = 0;
  for (; c + 4 <= n_vectors; c += 4) {
    add_values<kN, 4>(p, block, values, begin, end, n_vectors, c, rescale, acc, head_dim);
  }
  for (; c < n_vectors; ++c) {
    add_values<kN, 1>(p, block, values, begin, end, n_vectors, c, rescale, acc, head_dim);
  }
  for (int h = 0; h < kN; ++h) rescale[h] = 1.0f;
}

// The part of a page that a query sees: [begin, end) within it.
struct Seen {
  int64_t begin, end;
  SLUICE_INLINE bool same_as(const Seen& s) const { return begin == s.begin && end == s.end; }
};
SLUICE_INLINE Seen seen_of(const AttentionQuery& q, int64_t base) {
  const int64_t begin = q.first > base ? q.first - base : 0;
  const int64_t end = q.last - base < kPageTokens ? q.last - base : kPageTokens;
  return {begin, end > begin ? end : begin};
}

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
  const int64_t n_vectors = (head_dim + 15) / 16;
  alignas(64) float wide[kBlock * kMaxHeadDim];
  alignas(64) float p[kQueries][kScoreRow];
  float rescale[kQueries];
  Seen seen[kQueries];
  int64_t first = queries[0].first, last = queries[0].last;
  for (int64_t h = 0; h < n; ++h) {
    if (queries[h].first < first) first = queries[h].first;
    if (queries[h].last > last) last = queries[h].last;
    part[h] = {-__builtin_inff(), 0.0f};
  }
  for (int64_t i = 0; i < n * head_dim; ++i) acc[i] = 0.0f;
  // Rows of a block that nobody sees are not read; as numbers they must be defined all the same.
  for (int64_t i = 0; i < kBlock * n_vectors * 16; ++i) wide[i] = 0.0f;
  for (int64_t page = first / kPageTokens; page * kPageTokens < last; ++page) {
    const int64_t base = page * kPageTokens;
    const auto* k = static_cast<const uint8_t*>(k_pages[page]);
    const auto* v = static_cast<const uint8_t*>(v_pages[page]);
    int64_t begin = kPageTokens, end = 0;
    for (int64_t h = 0; h < n; ++h) {
      const Seen s = seen[h] = seen_of(queries[h], base);
      if (s.begin == s.end) continue;
      if (s.begin < begin) begin = s.begin;
      if (s.end > end) end = s.end;
    }
    if (begin >= end) continue;
    for (int64_t b = begin / kBlock * kBlock; b < end; b += kBlock) {
      const int64_t from = begin > b ? begin - b : 0;
      const int64_t to = end - b < kBlock ? end - b : kBlock;
      widen<Row>(k + b * row_bytes, from, to, head_dim, 1, kBlock, wide);
      int64_t waiting = -1;  // a query that sees some of the block, for the next one that does
      for (int64_t h = 0; h < n; ++h) {
        if (seen[h].begin >= b + kBlock || seen[h].end <= b) continue;
        if (waiting < 0) {
          waiting = h;
          continue;
        }
        score_block(
            queries[waiting].q, queries[h].q, wide, head_dim, scale, p[waiting] + b, p[h] + b);
        waiting = -1;
      }
      if (waiting >= 0) {
        float* out = p[waiting] + b;
        score_block(queries[waiting].q, queries[waiting].q, wide, head_dim, scale, out, out);
      }
    }
    for (int64_t h = 0; h < n; ++h) {
      const Seen s = seen[h];
      rescale[h] = s.begin == s.end ? 1.0f : update_query(p[h] + s.begin, s.end - s.begin, part[h]);
    }
    for (int64_t b = begin / kBlock * kBlock; b < end; b += kBlock) {
      const int64_t from = begin > b ? begin - b : 0;
      const int64_t to = end - b < kBlock ? end - b : kBlock;
      widen<Row>(v + b * row_bytes, from, to, head_dim, n_vectors, 1, wide);
      for (int64_t h = 0; h < n;) {
        const int64_t t0 = seen[h].begin > b ? seen[h].begin - b : 0;
        const int64_t t1 = seen[h].end - b < kBlock ? seen[h].end - b : kBlock;
        float* out = acc + h * head_dim;
        const bool two = h + 1 < n && seen[h].same_as(seen[h + 1]);
        if (t0 < t1 && two)
          add_block<2>(p + h, b, wide, t0, t1, n_vectors, rescale + h, out, head_dim);
        if (t0 < t1 && !two)
          add_block<1>(p + h, b, wide, t0, t1, n_vectors, rescale + h, out, head_dim);
        h += two ? 2 : 1;
      }
    }
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
  for (int64_t h = 0; h < n_q; h += kQueries) {
    const int64_t n = n_q - h < kQueries ? n_q - h : kQueries;
    attend_together<Row>(
        queries + h, n, head_dim, k_pages, v_pages, scale, acc + h * head_dim, part + h);
  }
}

void attention_merge(const float* acc,
                     int64_t acc_stride,
                     const AttentionPartial* parts,
                     int64_t part_stride,
                     int64_t n_runs,
                     int64_t head_dim,
                     float* out) noexcept {
  const float infinity = __builtin_inff();
  float max = -infinity;
  for (int64_t r = 0; r < n_runs; ++r) {
    const float m = parts[r * part_stride].max;
    max = m > max ? m : max;
  }
  const float base = max == -infinity ? 0.0f : max;
  float sum = 0.0f;
  for (int64_t d = 0; d < head_dim; d += 16) {
    _mm512_mask_storeu_ps(out + d, elements_from(d, head_dim), _mm512_setzero_ps());
  }
  for (int64_t r = 0; r < n_runs; ++r) {
    const AttentionPartial& part = parts[r * part_stride];
    if (part.max == -infinity && part.sum == 0.0f)
      continue;  // no key: as if the run were not there
    const float weight = exp_f32(part.max - base);
    sum = __builtin_fmaf(part.sum, weight, sum);
    const float* a = acc + r * acc_stride;
    for (int64_t d = 0; d < head_dim; d += 16) {
      const __mmask16 mask = elements_from(d, head_dim);
      const __m512 add = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + d),
                                         _mm512_set1_ps(weight),
                                         _mm512_maskz_loadu_ps(mask, out + d));
      _mm512_mask_storeu_ps(out + d, mask, add);
    }
  }
  if (sum == 0.0f) return;
  for (int64_t d = 0; d < head_dim; d += 16) {
    const __mmask16 mask = elements_from(d, head_dim);
    _mm512_mask_storeu_ps(
        out + d, mask, _mm512_div_ps(_mm512_maskz_loadu_ps(mask, out + d), _mm512_set1_ps(sum)));
  }
}

template <class Row>
void set_kv(KernelTable& t) {
  t.attention_run[static_cast<int>(Row::kType)] = attention_run<Row>;
}

}  // namespace

void fill_attention_avx512(KernelTable& t) noexcept {
  set_kv<RowF32>(t);
  set_kv<RowF16>(t);
  set_kv<RowQ8_0>(t);
  t.attention_merge = attention_merge;
}

}  // namespace sluice::kernels::x86
