// One chat or completion request on its way: read and tokenized on a worker, admitted to the run
// queue, generated on the queue's thread, taken piece by piece by the session. While the session
// holds more than the stream's buffer the generation waits, and as soon as somebody else wants to
// run it steps aside between two passes (RunQueue::park) and goes on, with the same text, once the
// session has taken what there was. Thread-safe; lives as long as the longest of its users.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/answer.h"
#include "daemon/app.h"
#include "daemon/choice_sink.h"
#include "daemon/http_message.h"
#include "daemon/protocol/messages.h"
#include "scheduler/engine.h"

namespace sluice {

// A piece of one choice's answer, in the order of the text.
struct Delta {
  int64_t choice = 0;
  std::string text{};
  std::vector<TokenLogprob> logprobs{};
  std::string finish{};  // not empty: the last one of this choice
};

// What the request asks for; fixed once it has been read.
struct GenerationSpec {
  bool chat = true;
  GenerationParams params;
  ChatInput chat_input;         // chat
  std::vector<Prompt> prompts;  // completion
  bool echo = false;
  std::string model;  // the name that was resolved

  int64_t n_choices() const { return (chat ? 1 : static_cast<int64_t>(prompts.size())) * params.n; }
};

class GenerationJob : public std::enable_shared_from_this<GenerationJob> {
 public:
  GenerationJob(App& app, HttpRequest request, bool chat);

  // `wake` is called from other threads whenever snapshot() or take() may say something new.
  void start(std::function<void()> wake);
  // Nobody waits for the answer. The generation stops within one block's compute; a waiting one leaves the
  // queue.
  void cancel(Gone why);

  struct Snapshot {
    const GenerationSpec* spec = nullptr;  // null until the request has been read; then constant
    bool finished = false;                 // no delta comes any more
    std::optional<ApiError> error;         // of a finished one
    std::string queue_id;                  // "r-0192", empty until admitted
    size_t position = 0;                   // at admission; 0: it could run at once
    Usage usage;                           // of a finished one
    Timings timings;
  };
  Snapshot snapshot() const;
  // What has been produced since the last call; frees the stream's buffer.
  std::vector<Delta> take();
  const Progress& progress() const { return *progress_; }
  const std::string& request_id() const { return request_id_; }
  const RequestKey& key() const { return key_; }

 private:
  struct Sums {
    int64_t computed_tokens = 0, cached_tokens = 0, completion_tokens = 0;
    double prefill_ms = 0, decode_ms = 0;
  };
  class Recorder;
  struct PromptIds {
    std::vector<TokenId> ids;
    std::string echo_text;
  };

  // On a worker.
  void prepare();
  Result<void> prepare_all();
  Result<GenerationSpec> read_spec();
  Result<void> tokenize(const ChatInput& chat);
  Result<void> submit();
  // On the queue's thread.
  void run();
  void tell(std::string_view type, boost::json::object more = {}) const;
  void note_progress(Phase phase, int64_t done, int64_t total);
  Result<void> generate_all(LoadedModel& loaded);
  Result<void> generate_choice(Engine& engine, const PromptIds& prompt);
  GenerationRequest engine_request(const PromptIds& prompt, int64_t choice) const;
  void begin_choice(const GenerationRequest& request, const PromptIds& prompt);
  void step_aside();
  void drop();  // instead of run(), on any thread
  // Waits while the buffer is full and nobody else wants to run. False when cancelled or when this
  // generation is to step aside; the piece is in the buffer all the same, unless cancelled.
  bool emit(Delta delta);
  void finish(std::optional<ApiError> error);
  ApiError api_error(Error error) const;
  Result<void> hold_room(uint64_t bytes);

  App& app_;
  const bool chat_;
  const uint32_t uid_;
  const std::string request_id_;
  const RequestKey key_;
  std::string body_;  // dropped once read
  const std::shared_ptr<const void> body_hold_;  // prompts made of it live as long as this
  const std::chrono::steady_clock::time_point arrived_ = std::chrono::steady_clock::now();
  const std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();
  const std::shared_ptr<CancelToken> cancel_ = std::make_shared<CancelToken>();
  std::atomic<bool> too_slow_{false};  // why it was cancelled
  // Of the worker, then of the queue's thread: the answer on its way, in the ledger.
  HttpHold memory_;
  uint64_t document_bytes_ = 0;
  std::optional<Error> no_room_;  // for the answer
  uint64_t seed_ = 0;
  std::chrono::steady_clock::time_point progress_told_{};  // of the queue's thread

  // Written by prepare(), constant from admission on.
  GenerationSpec spec_;
  ModelRegistry::EntryPtr entry_;
  std::shared_ptr<const ModelText> text_;
  std::vector<PromptIds> prompts_;
  std::vector<std::string> stops_;
  std::optional<int64_t> ctx_limit_;

  // Of the queue's thread: how far it is, also while it stands aside.
  bool begun_ = false;
  Sums sum_;
  int64_t choice_ = 0;                // the first that is not complete
  std::unique_ptr<ChoiceSink> sink_;  // of choice_, once begun
  std::vector<TokenId> generated_;    // of choice_
  bool parked_ = false;               // the registry knows that it will be back
  uint64_t kv_wanted_ = 0;            // as it stepped aside, while it still ran
  EngineMemory needs_;                // to go on
  bool can_step_aside_ = false;
  bool stepping_aside_ = false;

  mutable std::mutex mutex_;
  std::condition_variable drained_;
  // Guarded by mutex_.
  std::function<void()> wake_;
  bool spec_ready_ = false;
  bool finished_ = false;
  std::optional<ApiError> error_;
  std::string queue_id_;
  size_t position_ = 0;
  std::vector<Delta> deltas_;
  size_t buffered_bytes_ = 0;
  bool aside_ = false;  // take() brings it back
  Usage usage_;
  Timings timings_;
};

}  // namespace sluice
