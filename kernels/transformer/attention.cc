#include "kernels/transformer/attention.h"

#include <cmath>

namespace sluice::kernels {
namespace {

constexpr int64_t kMaxTileQueries = 64;

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

// Tokens [first, first + n) of one sequence, whose attention is computed together.
struct Tile {
  int64_t first = 0;
  int64_t n = 0;
};

struct Job {
  WalkContext& c;
  const WalkTokens& tokens;
  int64_t layer;
  float scale;

  int64_t group() const noexcept { return c.hp.group_size(); }
  int64_t row(int64_t t, int64_t head) const noexcept {
    return t * row_stride(c.hp.n_heads * c.hp.head_dim) + head * group() * c.hp.head_dim;
  }
  Visible visible(int64_t t) const noexcept { return visible_of(c.hp, layer, tokens.positions[t]); }

  // Partials of one run for the queries of one kv head. acc: (tokens, group, head_dim), part: (tokens, group).
  void one_run(const Tile& tile, int64_t head, int64_t run, float* acc, AttentionPartial* part) const noexcept {
    const void* k_pages[kRunPages] = {};
    const void* v_pages[kRunPages] = {};
    AttentionQuery queries[kMaxTileQueries];
    const int64_t base = run * kRunTokens;
    const int64_t tokens_at_once = kMaxTileQueries / group() > 0 ? kMaxTileQueries / group() : 1;
    std::byte* const* pages = tokens.pages[tile.first] + run * kRunPages;
    for (int64_t t0 = 0; t0 < tile.n; t0 += tokens_at_once) {
      const int64_t n = tile.n - t0 < tokens_at_once ? tile.n - t0 : tokens_at_once;
      // A group wider than kMaxTileQueries goes by parts.
      for (int64_t g0 = 0; g0 < group(); g0 += kMaxTileQueries) {
        const int64_t n_heads = group() - g0 < kMaxTileQueries ? group() - g0 : kMaxTileQueries;
        int64_t n_q = 0;
        for (int64_t t = tile.first + t0; t < tile.first + t0 + n; ++t) {
          const Visible v = visible(t);
          const int64_t first = v.first > base ? v.first - base : 0;
          const int64_t last = v.end - base < kRunTokens ? v.end - base : kRunTokens;
          for (int64_t p = first / kPageTokens; p * kPageTokens < last; ++p) {
            k_pages[p] = pages[p] + c.kv.k_offset(layer, head);
            v_pages[p] = pages[p] + c.kv.v_offset(layer, head);
          }
          for (int64_t g = 0; g < n_heads; ++g) {
            queries[n_q++] = {c.ws.q + row(t, head) + (g0 + g) * c.hp.head_dim, first < last ? first : 0, first < last ? last : 0};
          }
        }
        const int64_t at = t0 * group() + g0;
        c.table.attention_run[static_cast<int>(c.kv.type)](queries, n_q, c.hp.head_dim, k_pages, v_pages, scale,
                                                           acc + at * c.hp.head_dim, part + at);
      }
    }
  }

  // Merges the runs of one (token, kv head); partials lie run-major, `lane` of them a run.
  void merge(int64_t t, int64_t head, int64_t n_runs, const float* acc, const AttentionPartial* part, int64_t lane) const noexcept {
    const int64_t dim = c.hp.head_dim;
    for (int64_t g = 0; g < group(); ++g) {
      c.table.attention_merge(acc + g * dim, lane * dim, part + g, lane, n_runs, dim, c.ws.ctx + row(t, head) + g * dim);
    }
  }
};

// The tile that holds token t: tiles begin anew with each sequence and after tile_tokens tokens of it.
Tile tile_from(const WalkContext& c, const WalkTokens& tokens, int64_t first) noexcept {
  Tile tile{first, 1};
  while (tile.n < c.ws.tile_tokens && first + tile.n < tokens.n && tokens.pages[first + tile.n] == tokens.pages[first]) ++tile.n;
  return tile;
}

}  // namespace

void attend(WalkContext& c, int64_t layer, const WalkTokens& tokens) noexcept {
  const HParams& hp = c.hp;
  const Job job{c, tokens, layer, 1.0f / std::sqrt(static_cast<float>(hp.head_dim))};
  const int64_t heads = hp.n_kv_heads;
  const int64_t lane = c.ws.max_runs * c.ws.tile_tokens * hp.group_size();    // partials that one thread may hold
  auto* parts = reinterpret_cast<AttentionPartial*>(c.ws.attn_part);
  if (tokens.n * heads > c.ws.shape.n_threads) {
    // Ranges are cut anywhere: each makes its own tiles of the tokens it got. A tile changes no result; few tokens are
    // shared out one by one.
    const int64_t share = tokens.n * heads / (4 * c.ws.shape.n_threads);
    const int64_t grain = share < 1 ? 1 : share < c.ws.tile_tokens ? share : c.ws.tile_tokens;
    parallel_for(c.parallel, tokens.n * heads, grain, [&](int64_t begin, int64_t end, int thread) {
      float* acc = c.ws.attn_acc + thread * lane * hp.head_dim;
      AttentionPartial* part = parts + thread * lane;
      for (int64_t i = begin; i < end;) {
        const int64_t head = i / tokens.n;
        Tile tile = tile_from(c, tokens, i % tokens.n);
        if (tile.n > end - i) tile.n = end - i;
        i += tile.n;
        const int64_t width = tile.n * hp.group_size();
        int64_t first_run = job.visible(tile.first).first_run, end_run = 0;
        for (int64_t t = tile.first; t < tile.first + tile.n; ++t) {
          const Visible v = job.visible(t);
          if (v.first_run < first_run) first_run = v.first_run;
          if (v.first_run + v.n_runs > end_run) end_run = v.first_run + v.n_runs;
        }
        for (int64_t r = first_run; r < end_run; ++r) {
          job.one_run(tile, head, r, acc + (r - first_run) * width * hp.head_dim, part + (r - first_run) * width);
        }
        for (int64_t t = 0; t < tile.n; ++t) {
          const Visible v = job.visible(tile.first + t);
          const int64_t at = (v.first_run - first_run) * width + t * hp.group_size();
          job.merge(tile.first + t, head, v.n_runs, acc + at * hp.head_dim, part + at, width);
        }
      }
    });
    return;
  }
  // Fewer (token, head) pairs than threads: the runs are shared out, each pair owns one lane.
  int64_t most_runs = 1;
  for (int64_t t = 0; t < tokens.n; ++t) {
    const int64_t n = job.visible(t).n_runs;
    if (n > most_runs) most_runs = n;
  }
  const int64_t width = hp.group_size();
  parallel_for(c.parallel, tokens.n * heads * most_runs, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / most_runs;
      const int64_t r = i % most_runs;
      const Visible v = job.visible(pair / heads);
      if (r >= v.n_runs) continue;
      const int64_t at = pair * lane + r * width;
      job.one_run({pair / heads, 1}, pair % heads, v.first_run + r, c.ws.attn_acc + at * hp.head_dim, parts + at);
    }
  });
  for (int64_t pair = 0; pair < tokens.n * heads; ++pair) {
    const Visible v = job.visible(pair / heads);
    job.merge(pair / heads, pair % heads, v.n_runs, c.ws.attn_acc + pair * lane * hp.head_dim, parts + pair * lane, width);
  }
}

}  // namespace sluice::kernels
