// A mapped file may be cut off by somebody else while we read it: the kernel then sends SIGBUS. For addresses in a guarded
// range the handler puts a page of zeros there and notes it; whoever computed with the zeros asks cut_off() before anything
// leaves. Any other SIGBUS ends the process as it always did.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace sluice {

class SigbusGuard {
 public:
  static constexpr int kMaxRanges = 1024;

  SigbusGuard() = default;
  // Guards [begin, begin + n_bytes) as long as it lives; installs the handler at first use. Without a free place in the table
  // nothing is guarded: active() tells.
  SigbusGuard(const void* begin, uint64_t n_bytes);
  SigbusGuard(SigbusGuard&& o) noexcept : place_(std::exchange(o.place_, -1)) {}
  SigbusGuard& operator=(SigbusGuard&& o) noexcept {
    std::swap(place_, o.place_);
    return *this;
  }
  ~SigbusGuard();

  bool active() const { return place_ >= 0; }
  // Zeros were read in place of the file.
  bool cut_off() const;

 private:
  int place_ = -1;
};

}  // namespace sluice
