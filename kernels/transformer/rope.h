// RoPE frequencies as HF's ROPE_INIT_FUNCTIONS compute them, and the cos/sin table of a position.
#pragma once

#include <cstdint>

#include "kernels/transformer/hparams.h"

namespace sluice::kernels {

// inv_freq: rope_dim / 2 floats. `factors` (rope_dim / 2) divides each frequency (llama3) or is null.
// call_length: tokens the sequence holds when this call ends; dynamic NTK depends on it, nothing else does.
// Returns the attention scaling that multiplies cos and sin (YaRN; 1 otherwise).
float rope_frequencies(const HParams& hp, const float* factors, int64_t call_length, float* inv_freq) noexcept;

// cos_sin: rope_dim / 2 pairs {cos, sin}. The angle is rounded to f32 as HF does.
void rope_cos_sin(const float* inv_freq, int64_t rope_dim, int64_t position, float scaling, float* cos_sin) noexcept;

}  // namespace sluice::kernels
