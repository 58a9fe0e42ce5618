#include "storage/budget.h"

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
  return limit_ > used_ ? limit_ - used_ : 0;
}

void Budget::add_reclaimer(Reclaimer* r) {
  const std::lock_guard lock(reclaim_mutex_);
  reclaimers_.push_back(r);
}

void Budget::remove_reclaimer(Reclaimer* r) {
  const std::lock_guard lock(reclaim_mutex_);
  std::erase(reclaimers_, r);
}

template <class Fits>
bool Budget::reclaim_until(uint64_t bytes, Fits&& fits) {
  const std::lock_guard lock(reclaim_mutex_);
  bool ok = fits();
  for (Reclaimer* r : reclaimers_) {
    if (ok) break;
    r->reclaim(bytes);
    ok = fits();
  }
  return ok;
}

Result<void> Budget::set_limit(uint64_t bytes) {
  const uint64_t held = used();
  auto take = [&] {
    const std::lock_guard lock(mutex_);
    if (used_ > bytes) return false;
    limit_ = bytes;
    return true;
  };
  if (take() || reclaim_until(held > bytes ? held - bytes : 0, take)) return success();
  return Error{.code = "budget_below_floor",
               .what = "budget " + format_bytes(bytes) + " is below what cannot be given back now, " + format_bytes(used()),
               .hint = "try a budget of " + std::to_string((used() >> 20) + 1) + "M"};
}

Result<void> Budget::charge(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c) {
  auto charged = charge_now(old_bytes, new_bytes, c);
  if (charged || new_bytes <= old_bytes || is_pins(c)) return charged;
  // Pins make room for what a request needs; they only make it slower.
  auto take = [&] {
    charged = charge_now(old_bytes, new_bytes, c);
    return static_cast<bool>(charged);
  };
  reclaim_until(new_bytes - old_bytes, take);
  return charged;
}

Result<void> Budget::charge_now(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c) {
  std::lock_guard lock(mutex_);
  uint64_t& held = by_class_[static_cast<size_t>(c)];
  SLUICE_CHECK(held >= old_bytes && used_ >= held);
  const uint64_t others = used_ - old_bytes;
  if (new_bytes > old_bytes && (others > limit_ || new_bytes > limit_ - others)) {
    std::string what = "needs " + format_bytes(new_bytes) + " for " + memory_class_name(c) +
                       ", limit " + format_bytes(limit_) + ", held " + format_bytes(others);
    const char* before = " (";
    for (size_t i = 0; i < by_class_.size(); ++i) {
      if (by_class_[i] == 0) continue;
      what += before;
      what += std::string(memory_class_name(static_cast<MemoryClass>(i))) + " " +
              format_bytes(by_class_[i]);
      before = ", ";
    }
    if (*before == ',') what += ")";
    return Error{
        .code = "budget_exceeded", .what = std::move(what), .hint = "raise the memory budget"};
  }
  held = held - old_bytes + new_bytes;
  used_ = others + new_bytes;
  return success();
}

}  // namespace sluice
