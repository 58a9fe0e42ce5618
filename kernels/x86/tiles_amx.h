// The tile registers of AMX, one function per instruction. Kernels take them as a template
// argument, so that the same source also runs on a model of them where no CPU has any
// (tests/kernels/amx_model.h). The compiler's own macros want tile numbers as literals and do not
// say that a load reads memory.
#pragma once

#include <cstdint>

namespace sluice::kernels::x86 {

// What LDTILECFG reads. Tile i has rows[i] rows of colsb[i] bytes; at most 16 of 64.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t colsb[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

namespace {

// How kernels use the registers: A (tokens) and B (rows of weights) two each, C four: c + 2a + b.
constexpr int kTileA = 0, kTileB = 2, kTileC = 4;
constexpr int kTileTokens = 16;

struct AmxTiles {
  // Tiles hold zeros afterwards.
  static void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
  // Leaves no state that a context switch would have to keep.
  static void release() { asm volatile("tilerelease"); }

  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  // Rows `stride` bytes apart.
  template <int kTile>
  static void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  // c[m][n] += sum over k of a[m][k] * b[k / 4][4n + k % 4]; signed bytes, int32 sums.
  template <int kC, int kA, int kB>
  static void dot() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
  // The same with pairs of BF16, f32 sums: a step of PromptDefinition::kBF16Tiles.
  template <int kC, int kA, int kB>
  static void dot_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};

template <class Tiles, int kAs, int kBs>
inline __attribute__((always_inline)) void zero_sums() {
  Tiles::template zero<kTileC>();
  if constexpr (kBs == 2) Tiles::template zero<kTileC + 1>();
  if constexpr (kAs == 2) Tiles::template zero<kTileC + 2>();
  if constexpr (kAs == 2 && kBs == 2) Tiles::template zero<kTileC + 3>();
}

}  // namespace
}  // namespace sluice::kernels::x86
