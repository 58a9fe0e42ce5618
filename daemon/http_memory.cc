#include "daemon/http_memory.h"

#include <utility>

namespace sluice {

HttpMemory::HttpMemory(Budget& budget) : budget_(budget) {
  if (auto kept = budget_.reserve(kKept, MemoryClass::kHttp)) kept_ = std::move(kept).value();
}

bool HttpMemory::take(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > kept_.bytes() - taken_) return false;
  taken_ += bytes;
  return true;
}

void HttpMemory::give_back(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  taken_ -= bytes;
}

bool HttpHold::take_to(uint64_t bytes) {
  const uint64_t held = this->bytes();
  if (bytes <= held) return true;
  if (!memory_.take(bytes - held)) return false;
  from_kept_ += bytes - held;
  return true;
}

Result<void> HttpHold::could_grow_to(uint64_t bytes) {
  const uint64_t held = this->bytes();
  if (bytes <= held) return success();
  return memory_.budget_.could_reserve(bytes - held, MemoryClass::kHttp);
}

Result<void> HttpHold::grow_to(uint64_t bytes) {
  if (take_to(bytes)) return success();
  const uint64_t more = bytes - this->bytes();
  if (own_.bytes() > 0) return own_.resize(own_.bytes() + more);
  SLUICE_TRY(own_, memory_.budget_.reserve(more, MemoryClass::kHttp));
  return success();
}

}  // namespace sluice
