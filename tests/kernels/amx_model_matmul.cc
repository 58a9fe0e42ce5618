// The kernels of kernels/x86/matmul_amx.h and matmul_bf16_amx.h on the model's tiles, compiled as
// they are for the CPU's.
#include "kernels/x86/matmul_amx.h"
#include "kernels/x86/matmul_bf16_amx.h"
#include "tests/kernels/amx_model.h"
#include "tests/kernels/test_tables.h"

namespace sluice::kernels {
namespace {

struct ModelTiles {
  static void configure(const x86::TileConfig& config) { amx_model::configure(&config); }
  static void release() { amx_model::release(); }
  template <int kTile>
  static void zero() {
    amx_model::zero(kTile);
  }
  template <int kTile>
  static void load(const void* from, int64_t stride) {
    amx_model::load(kTile, from, stride);
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    amx_model::store(kTile, to, stride);
  }
  template <int kC, int kA, int kB>
  static void dot() {
    amx_model::dot_signed(kC, kA, kB);
  }
  template <int kC, int kA, int kB>
  static void dot_bf16() {
    amx_model::dot_bf16(kC, kA, kB);
  }
};

}  // namespace

void fill_matmul_amx_model(KernelTable& t) noexcept {
  x86::fill_matmul_tiles<ModelTiles>(t);
  x86::fill_matmul_bf16_tiles<ModelTiles>(t);
}

}  // namespace sluice::kernels
