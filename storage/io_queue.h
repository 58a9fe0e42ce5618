// Reads of slices in the background: submit never blocks, completions arrive on the queue's own
// threads. Demand reads go before read-ahead, and what nobody waits for comes last. Means: direct
// (O_DIRECT into memory of ours), buffered (fallback, page cache dropped behind), virtual disk (a
// file that another process keeps in the page cache, paced to a set rate: repeatable benchmarks),
// and mmap (the file's own pages are the memory: populated and dropped here, read in place through
// mapping()).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "storage/file.h"
#include "storage/fill_share.h"
#include "storage/io_fault.h"
#include "storage/read_control.h"

namespace sluice {

struct ReadRequest {
  uint32_t part = 0;               // which file
  uint64_t file_offset = 0;        // multiple of alignment()
  uint64_t n_bytes = 0;            // multiple of alignment(); what must arrive is `needed`
  uint64_t needed = 0;             // bytes from file_offset on that must be there (the file may end behind them)
  std::byte* dst = nullptr;        // aligned to alignment(). kMmap: null populates; else a copy is made and the pages dropped
  uint64_t tag = 0;                // handed back
  bool demand = false;
  bool last = false;  // begun when nothing else is to do, or after a few others (somebody may need
                      // it after all), and as FillShare allows
  bool drop = false;               // kMmap: the range goes out of memory instead
};

struct IoStats {
  uint64_t reads = 0, bytes = 0, retries = 0, failures = 0;
  double busy_s = 0;               // time during which at least one read was in flight
  uint64_t cached_bytes = 0;       // copied from the page cache instead; not in `bytes`, not in busy_s
};

enum class IoMode : uint8_t { kDirect, kBuffered, kVirtual, kMmap };
const char* io_mode_name(IoMode m);
// What a person may ask for: auto, direct, buffered, mmap. Errors: invalid_request.
Result<IoMode> io_mode_from_name(const std::string& name);

struct IoOptions {
  IoMode mode = IoMode::kDirect;
  int n_threads =
      4;  // reads in flight; 0: what ReadControl finds, from the device's shape in `shapes` on
  uint64_t request_bytes = ReadShape::kMostRequest;  // of one read, at most; with n_threads 0 found too
  ReadBook* shapes = nullptr;      // outlives the queue; null: nothing is remembered
  bool page_cache = false;         // kDirect: what the page cache holds already is copied from there
  FillShare* share = nullptr;      // outlives the queue, of all models; null: one of its own
  double virtual_bytes_per_s = 0;  // kVirtual
  IoFault* fault = nullptr;        // null: that of the process
};

class IoQueue {
 public:
  // Called on a queue thread. error is null on success.
  using Done = void (*)(void* ctx, uint64_t tag, const Error* error);

  virtual ~IoQueue() = default;    // stops
  virtual void submit(const ReadRequest& r) = 0;
  // Waits for reads in flight and forgets the others: no callback after this, and what is submitted goes nowhere. All else
  // still answers. Not from a callback.
  virtual void stop() = 0;
  virtual uint64_t alignment() const = 0;
  virtual IoMode mode() const = 0;
  // Reads in flight, at most, now.
  virtual int depth() const = 0;
  virtual IoStats stats() const = 0;
  // kMmap: where the file lies; null in other modes.
  virtual const std::byte* mapping(uint32_t part) const = 0;
  // kMmap: takes the range out of memory now; for threads that do not compute.
  virtual void drop_now(uint32_t part, uint64_t file_offset, uint64_t n_bytes) = 0;
  // kMmap: a file became shorter under its mapping.
  virtual bool cut_off() const = 0;

  // Re-opens each file for the mode through its descriptor. kDirect falls back to kBuffered where the file system
  // refuses O_DIRECT (mode() tells). Errors: io.open, io.map.
  static Result<std::unique_ptr<IoQueue>> create(std::span<const File* const> files, const IoOptions& o, Done done, void* ctx);
};

}  // namespace sluice
