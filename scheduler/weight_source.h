// Where a walk's weights come from: MatrixSource for the maths, plus what the walk must tell it.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "kernels/transformer/matrix_source.h"
#include "scheduler/engine.h"

namespace sluice {

class WeightSource : public kernels::MatrixSource {
 public:
  // A walk begins. wants_outputs: it goes to the end; otherwise it stops after the last block's keys and values.
  virtual void begin_walk(const CancelToken& cancel, bool wants_outputs) = 0;
  // Why visit() or row() said no. Errors: cancelled, io.read (file offset).
  virtual Error failure() const = 0;
};

}  // namespace sluice
