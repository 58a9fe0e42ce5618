#include "scheduler/driver_probe.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "storage/anonymous_memory.h"

namespace sluice {
namespace {

using kernels::DriverWidths;
using kernels::WeightType;

constexpr int64_t kCols = 2048;               // whole groups of every type
constexpr uint64_t kMatrixBytes = 1u << 20;   // that one call goes through
constexpr uint64_t kWeightBytes = 48u << 20;  // matrices, taken in turn
constexpr uint64_t kMostTokens = kernels::kMostTileTokens;
constexpr uint64_t kTokenBytes = kCols * sizeof(float);  // in any format
constexpr uint64_t kResultBytes = 2u << 20;
constexpr int kTurns = 5;
constexpr double kMost_s = 0.1;
constexpr int kTileTrials[] = {16, 24, 32, 48};

// Calls of one type's kernel over the probe's memory.
class Trial {
 public:
  Trial(WeightType type, std::byte* memory)
      : type_(type),
        w_stride_(kernels::row_bytes(type, kCols)),
        rows_(std::min(kMatrixBytes / w_stride_, kResultBytes / sizeof(float) / kMostTokens)),
        weights_(memory),
        tokens_(memory + kWeightBytes),
        results_(reinterpret_cast<float*>(tokens_ + kMostTokens * kTokenBytes)) {
    const std::vector<float> ones(kCols, 1.0f);
    const auto quantize = kernels::kernels().quantize[static_cast<int>(kernels::info(type).act)];
    for (uint64_t i = 0; i < kMostTokens; ++i)
      quantize(ones.data(), tokens_ + i * kTokenBytes, kCols);
  }

  double spent_s() const { return spent_s_; }

  // The best times of n tokens by each of two drivers, tried by turns.
  std::pair<double, double> compare(const DriverWidths& a, const DriverWidths& b, int64_t n) {
    double best_a = HUGE_VAL, best_b = HUGE_VAL;
    for (int i = 0; i < kTurns && spent_s_ < kMost_s; ++i) {
      best_a = std::min(best_a, run(a, n));
      best_b = std::min(best_b, run(b, n));
    }
    return {best_a, best_b};
  }

 private:
  // Seconds of one matrix times n tokens.
  double run(const DriverWidths& widths, int64_t n) {
    kernels::set_driver_widths(type_, widths);
    const std::byte* w = weights_ + turn_++ % (kWeightBytes / kMatrixBytes) * kMatrixBytes;
    const auto rows = static_cast<int64_t>(rows_);
    const auto start = std::chrono::steady_clock::now();
    kernels::kernels().matmul[static_cast<int>(type_)](
        w, static_cast<int64_t>(w_stride_), rows, kCols, tokens_, kTokenBytes, n, results_, rows);
    const double s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    spent_s_ += s;
    return s;
  }

  const WeightType type_;
  const uint64_t w_stride_, rows_;
  const std::byte* const weights_;
  std::byte* const tokens_;
  float* const results_;
  uint64_t turn_ = 0;
  double spent_s_ = 0;
};

}  // namespace

uint64_t DriverProbe::memory_bytes() {
  return kWeightBytes + kMostTokens * kTokenBytes + kResultBytes;
}

Result<DriverProbe> DriverProbe::create(Budget& budget) {
  DriverProbe p;
  SLUICE_TRY(p.reserved_, budget.reserve(memory_bytes(), MemoryClass::kActivations));
  SLUICE_TRY(p.memory_, AnonymousMemory::create(memory_bytes(), "a kernel probe", /*huge=*/true));
  // Ordinary numbers in every type: f16 0.22, f32 4e-8, no NaN and nothing denormal.
  std::memset(p.memory_.data(), 0x33, p.memory_.size());
  return p;
}

int choose_row_tokens(const std::vector<double>& by_row, const std::vector<double>& shared) {
  int n = 1;
  for (size_t i = 0; i < by_row.size() && by_row[i] <= shared[i]; ++i) ++n;
  return n;
}

DriverWidths DriverProbe::find(WeightType type) {
  Trial trial(type, memory_.data());
  constexpr int kNoTiles = kernels::kMostTileTokens;
  DriverWidths widths{.row_tokens = 1, .tile_tokens = kNoTiles};
  std::vector<double> by_row, shared;
  for (int n = 2; n <= kernels::kMostRowTokens; ++n) {
    const auto [row, panel] = trial.compare({kernels::kMostRowTokens, kNoTiles}, {0, kNoTiles}, n);
    by_row.push_back(row);
    shared.push_back(panel);
  }
  widths.row_tokens = choose_row_tokens(by_row, shared);
  if (kernels::kernels().tiles) {
    for (const int n : kTileTrials) {
      const auto [tiles, panel] = trial.compare(
          {widths.row_tokens, kernels::kLeastTileTokens}, {widths.row_tokens, kNoTiles}, n);
      if (tiles > panel) continue;
      widths.tile_tokens = n;
      break;
    }
  }
  if (trial.spent_s() >= kMost_s) widths = {-1, -1};
  kernels::set_driver_widths(type, widths);
  return widths;
}

std::vector<WeightType> matrix_types(const Model& model) {
  std::vector<WeightType> types;
  const auto add = [&](const kernels::MatrixRef& ref) {
    if (ref.present() && std::find(types.begin(), types.end(), ref.type) == types.end())
      types.push_back(ref.type);
  };
  for (const kernels::BlockWeights& w : model.blocks()) {
    for (const auto* ref : {&w.wq,
                            &w.wk,
                            &w.wv,
                            &w.wo,
                            &w.w1,
                            &w.w3,
                            &w.w2,
                            &w.router,
                            &w.w1_exps,
                            &w.w3_exps,
                            &w.w2_exps})
      add(*ref);
  }
  add(model.output_head());
  return types;
}

}  // namespace sluice
