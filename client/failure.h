// What goes wrong in the client: an Error, plus what only an HTTP answer knows. Answer<T> is its
// Result.
#pragma once

#include <utility>

#include "base/result.h"
#include "daemon/protocol/errors.h"

namespace sluice {

struct Failure {
  Failure(Error e)
      : error(std::move(e)) {}  // NOLINT(google-explicit-constructor): SLUICE_TRY converts
  Failure(const ApiError& e)
      : error(e.error), holds(e.holds), status(e.status), retry_after_s(e.retry_after_s) {}  // NOLINT

  Error error;
  std::string holds;      // what stands in the way, class by class
  int status = 0;         // HTTP; 0: the failure is ours
  int retry_after_s = 0;  // of a 429 or 503
};

template <class T>
using Answer = BOOST_OUTCOME_V2_NAMESPACE::
    basic_result<T, Failure, BOOST_OUTCOME_V2_NAMESPACE::policy::terminate>;

// Our own codes besides those of daemon/protocol/errors.h.
inline constexpr const char* kInterrupted = "interrupted";  // SIGINT, SIGTERM
inline constexpr const char* kPipeClosed = "pipe_closed";   // nobody reads our stdout any more
inline constexpr const char* kUnreachable = "daemon_unreachable";  // no connection
inline constexpr const char* kTimedOut = "timed_out";
inline constexpr const char* kBadAnswer = "protocol";  // what came is not HTTP, JSON, or ours
inline constexpr const char* kConnectionLost =
    "connection_lost";  // ended in the middle of an answer

// INTERFACE 1.2.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNoDaemon = 3;
inline constexpr int kExitNotFound = 5;
inline constexpr int kExitBusy = 7;
inline constexpr int kExitPartial = 8;
inline constexpr int kExitIncompatible = 9;
inline constexpr int kExitPipeClosed = 141;

}  // namespace sluice
