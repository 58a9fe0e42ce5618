// What a slice store reads next, and where to: what the consumer waits for, what its router has asked
// for, then along the schedule as far ahead as slots allow, then what is to stay.
#include <algorithm>
#include <chrono>
#include <utility>

#include "storage/slice_store.h"

namespace sluice {

// Whether this pass has still to read it.
bool SliceStore::wanted_now(const Entry& e) const {
  return e.place >= position_ && e.place < pass_end_ && e.used_in_pass != pass_;
}

// Slices until the consumer needs this one: what is announced comes before what is scheduled; far
// beyond everything for what no pass reads by itself.
uint64_t SliceStore::distance_of(SliceId id) const {
  const Entry& e = entries_[id];
  if (announced(e)) return e.turn;
  if (e.place == kNotScheduled) return UINT64_MAX;
  if (wanted_now(e)) return turns_ + (e.place - position_);
  return turns_ + (pass_end_ - position_) + e.place;
}

size_t SliceStore::free_slots() const {
  return static_cast<size_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& s) { return !s.used; }));
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
  if (!farthest) return std::nullopt;
  drop(slots_[static_cast<size_t>(*farthest)].id);
  if (slots_[static_cast<size_t>(*farthest)].used) return std::nullopt;      // free once its pages are gone
  return farthest;
}

bool SliceStore::start(SliceId id, Urgency urgency, uint64_t distance) {
  Entry& e = entries_[id];
  if (e.rank < cut_) {
    if (e.expert != kNoExpert && leaving_[e.rank - pin_order_.size()] > 0) return false;
    e.slot = kPinned;
  } else {
    const auto slot = find_slot(distance);
    if (!slot) return false;
    e.slot = *slot;
    slots_[static_cast<size_t>(*slot)] = {true, id};
  }
  set_state(e, State::kLoading);
  e.started_in_pass = pass_;
  e.asked = std::chrono::steady_clock::now();
  ++in_flight_;
  const Slice& s = index_[id];
  e.filling = urgency == Urgency::kFill;
  e.reason = urgency == Urgency::kDemand ? LoadReason::kDemand
             : e.slot == kPinned         ? LoadReason::kPin
                                         : LoadReason::kPrefetch;
  filling_ += e.filling ? 1 : 0;
  io_->submit({.part = s.part,
               .file_offset = e.read.offset,
               .n_bytes = e.read.n_bytes,
               .needed = s.file_offset + s.n_bytes - e.read.offset,
               .dst = memory_->destination(place_of(id)),
               .tag = id,
               .demand = urgency == Urgency::kDemand,
               .last = urgency == Urgency::kFill});
  return true;
}

// Nothing is ready: what is not on its way (what was not announced, or what the cut has passed) is
// asked for first.
void SliceStore::start_wanted(std::span<const SliceId> wanted, const std::vector<bool>& done) {
  bool one_comes = false;
  for (uint32_t i = 0; i < wanted.size(); ++i)
    one_comes = one_comes || (!done[i] && entries_[wanted[i]].state == State::kLoading);
  for (uint32_t i = 0; i < wanted.size(); ++i) {
    Entry& e = entries_[wanted[i]];
    if (done[i]) continue;
    // What is announced has its turn, but for the first that nothing would come before.
    if (e.state == State::kAbsent && !(announced(e) && one_comes)) {
      if (start(wanted[i], Urgency::kDemand, 0))
        one_comes = true;
      else
        starved_ = true;
    }
    e.awaited = e.state == State::kLoading;
  }
}

void SliceStore::announce(std::span<const SliceId> slices) {
  const std::lock_guard lock(mutex_);
  announced_.erase(announced_.begin(),
                   announced_.begin() + static_cast<std::ptrdiff_t>(next_announced_));
  next_announced_ = 0;
  const size_t first = announced_.size();
  for (const SliceId id : slices) {
    Entry& e = entries_[id];
    if (announced(e) || e.expert == kNoExpert) continue;
    e.announced_in_pass = pass_;
    e.used_in_pass = 0;
    e.turn = ++turns_;
    announced_.push_back(id);
  }
  // Only now: none of those that are wanted makes room for another.
  for (size_t i = first; i < announced_.size(); ++i) give_cell(entries_[announced_[i]].expert);
  pump();
}

// What a pass that was cut short had asked of its router's choice: nobody will come for it.
void SliceStore::forget_announced() {
  announced_.clear();
  next_announced_ = 0;
  for (const Slot& slot : slots_) {
    const Entry& e = entries_[slot.id];
    if (slot.used && e.expert != kNoExpert && e.state == State::kReady && e.refs == 0) drop(slot.id);
  }
}

void SliceStore::fill_ahead() {
  const std::lock_guard lock(mutex_);
  forget_announced();
  if (std::exchange(passing_, false)) share_.pass_ends();
  fills_ = true;
  fill_rank_ = fill_expert_ = 0;
  pump();
}

void SliceStore::pump() {
  if (starved_ || !pump_announced()) return;
  pump_schedule();
  pump_fill();
}

// What the router has asked for, as far as there is room; nothing that was read ahead is dropped
// for it. True: all is on its way.
bool SliceStore::pump_announced() {
  for (; next_announced_ < announced_.size(); ++next_announced_) {
    const SliceId id = announced_[next_announced_];
    if (entries_[id].state != State::kAbsent || !announced(entries_[id])) continue;
    if (in_flight_ >= max_in_flight() || !start(id, Urgency::kDemand, UINT64_MAX)) return false;
  }
  return true;
}

// Starts reads in the order in which the consumer will come by, wrapping into the next pass. Between
// requests nobody is known to come.
void SliceStore::pump_schedule() {
  if (absent_ == 0) return;
  for (uint64_t i = 0; i < schedule_.size() && in_flight_ < max_in_flight(); ++i) {
    const uint64_t left = pass_end_ - position_;
    const uint64_t place = i < left ? position_ + i : i - left;
    if (place >= schedule_.size()) return;
    const SliceId id = schedule_[place];
    if (entries_[id].state != State::kAbsent || (i < left && !wanted_now(entries_[id]))) continue;
    if (kept_free_ > 0 && entries_[id].rank >= cut_ && free_slots() <= kept_free_) return;
    if (!passing_ && !may_fill()) return;
    if (!start(id, passing_ ? Urgency::kAhead : Urgency::kFill, turns_ + i)) return;
  }
}

// Whether one more read that nobody waits for may stand in the queue.
bool SliceStore::may_fill() const { return filling_ < (share_.busy() ? 1 : max_in_flight()); }

void SliceStore::pump_fill() {
  if (!fills_) return;
  const auto room = [&] { return may_fill() && in_flight_ < max_in_flight(); };
  for (; fill_rank_ < std::min(cut_, pin_order_.size()); ++fill_rank_) {
    const SliceId id = pin_order_[fill_rank_];
    if (entries_[id].state != State::kAbsent) continue;
    if (!room() || !start(id, Urgency::kFill, UINT64_MAX)) return;
  }
  for (; cut_ > pin_order_.size() && fill_expert_ < experts_.experts().size(); ++fill_expert_) {
    const auto x = static_cast<uint32_t>(fill_expert_);
    give_cell(x, /*only_free=*/true);
    for (const SliceId id : experts_.experts()[x].slices) {
      if (entries_[id].state != State::kAbsent || entries_[id].rank >= cut_) continue;
      if (!room() || !start(id, Urgency::kFill, UINT64_MAX)) return;
    }
  }
}

}  // namespace sluice
