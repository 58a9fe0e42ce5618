#include "daemon/generation_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <random>
#include <utility>

#include "base/log.h"
#include "daemon/answer.h"

namespace sluice {
namespace {

int64_t ms_between(std::chrono::steady_clock::time_point a,
                   std::chrono::steady_clock::time_point b) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(b - a).count();
}

// Cost of a piece in the stream's buffer: its text, and what the JSON around it takes.
size_t weight(const Delta& d) {
  size_t n = d.text.size() + 128;
  for (const TokenLogprob& t : d.logprobs) n += 96 + 64 * t.top.size();
  return n;
}

Priority queue_priority(RequestPriority p) {
  switch (p) {
    case RequestPriority::kHigh:
      return Priority::kHigh;
    case RequestPriority::kLow:
      return Priority::kLow;
    case RequestPriority::kNormal:
      break;
  }
  return Priority::kNormal;
}

SamplingParams sampling_of(const GenerationParams& p, uint64_t seed) {
  SamplingParams s;
  s.temperature = static_cast<float>(p.temperature);
  s.top_k = static_cast<int32_t>(p.top_k);
  s.top_p = static_cast<float>(p.top_p);
  s.min_p = static_cast<float>(p.min_p);
  s.typical_p = static_cast<float>(p.typical_p);
  s.repetition_penalty = static_cast<float>(p.repetition_penalty);
  s.presence_penalty = static_cast<float>(p.presence_penalty);
  s.frequency_penalty = static_cast<float>(p.frequency_penalty);
  for (const auto& [id, bias] : p.logit_bias)
    s.logit_bias.emplace_back(static_cast<TokenId>(id), static_cast<float>(bias));
  s.seed = seed;
  return s;
}

uint64_t random_seed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

}  // namespace

GenerationJob::GenerationJob(App& app, HttpRequest request, bool chat)
    : app_(app),
      chat_(chat),
      uid_(request.uid),
      request_id_(request.id),
      key_(request_key(request)),
      body_(std::move(request.body)),
      body_hold_(std::move(request.hold)),
      memory_(app.http_memory) {}

void GenerationJob::start(std::function<void()> wake) {
  {
    const std::lock_guard lock(mutex_);
    wake_ = std::move(wake);
  }
  const bool large = body_.size() >= kLargeBody;
  app_.worker.post([self = shared_from_this()] { self->prepare(); }, large);
}

void GenerationJob::cancel(Gone why) {
  if (why == Gone::kTooSlow) too_slow_.store(true);
  cancel_->cancel();
  std::string id;
  {
    const std::lock_guard lock(mutex_);
    id = queue_id_;
  }
  drained_.notify_all();
  if (!id.empty()) app_.queue.cancel(id, uid_, true);
}

GenerationJob::Snapshot GenerationJob::snapshot() const {
  const std::lock_guard lock(mutex_);
  Snapshot s;
  if (spec_ready_) s.spec = &spec_;
  s.finished = finished_;
  s.error = error_;
  s.queue_id = queue_id_;
  s.position = position_;
  s.usage = usage_;
  s.timings = timings_;
  return s;
}

std::vector<Delta> GenerationJob::take() {
  std::vector<Delta> out;
  std::string back;
  {
    const std::lock_guard lock(mutex_);
    out.swap(deltas_);
    buffered_bytes_ = 0;
    if (std::exchange(aside_, false)) back = queue_id_;
  }
  drained_.notify_all();
  if (!back.empty()) app_.queue.resume(back);
  return out;
}

// Room for the answer on its way. Errors: budget_exceeded; the request's answer is then 503.
Result<void> GenerationJob::hold_room(uint64_t bytes) {
  auto held = memory_.grow_to(bytes);
  if (!held) no_room_ = held.error();
  return held;
}

ApiError GenerationJob::api_error(Error error) const {
  if (no_room_ && error.code == "budget_exceeded") {
    ApiError busy{.error = std::move(error)};
    busy.status = 503;
    busy.retry_after_s = app_.queue.retry_after_s();
    return busy;
  }
  if (error.code == "cancelled" && app_.draining.load()) {
    error = Error{"shutting_down", "the daemon is shutting down"};
  } else if (error.code == "cancelled" && too_slow_.load()) {
    error = Error{"client_too_slow", "the client did not read its answer for http.write_timeout"};
  } else if (error.code == "budget_exceeded" || error.code == "budget_below_floor") {
    // 409 is for the native routes: OpenAI's clients would ask again.
    error.code = "model_does_not_fit";
  }
  const int status = http_status_of(error.code);
  if (status == 429 || status == 503) return app_.admission_error(std::move(error));
  return ApiError{.error = std::move(error)};
}

void GenerationJob::finish(std::optional<ApiError> error) {
  std::function<void()> wake;
  const std::string code = error ? error->error.code : "";
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    error_ = std::move(error);
    wake = wake_;
  }
  if (code.empty()) {
    tell("request.finished", {{"code", nullptr}, {"completion_tokens", usage_.completion_tokens}});
  } else {
    const bool cancelled = code == "cancelled" || code == "client_too_slow";
    tell(cancelled ? "request.cancelled" : "request.finished", {{"code", code}});
  }
  if (wake) wake();
}

void GenerationJob::prepare() {
  try {
    auto prepared = prepare_all();
    if (!prepared) finish(api_error(std::move(prepared).error()));
  } catch (const std::exception& e) {
    spdlog::error("a request failed while it was read: {} request={}", e.what(), request_id_);
    finish(ApiError{.error =
                        Error{"internal", "the daemon failed on this request; its log says more"}});
  }
}

Result<GenerationSpec> GenerationJob::read_spec() {
  SLUICE_TRY(
      const auto body,
      parse_json(body_, JsonLimits{app_.options.http.json_depth, app_.options.http.json_values}));
  std::string().swap(body_);
  GenerationSpec spec;
  spec.chat = chat_;
  if (chat_) {
    SLUICE_TRY(auto request, chat_request_from_json(body));
    spec.params = std::move(request.params);
    spec.chat_input = std::move(request.chat);
  } else {
    SLUICE_TRY(auto request, completion_request_from_json(body));
    spec.params = std::move(request.params);
    spec.prompts = std::move(request.prompts);
    spec.echo = request.echo;
  }
  return spec;
}

Result<void> GenerationJob::prepare_all() {
  if (cancel_->cancelled()) return Error{"cancelled", "the client left"};
  if (app_.draining.load()) return Error{"shutting_down", "the daemon is shutting down"};
  SLUICE_TRY(spec_, read_spec());
  SLUICE_TRY(entry_, app_.registry.find(spec_.params.model));
  spec_.model = entry_->name;
  SLUICE_TRY(ctx_limit_, app_.registry.context_of(*entry_, spec_.params.ctx));
  const ChatInput chat = std::exchange(spec_.chat_input, {});
  {
    // Heartbeats may begin while a slow disk gives us the tokenizer. From here on spec_ is
    // constant.
    const std::lock_guard lock(mutex_);
    spec_ready_ = true;
  }
  if (cancel_->cancelled()) return Error{"cancelled", "the client left"};
  if (spec_.params.stream) {
    SLUICE_TRY(hold_room(HttpMemory::kStreamCopies * app_.options.http.stream_buffer_bytes));
  }
  SLUICE_TRY(text_, app_.registry.text(entry_));
  SLUICE_TRY(tokenize(chat));
  seed_ = spec_.params.seed ? *spec_.params.seed : random_seed();
  SLUICE_TRY(validate(sampling_of(spec_.params, seed_), text_->tokenizer().vocab_size()));
  return submit();
}

Result<void> GenerationJob::tokenize(const ChatInput& chat) {
  stops_ = spec_.params.stop;
  const int64_t room = *ctx_limit_ - (spec_.params.max_tokens == 0 ? 0 : 1);
  const auto add = [&](PromptIds prompt) -> Result<void> {
    const auto n = static_cast<int64_t>(prompt.ids.size());
    if (n > room) {
      Error e{"context_length_exceeded",
              fmt::format("the prompt has {} tokens, the context holds {} and one must stay free "
                          "for the answer",
                          n,
                          *ctx_limit_),
              "shorten the prompt or raise ctx"};
      e.field = chat_ ? "messages" : "prompt";
      return e;
    }
    prompts_.push_back(std::move(prompt));
    return success();
  };
  if (chat_) {
    SLUICE_TRY(const std::string rendered, text_->render(chat));
    SLUICE_TRY(auto ids, text_->encode_chat(rendered));
    for (std::string& stop : text_->extra_stops()) stops_.push_back(std::move(stop));
    return add({std::move(ids), {}});
  }
  for (const Prompt& given : spec_.prompts) {
    PromptIds prompt;
    SLUICE_TRY(prompt.ids, text_->encode_prompt(given));
    if (spec_.echo) {
      const auto* typed = std::get_if<std::string>(&given);
      prompt.echo_text = typed != nullptr ? *typed : text_->tokenizer().decode(prompt.ids, false);
    }
    SLUICE_TRY(add(std::move(prompt)));
  }
  return success();
}

Result<void> GenerationJob::submit() {
  RunQueue::Job job;
  job.uid = uid_;
  job.priority = queue_priority(spec_.params.priority);
  job.model = spec_.model;
  job.cancel = cancel_;
  // The job holds us until it has run or was dropped.
  job.work = [self = shared_from_this()] { self->run(); };
  job.dropped = [self = shared_from_this()] { self->drop(); };
  std::string id;
  std::function<void()> wake;
  {
    // Held over submit(), which calls none of ours back: the job may run at once, and what it gives
    // out must find the id set.
    const std::lock_guard lock(mutex_);
    SLUICE_TRY(const auto ticket, app_.queue.submit(std::move(job)));
    id = queue_id_ = timings_.request_id = ticket.id;
    position_ = ticket.position;
    // run() may have begun: it waits for the lock before it tells.
    app_.events.publish(
        "request.queued", {{"id", id}, {"model", spec_.model}, {"position", position_}}, uid_);
    wake = wake_;
  }
  app_.progress.add(id, progress_);
  // A cancel() that came before the id was known could not take us out of the queue.
  if (cancel_->cancelled()) app_.queue.cancel(id, uid_, true);
  wake();
  return success();
}

void GenerationJob::tell(std::string_view type, boost::json::object more) const {
  {
    const std::lock_guard lock(mutex_);
    if (queue_id_.empty()) return;  // never admitted
    more["id"] = queue_id_;
  }
  more["model"] = spec_.model;
  app_.events.publish(type, std::move(more), uid_);
}

// Listings and heartbeats read the numbers when they want; events of them come at most twice a
// second, however many tokens do.
void GenerationJob::note_progress(Phase phase, int64_t done, int64_t total) {
  constexpr auto kEvery = std::chrono::milliseconds(500);
  progress_->set(phase, done, total);
  const auto now = std::chrono::steady_clock::now();
  if (now - progress_told_ < kEvery) return;
  progress_told_ = now;
  tell("request.progress", {{"phase", phase_name(phase)}, {"done", done}, {"total", total}});
}

// What the engine gives goes to the choice's sink, and is kept to go on from.
class GenerationJob::Recorder final : public TokenSink {
 public:
  Recorder(GenerationJob& job, const Engine& engine, bool goes_on)
      : job_(job), engine_(engine), goes_on_(goes_on) {}
  bool on_token(const Sampled& token) override {
    job_.generated_.push_back(token.id);
    const bool more = job_.sink_->on_token(token);
    if (job_.stepping_aside_) {
      const EngineMemory now = engine_.memory();
      job_.kv_wanted_ = now.kv + now.kv_to_come;
    }
    return more;
  }
  void on_prefill(int64_t done, int64_t total) override {
    // Going on, it is not the prompt that is read.
    if (!goes_on_) return job_.sink_->on_prefill(done, total);
    job_.app_.registry.note_pass(job_.entry_);
  }
  void on_prompt_logprob(int64_t i, const Sampled& token) override {
    job_.sink_->on_prompt_logprob(i, token);
  }

 private:
  GenerationJob& job_;
  const Engine& engine_;
  const bool goes_on_;
};

void GenerationJob::drop() {
  if (std::exchange(parked_, false)) {
    app_.registry.drop_parked(entry_, spec_.params.keep_alive_ms);
    app_.keep_alive_changed();
  }
  sink_.reset();
  text_.reset();
  finish(api_error(Error{"cancelled", "the request was cancelled"}));
}

void GenerationJob::run() {
  const auto begun = std::chrono::steady_clock::now();
  const bool first = !std::exchange(begun_, true);
  tell(first ? "request.started" : "request.resumed");
  {
    const std::lock_guard lock(mutex_);
    app_.registry.note_request(entry_, queue_id_);
  }
  progress_told_ = begun;
  note_progress(Phase::kLoad, 0, 0);
  auto loaded = std::exchange(parked_, false)
                    ? app_.registry.acquire_parked(entry_, spec_.params.ctx)
                    : app_.registry.acquire(entry_, spec_.params.ctx);
  if (!loaded) {
    app_.keep_alive_changed();
    return finish(api_error(std::move(loaded).error()));
  }
  if (first) {
    const std::lock_guard lock(mutex_);
    timings_.queue_ms = ms_between(arrived_, begun);
    timings_.load_ms = ms_between(begun, std::chrono::steady_clock::now());
  }
  // Where rotations depend on how long the text will be, a text that is computed in two calls may
  // be another one: such a generation waits where it is.
  can_step_aside_ = spec_.params.stream &&
                    loaded.value()->model->hparams().rope_scaling != kernels::RopeScaling::kDynamic;
  std::optional<ApiError> error;
  try {
    auto done = generate_all(*loaded.value());
    if (!done) error = api_error(std::move(done).error());
  } catch (const std::exception& e) {
    spdlog::error("a generation failed: {} request={}", e.what(), request_id_);
    error = ApiError{.error =
                         Error{"internal", "the daemon failed on this request; its log says more"}};
  }
  loaded.value().reset();
  const bool aside = !error && choice_ < spec_.n_choices();
  parked_ = aside;
  if (aside) {
    app_.registry.park(entry_, needs_);
  } else {
    app_.registry.release(entry_, spec_.params.keep_alive_ms, true);
  }
  app_.keep_alive_changed();
  if (aside) return step_aside();
  sink_.reset();
  text_.reset();
  finish(std::move(error));
}

void GenerationJob::step_aside() {
  std::string id;
  bool taken = false;
  app_.queue.park();
  {
    const std::lock_guard lock(mutex_);
    id = queue_id_;
    taken = buffered_bytes_ == 0;  // meanwhile
    aside_ = !taken;
  }
  tell("request.paused");
  if (taken) app_.queue.resume(id);
}

Result<void> GenerationJob::generate_all(LoadedModel& loaded) {
  // Written to on disk since it was checked: what is mapped is not what was registered.
  const auto unchanged = [&]() -> Result<void> {
    auto same = loaded.model->still_unchanged();
    if (same || same.error().code != "io.changed") return success();
    app_.registry.unload(entry_);
    return same;
  };
  SLUICE_TRY(unchanged());
  stepping_aside_ = false;
  kv_wanted_ = 0;
  while (choice_ < spec_.n_choices() && !stepping_aside_) {
    auto generated =
        generate_choice(*loaded.engine, prompts_[static_cast<size_t>(choice_ / spec_.params.n)]);
    if (!generated && generated.error().code == "io.changed") app_.registry.unload(entry_);
    SLUICE_TRY(std::move(generated));
  }
  SLUICE_TRY(unchanged());
  needs_ = loaded.engine->memory();
  needs_.kv = std::max(needs_.kv, kv_wanted_);
  int64_t prompt_tokens = 0;
  for (const PromptIds& prompt : prompts_) prompt_tokens += static_cast<int64_t>(prompt.ids.size());
  const std::lock_guard lock(mutex_);
  usage_ = {prompt_tokens, sum_.completion_tokens, sum_.cached_tokens};
  timings_.prefill_ms = static_cast<int64_t>(sum_.prefill_ms);
  timings_.decode_ms = static_cast<int64_t>(sum_.decode_ms);
  if (sum_.prefill_ms > 0)
    timings_.prefill_tps = static_cast<double>(sum_.computed_tokens) * 1000 / sum_.prefill_ms;
  if (sum_.decode_ms > 0)
    timings_.decode_tps = static_cast<double>(sum_.completion_tokens) * 1000 / sum_.decode_ms;
  return success();
}

GenerationRequest GenerationJob::engine_request(const PromptIds& prompt, int64_t choice) const {
  const GenerationParams& p = spec_.params;
  GenerationRequest r;
  r.prompt = prompt.ids;
  r.sampling = sampling_of(p, seed_);
  r.sampling.choice = static_cast<uint32_t>(choice % p.n);
  // A request's own ctx may be smaller than the engine's.
  r.max_tokens = *ctx_limit_ - static_cast<int64_t>(prompt.ids.size());
  if (p.max_tokens) r.max_tokens = std::min(r.max_tokens, *p.max_tokens);
  r.stop_tokens = text_->tokenizer().stop_tokens();
  r.want_logprobs = p.logprobs;
  r.n_top_logprobs = p.top_logprobs;
  r.echo_logprobs = spec_.echo && p.logprobs;
  return r;
}

void GenerationJob::begin_choice(const GenerationRequest& request, const PromptIds& prompt) {
  note_progress(Phase::kPrefill, 0, static_cast<int64_t>(request.prompt.size()));
  ChoiceSink::Options options;
  options.stops = stops_;
  options.logprobs = spec_.params.logprobs;
  options.echo = spec_.echo;
  options.echo_text = prompt.echo_text;
  if (request.echo_logprobs) options.prompt = request.prompt;
  generated_.clear();
  sink_ = std::make_unique<ChoiceSink>(
      text_->tokenizer(),
      std::move(options),
      [this, choice = choice_](std::string text, std::vector<TokenLogprob> logprobs) {
        return emit({choice, std::move(text), std::move(logprobs), {}});
      },
      [this](int64_t done, int64_t total) {
        app_.registry.note_pass(entry_);
        note_progress(Phase::kPrefill, done, total);
      },
      [this, choice = choice_, most = request.max_tokens](int64_t n) {
        if (n > 1) app_.registry.note_pass(entry_);  // the first token is the prompt's last pass
        if (n == 1 && choice == 0) {
          const std::lock_guard lock(mutex_);
          timings_.ttft_ms = ms_between(arrived_, std::chrono::steady_clock::now());
        }
        note_progress(Phase::kDecode, n, most);
      });
}

// The first choice that is not complete: to its end, or until it steps aside.
Result<void> GenerationJob::generate_choice(Engine& engine, const PromptIds& prompt) {
  GenerationRequest request = engine_request(prompt, choice_);
  const int64_t max_tokens = request.max_tokens;
  const bool goes_on = sink_ != nullptr;
  if (goes_on) {
    request.prompt.insert(request.prompt.end(), generated_.begin(), generated_.end());
    request.n_generated = generated_.size();
    request.max_tokens -= static_cast<int64_t>(generated_.size());
    request.echo_logprobs = false;
  } else {
    begin_choice(request, prompt);
  }
  Recorder recorder(*this, engine, goes_on);
  SLUICE_TRY(const GenerationStats stats, engine.generate(request, recorder, *cancel_));
  GenerationStats measured = stats;
  if (goes_on) measured.prompt = {};  // no prompt was read: what was computed before, again
  app_.measurements.learn(engine.model(), measured, compute_signature(app_.pool.n_threads()));
  sum_.decode_ms += stats.decode_ms;
  sum_.completion_tokens += stats.completion_tokens;
  if (!goes_on) {
    sum_.computed_tokens += stats.prompt_tokens - stats.cached_tokens;
    // Later choices of a prompt always find it there: only the first tells what was reused.
    if (choice_ % spec_.params.n == 0) sum_.cached_tokens += stats.cached_tokens;
    sum_.prefill_ms += stats.prefill_ms;
  }
  if (cancel_->cancelled()) return Error{"cancelled", "the request was cancelled"};
  if (no_room_) return *no_room_;
  const bool at_limit = static_cast<int64_t>(generated_.size()) >= max_tokens;
  if (stepping_aside_ && !at_limit && !sink_->stopped()) return success();
  sink_->finish();
  if (cancel_->cancelled()) return Error{"cancelled", "the request was cancelled"};
  if (no_room_) return *no_room_;
  const bool by_length =
      stats.finish == FinishReason::kLength || (stepping_aside_ && at_limit && !sink_->stopped());
  emit({choice_, {}, {}, by_length ? "length" : "stop"});
  sink_.reset();
  ++choice_;
  return success();
}

bool GenerationJob::emit(Delta delta) {
  constexpr uint64_t kStep = 256u << 10;
  std::function<void()> wake;
  bool go_on = true;
  if (!spec_.params.stream) {
    // A document is kept whole until it is complete.
    document_bytes_ += HttpMemory::kDocumentCopies * weight(delta);
    if (no_room_ || (document_bytes_ > memory_.bytes() && !hold_room(document_bytes_ + kStep)))
      return false;
  }
  {
    std::unique_lock lock(mutex_);
    if (cancel_->cancelled()) return false;
    buffered_bytes_ += weight(delta);
    deltas_.push_back(std::move(delta));
    wake = wake_;
  }
  wake();
  {
    std::unique_lock lock(mutex_);
    // A plain answer is taken as it comes too: only a client that does not read makes a stream wait
    // here. Looked at now and then besides being told: the queue sets the cancel token without us,
    // and others come to it. A reader that is merely late is given two looks.
    for (int looks = 0; !stepping_aside_ && !cancel_->cancelled() &&
                        buffered_bytes_ >= app_.options.http.stream_buffer_bytes;
         ++looks) {
      if (looks >= 2 && can_step_aside_ && app_.queue.waiting() > 0) {
        go_on = false;
        break;
      }
      drained_.wait_for(lock, std::chrono::milliseconds(100));
    }
  }
  if (!go_on) stepping_aside_ = true;
  return !stepping_aside_ && !cancel_->cancelled();
}

}  // namespace sluice
