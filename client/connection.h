// A connected socket with deadlines; every wait also ends at a signal and when nobody reads our
// stdout any more.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "client/address.h"

namespace sluice {

inline constexpr int64_t kForever = -1;

// Milliseconds of a clock that never jumps.
int64_t now_ms();
// The moment `timeout_ms` after `now`; kForever, and what is too far to count, is kForever.
int64_t deadline_after(int64_t timeout_ms, int64_t now = now_ms());
// What is left until `deadline`, never below 0: -1 would be for ever.
int64_t time_left(int64_t deadline, int64_t now = now_ms());

class Connection {
 public:
  // AF_UNIX peers must be our own uid or root (SO_PEERCRED). Errors: daemon_unreachable with path
  // and errno text, not_permitted, interrupted.
  static Result<Connection> open(const Address& address, int64_t timeout_ms);
  Connection(Connection&& o) noexcept;
  Connection& operator=(Connection&&) = delete;
  ~Connection();

  // Errors: connection_lost, timed_out, interrupted, pipe_closed.
  Result<void> write_all(std::string_view bytes, int64_t timeout_ms);
  // 0 bytes: the peer ended. `timeout_ms` counts from now. Errors as write_all.
  Result<size_t> read_some(char* buffer, size_t size, int64_t timeout_ms);

 private:
  explicit Connection(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace sluice
