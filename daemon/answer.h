// What a route gives back: a response that is ready, or a LongAnswer that the session steps
// through. A LongAnswer knows nothing of sockets, so that streaming, heartbeats and failures are
// tested as a plain state machine.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "daemon/http_message.h"

namespace sluice {

using SteadyClock = std::chrono::steady_clock;

struct AnswerStep {
  enum class Kind : uint8_t {
    kWait,      // nothing to say before `until`, unless woken
    kRespond,   // the whole answer; nothing was sent before; the last step
    kHead,      // status and headers of a body sent in pieces
    kData,      // a piece of it
    kEnd,       // the body is complete; the last step
    kEndClose,  // the same, and the connection ends with it
    kAbort,     // close without completing the body: the client must not take it for an answer; the
                // last step
  };
  Kind kind = Kind::kWait;
  SteadyClock::time_point until{};  // kWait
  HttpResponse response{};          // kRespond; kHead without its body
  std::string data{};               // kData
};

// Why nobody waits for an answer any more.
enum class Gone : uint8_t {
  kLeft,
  kTooSlow,  // did not read for http.write_timeout
};

class LongAnswer {
 public:
  virtual ~LongAnswer() = default;
  // Once, before anything else, on the io thread. `wake` may be called from any thread, also after
  // the answer is done; it makes the session call next() soon.
  virtual void start(std::function<void()> wake) = 0;
  // Io thread. `can_chunk` false (HTTP/1.0): a plain answer may not be begun before it is whole.
  virtual AnswerStep next(SteadyClock::time_point now, bool can_chunk) = 0;
  // Io thread. No step is asked for afterwards.
  virtual void cancel(Gone why) = 0;
};

using Answer = std::variant<HttpResponse, std::shared_ptr<LongAnswer>>;

class Worker;

// What is done where the client has gone before its turn came.
enum class IfGone : uint8_t {
  kDoIt,  // what was ordered
  kSkip,  // what would only have been told
};
// An answer made on a worker thread. Once begun it is not cancelled: such work is short and
// bounded. `large`: see Worker::post. What `make` holds goes when it was made or skipped.
std::shared_ptr<LongAnswer> answer_on(Worker& worker,
                                      std::function<HttpResponse()> make,
                                      std::string request_id,
                                      bool large,
                                      IfGone if_gone = IfGone::kDoIt);
// Bodies from this size on are large ones.
inline constexpr size_t kLargeBody = 256u << 10;

}  // namespace sluice
