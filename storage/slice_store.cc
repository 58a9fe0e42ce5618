#include "storage/slice_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include <xxhash.h>

#include "base/check.h"

namespace sluice {
namespace {

constexpr uint64_t kAlignment = 4096;             // of memory and file ranges; IoQueue asks for no more
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

uint64_t SliceStore::slot_bytes_of(const SliceIndex& index) {
  uint64_t most = 0;
  for (const Slice& s : index.slices()) most = std::max(most, align_up(s.file_offset + s.n_bytes) - align_down(s.file_offset));
  return most;
}

uint64_t SliceStore::pin_bytes_of(const SliceIndex& index, std::span<const SliceId> order) {
  uint64_t sum = 0;
  for (const SliceId id : order) {
    const Slice& s = index[id];
    sum += align_up(s.file_offset + s.n_bytes) - align_down(s.file_offset);
  }
  return sum;
}

std::vector<uint64_t> SliceStore::pin_offsets_of(const SliceIndex& index, std::span<const SliceId> order) {
  std::vector<uint64_t> offsets{0};
  offsets.reserve(order.size() + 1);
  for (const SliceId id : order) offsets.push_back(offsets.back() + pin_bytes_of(index, {&id, 1}));
  return offsets;
}

uint64_t SliceStore::row_read_bytes_of(const SliceIndex& index) { return kRowsInFlight * row_span_of(index); }

SliceStore::SliceStore(const SliceIndex& index, std::vector<SliceId> schedule, std::vector<SliceId> pin_order)
    : index_(index), schedule_(std::move(schedule)), pin_order_(std::move(pin_order)) {
  entries_.resize(index_.slices().size());
  slot_bytes_ = slot_bytes_of(index_);
  for (SliceId id = 0; id < entries_.size(); ++id) {
    const Slice& s = index_[id];
    Entry& e = entries_[id];
    e.read_offset = align_down(s.file_offset);
    e.read_bytes = align_up(s.file_offset + s.n_bytes) - e.read_offset;
  }
  for (uint32_t i = 0; i < schedule_.size(); ++i) entries_[schedule_[i]].place = i;
  for (uint32_t i = 0; i < pin_order_.size(); ++i) entries_[pin_order_[i]].rank = i;
  pin_offset_ = pin_offsets_of(index_, pin_order_);
}

Result<std::unique_ptr<SliceStore>> SliceStore::create(std::span<const File* const> files,
                                                       const SliceIndex& index,
                                                       std::vector<SliceId> schedule,
                                                       std::vector<SliceId> pin_order,
                                                       const SliceStoreOptions& options,
                                                       Budget& budget) {
  std::unique_ptr<SliceStore> store(new SliceStore(index, std::move(schedule), std::move(pin_order)));
  SLUICE_TRY(store->io_, IoQueue::create(files, options.io, &SliceStore::on_read, store.get()));
  SLUICE_CHECK(store->io_->alignment() <= kAlignment);
  uint32_t last_block = 0;
  for (SliceId id = 0; id < std::min(options.block_of.size(), store->entries_.size()); ++id) {
    store->entries_[id].block = options.block_of[id];
    last_block = std::max(last_block, options.block_of[id]);
  }
  store->blocks_.resize(last_block + 1);
  store->mapped_ = store->io_->mode() == IoMode::kMmap;
  for (uint32_t part = 0; store->mapped_ && part < files.size(); ++part) store->mappings_.push_back(store->io_->mapping(part));
  SLUICE_TRY(store->make_memory(options, budget));
  if (store->mapped_) store->find_neighbours();
  store->max_in_flight_ = static_cast<size_t>(std::max(options.io.n_threads, 1)) + 2;
  return store;
}

Result<void> SliceStore::make_memory(const SliceStoreOptions& options, Budget& budget) {
  const uint64_t n_slots = std::max<uint64_t>(2, options.ring_bytes / std::max<uint64_t>(slot_bytes_, 1));
  const uint64_t ring_bytes = n_slots * slot_bytes_;
  row_span_bytes_ = row_span_of(index_);
  const uint64_t bounce_bytes = kRowsInFlight * row_span_bytes_;
  SLUICE_TRY(ring_reservation_, budget.reserve(ring_bytes + bounce_bytes, MemoryClass::kRing));
  SLUICE_TRY(pin_reservation_, budget.reserve(0, mapped_ ? MemoryClass::kWeightsMapped : MemoryClass::kWeightsPinned));
  slots_.resize(n_slots);
  SLUICE_TRY(bounce_, AnonymousMemory::create(bounce_bytes, "row reads"));
  if (mapped_) return success();
  SLUICE_TRY(ring_, AnonymousMemory::create(ring_bytes, "the ring", /*huge=*/true));
  SLUICE_TRY(pins_, AnonymousMemory::create(pin_offset_.back(), "pinned weights", /*huge=*/true));
  return success();
}

SliceStore::~SliceStore() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  io_.reset();       // joins its threads: no callback after this
}

const std::byte* SliceStore::place_of(SliceId id) const {
  const Entry& e = entries_[id];
  if (mapped_) return mappings_[index_[id].part] + e.read_offset;
  return e.slot == kPinned ? pins_.data() + pin_offset_[e.rank] : ring_.data() + static_cast<uint64_t>(e.slot) * slot_bytes_;
}

// Whether this pass has still to read it.
bool SliceStore::wanted_now(const Entry& e) const {
  return e.place >= position_ && e.place < pass_end_ && e.used_in_pass != pass_;
}

// Slices until the consumer needs this one; far beyond everything for what no pass reads by itself.
uint64_t SliceStore::distance_of(SliceId id) const {
  const Entry& e = entries_[id];
  if (e.place == kNotScheduled) return UINT64_MAX;
  if (wanted_now(e)) return e.place - position_;
  return (pass_end_ - position_) + e.place;
}

void SliceStore::find_neighbours() {
  std::vector<SliceId> order(entries_.size());
  for (SliceId id = 0; id < order.size(); ++id) order[id] = id;
  std::sort(order.begin(), order.end(), [this](SliceId a, SliceId b) {
    return std::pair(index_[a].part, index_[a].file_offset) < std::pair(index_[b].part, index_[b].file_offset);
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const SliceId a = order[i - 1];
    const SliceId b = order[i];
    if (index_[a].part != index_[b].part || entries_[b].read_offset >= entries_[a].read_offset + entries_[a].read_bytes) continue;
    entries_[a].after = b;
    entries_[b].before = a;
  }
}

std::pair<uint64_t, uint64_t> SliceStore::own_pages(SliceId id) const {
  const Entry& e = entries_[id];
  const auto needed = [this](SliceId n) { return n != kNoSlice && (entries_[n].state == State::kLoading || entries_[n].state == State::kReady); };
  const uint64_t begin = e.read_offset + (needed(e.before) ? kAlignment : 0);
  const uint64_t end = e.read_offset + e.read_bytes - (needed(e.after) ? kAlignment : 0);
  return {begin, std::max(begin, end)};
}

// A free slot, or the slot of the slice that is needed last, if that is later than `distance`.
std::optional<int32_t> SliceStore::find_slot(uint64_t distance) {
  std::optional<int32_t> farthest;
  uint64_t most = distance;
  const bool on_its_way = dropping_ > 0;
  for (int32_t i = 0; i < static_cast<int32_t>(slots_.size()); ++i) {
    const Slot& slot = slots_[static_cast<size_t>(i)];
    if (!slot.used) return i;
    if (on_its_way) continue;
    const Entry& e = entries_[slot.id];
    if (e.state != State::kReady || e.refs > 0 || e.awaited) continue;
    if (const uint64_t d = distance_of(slot.id); d > most) {
      most = d;
      farthest = i;
    }
  }
  if (farthest) drop(slots_[static_cast<size_t>(*farthest)].id);
  if (mapped_) return std::nullopt;      // free once its pages are gone
  return farthest;
}

void SliceStore::drop(SliceId id) {
  Entry& e = entries_[id];
  if (e.slot == kPinned) {
    pinned_bytes_ -= index_[id].n_bytes;
  } else if (mapped_) {
    e.state = State::kDropping;
    ++dropping_;
    if (closing_) return;      // the queue is ending, and its mapping with it
    const auto [begin, end] = own_pages(id);
    io_->submit({.part = index_[id].part, .file_offset = begin, .n_bytes = end - begin, .tag = kDropTag | id, .demand = true, .drop = true});
    return;
  } else {
    slots_[static_cast<size_t>(e.slot)].used = false;
  }
  e.state = State::kAbsent;
  e.slot = kPinned;
}

bool SliceStore::start(SliceId id, bool demand, uint64_t distance) {
  Entry& e = entries_[id];
  if (e.rank < cut_) {
    e.slot = kPinned;
  } else {
    const auto slot = find_slot(distance);
    if (!slot) return false;
    e.slot = *slot;
    slots_[static_cast<size_t>(*slot)] = {true, id};
  }
  e.state = State::kLoading;
  e.asked = std::chrono::steady_clock::now();
  ++in_flight_;
  const Slice& s = index_[id];
  io_->submit({s.part, e.read_offset, e.read_bytes, s.file_offset + s.n_bytes - e.read_offset,
               mapped_ ? nullptr : const_cast<std::byte*>(place_of(id)), id, demand});
  return true;
}

// Starts reads in the order in which the consumer will come by, wrapping into the next pass.
void SliceStore::pump() {
  if (closing_ || schedule_.empty() || starved_) return;
  for (uint64_t i = 0; i < schedule_.size() && in_flight_ < max_in_flight_; ++i) {
    const uint64_t left = pass_end_ - position_;
    const uint64_t place = i < left ? position_ + i : i - left;
    if (place >= schedule_.size()) return;
    const SliceId id = schedule_[place];
    if (entries_[id].state != State::kAbsent || (i < left && !wanted_now(entries_[id]))) continue;
    if (!start(id, false, i)) return;
  }
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
  const uint64_t hash = XXH3_64bits(place_of(id) + (s.file_offset - e.read_offset), s.n_bytes);
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
    if (error != nullptr) failure_ = *error;
    if ((tag & kRowTag) != 0) {
      --rows_left_;
    } else if ((tag & kDropTag) != 0) {
      Entry& e = entries_[tag & ~kDropTag];
      slots_[static_cast<size_t>(e.slot)].used = false;
      e.state = State::kAbsent;
      e.slot = kPinned;
      --dropping_;
      pump();
    } else {
      const auto id = static_cast<SliceId>(tag);
      Entry& e = entries_[id];
      --in_flight_;
      if (error != nullptr) {
        if (e.slot == kPinned) pinned_bytes_ += index_[id].n_bytes;      // drop() takes it off again
        e.state = State::kReady;
        drop(id);
      } else {
        e.state = State::kReady;
        blocks_[e.block].read_bytes += e.read_bytes;
        blocks_[e.block].reads.add(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - e.asked).count());
        if (e.slot == kPinned) pinned_bytes_ += index_[id].n_bytes;
        else streamed_bytes_ += e.read_bytes;
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
      (e.slot == kPinned ? block.hit_bytes : block.miss_bytes) += index_[wanted[i]].n_bytes;
      out.push_back({place_of(wanted[i]) + (index_[wanted[i]].file_offset - e.read_offset), i, wanted[i]});
    }
    if (!out.empty()) break;
    if (failure_) return *std::exchange(failure_, std::nullopt);
    // Nothing is ready: what is not on its way (experts, or slices the cut has passed) is asked for first.
    for (uint32_t i = 0; i < wanted.size(); ++i) {
      Entry& e = entries_[wanted[i]];
      if (done[i]) continue;
      if (e.state == State::kAbsent && !start(wanted[i], true, 0)) starved_ = true;
      e.awaited = e.state == State::kLoading;
    }
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
        std::memcpy(dst + (first + i) * dst_stride, place_of(r.id) + (s.file_offset - e.read_offset) + r.offset, n_bytes);
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

Result<void> SliceStore::set_cut(size_t n) {
  const std::lock_guard one_at_a_time(cut_mutex_);
  n = std::min(n, pin_order_.size());
  std::unique_lock lock(mutex_);
  const size_t before = cut_;
  if (n >= before) {
    lock.unlock();
    SLUICE_TRY(pin_reservation_.resize(pin_bytes(n)));
    lock.lock();
    cut_ = n;
    pump();
    return success();
  }
  cut_ = n;      // from here on nothing behind the cut can be held any more
  for (size_t rank = n; rank < before; ++rank) {
    const SliceId id = pin_order_[rank];
    Entry& e = entries_[id];
    if (e.slot != kPinned) continue;
    changed_.wait(lock, [&e] { return e.slot != kPinned || (e.state != State::kLoading && e.refs == 0); });
    if (e.slot != kPinned || e.state != State::kReady) continue;
    blocks_[e.block].evicted_bytes += index_[id].n_bytes;
    drop(id);
    if (!mapped_) continue;
    // Nobody reads it in again while its pages go.
    e.state = State::kDropping;
    const auto [begin, end] = own_pages(id);
    lock.unlock();
    io_->drop_now(index_[id].part, begin, end - begin);
    lock.lock();
    e.state = State::kAbsent;
  }
  lock.unlock();
  if (!mapped_) pins_.give_back_from(pin_bytes(n));
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
  for (const SliceId id : pin_order_) {
    const Entry& e = entries_[id];
    SliceBlockStats& block = out[e.block];
    const uint64_t bytes = index_[id].n_bytes;
    block.bytes += bytes;
    block.refs += e.refs;
    if (e.state == State::kReady) block.resident_bytes += bytes;
    if (e.state == State::kLoading) block.loading_bytes += bytes;
    if (e.rank < cut_) block.pin_bytes += bytes;
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
  s.n_slices = pin_order_.size();
  return s;
}

}  // namespace sluice
