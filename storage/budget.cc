#include "storage/budget.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"

namespace sluice {

const char* memory_class_name(MemoryClass c) {
  static const char* const kNames[] = {"weights_pinned",
                                       "weights_mapped",
                                       "ring",
                                       "kv",
                                       "activations",
                                       "prefix_cache",
                                       "http",
                                       "telemetry",
                                       "tokenizer",
                                       "fixed"};
  static_assert(std::size(kNames) == static_cast<size_t>(MemoryClass::kCount));
  return c < MemoryClass::kCount ? kNames[static_cast<size_t>(c)] : "unknown";
}

Reservation::Reservation(Reservation&& o) noexcept
    : budget_(std::exchange(o.budget_, nullptr)),
      bytes_(std::exchange(o.bytes_, 0)),
      class_(o.class_),
      device_(o.device_) {}

Reservation& Reservation::operator=(Reservation&& o) noexcept {
  if (this != &o) {
    // What this one held goes back first, so that no byte is counted twice or lost.
    Reservation old(std::move(*this));
    budget_ = std::exchange(o.budget_, nullptr);
    bytes_ = std::exchange(o.bytes_, 0);
    class_ = o.class_;
    device_ = o.device_;
  }
  return *this;
}

Reservation::~Reservation() {
  if (budget_ != nullptr && bytes_ > 0)
    (void)budget_->charge(bytes_, 0, class_);  // a release cannot fail
}

Result<void> Reservation::resize(uint64_t bytes) {
  if (budget_ == nullptr) {
    if (bytes == 0) return success();
    return Error{.code = "budget_exceeded", .what = "this reservation belongs to no budget"};
  }
  SLUICE_TRY(budget_->charge(bytes_, bytes, class_));
  bytes_ = bytes;
  return success();
}

Result<Reservation> Budget::reserve(uint64_t bytes, MemoryClass c, Device d) {
  SLUICE_TRY(charge(0, bytes, c));
  Reservation r;
  r.budget_ = this;
  r.bytes_ = bytes;
  r.class_ = c;
  r.device_ = d;
  return r;
}

uint64_t Budget::limit() const {
  std::lock_guard lock(mutex_);
  return limit_;
}

uint64_t Budget::used() const {
  std::lock_guard lock(mutex_);
  return used_;
}

uint64_t Budget::used(MemoryClass c) const {
  std::lock_guard lock(mutex_);
  return by_class_[static_cast<size_t>(c)];
}

uint64_t Budget::available() const {
  std::lock_guard lock(mutex_);
  const uint64_t most = bound(unpinned());
  return most > used_ ? most - used_ : 0;
}

uint64_t Budget::effective() const {
  std::lock_guard lock(mutex_);
  return std::min({limit_, ceiling_, std::max(pressure_, unpinned())});
}

uint64_t Budget::hard() const { return std::min({limit_, closing_, ceiling_}); }
uint64_t Budget::bound(uint64_t unpinned_bytes) const { return std::min(hard(), std::max(pressure_, unpinned_bytes)); }
uint64_t Budget::unpinned() const {
  return used_ - by_class_[static_cast<size_t>(MemoryClass::kWeightsPinned)] - by_class_[static_cast<size_t>(MemoryClass::kWeightsMapped)];
}

void Budget::add_reclaimer(Reclaimer* r, ReclaimRank rank) {
  const std::lock_guard lock(reclaim_mutex_);
  const auto at = std::upper_bound(
      reclaimers_.begin(), reclaimers_.end(), rank, [](ReclaimRank x, const Ranked& y) { return x < y.rank; });
  reclaimers_.insert(at, {r, rank});
}

void Budget::remove_reclaimer(Reclaimer* r) {
  const std::lock_guard lock(reclaim_mutex_);
  std::erase_if(reclaimers_, [r](const Ranked& x) { return x.reclaimer == r; });
}

template <class Missing>
uint64_t Budget::reclaim_until(ReclaimRank last, Missing&& missing) {
  uint64_t bytes = missing();
  // A copy: those asked may take others with them.
  for (const Ranked& asked : std::vector<Ranked>(reclaimers_)) {
    if (bytes == 0 || asked.rank > last) break;
    const bool there = std::any_of(
        reclaimers_.begin(), reclaimers_.end(), [&](const Ranked& x) { return x.reclaimer == asked.reclaimer; });
    if (!there) continue;
    asked.reclaimer->reclaim(bytes);
    bytes = missing();
  }
  return bytes;
}

Result<void> Budget::set_limit(uint64_t bytes) {
  const std::lock_guard reclaiming(reclaim_mutex_);
  {
    const std::lock_guard lock(mutex_);
    closing_ = bytes;
  }
  const uint64_t missing = reclaim_until(ReclaimRank::kUnload, [&] {
    const std::lock_guard lock(mutex_);
    return used_ > bytes ? used_ - bytes : 0;
  });
  const std::lock_guard lock(mutex_);
  if (missing > 0) {
    closing_ = limit_;
    return Error{.code = "budget_below_floor",
                 .what = "budget " + format_bytes(bytes) + " is below what cannot be given back now, " + format_bytes(used_),
                 .hint = "try a budget of " + std::to_string((used_ >> 20) + 1) + "M"};
  }
  limit_ = closing_ = bytes;
  return success();
}

bool Budget::set_ceiling(uint64_t bytes) {
  const std::lock_guard reclaiming(reclaim_mutex_);
  {
    const std::lock_guard lock(mutex_);
    ceiling_ = bytes;
  }
  return reclaim_until(ReclaimRank::kUnload, [&] {
           const std::lock_guard lock(mutex_);
           return used_ > ceiling_ ? used_ - ceiling_ : 0;
         }) == 0;
}

bool Budget::set_pressure(uint64_t bytes) {
  const std::lock_guard reclaiming(reclaim_mutex_);
  {
    const std::lock_guard lock(mutex_);
    pressure_ = bytes;
  }
  return reclaim_until(ReclaimRank::kPins, [&] {
           const std::lock_guard lock(mutex_);
           return used_ > pressure_ ? used_ - pressure_ : 0;
         }) == 0;
}

Result<void> Budget::charge(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c) {
  auto charged = charge_now(old_bytes, new_bytes, c);
  if (charged || new_bytes <= old_bytes || is_pins(c)) return charged;
  // Caches and pins make room for what a request needs; they only make it slower. Nothing is taken
  // in vain.
  const std::lock_guard reclaiming(reclaim_mutex_);
  if (hopeless(old_bytes, new_bytes)) return charged;
  reclaim_until(ReclaimRank::kUnload, [&]() -> uint64_t {
    charged = charge_now(old_bytes, new_bytes, c);
    if (charged) return 0;
    const std::lock_guard lock(mutex_);
    const uint64_t total = used_ - old_bytes + new_bytes;
    const uint64_t most = bound(unpinned() - old_bytes + new_bytes);
    return total > most ? total - most : 1;
  });
  return charged;
}

Result<void> Budget::could_reserve(uint64_t bytes, MemoryClass c) {
  const std::lock_guard reclaiming(reclaim_mutex_);
  if (!hopeless(0, bytes)) return success();
  const std::lock_guard lock(mutex_);
  return exceeded(bytes, used_, c);
}

bool Budget::hopeless(uint64_t old_bytes, uint64_t new_bytes) const {
  uint64_t givable = 0;
  for (const Ranked& asked : reclaimers_) {
    const uint64_t most = asked.reclaimer->most_unpinned();
    givable = most > UINT64_MAX - givable ? UINT64_MAX : givable + most;
  }
  const std::lock_guard lock(mutex_);
  const uint64_t others = unpinned() - old_bytes;
  const uint64_t stays = others > givable ? others - givable : 0;
  return stays > hard() || new_bytes > hard() - stays;
}

Result<void> Budget::charge_now(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c) {
  std::lock_guard lock(mutex_);
  uint64_t& held = by_class_[static_cast<size_t>(c)];
  SLUICE_CHECK(held >= old_bytes && used_ >= held);
  const uint64_t others = used_ - old_bytes;
  if (new_bytes > old_bytes) {
    // `hard` first: a number near 2^64 must not wrap.
    if (others > hard() || new_bytes > hard() - others) return exceeded(new_bytes, others, c);
    const uint64_t unpinned_after = unpinned() + (is_pins(c) ? 0 : new_bytes - old_bytes);
    if (others + new_bytes > bound(unpinned_after)) return exceeded(new_bytes, others, c);
  }
  held = held - old_bytes + new_bytes;
  used_ = others + new_bytes;
  return success();
}

Error Budget::exceeded(uint64_t new_bytes, uint64_t others, MemoryClass c) const {
  std::string what = "needs " + format_bytes(new_bytes) + " for " + memory_class_name(c) + ", limit " +
                     format_bytes(hard()) + ", held " + format_bytes(others);
  const char* before = " (";
  for (size_t i = 0; i < by_class_.size(); ++i) {
    if (by_class_[i] == 0) continue;
    what += before;
    what += std::string(memory_class_name(static_cast<MemoryClass>(i))) + " " + format_bytes(by_class_[i]);
    before = ", ";
  }
  if (*before == ',') what += ")";
  return Error{.code = "budget_exceeded", .what = std::move(what), .hint = "raise the memory budget"};
}

}  // namespace sluice
