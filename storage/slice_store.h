// Where each slice is now, and the memory it is in: a pin region in pin order (its tail is given back when the cut moves
// down) and a ring of slots that the rest streams through; in mmap mode both are pages of the mapped file, and a slot is the
// right to have one slice of them resident. Reads run on the I/O queue's threads; the store starts them in
// the order of the schedule, ahead of the consumer, as far as slots allow. One consumer; set_cut from any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "storage/anonymous_memory.h"
#include "storage/budget.h"
#include "storage/io_queue.h"
#include "storage/read_times.h"
#include "storage/slice_index.h"

namespace sluice {

struct SliceStoreOptions {
  IoOptions io;
  uint64_t ring_bytes = 16u << 20;     // at least two slots are made
  std::vector<uint32_t> block_of;      // by slice id: which group's counters it moves; empty: all one
};

// Of one group of slices, for people and tools. Counted where the store's lock is held anyway.
struct SliceBlockStats {
  uint64_t bytes = 0;                  // of all its slices that passes read
  uint64_t resident_bytes = 0;         // readable now, pins and ring
  uint64_t pin_bytes = 0;              // of slices below the cut: they stay, or will
  uint64_t loading_bytes = 0;
  uint64_t hit_bytes = 0;              // held from pins
  uint64_t miss_bytes = 0;             // held from the ring
  uint64_t read_bytes = 0;             // from disk
  uint64_t evicted_bytes = 0;          // pins given back
  double stall_s = 0;                  // the consumer waited for it
  uint32_t refs = 0;                   // slices the consumer holds now
  std::chrono::steady_clock::time_point last_use{};     // a slice of it was held; never: the epoch
  ReadTimes reads;                     // of its slices, from being asked for to being there
};

struct SliceStoreStats {
  IoStats io;
  double stall_s = 0;                  // the consumer waited for a slice
  uint64_t pinned_bytes = 0;           // resident now, of slices below the cut
  uint64_t streamed_bytes = 0;         // read into slots so far
  uint64_t cut = 0;                    // slices of the pin order that may stay
  uint64_t n_slices = 0;
};

class SliceStore {
 public:
  // `schedule`: the slices that one whole pass reads, in order. `pin_order`: every slice that is ever read, once.
  // Errors: io.open, budget_exceeded, out_of_memory.
  static Result<std::unique_ptr<SliceStore>> create(std::span<const File* const> files,
                                                    const SliceIndex& index,
                                                    std::vector<SliceId> schedule,
                                                    std::vector<SliceId> pin_order,
                                                    const SliceStoreOptions& options,
                                                    Budget& budget);
  ~SliceStore();

  // ---- the consumer (one thread)
  struct Held {
    const std::byte* data = nullptr;
    uint32_t index = 0;                // in `wanted`
    SliceId id = 0;
  };
  // A pass begins that reads the first `n_scheduled` slices of the schedule and then begins anew. While it waits for the
  // disk `cancelled` is asked every 50 ms.
  void begin_pass(size_t n_scheduled, std::function<bool()> cancelled = nullptr);
  // Waits until at least one of `wanted` that is not yet `done` is readable, and holds all that are (marks them done).
  // Errors: cancelled; io.read with its offset; io.changed when a slice is not what it was when it was first read.
  Result<void> hold_ready(std::span<const SliceId> wanted, std::vector<bool>& done, std::vector<Held>& out);
  void release(std::span<const Held> held);
  // The consumer has gone past the next n slices of the schedule.
  void advance(size_t n);
  // Copies n_bytes at `offset` within each slice, for rows of the embedding; row i goes to dst + i * dst_stride.
  struct RowRead {
    SliceId id;
    uint64_t offset;
  };
  Result<void> read_rows(std::span<const RowRead> rows, uint64_t n_bytes, std::byte* dst, uint64_t dst_stride);

  // ---- the budget's side (any thread)
  // Bytes of pin memory that the first n slices of the pin order take, and the largest n that fits in `bytes`.
  uint64_t pin_bytes(size_t n) const;
  size_t cut_for(uint64_t bytes) const;
  // Moves the cut. A shrink returns when the memory was given back to the kernel (the consumer lets go at its next slice
  // border); a growth when it is charged: pins then fill as passes read them. Errors: budget_exceeded.
  Result<void> set_cut(size_t n);

  // The same, before a store exists: the size of a slot, the memory for row reads, the pin memory of all slices of an
  // order, and where the pin memory of each begins (and the end).
  static uint64_t slot_bytes_of(const SliceIndex& index);
  static uint64_t row_read_bytes_of(const SliceIndex& index);
  static uint64_t pin_bytes_of(const SliceIndex& index, std::span<const SliceId> order);
  static std::vector<uint64_t> pin_offsets_of(const SliceIndex& index, std::span<const SliceId> order);
  static uint64_t pin_bytes(std::span<const uint64_t> pin_offsets, size_t n);
  static size_t cut_for(std::span<const uint64_t> pin_offsets, uint64_t bytes);
  uint64_t slot_bytes() const { return slot_bytes_; }
  uint64_t ring_bytes() const { return slot_bytes_ * slots_.size(); }
  IoMode io_mode() const { return io_->mode(); }
  // mmap mode: the file became shorter and zeros were computed with.
  bool cut_off() const { return io_->cut_off(); }
  SliceStoreStats stats() const;
  // By the numbers of SliceStoreOptions::block_of. Walks all slices: some microseconds per thousand.
  std::vector<SliceBlockStats> block_stats() const;

 private:
  enum class State : uint8_t { kAbsent, kLoading, kReady, kDropping };      // the last in mmap mode only
  static constexpr int32_t kPinned = -1;
  static constexpr uint32_t kNotScheduled = UINT32_MAX;
  static constexpr SliceId kNoSlice = UINT32_MAX;

  struct Entry {
    State state = State::kAbsent;
    int32_t slot = kPinned;            // where it is or goes
    uint32_t refs = 0;
    bool awaited = false;              // the consumer waits for it: its slot is not taken away before it was held
    uint32_t rank = 0;                 // in the pin order
    uint32_t place = kNotScheduled;    // in the schedule
    uint64_t used_in_pass = 0;         // the latest pass that has let go of it: this pass wants it no more
    uint64_t read_offset = 0;          // aligned range in the file
    uint64_t read_bytes = 0;
    SliceId before = kNoSlice;         // whose bytes share the first page of the range, the last page of it
    SliceId after = kNoSlice;
    uint32_t block = 0;
    std::chrono::steady_clock::time_point asked{};      // of the latest read
    uint64_t hash = 0;                 // XXH3 of the slice, from its first read on
    bool hash_known = false;
  };
  struct Slot {
    bool used = false;
    SliceId id = 0;
  };

  SliceStore(const SliceIndex& index, std::vector<SliceId> schedule, std::vector<SliceId> pin_order);
  Result<void> make_memory(const SliceStoreOptions& options, Budget& budget);
  static void on_read(void* ctx, uint64_t tag, const Error* error);
  void finish(uint64_t tag, const Error* error);
  Result<void> check_hash(SliceId id);
  // True unless cancelled. `lock` holds mutex_.
  template <class Ready>
  bool wait_until(std::unique_lock<std::mutex>& lock, Ready&& ready);
  // All below: mutex_ held.
  void pump();
  bool start(SliceId id, bool demand, uint64_t distance);
  std::optional<int32_t> find_slot(uint64_t distance);
  uint64_t distance_of(SliceId id) const;
  bool wanted_now(const Entry& e) const;
  bool holdable(const Entry& e) const { return e.state == State::kReady && (e.slot != kPinned || e.rank < cut_); }
  const std::byte* place_of(SliceId id) const;      // of its read_offset
  void drop(SliceId id);
  void find_neighbours();
  // Pages of the slice that no resident neighbour needs: [first, second) in the file.
  std::pair<uint64_t, uint64_t> own_pages(SliceId id) const;

  const SliceIndex& index_;
  const std::vector<SliceId> schedule_;
  const std::vector<SliceId> pin_order_;
  std::vector<uint64_t> pin_offset_;   // pin_order_.size() + 1 entries
  uint64_t slot_bytes_ = 0;
  uint64_t row_span_bytes_ = 0;        // of a row read, with what lies around it
  Reservation pin_reservation_, ring_reservation_;
  AnonymousMemory pins_;               // reserved for all, touched up to the cut
  AnonymousMemory ring_;
  AnonymousMemory bounce_;             // row reads
  std::unique_ptr<IoQueue> io_;
  bool mapped_ = false;                // mmap mode
  std::vector<const std::byte*> mappings_;      // by part

  mutable std::mutex mutex_;           // guards all that follows
  std::condition_variable changed_;
  std::vector<Entry> entries_;         // by slice id
  std::vector<Slot> slots_;
  size_t cut_ = 0;
  size_t position_ = 0;                // of the consumer, in the schedule
  size_t pass_end_ = 0;
  uint64_t pass_ = 0;                  // counts begin_pass
  size_t in_flight_ = 0;
  size_t max_in_flight_ = 0;
  size_t rows_left_ = 0;
  size_t dropping_ = 0;                // slots whose pages are on their way out
  bool starved_ = false;               // the consumer waits and found no slot: nothing is read ahead meanwhile
  std::optional<Error> failure_;       // of the latest read that failed, for the consumer
  std::function<bool()> cancelled_;    // the consumer's
  double stall_s_ = 0;
  std::vector<SliceBlockStats> blocks_;     // the counters only: what is where is asked of entries_
  uint64_t streamed_bytes_ = 0;
  uint64_t pinned_bytes_ = 0;
  bool closing_ = false;
  std::mutex cut_mutex_;               // one change of the cut at a time
};

}  // namespace sluice
