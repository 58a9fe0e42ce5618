#include "kernels/quant_groups.h"

namespace sluice::kernels {

const WeightTypeInfo kWeightTypes[kNWeightTypes] = {
    {"F64", 1, 8, ActFormat::kF32},          {"F32", 1, 4, ActFormat::kF32},
    {"F16", 1, 2, ActFormat::kF32},          {"BF16", 1, 2, ActFormat::kF32},
    {"Q8_0", 32, 34, ActFormat::kQ8x32},     {"Q8_1", 32, 36, ActFormat::kQ8x32},
    {"Q4_0", 32, 18, ActFormat::kQ8x32},     {"Q4_1", 32, 20, ActFormat::kQ8x32},
    {"Q5_0", 32, 22, ActFormat::kQ8x32},     {"Q5_1", 32, 24, ActFormat::kQ8x32},
    {"IQ4_NL", 32, 18, ActFormat::kQ8x32},   {"MXFP4", 32, 17, ActFormat::kQ8x32},
    {"Q2_K", 256, 84, ActFormat::kQ8x256},   {"Q3_K", 256, 110, ActFormat::kQ8x256},
    {"Q4_K", 256, 144, ActFormat::kQ8x256},  {"Q5_K", 256, 176, ActFormat::kQ8x256},
    {"Q6_K", 256, 210, ActFormat::kQ8x256},  {"IQ4_XS", 256, 136, ActFormat::kQ8x256},
};

}  // namespace sluice::kernels
