// The answer to a generation request: a stream of events, or one document. Which one is known once
// a worker has read the request.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/answer.h"
#include "daemon/generation_job.h"

namespace sluice {

class GenerationAnswer final : public LongAnswer {
 public:
  GenerationAnswer(App& app, std::shared_ptr<GenerationJob> job);
  ~GenerationAnswer() override { cancel(Gone::kLeft); }

  void start(std::function<void()> wake) override;
  AnswerStep next(SteadyClock::time_point now, bool can_chunk) override;
  void cancel(Gone why) override;

 private:
  using Snapshot = GenerationJob::Snapshot;
  AnswerStep next_event(SteadyClock::time_point now, const Snapshot& s, std::vector<Delta> deltas);
  AnswerStep next_document(SteadyClock::time_point now,
                           const Snapshot& s,
                           std::vector<Delta> deltas,
                           bool can_chunk);
  AnswerStep error_before_head(const ApiError& error);
  AnswerStep head(const Snapshot& s, const char* content_type);
  AnswerStep wait_until(SteadyClock::time_point t) const;
  std::string events_of(const GenerationSpec& spec, std::vector<Delta> deltas);
  std::string event_of(const GenerationSpec& spec, const Delta& d, const Timings* timings);
  std::string last_events(const Snapshot& s);
  std::string heartbeat(const Snapshot& s) const;
  const AnswerId& answer_id(const GenerationSpec& spec);
  HeaderList generation_headers(const Snapshot& s) const;

  App& app_;
  const std::shared_ptr<GenerationJob> job_;
  SteadyClock::time_point started_{};
  SteadyClock::time_point last_sent_{};
  bool head_sent_ = false;
  bool ended_ = false;
  std::optional<AnswerId> id_;
  std::vector<bool> role_sent_;       // of each choice
  std::optional<Delta> last_finish_;  // held until the timings are known
  std::vector<ChoiceText> texts_;     // of a document
};

}  // namespace sluice
