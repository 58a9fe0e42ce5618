#include "tests/kernels/amx_model.h"

#include <bit>
#include <cfenv>
#include <cmath>
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

struct Product {
  Tile& c;
  const Tile &a, &b;
};

Product product(int c, int a, int b) {
  require(c != a && a != b && c != b, "#UD: tiles of a product must differ");
  const Product p = {data(c), data(a), data(b)};
  require(p.c.colsb % 4 == 0 && p.a.colsb % 4 == 0, "#UD: colsb of a product is not whole dwords");
  require(p.c.rows == p.a.rows, "#UD: rows of c and a differ");
  require(p.c.colsb == p.b.colsb, "#UD: colsb of c and b differ");
  require(p.a.colsb / 4 == p.b.rows, "#UD: a is not as wide as b is high");
  return p;
}

// The floating-point mode of a new thread for as long as this lives, whatever the thread's.
class DefaultMode {
 public:
  DefaultMode() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultMode() { std::fesetenv(&before_); }
  DefaultMode(const DefaultMode&) = delete;
  DefaultMode& operator=(const DefaultMode&) = delete;

 private:
  std::fenv_t before_;
};

float without_denormals(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? 0.0f * x : x; }

float bf16_at(const uint8_t* bytes) {
  uint16_t h;
  std::memcpy(&h, bytes, sizeof h);
  return without_denormals(std::bit_cast<float>(uint32_t{h} << 16));
}

// a * b + c, rounded once to 24 bits however small the exponent, then flushed. a and b have 8 bits
// or b is 1, so that the product is exact; a sum that rounds to 53 bits first rounds to the same 24
// (Figueroa, "When is double rounding innocuous?", 1995).
float fused(float a, float b, float c) {
  const double sum = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
  const double tiny = 0x1p-126 - 0x1p-151;  // rounds up to 2^-126
  return std::fabs(sum) < tiny ? std::copysign(0.0f, static_cast<float>(sum))
                               : static_cast<float>(sum);
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
  const auto& [to, x, y] = product(c, a, b);
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

void dot_bf16(int c, int a, int b) {
  const auto& [to, x, y] = product(c, a, b);
  const DefaultMode mode;
  uint8_t out[kRows][kRowBytes] = {};
  for (int m = 0; m < to.rows; ++m) {
    float chains[kRowBytes / 2] = {};
    for (int k = 0; k < x.colsb / 4; ++k) {
      for (int n = 0; n < to.colsb / 2; ++n) {  // even elements, and odd ones
        const float p = bf16_at(x.bytes[m] + 4 * k + n % 2 * 2), q = bf16_at(y.bytes[k] + 2 * n);
        chains[n] = fused(p, q, chains[n]);
      }
    }
    for (int n = 0; n < to.colsb / 4; ++n) {
      float sum;
      std::memcpy(&sum, to.bytes[m] + 4 * n, sizeof sum);
      sum = fused(fused(chains[2 * n], 1.0f, chains[2 * n + 1]), 1.0f, without_denormals(sum));
      std::memcpy(out[m] + 4 * n, &sum, sizeof sum);
    }
  }
  std::memcpy(to.bytes, out, sizeof out);
  ++n_products;
}

bool in_use() { return state.configured; }

int64_t products() { return n_products; }

}  // namespace sluice::kernels::amx_model
