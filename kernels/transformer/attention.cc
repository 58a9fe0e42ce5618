#include "kernels/transformer/attention.h"

#include <cmath>

namespace sluice::kernels {
namespace {

// What one query token sees.
struct Visible {
  int64_t first = 0;        // absolute, first visible token
  int64_t end = 0;          // one past the last
  int64_t first_run = 0;
  int64_t n_runs = 0;
};

Visible visible_of(const HParams& hp, int64_t layer, int64_t position) noexcept {
  Visible v;
  v.end = position + 1;
  if (hp.sliding_window > 0 && hp.layer_slides[layer] && v.end > hp.sliding_window) v.first = v.end - hp.sliding_window;
  v.first_run = v.first / kRunTokens;
  v.n_runs = (v.end + kRunTokens - 1) / kRunTokens - v.first_run;
  return v;
}

struct Job {
  WalkContext& c;
  const WalkTokens& tokens;
  int64_t layer;
  float scale;

  int64_t group() const noexcept { return c.hp.group_size(); }
  const float* query(int64_t t, int64_t head) const noexcept {
    return c.ws.q + t * row_stride(c.hp.n_heads * c.hp.head_dim) + head * group() * c.hp.head_dim;
  }
  float* output(int64_t t, int64_t head) const noexcept {
    return c.ws.ctx + t * row_stride(c.hp.n_heads * c.hp.head_dim) + head * group() * c.hp.head_dim;
  }

  // Partials of one run for the queries of one kv head. acc: (group, head_dim), part: (group).
  void one_run(int64_t t, int64_t head, const Visible& v, int64_t run, float* acc, AttentionPartial* part) const noexcept {
    const void* k_pages[kRunPages] = {};
    const void* v_pages[kRunPages] = {};
    const int64_t base = run * kRunTokens;
    const int64_t first = v.first > base ? v.first - base : 0;
    const int64_t last = v.end - base < kRunTokens ? v.end - base : kRunTokens;
    std::byte* const* pages = tokens.pages[t] + run * kRunPages;
    for (int64_t p = first / kPageTokens; p * kPageTokens < last; ++p) {
      k_pages[p] = pages[p] + c.kv.k_offset(layer, head);
      v_pages[p] = pages[p] + c.kv.v_offset(layer, head);
    }
    c.table.attention_run[static_cast<int>(c.kv.type)](query(t, head), c.hp.head_dim, group(), c.hp.head_dim, k_pages,
                                                       v_pages, first, last, scale, acc, part);
  }

  // Merges the runs of one (token, kv head); partials lie run-major: (runs, group, ...).
  void merge(int64_t t, int64_t head, int64_t n_runs, const float* acc, const AttentionPartial* part) const noexcept {
    const int64_t dim = c.hp.head_dim;
    for (int64_t g = 0; g < group(); ++g) {
      c.table.attention_merge(acc + g * dim, group() * dim, part + g, group(), n_runs, dim, output(t, head) + g * dim);
    }
  }
};

}  // namespace

void attend(WalkContext& c, int64_t layer, const WalkTokens& tokens) noexcept {
  const HParams& hp = c.hp;
  const Job job{c, tokens, layer, 1.0f / std::sqrt(static_cast<float>(hp.head_dim))};
  const int64_t heads = hp.n_kv_heads;
  const int64_t lane = c.ws.max_runs * hp.group_size();    // partials one thread (or one task) may hold
  auto* parts = reinterpret_cast<AttentionPartial*>(c.ws.attn_part);
  if (tokens.n * heads > c.ws.shape.n_threads) {
    parallel_for(c.parallel, tokens.n * heads, 1, [&](int64_t begin, int64_t end, int thread) {
      float* acc = c.ws.attn_acc + thread * lane * hp.head_dim;
      AttentionPartial* part = parts + thread * lane;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = i / heads;
        const int64_t head = i % heads;
        const Visible v = visible_of(hp, layer, tokens.positions[t]);
        for (int64_t r = 0; r < v.n_runs; ++r) {
          job.one_run(t, head, v, v.first_run + r, acc + r * hp.group_size() * hp.head_dim, part + r * hp.group_size());
        }
        job.merge(t, head, v.n_runs, acc, part);
      }
    });
    return;
  }
  // Fewer (token, head) pairs than threads: the runs are shared out, each pair owns one lane.
  int64_t most_runs = 1;
  for (int64_t t = 0; t < tokens.n; ++t) {
    const int64_t n = visible_of(hp, layer, tokens.positions[t]).n_runs;
    if (n > most_runs) most_runs = n;
  }
  parallel_for(c.parallel, tokens.n * heads * most_runs, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / most_runs;
      const int64_t r = i % most_runs;
      const Visible v = visible_of(hp, layer, tokens.positions[pair / heads]);
      if (r >= v.n_runs) continue;
      job.one_run(pair / heads, pair % heads, v, v.first_run + r,
                  c.ws.attn_acc + (pair * lane + r * hp.group_size()) * hp.head_dim,
                  parts + pair * lane + r * hp.group_size());
    }
  });
  for (int64_t pair = 0; pair < tokens.n * heads; ++pair) {
    const Visible v = visible_of(hp, layer, tokens.positions[pair / heads]);
    job.merge(pair / heads, pair % heads, v.n_runs, c.ws.attn_acc + pair * lane * hp.head_dim, parts + pair * lane);
  }
}

}  // namespace sluice::kernels
