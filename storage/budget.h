// The ledger: every large byte is reserved here before it is allocated. Budget is thread-safe; a Reservation
// belongs to one owner and gives its bytes back when it ends.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "base/result.h"

namespace sluice {

enum class MemoryClass : uint8_t {
  kWeightsPinned, kWeightsMapped, kRing, kKv, kActivations, kPrefixCache, kHttp, kTelemetry, kTokenizer, kFixed, kCount
};
const char* memory_class_name(MemoryClass c);
enum class Device : uint8_t { kRam, kGpu };

class Budget;

class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& o) noexcept;
  Reservation& operator=(Reservation&& o) noexcept;
  ~Reservation();
  uint64_t bytes() const { return bytes_; }
  // Grows or shrinks to `bytes`. Errors: budget_exceeded (unchanged then).
  Result<void> resize(uint64_t bytes);

 private:
  friend class Budget;
  Budget* budget_ = nullptr;
  uint64_t bytes_ = 0;
  MemoryClass class_{};
  Device device_{};
};

class Budget {
 public:
  static constexpr uint64_t kUnlimited = UINT64_MAX;
  explicit Budget(uint64_t limit_bytes = kUnlimited) : limit_(limit_bytes) {}

  // Errors: budget_exceeded, with what is held by class and what was asked for.
  Result<Reservation> reserve(uint64_t bytes, MemoryClass c, Device d = Device::kRam);

  uint64_t limit() const;
  uint64_t used() const;
  uint64_t used(MemoryClass c) const;

 private:
  friend class Reservation;
  Result<void> charge(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c);
  mutable std::mutex mutex_;
  uint64_t limit_;
  uint64_t used_ = 0;                                                        // sum of by_class_
  std::array<uint64_t, static_cast<size_t>(MemoryClass::kCount)> by_class_{};
};

}  // namespace sluice
