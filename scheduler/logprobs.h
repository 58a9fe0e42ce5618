// Log-probabilities of raw logits, in double and in a fixed order.
#pragma once

#include <span>

#include "scheduler/sampler.h"

namespace sluice {

// log(sum(exp(logits))), NaN ignored; -inf when nothing is finite.
double log_sum_exp(std::span<const float> logits);

// How the model scored `id`, with the n_top most likely alternatives (lower id first among equals).
Sampled score_token(std::span<const float> logits, TokenId id, int n_top);

}  // namespace sluice
