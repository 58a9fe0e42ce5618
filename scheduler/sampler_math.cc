#include "scheduler/sampler_math.h"

#include <bit>
#include <cstddef>
#include <cstdint>

namespace sluice {
namespace {

constexpr double kSmallest = 708.0;  // exp(-708) is still a normal number
constexpr double kRoundMagic =
    6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, ties to even
constexpr double kLog2E = 1.44269504088896338700;
constexpr double kLn2High =
    6.93147180369123816490e-01;  // the low 32 bits are 0: n * kLn2High is exact
constexpr double kLn2Low = 1.90821492927058770002e-10;

// exp(r) for |r| <= ln2 / 2 by its Taylor series; the first term left out is below 5e-18.
inline double exp_reduced(double r) {
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  return p * r + 1.0;
}

}  // namespace

void exp_of_negative(std::span<const double> x, double* __restrict w) {
  const double* __restrict in = x.data();
  const size_t n = x.size();
  for (size_t i = 0; i < n; ++i) {
    const double y = -(in[i] < kSmallest ? in[i] : kSmallest);
    const double t = y * kLog2E + kRoundMagic;
    const double k = t - kRoundMagic;
    const double r = (y - k * kLn2High) - k * kLn2Low;
    const uint64_t biased =
        std::bit_cast<uint64_t>(t) - std::bit_cast<uint64_t>(kRoundMagic) + 1023;
    const double power = std::bit_cast<double>(biased << 52);
    w[i] = in[i] <= kSmallest ? exp_reduced(r) * power : 0.0;
  }
}

}  // namespace sluice
