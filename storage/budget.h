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
  // Gives back up to `bytes`; returns when the kernel has them. Called from any thread, never under the ledger's lock; may
  // end in the destruction of reclaimers, itself excepted.
  virtual void reclaim(uint64_t bytes) = 0;
  // At most what can come of it besides pins, which the ledger counts by itself. Called as
  // reclaim() is.
  virtual uint64_t most_unpinned() const { return UINT64_MAX; }
};

// Who is asked first.
enum class ReclaimRank : uint8_t {
  kIdle,      // what only idle models hold: their pins and kept KV
  kPins,      // pins of any model
  kUnload,    // idle models altogether; never because of memory pressure
};

// limit (asked) >= effective (what pressure leaves of it, and what can be charged) >= what is held besides pins.
class Budget {
 public:
  static constexpr uint64_t kUnlimited = UINT64_MAX;
  explicit Budget(uint64_t limit_bytes = kUnlimited) : limit_(limit_bytes), closing_(limit_bytes) {}

  // Errors: budget_exceeded, with what is held by class and what was asked for.
  Result<Reservation> reserve(uint64_t bytes, MemoryClass c, Device d = Device::kRam);
  // Whether reserve() has a chance now, with all that reclaimers hold; takes nothing. May wait for
  // reclaimers at work. Errors: budget_exceeded.
  Result<void> could_reserve(uint64_t bytes, MemoryClass c);

  // Whoever registers is asked when something other than pinned weights does not fit. remove() waits for a call that is
  // under way on another thread.
  void add_reclaimer(Reclaimer* r, ReclaimRank rank = ReclaimRank::kPins);
  void remove_reclaimer(Reclaimer* r);

  // Moves the limit; a lower one makes reclaimers give back first, and nobody charges past it from the start. Errors:
  // budget_below_floor, with the smallest limit that would do now; the old one stays.
  Result<void> set_limit(uint64_t bytes);
  // A limit that others set on us, such as a cgroup's: charging ends there, whatever is held. False: more than that is
  // held and cannot be given back.
  bool set_ceiling(uint64_t bytes);
  // Memory pressure: pins keep within `bytes`, idle models give their caches back; what running requests need may pass
  // it, up to the limit. False: what is held besides is more.
  bool set_pressure(uint64_t bytes);

  uint64_t limit() const;
  uint64_t effective() const;
  uint64_t available() const;                                                // effective - used
  uint64_t used() const;
  uint64_t used(MemoryClass c) const;

 private:
  friend class Reservation;
  Result<void> charge(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c);
  Result<void> charge_now(uint64_t old_bytes, uint64_t new_bytes, MemoryClass c);
  // All below: mutex_ held.
  uint64_t hard() const;                                                     // of every charge
  uint64_t bound(uint64_t unpinned_bytes) const;                             // of a total with so much besides pins
  uint64_t unpinned() const;
  Error exceeded(uint64_t new_bytes, uint64_t others, MemoryClass c) const;
  // reclaim_mutex_ held. That so much besides pins does not fit even if all reclaimers give all
  // they have.
  bool hopeless(uint64_t old_bytes, uint64_t new_bytes) const;
  // reclaim_mutex_ held. Asks reclaimers up to `last` until missing() is 0 or none is left; returns the last missing().
  template <class Missing>
  uint64_t reclaim_until(ReclaimRank last, Missing&& missing);

  struct Ranked {
    Reclaimer* reclaimer;
    ReclaimRank rank;
  };
  // Held while reclaimers work. Recursive: a reclaimer may end a model, whose own reclaimers then leave.
  std::recursive_mutex reclaim_mutex_;
  std::vector<Ranked> reclaimers_;                                           // guarded by reclaim_mutex_; by rank
  mutable std::mutex mutex_;                                                 // taken last
  uint64_t limit_;
  uint64_t closing_;                                                         // a lower limit on its way; else limit_
  uint64_t ceiling_ = kUnlimited;
  uint64_t pressure_ = kUnlimited;
  uint64_t used_ = 0;                                                        // sum of by_class_
  std::array<uint64_t, static_cast<size_t>(MemoryClass::kCount)> by_class_{};
};

}  // namespace sluice
