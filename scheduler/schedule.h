// The slices that a whole pass reads, in the order in which the maths asks for them. Pure; fixed at load.
#pragma once

#include <vector>

#include "scheduler/model_loader.h"
#include "storage/expert_cache.h"

namespace sluice {

struct Schedule {
  std::vector<SliceId> slices;        // dense tensors of every block, then the head; experts are demand entries
  size_t n_without_outputs = 0;       // where a pass ends that wants no logits: after the last block's keys and values
  std::vector<ExpertSlices>
      experts;  // block by block; of each gate, up, down: as the maths asks for them
  uint64_t bytes = 0;                 // of `slices`
};

Schedule make_schedule(const Model& model);
Schedule make_schedule(const ModelLayout& layout, const kernels::HParams& hparams);

}  // namespace sluice
