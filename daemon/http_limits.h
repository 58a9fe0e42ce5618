// Limits of the HTTP side (RELIABILITY section 3). Durations are total deadlines unless called
// idle.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

struct HttpLimits {
  size_t request_line_bytes = 8u << 10;  // without its CRLF
  size_t header_bytes = 16u << 10;       // all header lines with their CRLFs
  size_t header_count = 64;
  uint64_t body_bytes = 8u << 20;
  uint64_t bodies_in_flight_bytes = 64u << 20;  // of all connections together
  size_t json_depth = 64;
  size_t json_values = 1u << 20;
  size_t connections = 1024;
  size_t connections_per_uid = 256;
  size_t stream_buffer_bytes = 64u << 10;  // per stream; then the generation waits
  int64_t header_ms = 5'000;
  int64_t body_idle_ms = 5'000;
  int64_t body_total_ms = 30'000;
  int64_t keep_alive_idle_ms = 15'000;
  int64_t write_ms = 30'000;         // without progress
  int64_t early_headers_ms = 5'000;  // a stream's status line is held at most this long
  int64_t heartbeat_ms = 5'000;      // silence between two comments of a stream
  int64_t pad_json_ms = 15'000;      // silence before (and between) padding of a plain answer
};

}  // namespace sluice
