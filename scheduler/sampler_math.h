// The sampler's exponential: our own, in double, so that a drawn token depends on no libm. Built
// with -ffp-contract=off; multiplications and additions only, so that the compiler may use any
// vector width.
#pragma once

#include <span>

namespace sluice {

// w[i] = exp(-x[i]) within 2 ulp, for x[i] >= 0; exp(-0) is exactly 1. Weights below e^-708 are 0.
// w holds x.size() values and does not overlap x.
void exp_of_negative(std::span<const double> x, double* w);

}  // namespace sluice
