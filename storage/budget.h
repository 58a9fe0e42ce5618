// The ledger: every large byte is reserved here before it is allocated. Budget is thread-safe; a Reservation
// belongs to one owner and gives its bytes back when it ends.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/result.h"

namespace sluice {

enum class MemoryClass : uint8_t {
  kWeightsPinned, kWeightsMapped, kRing, kKv, kActivations, kPrefixCache, kHttp, kTelemetry, kTokenizer, kFixed, kCount
};
const char* memory_class_name(MemoryClass c);
// Weights that may be given back at any time: in memory of ours, or pages of a mapped file.
constexpr bool is_pins(MemoryClass c) { return c == MemoryClass::kWeightsPinned || c == MemoryClass::kWeightsMapped; }
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

// Holds memory that can be given up: pinned weights, idle caches.
class Reclaimer {
 public:
  virtual ~Reclaimer() = default;
  // Gives back up to `bytes`; returns when the kernel has them. Called from any thread, never under the ledger's lock.
  virtual void reclaim(uint64_t bytes) = 0;
};

class Budget {
 public:
  static constexpr uint64_t kUnlimited = UINT64_MAX;
  explicit Budget(uint64_t limit_bytes = kUnlimited) : limit_(limit_bytes) {}

  // Errors: budget_exceeded, with what is held by class and what was asked for.
  Result<Reservation> reserve(uint64_t bytes, MemoryClass c, Device d = Device::kRam);

  // Whoever registers is asked when something other than pinned weights does not fit. remove() waits for a call that is
  // under way.
  void add_reclaimer(Reclaimer* r);
  void remove_reclaimer(Reclaimer* r);

  // Moves the limit; a lower one makes reclaimers give back first. Errors: budget_below_floor, with the smallest limit
  // that would do now; the old one stays.
  Result<void> set_limit(uint64_t bytes);

  uint64_t limit() const;
  uint64_t available() const;                                                // limit - used
  uint64_t used() const;
  uint64_t used(MemoryClass c) const;

 private:
  friend class Reservation;
  Result<void> charge(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c);
  Result<void> charge_now(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c);
  // Asks reclaimers until `fits` or none is left. Returns the last fits().
  template <class Fits>
  bool reclaim_until(uint64_t bytes, Fits&& fits);
  std::mutex reclaim_mutex_;                                                 // held while reclaimers work
  std::vector<Reclaimer*> reclaimers_;                                       // guarded by reclaim_mutex_
  mutable std::mutex mutex_;
  uint64_t limit_;
  uint64_t used_ = 0;                                                        // sum of by_class_
  std::array<uint64_t, static_cast<size_t>(MemoryClass::kCount)> by_class_{};
};

}  // namespace sluice
