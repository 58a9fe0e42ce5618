// What connections hold, in the ledger (class http): request bodies with what is made of them, and
// answers on their way. Taking from what is reserved already never waits; growing may take pins and
// idle models and is for a worker. Thread-safe.
//
// Of one connection at most, with the limits of HttpLimits: a request's head and what was received
// with it (24 KiB and one read of 64 KiB, outside the ledger: it is gone before anything else is
// held), kBodyCopies x body_bytes, and kStreamCopies x stream_buffer_bytes or, for an answer in one
// piece, kDocumentCopies x the text and log-probabilities it is made of.
#pragma once

#include <cstdint>
#include <mutex>

#include "base/result.h"
#include "storage/budget.h"

namespace sluice {

class HttpMemory {
 public:
  // The body itself, its JSON, and the prompt made of it.
  static constexpr uint64_t kBodyCopies = 3;
  // What waits for the session, and the events written from the batch taken before.
  static constexpr uint64_t kStreamCopies = 5;
  // The pieces, and the document written from them.
  static constexpr uint64_t kDocumentCopies = 2;
  // Kept reserved, so that small requests find their room without asking anybody.
  static constexpr uint64_t kKept = 1u << 20;

  // Takes kKept when the budget has it. `budget` must outlive this.
  explicit HttpMemory(Budget& budget);

 private:
  friend class HttpHold;
  bool take(uint64_t bytes);
  void give_back(uint64_t bytes);

  Budget& budget_;
  Reservation kept_;
  std::mutex mutex_;
  uint64_t taken_ = 0;  // of kept_; guarded by mutex_
};

// What one owner holds of it; gives itself back. Not for two threads at a time.
class HttpHold {
 public:
  explicit HttpHold(HttpMemory& memory) : memory_(memory) {}
  ~HttpHold() { memory_.give_back(from_kept_); }
  HttpHold(const HttpHold&) = delete;
  HttpHold& operator=(const HttpHold&) = delete;

  uint64_t bytes() const { return from_kept_ + own_.bytes(); }
  // To at least `bytes` in all, from what is kept. False: grow_to() on a worker.
  bool take_to(uint64_t bytes);
  // Errors: budget_exceeded.
  Result<void> grow_to(uint64_t bytes);
  // Whether that has a chance, now. Takes nothing; for a worker too.
  Result<void> could_grow_to(uint64_t bytes);

 private:
  HttpMemory& memory_;
  uint64_t from_kept_ = 0;
  Reservation own_;
};

}  // namespace sluice
