#include "storage/slice_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include <xxhash.h>

#include "base/check.h"

namespace sluice {
namespace {

constexpr uint64_t kAlignment = kSliceAlignment;
constexpr uint64_t kRowTag = 1ull << 63;
constexpr uint64_t kDropTag = 1ull << 62;
constexpr size_t kRowsInFlight = 16;
constexpr auto kAskEvery = std::chrono::milliseconds(50);

uint64_t align_down(uint64_t x) { return x / kAlignment * kAlignment; }
uint64_t align_up(uint64_t x) { return align_down(x + kAlignment - 1); }

// What a read of any one row takes, wherever in a page the row begins.
uint64_t row_span_of(const SliceIndex& index) {
  uint64_t row_bytes = 0;
  for (const Slice& s : index.slices()) row_bytes = std::max(row_bytes, s.n_bytes / std::max<uint64_t>(s.n_rows, 1));
  return align_up(row_bytes) + kAlignment;
}

}  // namespace

const char* load_reason_name(LoadReason r) {
  static const char* const kNames[] = {"demand", "prefetch", "pin"};
  return kNames[static_cast<size_t>(r)];
}

uint64_t SliceStore::slot_bytes_of(const SliceIndex& index) {
  uint64_t most = 0;
  for (const Slice& s : index.slices()) most = std::max(most, read_range_of(s).n_bytes);
  return most;
}

std::vector<uint64_t> SliceStore::pin_offsets_of(const SliceIndex& index,
                                                 std::span<const SliceId> order,
                                                 std::span<const ExpertSlices> experts) {
  std::vector<uint64_t> offsets{0};
  offsets.reserve(order.size() + experts.size() + 1);
  for (const SliceId id : order)
    offsets.push_back(offsets.back() + read_range_of(index[id]).n_bytes);
  for (const ExpertCache::Cell& c : ExpertCache::cells_of(index, experts)) {
    offsets.push_back(offsets.back() + c.n_bytes);
  }
  return offsets;
}

uint64_t SliceStore::row_read_bytes_of(const SliceIndex& index) { return kRowsInFlight * row_span_of(index); }

SliceStore::SliceStore(const SliceIndex& index,
                       std::vector<SliceId> schedule,
                       std::vector<SliceId> pin_order,
                       const SliceStoreOptions& options)
    : index_(index),
      schedule_(std::move(schedule)),
      pin_order_(std::move(pin_order)),
      share_(options.io.share != nullptr ? *options.io.share : own_share_),
      experts_(index, options.experts) {
  entries_.resize(index_.slices().size());
  slot_bytes_ = slot_bytes_of(index_);
  for (SliceId id = 0; id < entries_.size(); ++id) entries_[id].read = read_range_of(index_[id]);
  for (uint32_t i = 0; i < schedule_.size(); ++i) entries_[schedule_[i]].place = i;
  for (const Entry& e : entries_) absent_ += e.place != kNotScheduled ? 1 : 0;
  for (uint32_t i = 0; i < pin_order_.size(); ++i) entries_[pin_order_[i]].rank = i;
  for (uint32_t x = 0; x < experts_.experts().size(); ++x) {
    uint64_t at = 0;
    for (const SliceId id : experts_.experts()[x].slices) {
      Entry& e = entries_[id];
      SLUICE_CHECK(e.place == kNotScheduled && e.rank == kNoRank);
      e.expert = x;
      e.in_cell = at;
      at += e.read.n_bytes;
    }
  }
  leaving_.assign(experts_.n_cells(), 0);
  pin_offset_ = pin_offsets_of(index_, pin_order_, experts_.experts());
}

Result<std::unique_ptr<SliceStore>> SliceStore::create(std::span<const File* const> files,
                                                       const SliceIndex& index,
                                                       std::vector<SliceId> schedule,
                                                       std::vector<SliceId> pin_order,
                                                       const SliceStoreOptions& options,
                                                       Budget& budget) {
  std::unique_ptr<SliceStore> store(
      new SliceStore(index, std::move(schedule), std::move(pin_order), options));
  IoOptions io = options.io;
  io.share = &store->share_;
  SLUICE_TRY(store->io_, IoQueue::create(files, io, &SliceStore::on_read, store.get()));
  SLUICE_CHECK(store->io_->alignment() <= kAlignment);
  uint32_t last_block = 0;
  for (SliceId id = 0; id < std::min(options.block_of.size(), store->entries_.size()); ++id) {
    store->entries_[id].block = options.block_of[id];
    last_block = std::max(last_block, options.block_of[id]);
  }
  store->blocks_.resize(last_block + 1);
  SLUICE_TRY(store->make_memory(options, budget));
  if (!options.experts.empty()) {
    const size_t most = options.io.n_threads == 0 ? ReadShape::kMostDepth : store->max_in_flight();
    store->kept_free_ = std::min(store->slots_.size() / 2, most);
  }
  return store;
}

Result<void> SliceStore::make_memory(const SliceStoreOptions& options, Budget& budget) {
  const uint64_t n_slots = std::max<uint64_t>(2, options.ring_bytes / std::max<uint64_t>(slot_bytes_, 1));
  const uint64_t ring_bytes = n_slots * slot_bytes_;
  row_span_bytes_ = row_span_of(index_);
  const uint64_t bounce_bytes = kRowsInFlight * row_span_bytes_;
  SLUICE_TRY(ring_reservation_, budget.reserve(ring_bytes + bounce_bytes, MemoryClass::kRing));
  slots_.resize(n_slots);
  SLUICE_TRY(bounce_, AnonymousMemory::create(bounce_bytes, "row reads"));
  SLUICE_TRY(memory_, SliceMemory::create(index_, *io_, {.pin_bytes = pin_offset_.back(), .n_slots = n_slots, .slot_bytes = slot_bytes_}));
  SLUICE_TRY(pin_reservation_, budget.reserve(0, memory_->pin_class()));
  return success();
}

SliceStore::~SliceStore() {
  if (io_) io_->stop();      // its callbacks look at everything here
  if (passing_) share_.pass_ends();
}

const std::byte* SliceStore::place_of(SliceId id) const {
  const Entry& e = entries_[id];
  return e.slot == kPinned ? memory_->pinned(id, pin_offset_[e.rank] + e.in_cell)
                           : memory_->in_slot(id, static_cast<uint32_t>(e.slot));
}

const std::byte* SliceStore::data_of(SliceId id) const {
  return place_of(id) + (index_[id].file_offset - entries_[id].read.offset);
}

// Nobody reads, holds or is about to ask for any of it.
bool SliceStore::may_go(uint32_t expert) const {
  const auto& slices = experts_.experts()[expert].slices;
  return std::none_of(slices.begin(), slices.end(), [this](SliceId id) {
    const Entry& e = entries_[id];
    return e.state == State::kLoading || e.refs > 0 || announced(e);
  });
}

void SliceStore::clear_ranks(uint32_t expert) {
  for (const SliceId id : experts_.experts()[expert].slices) {
    Entry& e = entries_[id];
    const bool leaving =
        e.state == State::kDropping && e.slot == kPinned;  // finish() still has to find the cell
    if (!leaving) e.rank = kNoRank;
  }
}

// The expert has lost its cell: its slices leave, those with pages of their own in a while.
void SliceStore::evict(uint32_t expert) {
  for (const SliceId id : experts_.experts()[expert].slices) {
    Entry& e = entries_[id];
    if (e.slot != kPinned || e.state != State::kReady) continue;
    blocks_[e.block].evicted_bytes += index_[id].n_bytes;
    drop(id);
    const SliceRange pages = pages_to_drop(id);
    if (pages.n_bytes == 0) continue;
    set_state(e, State::kDropping);
    ++leaving_[e.rank - pin_order_.size()];
    io_->submit({.part = index_[id].part,
                 .file_offset = pages.offset,
                 .n_bytes = pages.n_bytes,
                 .tag = kDropTag | id,
                 .demand = true,
                 .drop = true});
  }
  clear_ranks(expert);
}

// An expert that was asked for takes a cell of its block, unless all of them are in use; then it
// goes through the ring.
void SliceStore::give_cell(uint32_t expert, bool only_free) {
  if (experts_.cell_of(expert) != ExpertCache::kNone) return;
  const auto& slices = experts_.experts()[expert].slices;
  // Its pages may still be leaving another cell.
  if (std::any_of(slices.begin(), slices.end(), [this](SliceId id) {
        return entries_[id].state == State::kDropping;
      }))
    return;
  const auto given = experts_.give(expert, [&](uint32_t x) { return !only_free && may_go(x); });
  if (!given) return;
  if (given->evicted != ExpertCache::kNone) evict(given->evicted);
  for (const SliceId id : slices)
    entries_[id].rank = static_cast<uint32_t>(pin_order_.size()) + given->cell;
}

SliceRange SliceStore::pages_to_drop(SliceId id) const {
  return memory_->pages_to_drop(id, [this](SliceId n) { return entries_[n].state == State::kLoading || entries_[n].state == State::kReady; });
}

void SliceStore::drop(SliceId id) {
  Entry& e = entries_[id];
  if (e.slot == kPinned) {
    pinned_bytes_ -= index_[id].n_bytes;
  } else if (const SliceRange pages = pages_to_drop(id); pages.n_bytes > 0) {
    set_state(e, State::kDropping);
    ++dropping_;
    io_->submit({.part = index_[id].part, .file_offset = pages.offset, .n_bytes = pages.n_bytes, .tag = kDropTag | id, .demand = true, .drop = true});
    return;
  } else {
    slots_[static_cast<size_t>(e.slot)].used = false;
  }
  set_state(e, State::kAbsent);
  e.slot = kPinned;
}

void SliceStore::set_state(Entry& e, State state) {
  if (e.place != kNotScheduled) {
    absent_ -= e.state == State::kAbsent ? 1 : 0;
    absent_ += state == State::kAbsent ? 1 : 0;
  }
  e.state = state;
}

void SliceStore::on_read(void* ctx, uint64_t tag, const Error* error) {
  auto& store = *static_cast<SliceStore*>(ctx);
  if (error == nullptr && (tag & (kRowTag | kDropTag)) == 0) {
    if (auto same = store.check_hash(static_cast<SliceId>(tag)); !same) return store.finish(tag, &same.error());
  }
  store.finish(tag, error);
}

// On a queue thread, with the slice in kLoading: nobody else looks at its bytes or its hash.
Result<void> SliceStore::check_hash(SliceId id) {
  Entry& e = entries_[id];
  const Slice& s = index_[id];
  const uint64_t hash = XXH3_64bits(data_of(id), s.n_bytes);
  if (e.hash_known && hash != e.hash) {
    Error error{"io.changed", "what the disk gives now is not what it gave before", "check the file and the disk, then load the model again"};
    error.offset = s.file_offset;
    return error;
  }
  e.hash = hash;
  e.hash_known = true;
  return success();
}

template <class Ready>
bool SliceStore::wait_until(std::unique_lock<std::mutex>& lock, Ready&& ready) {
  while (!ready()) {
    if (cancelled_ && cancelled_()) return false;
    changed_.wait_for(lock, kAskEvery);
  }
  return true;
}

void SliceStore::finish(uint64_t tag, const Error* error) {
  {
    const std::lock_guard lock(mutex_);
    const bool for_nobody = (tag & (kRowTag | kDropTag)) == 0 && entries_[tag].filling;
    if (error != nullptr && !for_nobody) failure_ = *error;
    if ((tag & kRowTag) != 0) {
      --rows_left_;
    } else if ((tag & kDropTag) != 0) {
      Entry& e = entries_[tag & ~kDropTag];
      if (e.slot == kPinned) {
        --leaving_[e.rank - pin_order_.size()];
        e.rank = kNoRank;
      } else {
        slots_[static_cast<size_t>(e.slot)].used = false;
        --dropping_;
      }
      set_state(e, State::kAbsent);
      e.slot = kPinned;
      pump();
    } else {
      const auto id = static_cast<SliceId>(tag);
      Entry& e = entries_[id];
      --in_flight_;
      const bool filled = std::exchange(e.filling, false);
      filling_ -= filled ? 1 : 0;
      if (error != nullptr) {
        if (e.slot == kPinned) pinned_bytes_ += index_[id].n_bytes;      // drop() takes it off again
        set_state(e, State::kReady);
        const bool was_pin = e.slot == kPinned;
        drop(id);
        // A read that failed half way has left pages of the file behind, which nobody would count.
        if (const SliceRange pages = pages_to_drop(id); was_pin && pages.n_bytes > 0) {
          io_->drop_now(index_[id].part, pages.offset, pages.n_bytes);
        }
      } else {
        set_state(e, State::kReady);
        blocks_[e.block].read_bytes += e.read.n_bytes;
        const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - e.asked;
        blocks_[e.block].reads.add(took.count());
        SliceLoads& loads = blocks_[e.block].loads[static_cast<size_t>(e.reason)];
        ++loads.n;
        loads.bytes += e.read.n_bytes;
        loads.ms += took.count();
        if (e.slot == kPinned) pinned_bytes_ += index_[id].n_bytes;
        if (e.slot != kPinned || (e.expert != kNoExpert && !filled))
          streamed_bytes_ += e.read.n_bytes;
        pump();
      }
    }
  }
  changed_.notify_all();
}

void SliceStore::begin_pass(size_t n_scheduled, std::function<bool()> cancelled) {
  const std::lock_guard lock(mutex_);
  cancelled_ = std::move(cancelled);
  position_ = 0;
  pass_end_ = n_scheduled;
  ++pass_;
  if (!std::exchange(passing_, true)) share_.pass_begins();
  forget_announced();
  turns_ = 0;
  for (const Slot& slot : slots_) entries_[slot.id].awaited = false;      // left by a pass that was cancelled
  failure_.reset();
  pump();
}

void SliceStore::advance(size_t n) {
  const std::lock_guard lock(mutex_);
  position_ = std::min(position_ + n, pass_end_);
  pump();
}

Result<void> SliceStore::hold_ready(std::span<const SliceId> wanted, std::vector<bool>& done, std::vector<Held>& out) {
  out.clear();
  std::unique_lock lock(mutex_);
  std::optional<std::chrono::steady_clock::time_point> waiting_since;
  for (;;) {
    starved_ = false;
    for (uint32_t i = 0; i < wanted.size(); ++i) {
      Entry& e = entries_[wanted[i]];
      if (done[i] || !holdable(e)) continue;
      ++e.refs;
      e.awaited = false;
      done[i] = true;
      SliceBlockStats& block = blocks_[e.block];
      block.last_use = std::chrono::steady_clock::now();
      const bool hit = e.slot == kPinned && (e.expert == kNoExpert || e.started_in_pass != pass_);
      (hit ? block.hit_bytes : block.miss_bytes) += index_[wanted[i]].n_bytes;
      out.push_back({data_of(wanted[i]), i, wanted[i]});
    }
    if (!out.empty()) break;
    if (failure_) return *std::exchange(failure_, std::nullopt);
    start_wanted(wanted, done);
    if (cancelled_ && cancelled_()) {
      starved_ = false;
      return Error{"cancelled", "the request was cancelled"};
    }
    if (!waiting_since) waiting_since = std::chrono::steady_clock::now();
    changed_.wait_for(lock, kAskEvery);
  }
  if (waiting_since) {
    const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - *waiting_since).count();
    stall_s_ += waited;
    blocks_[entries_[wanted.front()].block].stall_s += waited;
  }
  return success();
}

void SliceStore::release(std::span<const Held> held) {
  {
    const std::lock_guard lock(mutex_);
    for (const Held& h : held) {
      Entry& e = entries_[h.id];
      SLUICE_DCHECK(e.refs > 0);
      e.used_in_pass = pass_;
      if (e.expert != kNoExpert) experts_.touch(e.expert);
      // A streamed slice is used once in a pass; its slot is free for the next one.
      if (--e.refs == 0 && e.slot != kPinned) drop(h.id);
    }
    pump();
  }
  changed_.notify_all();
}

Result<void> SliceStore::read_rows(std::span<const RowRead> rows, uint64_t n_bytes, std::byte* dst, uint64_t dst_stride) {
  SLUICE_CHECK(align_up(n_bytes) + kAlignment <= row_span_bytes_);
  struct Pending { size_t row; uint64_t delta; };
  for (size_t first = 0; first < rows.size(); first += kRowsInFlight) {
    const size_t n = std::min(kRowsInFlight, rows.size() - first);
    std::vector<std::optional<uint64_t>> delta(n);                 // set: read into bounce slot
    std::unique_lock lock(mutex_);
    // A read that was cancelled may still be on its way into the bounce memory.
    const auto quiet = [this] { return rows_left_ == 0; };
    if (!wait_until(lock, quiet)) return Error{"cancelled", "the request was cancelled"};
    if (first == 0) failure_.reset();
    for (size_t i = 0; i < n; ++i) {
      const RowRead& r = rows[first + i];
      const Slice& s = index_[r.id];
      Entry& e = entries_[r.id];
      if (holdable(e)) {
        std::memcpy(dst + (first + i) * dst_stride, data_of(r.id) + r.offset, n_bytes);
        continue;
      }
      const uint64_t start = align_down(s.file_offset + r.offset);
      const uint64_t end = align_up(s.file_offset + r.offset + n_bytes);
      delta[i] = s.file_offset + r.offset - start;
      ++rows_left_;
      blocks_[e.block].read_bytes += end - start;
      blocks_[e.block].last_use = std::chrono::steady_clock::now();
      io_->submit({s.part, start, end - start, *delta[i] + n_bytes, bounce_.data() + i * row_span_bytes_, kRowTag | i, true});
    }
    if (!wait_until(lock, quiet)) return Error{"cancelled", "the request was cancelled"};
    if (failure_) return *std::exchange(failure_, std::nullopt);
    for (size_t i = 0; i < n; ++i) {
      if (delta[i]) std::memcpy(dst + (first + i) * dst_stride, bounce_.data() + i * row_span_bytes_ + *delta[i], n_bytes);
    }
  }
  return success();
}

// Whole huge pages: less than one is not given back.
uint64_t SliceStore::pin_bytes(std::span<const uint64_t> pin_offsets, size_t n) {
  const uint64_t rounded = (pin_offsets[n] + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  return std::min(rounded, pin_offsets.back());
}

size_t SliceStore::cut_for(std::span<const uint64_t> pin_offsets, uint64_t bytes) {
  if (bytes >= pin_offsets.back()) return pin_offsets.size() - 1;
  const uint64_t whole = bytes / kHugePageBytes * kHugePageBytes;
  return static_cast<size_t>(std::upper_bound(pin_offsets.begin(), pin_offsets.end(), whole) - pin_offsets.begin()) - 1;
}

uint64_t SliceStore::pin_bytes(size_t n) const { return pin_bytes(pin_offset_, n); }

size_t SliceStore::cut_for(uint64_t bytes) const { return cut_for(pin_offset_, bytes); }

void SliceStore::leave_pin(std::unique_lock<std::mutex>& lock, SliceId id) {
  Entry& e = entries_[id];
  if (e.slot != kPinned) return;
  changed_.wait(lock,
                [&e] { return e.slot != kPinned || (e.state != State::kLoading && e.refs == 0); });
  if (e.slot != kPinned || e.state != State::kReady) return;
  blocks_[e.block].evicted_bytes += index_[id].n_bytes;
  drop(id);
  const SliceRange pages = pages_to_drop(id);
  if (pages.n_bytes == 0) return;
  // Nobody reads it in again while its pages go.
  set_state(e, State::kDropping);
  lock.unlock();
  io_->drop_now(index_[id].part, pages.offset, pages.n_bytes);
  lock.lock();
  set_state(e, State::kAbsent);
}

Result<void> SliceStore::set_cut(size_t n) {
  const std::lock_guard one_at_a_time(cut_mutex_);
  n = std::min(n, pin_offset_.size() - 1);
  const size_t n_ordered = pin_order_.size();
  const auto cells_below = [n_ordered](size_t cut) {
    return cut > n_ordered ? cut - n_ordered : 0;
  };
  std::unique_lock lock(mutex_);
  const size_t before = cut_;
  if (n == before) return success();
  if (n > before) {
    lock.unlock();
    SLUICE_TRY(pin_reservation_.resize(pin_bytes(n)));
    lock.lock();
    cut_ = n;
    experts_.allow(cells_below(n));
    fill_rank_ = fill_expert_ = 0;
    pump();
    return success();
  }
  cut_ = n;      // from here on nothing behind the cut can be held any more
  experts_.allow(cells_below(n));
  for (size_t rank = n; rank < std::min(before, n_ordered); ++rank)
    leave_pin(lock, pin_order_[rank]);
  for (size_t cell = cells_below(n); cell < cells_below(before); ++cell) {
    changed_.wait(lock, [this, cell] { return leaving_[cell] == 0; });
    const uint32_t expert = experts_.holder_of(static_cast<uint32_t>(cell));
    if (expert == ExpertCache::kNone) continue;
    for (const SliceId id : experts_.experts()[expert].slices) leave_pin(lock, id);
    experts_.take_back(expert);
    clear_ranks(expert);
  }
  lock.unlock();
  memory_->give_back_pins_from(pin_bytes(n));
  SLUICE_TRY(pin_reservation_.resize(pin_bytes(n)));
  lock.lock();
  pump();
  lock.unlock();
  changed_.notify_all();
  return success();
}

std::vector<SliceBlockStats> SliceStore::block_stats() const {
  const std::lock_guard lock(mutex_);
  std::vector<SliceBlockStats> out = blocks_;
  for (SliceId id = 0; id < entries_.size(); ++id) {
    const Entry& e = entries_[id];
    if (e.place == kNotScheduled && e.expert == kNoExpert) continue;
    SliceBlockStats& block = out[e.block];
    const uint64_t bytes = index_[id].n_bytes;
    block.bytes += bytes;
    block.refs += e.refs;
    if (e.state == State::kReady) block.resident_bytes += bytes;
    if (e.state == State::kLoading) block.loading_bytes += bytes;
    if (e.expert == kNoExpert && e.rank < cut_) block.pin_bytes += bytes;
  }
  // Experts come and go: what stays of a block is as many of them as it has cells.
  std::vector<uint64_t> cells_of_group;
  for (size_t rank = pin_order_.size(); rank < cut_; ++rank) {
    const uint32_t group = experts_.cell(static_cast<uint32_t>(rank - pin_order_.size())).group;
    if (group >= cells_of_group.size()) cells_of_group.resize(group + 1, 0);
    ++cells_of_group[group];
  }
  for (const ExpertSlices& x : experts_.experts()) {
    if (x.group >= cells_of_group.size() || cells_of_group[x.group] == 0) continue;
    --cells_of_group[x.group];
    for (const SliceId id : x.slices) out[entries_[id].block].pin_bytes += index_[id].n_bytes;
  }
  return out;
}

SliceStoreStats SliceStore::stats() const {
  SliceStoreStats s;
  s.io = io_->stats();
  const std::lock_guard lock(mutex_);
  s.stall_s = stall_s_;
  s.pinned_bytes = pinned_bytes_;
  s.streamed_bytes = streamed_bytes_;
  s.cut = cut_;
  s.n_slices = pin_offset_.size() - 1;
  return s;
}

}  // namespace sluice
