#include "storage/slice_memory.h"

#include <algorithm>
#include <utility>

#include "storage/anonymous_memory.h"

namespace sluice {
namespace {

class OwnMemory final : public SliceMemory {
 public:
  OwnMemory(AnonymousMemory pins, AnonymousMemory ring, uint64_t slot_bytes)
      : pins_(std::move(pins)), ring_(std::move(ring)), slot_bytes_(slot_bytes) {}

  const std::byte* pinned(SliceId, uint64_t pin_offset) const override {
    return pins_.data() + pin_offset;
  }
  const std::byte* in_slot(SliceId, uint32_t slot) const override {
    return ring_.data() + slot * slot_bytes_;
  }
  std::byte* destination(const std::byte* place) const override {
    return const_cast<std::byte*>(place);
  }
  MemoryClass pin_class() const override { return MemoryClass::kWeightsPinned; }
  SliceRange pages_to_drop(SliceId, const std::function<bool(SliceId)>&) const override {
    return {};
  }
  void give_back_pins_from(uint64_t n_bytes) override { pins_.give_back_from(n_bytes); }

 private:
  AnonymousMemory pins_;  // reserved for all, touched up to the cut
  AnonymousMemory ring_;
  const uint64_t slot_bytes_;
};

class MappedPages final : public SliceMemory {
 public:
  MappedPages(const SliceIndex& index, const IoQueue& io) : index_(index), io_(io) {
    const size_t n = index_.slices().size();
    before_.assign(n, kNoSlice);
    after_.assign(n, kNoSlice);
    std::vector<SliceId> order(n);
    for (SliceId id = 0; id < n; ++id) order[id] = id;
    std::sort(order.begin(), order.end(), [&](SliceId a, SliceId b) {
      return std::pair(index_[a].part, index_[a].file_offset) <
             std::pair(index_[b].part, index_[b].file_offset);
    });
    for (size_t i = 1; i < n; ++i) {
      const SliceId a = order[i - 1];
      const SliceId b = order[i];
      const SliceRange of_a = read_range_of(index_[a]);
      const bool share = read_range_of(index_[b]).offset < of_a.offset + of_a.n_bytes;
      if (index_[a].part != index_[b].part || !share) continue;
      after_[a] = b;
      before_[b] = a;
    }
  }

  const std::byte* pinned(SliceId id, uint64_t) const override { return at(id); }
  const std::byte* in_slot(SliceId id, uint32_t) const override { return at(id); }
  std::byte* destination(const std::byte*) const override { return nullptr; }
  MemoryClass pin_class() const override { return MemoryClass::kWeightsMapped; }
  SliceRange pages_to_drop(SliceId id, const std::function<bool(SliceId)>& needed) const override {
    const auto stays = [&](SliceId n) { return n != kNoSlice && needed(n); };
    const SliceRange range = read_range_of(index_[id]);
    const uint64_t begin = range.offset + (stays(before_[id]) ? kSliceAlignment : 0);
    const uint64_t end = range.offset + range.n_bytes - (stays(after_[id]) ? kSliceAlignment : 0);
    return {begin, std::max(begin, end) - begin};
  }
  void give_back_pins_from(uint64_t) override {}  // page by page, as slices are dropped

 private:
  static constexpr SliceId kNoSlice = UINT32_MAX;
  const std::byte* at(SliceId id) const {
    return io_.mapping(index_[id].part) + read_range_of(index_[id]).offset;
  }

  const SliceIndex& index_;
  const IoQueue& io_;
  // By slice: whose bytes share the first page of its range, the last page of it.
  std::vector<SliceId> before_, after_;
};

}  // namespace

SliceRange read_range_of(const Slice& s) {
  const uint64_t begin = s.file_offset / kSliceAlignment * kSliceAlignment;
  const uint64_t end =
      (s.file_offset + s.n_bytes + kSliceAlignment - 1) / kSliceAlignment * kSliceAlignment;
  return {begin, end - begin};
}

Result<std::unique_ptr<SliceMemory>> SliceMemory::create(const SliceIndex& index,
                                                         IoQueue& io,
                                                         const Sizes& sizes) {
  if (io.mode() == IoMode::kMmap) return std::make_unique<MappedPages>(index, io);
  SLUICE_TRY(AnonymousMemory ring,
             AnonymousMemory::create(sizes.n_slots * sizes.slot_bytes, "the ring", /*huge=*/true));
  SLUICE_TRY(AnonymousMemory pins,
             AnonymousMemory::create(sizes.pin_bytes, "pinned weights", /*huge=*/true));
  return std::make_unique<OwnMemory>(std::move(pins), std::move(ring), sizes.slot_bytes);
}

}  // namespace sluice
