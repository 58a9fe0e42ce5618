// Where slices' bytes lie and how they go: in memory of ours (a pin region whose tail is given
// back, a ring of slots), or in the pages of the mapped file, where a slot is the right to have one
// slice of them resident. Knows bytes, not states: who is where and who may be looked at is the
// slice store's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "storage/budget.h"
#include "storage/io_queue.h"
#include "storage/slice_index.h"

namespace sluice {

// What is read for a slice: its bytes and the rest of the pages that they share with others.
struct SliceRange {
  uint64_t offset = 0;  // in its part; multiples of kSliceAlignment
  uint64_t n_bytes = 0;
};
inline constexpr uint64_t kSliceAlignment =
    4096;  // of memory and file ranges; IoQueue asks for no more
SliceRange read_range_of(const Slice& s);

class SliceMemory {
 public:
  // Memory of ours unless `io` maps the file: `pin_bytes` from 2 MiB on that may be touched later,
  // and n_slots of slot_bytes. `index` and `io` outlive it. Errors: out_of_memory.
  struct Sizes {
    uint64_t pin_bytes = 0;
    uint64_t n_slots = 0;
    uint64_t slot_bytes = 0;
  };
  static Result<std::unique_ptr<SliceMemory>> create(const SliceIndex& index,
                                                     IoQueue& io,
                                                     const Sizes& sizes);
  virtual ~SliceMemory() = default;

  // Of the byte at the slice's SliceRange::offset.
  virtual const std::byte* pinned(SliceId id, uint64_t pin_offset) const = 0;
  virtual const std::byte* in_slot(SliceId id, uint32_t slot) const = 0;
  // Where a read into `place`, one of the above, goes: null if the queue has to populate pages.
  virtual std::byte* destination(const std::byte* place) const = 0;
  virtual MemoryClass pin_class() const = 0;

  // What goes out of memory before a slice is gone; empty where its place is simply used again.
  // `needed` tells of slices whose bytes share a page with this one whether they have to stay.
  virtual SliceRange pages_to_drop(SliceId id,
                                   const std::function<bool(SliceId)>& needed) const = 0;
  // Gives back the pin memory behind so many bytes.
  virtual void give_back_pins_from(uint64_t n_bytes) = 0;
};

}  // namespace sluice
