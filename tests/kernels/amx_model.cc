#include "tests/kernels/amx_model.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sluice::kernels::amx_model {
namespace {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Tile {
  int rows, colsb;
  uint8_t bytes[kRows][kRowBytes];
};

struct State {
  bool configured;
  Tile tile[kTiles];
};
thread_local State state;
thread_local int64_t n_products;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "amx_model: %s\n", what);
  std::abort();
}

// The tile of an instruction that works on data.
Tile& data(int tile) {
  require(state.configured, "#UD: tiles are not configured");
  require(tile >= 0 && tile < kTiles, "#UD: no such tile");
  Tile& t = state.tile[tile];
  require(t.rows != 0, "#UD: the tile has no rows");
  return t;
}

}  // namespace

void configure(const void* config) {
  uint8_t bytes[64];
  std::memcpy(bytes, config, sizeof bytes);
  std::memset(&state, 0, sizeof state);
  if (bytes[0] == 0) return;  // palette 0: the initial state
  require(bytes[0] == 1, "#GP: palette");
  require(bytes[1] < kRows, "#GP: start row");
  for (int i = 2; i < 16; ++i) require(bytes[i] == 0, "#GP: reserved byte");
  for (int i = 0; i < 16; ++i) {
    const int colsb = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8, rows = bytes[48 + i];
    require((colsb == 0) == (rows == 0), "#GP: only one of rows and colsb is zero");
    if (i >= kTiles) {
      require(rows == 0, "#GP: reserved tile");
      continue;
    }
    require(rows <= kRows && colsb <= kRowBytes, "#GP: tile too large");
    state.tile[i].rows = rows;
    state.tile[i].colsb = colsb;
  }
  state.configured = true;
}

void release() { std::memset(&state, 0, sizeof state); }

void zero(int tile) { std::memset(data(tile).bytes, 0, sizeof(Tile::bytes)); }

void load(int tile, const void* from, int64_t stride) {
  Tile& t = data(tile);
  std::memset(t.bytes, 0, sizeof t.bytes);
  for (int m = 0; m < t.rows; ++m) {
    std::memcpy(
        t.bytes[m], static_cast<const uint8_t*>(from) + m * stride, static_cast<size_t>(t.colsb));
  }
}

void store(int tile, void* to, int64_t stride) {
  const Tile& t = data(tile);
  for (int m = 0; m < t.rows; ++m) {
    std::memcpy(static_cast<uint8_t*>(to) + m * stride, t.bytes[m], static_cast<size_t>(t.colsb));
  }
}

void dot_signed(int c, int a, int b) {
  require(c != a && a != b && c != b, "#UD: tiles of a product must differ");
  Tile& to = data(c);
  const Tile &x = data(a), &y = data(b);
  require(to.colsb % 4 == 0 && x.colsb % 4 == 0, "#UD: colsb of a product is not whole dwords");
  require(to.rows == x.rows, "#UD: rows of c and a differ");
  require(to.colsb == y.colsb, "#UD: colsb of c and b differ");
  require(x.colsb / 4 == y.rows, "#UD: a is not as wide as b is high");
  uint8_t out[kRows][kRowBytes] = {};  // beyond rows and colsb: zero
  for (int m = 0; m < to.rows; ++m) {
    uint32_t sum[kRowBytes / 4];  // wraps, as the instruction does
    std::memcpy(sum, to.bytes[m], sizeof sum);
    for (int k = 0; k < x.colsb / 4; ++k) {
      for (int n = 0; n < to.colsb / 4; ++n) {
        for (int i = 0; i < 4; ++i) {
          const auto p = static_cast<int8_t>(x.bytes[m][4 * k + i]);
          const auto q = static_cast<int8_t>(y.bytes[k][4 * n + i]);
          sum[n] += static_cast<uint32_t>(p * q);
        }
      }
    }
    std::memcpy(out[m], sum, static_cast<size_t>(to.colsb));
  }
  std::memcpy(to.bytes, out, sizeof out);
  ++n_products;
}

bool in_use() { return state.configured; }

int64_t products() { return n_products; }

}  // namespace sluice::kernels::amx_model
