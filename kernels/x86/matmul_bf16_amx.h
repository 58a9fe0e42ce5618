// BF16 matrices of prompts on tiles: the prompt definition kBF16Tiles, whose step of 32 columns is
// one product of tiles. A block of 32 rows is turned into pairs of columns once, as B tiles that
// stay in L2 while all tokens pass by. Two A tiles (32 tokens) meet the two B tiles of a step, so
// that each loaded tile is used twice; the four C tiles add up step after step and go to y once.
//
// Tiles have as many rows and columns as there are tokens and rows of weights, so that nothing
// beside them is read or written. Only the columns are filled up, with zeros: by the definition,
// and because two shapes of the same tiles would need their sums to be carried over.
#pragma once

#include "kernels/x86/tiles_amx.h"
#include "kernels/x86/vector_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

constexpr int64_t kStepColumns = 32, kStepBytes = 64;
constexpr int64_t kBlockRows = 2 * kWide;
constexpr int64_t kBlockTokens = 2 * kTileTokens;
// 144 KiB of the stack: longer rows take several panels, between which y holds the sums.
constexpr int64_t kPanelSteps = 72;

struct StepBF16 {
  __m512i b[2][kWide];  // [B tile][pair of columns], one row per lane
};

// All steps of its first block of rows, then those of the next.
struct PanelBF16 {
  StepBF16 steps[kPanelSteps];
  // Where it lies in the matrix.
  int64_t row, n_blocks, first_step, n_steps;
};

// The arguments of KernelTable::matmul.
struct CallBF16 {
  const uint8_t* w;
  int64_t w_stride, n_rows, n_cols;
  const uint8_t* x;
  int64_t x_stride, n_tokens;
  float* y;
  int64_t y_stride;
  int64_t n_steps;
};

constexpr int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

// The columns from byte `offset` on that are less than a step, filled up with zeros.
SLUICE_INLINE __m512i last_columns(const uint8_t* row, int64_t offset, int64_t n_cols) {
  const int64_t n = n_cols - offset / 2;
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << n) - 1), row + offset);
}

SLUICE_INLINE void fill_tile(const uint8_t* const* at, int64_t offset, __m512i* out) {
  for (int i = 0; i < 4; ++i) columns_of_16(at, offset + 16 * i, out + 4 * i);
}

void fill_panel(PanelBF16& p, const CallBF16& c) {
  const int64_t whole = at_most(c.n_cols / kStepColumns - p.first_step, p.n_steps);
  for (int64_t block = 0; block < p.n_blocks; ++block) {
    StepBF16* steps = p.steps + block * p.n_steps;
    for (int b = 0; b < 2; ++b) {
      const int64_t r = p.row + block * kBlockRows + b * kWide;
      if (r >= c.n_rows) break;
      const uint8_t* at[kWide];
      rows_of_16(c.w, c.w_stride, r, c.n_rows, at);
      for (int64_t s = 0; s < whole; ++s)
        fill_tile(at, (p.first_step + s) * kStepBytes, steps[s].b[b]);
      if (whole == p.n_steps) continue;
      __m512i last[kWide];
      const uint8_t* last_at[kWide];
      for (int i = 0; i < kWide; ++i) {
        last[i] = last_columns(at[i], (p.first_step + whole) * kStepBytes, c.n_cols);
        last_at[i] = reinterpret_cast<const uint8_t*>(last + i);
      }
      fill_tile(last_at, 0, steps[whole].b[b]);
    }
  }
}

// The A tiles of a last step that is not whole.
struct alignas(64) LastStep {
  uint8_t x[kBlockTokens][kStepBytes];
};

void fill_last(LastStep& last, const CallBF16& c, int64_t token, int64_t n_tokens) {
  const int64_t offset = (c.n_steps - 1) * kStepBytes;
  for (int64_t t = 0; t < n_tokens; ++t) {
    _mm512_store_si512(last.x[t], last_columns(c.x + (token + t) * c.x_stride, offset, c.n_cols));
  }
}

// Up to 32 tokens times up to 32 rows.
struct BlockShape {
  int64_t n_tokens, n_rows;
};

constexpr TileConfig tile_config(const BlockShape& s) {
  TileConfig c = {};
  c.palette = 1;
  const auto set = [&c](int tile, int64_t rows, int64_t dwords) {
    c.rows[tile] = static_cast<uint8_t>(rows);
    c.colsb[tile] = static_cast<uint16_t>(4 * dwords);
  };
  const int64_t tokens[2] = {at_most(s.n_tokens, kTileTokens), s.n_tokens - kTileTokens};
  const int64_t rows[2] = {at_most(s.n_rows, kWide), s.n_rows - kWide};
  for (int i = 0; i < 2; ++i) {
    if (tokens[i] > 0) set(kTileA + i, tokens[i], kStepBytes / 4);
    if (rows[i] > 0) set(kTileB + i, kStepColumns / 2, rows[i]);
    for (int j = 0; j < 2; ++j) {
      if (tokens[i] > 0 && rows[j] > 0) set(kTileC + 2 * i + j, tokens[i], rows[j]);
    }
  }
  return c;
}

template <class Tiles, int kAs, int kBs>
SLUICE_INLINE void load_sums(const float* y, int64_t y_stride) {
  const float* y1 = y + kTileTokens * y_stride;
  Tiles::template load<kTileC>(y, 4 * y_stride);
  if constexpr (kBs == 2) Tiles::template load<kTileC + 1>(y + kWide, 4 * y_stride);
  if constexpr (kAs == 2) Tiles::template load<kTileC + 2>(y1, 4 * y_stride);
  if constexpr (kAs == 2 && kBs == 2) Tiles::template load<kTileC + 3>(y1 + kWide, 4 * y_stride);
}

template <class Tiles, int kAs, int kBs>
SLUICE_INLINE void store_sums(float* y, int64_t y_stride) {
  float* y1 = y + kTileTokens * y_stride;
  Tiles::template store<kTileC>(y, 4 * y_stride);
  if constexpr (kBs == 2) Tiles::template store<kTileC + 1>(y + kWide, 4 * y_stride);
  if constexpr (kAs == 2) Tiles::template store<kTileC + 2>(y1, 4 * y_stride);
  if constexpr (kAs == 2 && kBs == 2) Tiles::template store<kTileC + 3>(y1 + kWide, 4 * y_stride);
}

template <class Tiles, int kAs, int kBs>
SLUICE_INLINE void add_step(const uint8_t* x, int64_t x_stride, const StepBF16& step) {
  Tiles::template load<kTileB>(step.b[0], 64);
  Tiles::template load<kTileA>(x, x_stride);
  Tiles::template dot_bf16<kTileC, kTileA, kTileB>();
  if constexpr (kBs == 2) {
    Tiles::template load<kTileB + 1>(step.b[1], 64);
    Tiles::template dot_bf16<kTileC + 1, kTileA, kTileB + 1>();
  }
  if constexpr (kAs == 2) {
    Tiles::template load<kTileA + 1>(x + kTileTokens * x_stride, x_stride);
    Tiles::template dot_bf16<kTileC + 2, kTileA + 1, kTileB>();
    if constexpr (kBs == 2) Tiles::template dot_bf16<kTileC + 3, kTileA + 1, kTileB + 1>();
  }
}

// Rows of weights that the next panel will hold, from the first column that it will.
struct NextRows {
  const uint8_t* at;
  int64_t n_rows;
};

SLUICE_INLINE NextRows next_rows(const PanelBF16& p, const CallBF16& c, int64_t row) {
  const int64_t step = p.first_step + p.n_steps;
  const bool is_last = step == c.n_steps;
  const int64_t first = is_last ? row + p.n_blocks * kBlockRows : row;
  return {c.w + first * c.w_stride + (is_last ? 0 : step * kStepBytes),
          at_most(c.n_rows - first, kBlockRows)};
}

// A panel's block of rows times the tokens from `token` on. `last`: where the panel ends with a
// step that is not whole.
template <class Tiles, int kAs, int kBs>
void multiply_block(
    const CallBF16& c, const PanelBF16& p, int64_t block, int64_t token, const LastStep* last) {
  const int64_t row = p.row + block * kBlockRows;
  const StepBF16* steps = p.steps + block * p.n_steps;
  const uint8_t* x = c.x + token * c.x_stride + p.first_step * kStepBytes;
  float* y = c.y + token * c.y_stride + row;
  // The first tokens ask for the next weights, so that memory works while they are computed.
  const NextRows next = token == 0 ? next_rows(p, c, row) : NextRows{};
  if (p.first_step == 0)
    zero_sums<Tiles, kAs, kBs>();
  else
    load_sums<Tiles, kAs, kBs>(y, c.y_stride);
  const int64_t whole = p.n_steps - (last != nullptr ? 1 : 0);
  for (int64_t s = 0; s < whole; ++s) {
    for (int64_t r = 0; r < next.n_rows; ++r) {
      const uint8_t* at = next.at + r * c.w_stride + s * kStepBytes;
      _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
    }
    add_step<Tiles, kAs, kBs>(x + s * kStepBytes, c.x_stride, steps[s]);
  }
  if (last != nullptr) add_step<Tiles, kAs, kBs>(last->x[0], kStepBytes, steps[whole]);
  store_sums<Tiles, kAs, kBs>(y, c.y_stride);
}

template <class Tiles>
void multiply_panel(const CallBF16& c, const PanelBF16& p, BlockShape& shape) {
  const bool is_last = p.first_step + p.n_steps > c.n_cols / kStepColumns;
  LastStep last;
  for (int64_t t = 0; t < c.n_tokens; t += kBlockTokens) {
    const int64_t n_tokens = at_most(c.n_tokens - t, kBlockTokens);
    if (is_last) fill_last(last, c, t, n_tokens);
    for (int64_t block = 0; block < p.n_blocks; ++block) {
      const int64_t n_rows = at_most(c.n_rows - p.row - block * kBlockRows, kBlockRows);
      if (n_tokens != shape.n_tokens || n_rows != shape.n_rows) {
        shape = {n_tokens, n_rows};
        const TileConfig config = tile_config(shape);
        Tiles::configure(config);
      }
      const auto run = [&]<int kAs, int kBs>() {
        multiply_block<Tiles, kAs, kBs>(c, p, block, t, is_last ? &last : nullptr);
      };
      const bool two = n_rows > kWide;
      if (n_tokens > kTileTokens)
        two ? run.template operator()<2, 2>() : run.template operator()<2, 1>();
      else
        two ? run.template operator()<1, 2>() : run.template operator()<1, 1>();
    }
  }
}

template <class Tiles>
void matmul_bf16(const void* w,
                 int64_t w_stride,
                 int64_t n_rows,
                 int64_t n_cols,
                 const void* x,
                 int64_t x_stride,
                 int64_t n_tokens,
                 float* y,
                 int64_t y_stride) noexcept {
  const CallBF16 c = {static_cast<const uint8_t*>(w),
                      w_stride,
                      n_rows,
                      n_cols,
                      static_cast<const uint8_t*>(x),
                      x_stride,
                      n_tokens,
                      y,
                      y_stride,
                      n_cols > 0 ? (n_cols + kStepColumns - 1) / kStepColumns : 1};
  BlockShape shape = {};  // that of the tiles
  PanelBF16 p;
  const int64_t most_steps = at_most(c.n_steps, kPanelSteps);
  const int64_t most_blocks = kPanelSteps / most_steps;
  for (p.row = 0; p.row < n_rows; p.row += most_blocks * kBlockRows) {
    p.n_blocks = at_most((n_rows - p.row + kBlockRows - 1) / kBlockRows, most_blocks);
    for (p.first_step = 0; p.first_step < c.n_steps; p.first_step += most_steps) {
      p.n_steps = at_most(c.n_steps - p.first_step, most_steps);
      fill_panel(p, c);
      multiply_panel<Tiles>(c, p, shape);
    }
  }
  Tiles::release();
}

template <class Tiles>
void fill_matmul_bf16_tiles(KernelTable& t) {
  constexpr int kBF16 = static_cast<int>(WeightType::kBF16);
  t.prompt_definition = PromptDefinition::kBF16Tiles;
  t.matmul_prompt[kBF16] = matmul_bf16<Tiles>;
  t.prompt_act[kBF16] = ActFormat::kBF16;
}

}  // namespace
}  // namespace sluice::kernels::x86
