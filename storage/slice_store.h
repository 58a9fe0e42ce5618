// Where each slice is now: pinned, in pin order, up to a cut that moves; or in a ring of slots that
// the rest streams through. Behind the pin order the cut goes on over cells that experts take in
// turn. What that means in memory is slice_memory's. Reads run on the I/O queue's threads; the
// store starts them in the order of the schedule, ahead of the consumer, as far as slots allow, and
// before that what the router has asked for. One consumer; set_cut from any thread.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "storage/anonymous_memory.h"
#include "storage/budget.h"
#include "storage/expert_cache.h"
#include "storage/io_queue.h"
#include "storage/read_times.h"
#include "storage/slice_index.h"
#include "storage/slice_memory.h"

namespace sluice {

struct SliceStoreOptions {
  IoOptions io;
  uint64_t ring_bytes = 16u << 20;     // at least two slots are made
  std::vector<uint32_t> block_of;      // by slice id: which group's counters it moves; empty: all one
  std::vector<ExpertSlices> experts;   // no slice of them stands in the schedule or the pin order
};

// Why a slice was read: the consumer waited for it or its router had asked, it is to come soon, or
// it is to stay.
enum class LoadReason : uint8_t { kDemand, kPrefetch, kPin, kCount };
const char* load_reason_name(LoadReason r);

// Whole slices that came in for one reason, and the time from being asked for to being there.
struct SliceLoads {
  uint64_t n = 0, bytes = 0;
  double ms = 0;
};

// Of one group of slices, for people and tools. Counted where the store's lock is held anyway.
struct SliceBlockStats {
  uint64_t bytes = 0;                  // of all its slices that passes read
  uint64_t resident_bytes = 0;         // readable now, pins and ring
  // Of slices below the cut: they stay, or will. Of as many experts as there are cells.
  uint64_t pin_bytes = 0;
  uint64_t loading_bytes = 0;
  uint64_t hit_bytes = 0;   // held from pins, and from cells that held them before this pass
  uint64_t miss_bytes = 0;  // held from the ring, and of experts what this pass had to read
  uint64_t read_bytes = 0;             // from disk, single rows too
  std::array<SliceLoads, static_cast<size_t>(LoadReason::kCount)> loads;
  uint64_t evicted_bytes = 0;          // pins given back, experts that made room for others
  double stall_s = 0;                  // the consumer waited for it
  uint32_t refs = 0;                   // slices the consumer holds now
  std::chrono::steady_clock::time_point last_use{};     // a slice of it was held; never: the epoch
  ReadTimes reads;                     // of its slices, from being asked for to being there
};

struct SliceStoreStats {
  IoStats io;
  double stall_s = 0;                  // the consumer waited for a slice
  uint64_t pinned_bytes = 0;           // resident now, of slices below the cut and in cells
  uint64_t streamed_bytes = 0;         // read into slots and cells so far
  uint64_t cut = 0;                    // slices of the pin order that may stay, then cells
  uint64_t n_slices = 0;               // of the pin order, and one for each expert
};

class SliceStore {
 public:
  // `schedule`: the slices that one whole pass reads, in order. `pin_order`: the same slices, each
  // once. Errors: io.open, budget_exceeded, out_of_memory.
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
  // The router has chosen: slices of experts that this pass will ask for, in this order. Those that
  // are not here are read at once, before anything else; none that is here goes before it was used.
  // What is already announced is left out, so that no more wait than experts have slices.
  void announce(std::span<const SliceId> slices);
  // Copies n_bytes at `offset` within each slice, for rows of the embedding; row i goes to dst + i * dst_stride.
  struct RowRead {
    SliceId id;
    uint64_t offset;
  };
  Result<void> read_rows(std::span<const RowRead> rows, uint64_t n_bytes, std::byte* dst, uint64_t dst_stride);

  // ---- the budget's side (any thread)
  // Bytes of pin memory that the first n slices of the pin order (and then cells) take, and the
  // largest n that fits in `bytes`.
  uint64_t pin_bytes(size_t n) const;
  size_t cut_for(uint64_t bytes) const;
  // Moves the cut. A shrink returns when the memory was given back to the kernel (the consumer lets go at its next slice
  // border); a growth when it is charged: pins then fill as passes read them. Errors: budget_exceeded.
  Result<void> set_cut(size_t n);

  // No pass runs: pins that are not here are read now, in pin order, then experts into free cells,
  // as fast as the disk is. While a pass runs, this store's or another's, it goes on beside it, after
  // what the pass wants (ReadRequest::last) and with half of the disk at most (FillShare), also when
  // the cut has grown again. A slice that cannot be read is left out; whoever needs it is told then.
  void fill_ahead();

  // The same, before a store exists: the size of a slot, the memory for row reads, and where the
  // pin memory of each slice of an order and then of each cell begins (and the end).
  static uint64_t slot_bytes_of(const SliceIndex& index);
  static uint64_t row_read_bytes_of(const SliceIndex& index);
  static std::vector<uint64_t> pin_offsets_of(const SliceIndex& index,
                                              std::span<const SliceId> order,
                                              std::span<const ExpertSlices> experts);
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
  enum class State : uint8_t { kAbsent, kLoading, kReady, kDropping };      // the last: its pages are on their way out
  static constexpr int32_t kPinned = -1;
  static constexpr uint32_t kNotScheduled = UINT32_MAX;
  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr uint32_t kNoExpert = ExpertCache::kNone;

  struct Entry {
    State state = State::kAbsent;
    int32_t slot = kPinned;            // where it is or goes
    uint32_t refs = 0;
    bool awaited = false;              // the consumer waits for it: its slot is not taken away before it was held
    uint32_t rank = kNoRank;  // in the pin order; of an expert behind it, by the cell that it has
    uint32_t place = kNotScheduled;    // in the schedule
    uint64_t used_in_pass = 0;         // the latest pass that has let go of it: this pass wants it no more
    uint64_t announced_in_pass = 0;
    uint64_t started_in_pass = 0;  // the latest pass in which its reading began
    uint32_t turn = 0;             // among what that pass announced
    uint32_t expert = kNoExpert;
    bool filling = false;              // its read is one of fill_ahead()
    LoadReason reason = LoadReason::kPrefetch;  // of the latest read
    uint64_t in_cell = 0;              // where it lies in its expert's cell
    SliceRange read;                   // in the file
    uint32_t block = 0;
    std::chrono::steady_clock::time_point asked{};      // of the latest read
    uint64_t hash = 0;                 // XXH3 of the slice, from its first read on
    bool hash_known = false;
  };
  struct Slot {
    bool used = false;
    SliceId id = 0;
  };

  SliceStore(const SliceIndex& index,
             std::vector<SliceId> schedule,
             std::vector<SliceId> pin_order,
             const SliceStoreOptions& options);
  Result<void> make_memory(const SliceStoreOptions& options, Budget& budget);
  static void on_read(void* ctx, uint64_t tag, const Error* error);
  void finish(uint64_t tag, const Error* error);
  Result<void> check_hash(SliceId id);
  // True unless cancelled. `lock` holds mutex_.
  template <class Ready>
  bool wait_until(std::unique_lock<std::mutex>& lock, Ready&& ready);
  // All below: mutex_ held.
  void pump();
  bool pump_announced();
  void start_wanted(std::span<const SliceId> wanted, const std::vector<bool>& done);
  void pump_schedule();
  void forget_announced();
  bool may_fill() const;
  void pump_fill();
  enum class Urgency : uint8_t { kDemand, kAhead, kFill };
  void set_state(Entry& e, State state);
  bool start(SliceId id, Urgency urgency, uint64_t distance);
  std::optional<int32_t> find_slot(uint64_t distance);
  uint64_t distance_of(SliceId id) const;
  bool wanted_now(const Entry& e) const;
  bool announced(const Entry& e) const {
    return e.announced_in_pass == pass_ && e.used_in_pass != pass_;
  }
  size_t free_slots() const;
  void give_cell(uint32_t expert, bool only_free = false);
  bool may_go(uint32_t expert) const;
  void evict(uint32_t expert);
  void clear_ranks(uint32_t expert);
  // Waits until the slice behind the cut is neither held nor on its way, and takes it out of
  // memory.
  void leave_pin(std::unique_lock<std::mutex>& lock, SliceId id);
  bool holdable(const Entry& e) const { return e.state == State::kReady && (e.slot != kPinned || e.rank < cut_); }
  const std::byte* place_of(SliceId id) const;      // of its range to read
  const std::byte* data_of(SliceId id) const;       // of its own first byte
  void drop(SliceId id);
  SliceRange pages_to_drop(SliceId id) const;

  const SliceIndex& index_;
  const std::vector<SliceId> schedule_;
  const std::vector<SliceId> pin_order_;
  std::vector<uint64_t> pin_offset_;  // by rank, and the end
  uint64_t slot_bytes_ = 0;
  uint64_t row_span_bytes_ = 0;        // of a row read, with what lies around it
  Reservation pin_reservation_, ring_reservation_;
  AnonymousMemory bounce_;             // row reads
  FillShare own_share_;
  FillShare& share_;
  std::unique_ptr<IoQueue> io_;
  std::unique_ptr<SliceMemory> memory_;

  mutable std::mutex mutex_;           // guards all that follows
  std::condition_variable changed_;
  std::vector<Entry> entries_;         // by slice id
  std::vector<Slot> slots_;
  ExpertCache experts_;
  // By cell: slices of an earlier holder whose pages are on their way out.
  std::vector<uint32_t> leaving_;
  std::vector<SliceId> announced_;  // of this pass, from next_announced_ on not started yet
  size_t next_announced_ = 0;
  uint32_t turns_ = 0;
  size_t cut_ = 0;
  size_t absent_ = 0;                  // of the schedule, slices neither here nor on their way
  size_t position_ = 0;                // of the consumer, in the schedule
  size_t pass_end_ = 0;
  uint64_t pass_ = 0;                  // counts begin_pass
  bool passing_ = false;               // share_ was told of a pass
  size_t in_flight_ = 0;
  size_t max_in_flight() const {
    return static_cast<size_t>(io_->depth()) + 2;
  }                       // two wait, so that no thread does
  size_t kept_free_ = 0;  // slots that reading ahead leaves to experts
  bool fills_ = false;
  size_t filling_ = 0;                      // reads in flight of fill_ahead()
  size_t fill_rank_ = 0, fill_expert_ = 0;  // where it goes on
  size_t rows_left_ = 0;
  size_t dropping_ = 0;                // slots whose pages are on their way out
  bool starved_ = false;               // the consumer waits and found no slot: nothing is read ahead meanwhile
  std::optional<Error> failure_;       // of the latest read that failed, for the consumer
  std::function<bool()> cancelled_;    // the consumer's
  double stall_s_ = 0;
  std::vector<SliceBlockStats> blocks_;     // the counters only: what is where is asked of entries_
  uint64_t streamed_bytes_ = 0;
  uint64_t pinned_bytes_ = 0;
  std::mutex cut_mutex_;               // one change of the cut at a time
};

}  // namespace sluice
