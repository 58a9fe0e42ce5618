#include "kernels/transformer/rope.h"

#include <cmath>

#include "kernels/kernels.h"

namespace sluice::kernels {
namespace {

constexpr double kPi = 3.14159265358979323846;

// The dimension whose wavelength makes `rotations` turns over the original context (YaRN, section 3.2).
double yarn_dimension(const HParams& hp, double context, double rotations) {
  return static_cast<double>(hp.rope_dim) * std::log(context / (rotations * 2 * kPi)) /
         (2 * std::log(hp.rope_theta));
}

}  // namespace

float rope_frequencies(const HParams& hp, const float* factors, int64_t call_length, float* inv_freq) noexcept {
  const int64_t half = hp.rope_dim / 2;
  const auto dim = static_cast<double>(hp.rope_dim);
  const double context =
      hp.rope_original_context > 0 ? hp.rope_original_context : static_cast<double>(hp.max_seq_len);
  double theta = hp.rope_theta;
  if (hp.rope_scaling == RopeScaling::kDynamic && hp.rope_dim > 2) {
    const double n = std::fmax(static_cast<double>(call_length), context);
    theta *= std::pow(hp.rope_factor * n / context - (hp.rope_factor - 1), dim / (dim - 2));
  }
  double low = 0;
  double high = 1;
  if (hp.rope_scaling == RopeScaling::kYarn) {
    low = std::fmax(std::floor(yarn_dimension(hp, context, hp.yarn_beta_fast)), 0);
    high = std::fmin(std::ceil(yarn_dimension(hp, context, hp.yarn_beta_slow)), dim - 1);
    if (high - low < 0.001) high = low + 0.001;
  }
  // In f32 steps, as HF takes them: at position 30,000 the last bits of a frequency are seen.
  const auto factor = static_cast<float>(hp.rope_factor);
  for (int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(hp.rope_dim);
    const auto wavelength = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    float f = 1.0f / wavelength;
    if (factors != nullptr) f /= factors[i];
    if (hp.rope_scaling == RopeScaling::kLinear) f /= factor;
    if (hp.rope_scaling == RopeScaling::kYarn) {
      const auto ramp = static_cast<float>(std::fmin(std::fmax((static_cast<double>(i) - low) / (high - low), 0), 1));
      f = 1.0f / (factor * wavelength) * ramp + f * (1.0f - ramp);
    }
    inv_freq[i] = f;
  }
  if (hp.rope_scaling != RopeScaling::kYarn) return 1.0f;
  const double mscale = hp.rope_factor > 1 ? 1 + 0.1 * std::log(hp.rope_factor) : 1;
  return static_cast<float>(mscale * hp.rope_attn_factor);
}

void rope_cos_sin(const float* inv_freq, int64_t rope_dim, int64_t position, float scaling, float* cos_sin) noexcept {
  for (int64_t i = 0; i < rope_dim / 2; ++i) {
    float s = 0;
    float c = 0;
    sin_cos_f32(static_cast<float>(position) * inv_freq[i], &s, &c);
    cos_sin[2 * i] = c * scaling;
    cos_sin[2 * i + 1] = s * scaling;
  }
}

}  // namespace sluice::kernels
