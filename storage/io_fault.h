// Faults on purpose in the n-th read of this process, so that every bad day of a disk can be tried: SLUICE_IOFAULT, a comma
// list of read:N:WHAT. N counts from 1 over all queues; WHAT is an errno name (EIO, EINTR, EAGAIN, ENOMEM, EINVAL), `short`
// (half of what was asked for arrives, in whole pages), `eof`, `flip` (one bit of what arrives is another) or a delay (`20s`, `50ms`). N may
// be `5+` (the fifth and all later ones) or `*`.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace sluice {

class IoFault {
 public:
  IoFault() = default;
  IoFault(IoFault&& o) noexcept : rules_(std::move(o.rules_)), count_(o.count_.load()) {}

  // Errors: invalid_config, naming the rule.
  static Result<IoFault> parse(const std::string& text);
  // What SLUICE_IOFAULT says, read once; a daemon asks for error() before it serves.
  static IoFault& of_process();
  static Result<void> check_environment();

  bool empty() const { return rules_.empty(); }
  // What is due for one more read; sleeps if that is a delay.
  struct Due {
    int error = 0;                   // errno
    bool shorten = false, eof = false, flip = false;
  };
  Due next();
  // pread with the faults that are due. Returns as pread does, errno set.
  int64_t pread(int fd, std::byte* dst, uint64_t n_bytes, uint64_t offset);

 private:
  struct Rule {
    uint64_t from = 1, to = UINT64_MAX;
    enum class Kind : uint8_t { kErrno, kShort, kEof, kFlip, kDelay } kind = Kind::kErrno;
    int64_t value = 0;               // errno, or milliseconds
  };
  static Result<Rule> parse_rule(const std::string& text);
  std::vector<Rule> rules_;
  std::atomic<uint64_t> count_{0};
};

}  // namespace sluice
