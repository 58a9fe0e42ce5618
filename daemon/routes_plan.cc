// POST /sluice/v1/plan: what budgets would buy, from the header of a model that need not be loaded.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/host_memory.h"
#include "base/log.h"
#include "base/text_escape.h"
#include "daemon/protocol/budget.h"
#include "daemon/protocol/messages.h"
#include "daemon/protocol/plan.h"
#include "daemon/routes.h"
#include "daemon/text/tokenizer.h"
#include "scheduler/pass.h"
#include "scheduler/predict.h"
#include "scheduler/probe.h"

namespace sluice {
namespace {

constexpr int64_t kDefaultCtx = 4096;
constexpr int64_t kDefaultPrompt = 512;
constexpr size_t kLadderRows = 7;
constexpr double kDiskProbe_s = 0.5;
constexpr double kComputeProbe_s = 0.3;
constexpr int64_t kProbeKeeps_ms = int64_t{7} * 24 * 3600 * 1000;

// A checked header and what follows from it alone.
struct Subject {
  std::string name, path;
  Reservation header;  // the ledger's part for the copy that was checked
  std::unique_ptr<CheckedModel> checked;
  ModelLayout layout;
  Schedule schedule;
  PassSizes sizes;
  std::string key;  // of its measurements
};

// A registered name, or for those who may add models the path of a file.
Result<Subject> open_subject(App& app, const std::string& model, KvType kv_type, uint32_t uid) {
  Subject s;
  if (model.starts_with('/')) {
    if (!app.may_manage(uid))
      return Error{"not_permitted",
                   "only the daemon's user and root may plan a file that is not registered"};
    s.name = default_model_name(model);
    s.path = model;
  } else {
    SLUICE_TRY(const auto entry, app.registry.find(model));
    s.name = entry->name;
    s.path = entry->path;
  }
  SLUICE_TRY(s.checked, check_model(s.path));
  SLUICE_TRY(s.header, app.budget.reserve(s.checked->file.header_bytes(), MemoryClass::kTokenizer));
  s.layout = layout_of(s.checked->file, s.checked->hparams);
  s.schedule = make_schedule(s.layout, s.checked->hparams);
  s.sizes = pass_sizes(*s.layout.slices, s.schedule, s.checked->hparams, kv_type);
  s.key = measurement_key(s.checked->file.parts().front().identity);
  return s;
}

bool something_runs(const App& app) {
  const auto jobs = app.queue.list();
  return std::any_of(jobs.begin(), jobs.end(), [](const auto& job) { return job.running; });
}

struct Measured {
  ModelMeasurements at;
  Speeds speeds;
  bool disturbed = false;
  bool disk_learned = false, decode_learned = false, prompt_learned = false;
};

// What is known of the model's speeds; probes for what is not. What was probed while a request ran
// is used and not kept.
Result<Measured> measure(App& app, const Subject& s, bool disk_anew) {
  const std::lock_guard one_at_a_time(app.measurements.probing);
  const std::string by = compute_signature(app.pool.n_threads());
  Measured m;
  m.at = app.measurements.find(s.key);
  const int64_t now = unix_ms_now();
  const bool no_disk =
      m.at.probed.disk_bytes_per_s.value <= 0 || now - m.at.disk_at_ms > kProbeKeeps_ms;
  if (disk_anew || (no_disk && m.at.learned.disk_bytes_per_s.value <= 0)) {
    std::vector<const File*> files;
    for (const GgufPart& part : s.checked->file.parts()) files.push_back(&part.file);
    const bool ran = something_runs(app);
    SLUICE_TRY(const DiskProbe probe,
               probe_disk(files,
                          *s.layout.slices,
                          s.schedule,
                          app.options.io,
                          app.budget,
                          {.seconds = kDiskProbe_s}));
    const bool busy = ran || something_runs(app);
    m.disturbed = m.disturbed || busy;
    if (!busy) app.measurements.set_disk(s.key, probe.bytes_per_s);
    m.at.probed.disk_bytes_per_s = probe.bytes_per_s;
    m.at.disk_at_ms = unix_ms_now();
  }
  const bool other_processor = m.at.compute_by != by;
  if (other_processor) m.at.learned.decode_s = m.at.learned.prompt_token_s = {};
  const bool no_compute = other_processor || m.at.probed.decode_s.value <= 0;
  if (no_compute) {
    const bool ran = something_runs(app);
    SLUICE_TRY(
        const ComputeProbe probe,
        probe_compute(
            s.checked->hparams, s.layout, app.pool.n_threads(), app.budget, kComputeProbe_s));
    const bool busy = ran || something_runs(app);
    m.disturbed = m.disturbed || busy;
    const Speeds speeds{{}, probe.decode_s, probe.prompt_token_s, probe.memory_bytes_per_s};
    if (!busy) app.measurements.set_compute(s.key, speeds, by);
    m.at.probed.decode_s = probe.decode_s;
    m.at.probed.prompt_token_s = probe.prompt_token_s;
    m.at.probed.memory_bytes_per_s = probe.memory_bytes_per_s;
    m.at.compute_at_ms = unix_ms_now();
  }
  // A disk that was measured since the last run is what was asked about.
  if (m.at.disk_at_ms > m.at.learned_at_ms) m.at.learned.disk_bytes_per_s = {};
  m.speeds = best_of(m.at.learned, m.at.probed);
  m.disk_learned = m.at.learned.disk_bytes_per_s.value > 0;
  m.decode_learned = m.at.learned.decode_s.value > 0;
  m.prompt_learned = m.at.learned.prompt_token_s.value > 0;
  return m;
}

// What its tokenizer takes while the model is in use; built once to know.
Result<uint64_t> tokenizer_bytes(App& app, const Subject& s) {
  if (const uint64_t known = app.measurements.find(s.key).tokenizer_bytes; known > 0) return known;
  SLUICE_TRY(const auto tokenizer, Tokenizer::create(s.checked->vocab));
  app.measurements.set_tokenizer(s.key, tokenizer->memory_bytes());
  return tokenizer->memory_bytes();
}

int64_t signed_bytes(uint64_t n) { return static_cast<int64_t>(std::min<uint64_t>(n, INT64_MAX)); }

RangeDoc range_doc(const Range& r, double scale) {
  return {r.low * scale, r.likely * scale, r.high * scale};
}

PlanInputDoc input_doc(
    const Estimate& e, double scale, bool learned, int64_t probed_at, int64_t learned_at) {
  PlanInputDoc d;
  d.value = e.value * scale;
  d.spread = e.spread;
  d.source = learned ? "runs" : "probe";
  d.age_ms = std::max<int64_t>(0, unix_ms_now() - (learned ? learned_at : probed_at));
  return d;
}

PlanRowDoc row_doc(const Prediction& p, uint64_t budget_bytes) {
  PlanRowDoc d;
  d.budget_bytes = signed_bytes(budget_bytes);
  d.fits = p.fits;
  if (!p.fits) return d;
  d.kv_bytes = signed_bytes(p.needs.kv_bytes);
  d.ring_bytes = signed_bytes(p.plan.ring_bytes);
  d.activations_bytes = signed_bytes(p.needs.activation_bytes);
  d.fixed_bytes = signed_bytes(p.needs.fixed_bytes);
  d.headroom_bytes = signed_bytes(p.plan.headroom_bytes);
  d.pinned_bytes = signed_bytes(p.pinned_bytes);
  d.cut_slices = static_cast<int64_t>(p.cut);
  d.pinned_ratio = p.pinned_ratio;
  d.streamed_bytes_per_token = signed_bytes(p.streamed_bytes);
  d.tok_per_s = range_doc(p.tok_per_s, 1);
  d.ttft_ms = range_doc(p.ttft_s, 1000);
  d.load_ms = range_doc(p.load_s, 1000);
  d.limited_by = speed_limit_name(p.limited_by);
  return d;
}

struct Lengths {
  int64_t ctx = 0, prompt = 0;
  int64_t engine = 0;  // that the engine would be made for
};

Result<Lengths> lengths_of(const App& app, const PlanRequest& r, int64_t file_ctx) {
  const auto too_long = [](const char* field, int64_t n, const char* of, int64_t most) {
    Error e{"invalid_request", fmt::format("{} is {}, {} is {}", field, n, of, most)};
    e.field = field;
    return e;
  };
  Lengths l;
  const int64_t usual =
      app.options.default_ctx > 0 ? std::min(app.options.default_ctx, file_ctx) : file_ctx;
  l.ctx = r.ctx.value_or(app.options.default_ctx > 0 ? usual : std::min(file_ctx, kDefaultCtx));
  if (l.ctx > file_ctx) return too_long("ctx", l.ctx, "the model's own context", file_ctx);
  l.prompt = r.prompt_tokens.value_or(std::min(kDefaultPrompt, l.ctx));
  if (l.prompt > l.ctx) return too_long("prompt_tokens", l.prompt, "the context", l.ctx);
  l.engine = std::max(l.ctx, usual);
  return l;
}

Result<PlanDoc> make_plan_doc(App& app, const PlanRequest& request, uint32_t uid) {
  KvType kv_type = app.options.kv_type;
  if (!request.kv_type.empty()) {
    SLUICE_TRY(kv_type, kv_type_from_name(request.kv_type));
  }
  SLUICE_TRY(const Subject s, open_subject(app, request.model, kv_type, uid));
  const kernels::HParams& hp = s.checked->hparams;
  SLUICE_TRY(const Lengths lengths, lengths_of(app, request, hp.max_seq_len));
  SLUICE_TRY(const Measured m, measure(app, s, request.measure_disk));
  SLUICE_TRY(const uint64_t tokenizer, tokenizer_bytes(app, s));

  const PassOptions longest;
  const WalkSizes walks(
      hp, app.pool.n_threads(), lengths.engine, longest.max_tokens, longest.max_outputs);
  const auto pages =
      static_cast<uint64_t>((lengths.ctx + kernels::kPageTokens - 1) / kernels::kPageTokens);
  const EngineCase engine{.sizes = s.sizes,
                          .walks = walks,
                          .fixed_bytes = app.base.process_bytes() + HttpMemory::kKept + tokenizer,
                          .kv_bytes = pages * kernels::kPageTokens * s.sizes.kv_token_bytes,
                          .prompt_tokens = lengths.prompt};
  PlanDoc d;
  d.model = s.name;
  d.path = to_valid_utf8(s.path);
  d.quantization = quantization_name(s.checked->file);
  d.blocks = hp.n_layers;
  for (const GgufPart& part : s.checked->file.parts())
    d.file_bytes += signed_bytes(part.file_bytes);
  d.weight_bytes = signed_bytes(s.sizes.pin_bytes());
  d.slices = static_cast<int64_t>(s.sizes.pin_offsets.size() - 1);
  d.ctx = lengths.ctx;
  d.kv_type = kv_type_name(kernels::KvLayout::of(hp, kv_type).type);
  d.prompt_tokens = lengths.prompt;
  d.threads = app.pool.n_threads();
  d.io = io_mode_name(app.options.io.mode);
  d.disk_bytes_per_s =
      input_doc(m.speeds.disk_bytes_per_s, 1, m.disk_learned, m.at.disk_at_ms, m.at.learned_at_ms);
  d.decode_compute_ms =
      input_doc(m.speeds.decode_s, 1000, m.decode_learned, m.at.compute_at_ms, m.at.learned_at_ms);
  d.prompt_token_ms = input_doc(
      m.speeds.prompt_token_s, 1000, m.prompt_learned, m.at.compute_at_ms, m.at.learned_at_ms);
  d.memory_bytes_per_s = m.speeds.memory_bytes_per_s;
  d.runs = m.at.runs;
  d.disturbed = m.disturbed;
  std::vector<uint64_t> budgets = request.budgets;
  if (budgets.empty()) budgets = budget_ladder(engine, kLadderRows);
  for (const uint64_t budget : budgets)
    d.rows.push_back(row_doc(predict(engine, budget, m.speeds), budget));
  const Prediction least = predict(engine, smallest_budget(engine), m.speeds);
  d.floor = {.floor_bytes = signed_bytes(least.floor_bytes),
             .kv_bytes = signed_bytes(least.needs.kv_bytes),
             .ring_bytes = signed_bytes(kRingMinSlots * least.needs.slot_bytes),
             .activations_bytes = signed_bytes(least.needs.activation_bytes),
             .fixed_bytes = signed_bytes(least.needs.fixed_bytes),
             .headroom_bytes = signed_bytes(headroom_for(least.floor_bytes))};
  d.resident_budget_bytes = signed_bytes(resident_budget(engine));
  if (app.budget.limit() != Budget::kUnlimited) d.limit_bytes = signed_bytes(app.budget.limit());
  return d;
}

Result<HttpResponse> answer_plan(App& app, const HttpRequest& request) {
  SLUICE_TRY(const auto body,
             parse_json(request.body,
                        JsonLimits{app.options.http.json_depth, app.options.http.json_values}));
  SLUICE_TRY(const auto wanted, plan_request_from_json(body, memory_ceiling_bytes()));
  SLUICE_TRY(const PlanDoc doc, make_plan_doc(app, wanted, request.uid));
  return json_response(200, to_json(doc));
}

Answer plan(App& app, HttpRequest request, std::string) {
  const std::string request_id = request.id;
  return answer_on(
      app.worker,
      [&app, request = std::move(request)] {
        auto made = answer_plan(app, request);
        return made ? std::move(made).value() : error_response(std::move(made).error(), request.id);
      },
      request_id,
      /*large=*/true,  // headers and tokenizers are
      IfGone::kSkip);
}

constexpr Route kRoutes[] = {{"POST", "/sluice/v1/plan", plan}};

}  // namespace

std::span<const Route> plan_routes() { return kRoutes; }

}  // namespace sluice
