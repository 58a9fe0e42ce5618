// Short measurements for predictions: how fast this disk gives a model's slices, how fast these
// processors compute with its weight types. Both run for a fraction of a second, in memory charged
// to the ledger, and disturb what runs meanwhile.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "scheduler/model_loader.h"
#include "scheduler/predict.h"
#include "scheduler/schedule.h"
#include "storage/budget.h"
#include "storage/file.h"
#include "storage/io_queue.h"

namespace sluice {

struct ProbeLimits {
  double seconds = 0.5;
  uint64_t bytes = 1u << 30;
  size_t first = 0;  // slice of the schedule to begin with
};

struct DiskProbe {
  Estimate bytes_per_s;
  uint64_t bytes = 0;
  double seconds = 0;
  IoMode mode = IoMode::kDirect;
};

// Reads a pass's slices in their order, as many at a time as the slice store does, checksums
// included. Errors: io.*, budget_exceeded.
Result<DiskProbe> probe_disk(std::span<const File* const> files,
                             const SliceIndex& index,
                             const Schedule& schedule,
                             const IoOptions& io,
                             Budget& budget,
                             const ProbeLimits& limits);

// How this file is best read: tries a few depths and then, at the best, smaller requests, each for
// at most 35 ms and 8 MiB, as far as the ledger has memory free now. Errors: io.*.
Result<ReadShape> probe_read_shape(std::span<const File* const> files,
                                   const SliceIndex& index,
                                   const Schedule& schedule,
                                   const IoOptions& io,
                                   Budget& budget);
// What to take of what was tried: the usual one unless another is clearly faster.
struct ShapeRate {
  ReadShape shape;
  double bytes_per_s = 0;
};
ReadShape choose_shape(const ReadShape& usual, std::span<const ShapeRate> rates);

struct ComputeProbe {
  Estimate decode_s;              // one token, all weights in memory
  Estimate prompt_token_s;        // one token of many in a walk
  double memory_bytes_per_s = 0;  // reading, all threads
};

// Walks the model's own blocks over made-up weights, as many as `seconds` allow, and extrapolates
// by bytes. Errors: budget_exceeded, out_of_memory.
Result<ComputeProbe> probe_compute(const kernels::HParams& hparams,
                                   const ModelLayout& layout,
                                   int n_threads,
                                   Budget& budget,
                                   double seconds);

}  // namespace sluice
