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

Result<void> Budget::charge(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c) {
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
