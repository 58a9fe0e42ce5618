// sluice-bench: prefill and decode speed of one model in one process, no daemon and no text. Random token ids, as is the
// field's habit: speed does not depend on them. Each round prefills a fresh sequence and then decodes from it; with
// --batch N, N sequences decode in the same walks (copies of the prefilled one that write pages of their own).

#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <random>

#include "base/bytes.h"
#include "scheduler/driver_probe.h"
#include "scheduler/kernel_choice.h"
#include "scheduler/pass.h"
#include "scheduler/predict.h"
#include "scheduler/probe.h"
#include "scheduler/residency.h"

namespace sluice {
namespace {

struct Options {
  std::string model;
  int threads = 0;
  int64_t prompt = 512;
  int64_t gen = 128;
  int64_t chunk = 256;
  int64_t batch = 1;                 // sequences that decode together
  std::string kv = "f16";
  int rounds = 1;
  bool json = false;
  bool tune_drivers = false;
  std::string budget;                // empty: no limit, the mapping is used
  std::string io = "auto";
  int io_threads = 4;
  double virtual_disk = 0;           // bytes per second; 0: the real disk
  double io_replay_s = 0;            // > 0: only the reads of that many seconds of passes
};

struct Summary {
  double median = 0, low = 0, high = 0;
};

Summary summarise(std::vector<double> xs) {
  if (xs.empty()) return {};
  std::sort(xs.begin(), xs.end());
  const size_t n = xs.size();
  const double median = n % 2 == 1 ? xs[n / 2] : (xs[n / 2 - 1] + xs[n / 2]) / 2;
  return {median, xs.front(), xs.back()};
}

class NoLogits final : public LogitsSink {
 public:
  void on_logits(size_t, int64_t, std::span<const float>) override {}
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

uint64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

struct Measured {
  std::vector<double> prefill, decode;      // tokens per second, one entry a round
};

Result<void> one_round(Pass& pass, const KvPool& kv_pool, std::span<const TokenId> ids, const Options& o, Measured& m) {
  const CancelToken never;
  NoLogits sink;
  Sequence sequence(kv_pool);
  auto start = std::chrono::steady_clock::now();
  for (int64_t done = 0; done < o.prompt;) {
    const int64_t n = std::min(o.chunk, o.prompt - done);
    const bool last = done + n == o.prompt;
    const Run run{&sequence, ids.subspan(static_cast<size_t>(done), static_cast<size_t>(n)), Role::kPrompt, o.prompt,
                  last ? 1 : 0};
    SLUICE_TRY(pass.walk({&run, 1}, sink, never));
    done += n;
  }
  if (o.prompt > 0) m.prefill.push_back(static_cast<double>(o.prompt) / seconds_since(start));
  std::vector<Sequence> sequences(static_cast<size_t>(o.batch), sequence);
  sequence.truncate(0);
  std::vector<Run> runs(sequences.size());
  start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < o.gen; ++i) {
    for (size_t s = 0; s < sequences.size(); ++s)
      runs[s] = {&sequences[s], ids.subspan(static_cast<size_t>(o.prompt + i), 1), Role::kRow, o.prompt + i + 1, 1};
    SLUICE_TRY(pass.walk(runs, sink, never));
  }
  if (o.gen > 0) m.decode.push_back(static_cast<double>(o.gen * o.batch) / seconds_since(start));
  return success();
}

Result<IoMode> io_mode(const Options& o) {
  if (o.virtual_disk > 0) return IoMode::kVirtual;
  return io_mode_from_name(o.io);
}

// The reads of one pass in their order, with nothing computed.
bool replay_pass(const Model& model, WeightSource& source) {
  const CancelToken never;
  source.begin_walk(never, true);
  auto visit = [&](std::initializer_list<const kernels::MatrixRef*> refs) {
    kernels::MatrixRef present[4];
    int n = 0;
    for (const auto* r : refs) {
      if (r->present()) present[n++] = *r;
    }
    return n == 0 || source.visit(present, n, [](void*, const kernels::RowSlice*, int) {}, nullptr);
  };
  for (const auto& w : model.blocks()) {
    if (!visit({&w.wq, &w.wk, &w.wv}) || !visit({&w.wo}) || !visit({&w.router}) || !visit({&w.w1, &w.w3}) || !visit({&w.w2})) return false;
  }
  return visit({&model.output_head()});
}

Result<boost::json::object> replay(const Model& model, Residency& r, double seconds) {
  if (!replay_pass(model, r.source())) return r.source().failure();       // the pins fill
  const uint64_t before = r.store().stats().streamed_bytes;
  const auto start = std::chrono::steady_clock::now();
  int passes = 0;
  while (seconds_since(start) < seconds) {
    if (!replay_pass(model, r.source())) return r.source().failure();
    ++passes;
  }
  const double elapsed = seconds_since(start);
  const auto bytes = static_cast<double>(r.store().stats().streamed_bytes - before);
  return boost::json::object{{"bytes_per_s", bytes / elapsed},
                             {"streamed_bytes_per_pass", passes > 0 ? bytes / passes : 0.0},
                             {"passes", passes}};
}

void print_json(const Options& o, const Model& model, const Measured& m, int threads, const boost::json::object& more) {
  auto block = [](const std::vector<double>& xs) {
    const Summary s = summarise(xs);
    return boost::json::object{{"tok_per_s", s.median}, {"low", s.low}, {"high", s.high}};
  };
  boost::json::object doc{{"schema", "sluice.bench.v1"},
                          {"model", model.name()},
                          {"quantization", model.quantization()},
                          {"file_bytes", model.file_bytes()},
                          {"kernels", kernels::kernels().name},
                          {"threads", threads},
                          {"prompt", o.prompt},
                          {"gen", o.gen},
                          {"rounds", o.rounds},
                          {"batch", o.batch},
                          {"kv_type", o.kv},
                          {"prefill", block(m.prefill)},
                          {"decode", block(m.decode)},
                          {"peak_rss_bytes", peak_rss_bytes()}};
  for (const auto& kv : more) doc[kv.key()] = kv.value();
  fmt::print("{}\n", boost::json::serialize(doc));
}

void print_text(const Options& o, const Model& model, const Measured& m, int threads, const boost::json::object& more) {
  const Summary p = summarise(m.prefill);
  const Summary d = summarise(m.decode);
  fmt::print("{} {}  {} threads  {}\n", model.name(), model.quantization(), threads, kernels::kernels().name);
  fmt::print("prefill {:5d} tok  {:8.2f} tok/s  ({:.2f}..{:.2f}, {} rounds)\n", o.prompt, p.median, p.low, p.high, o.rounds);
  fmt::print("decode  {:5d} tok  {:8.2f} tok/s  ({:.2f}..{:.2f}, {} rounds)\n", o.gen, d.median, d.low, d.high, o.rounds);
  fmt::print("peak RSS {:.0f} MiB\n", static_cast<double>(peak_rss_bytes()) / 1048576);
  for (const auto& kv : more) fmt::print("{} {}\n", std::string_view(kv.key()), boost::json::serialize(kv.value()));
}

// Of the weights that passes held since, how many were here before they were asked for.
double hit_ratio(const std::vector<SliceBlockStats>& before,
                 const std::vector<SliceBlockStats>& after) {
  double hits = 0;
  double misses = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    hits += static_cast<double>(after[i].hit_bytes - before[i].hit_bytes);
    misses += static_cast<double>(after[i].miss_bytes - before[i].miss_bytes);
  }
  return hits + misses > 0 ? hits / (hits + misses) : 1;
}

// What predict() says before anything was run, from probes of this disk and these processors.
struct Forecast {
  Prediction prediction;
  Speeds speeds;
};

Result<Forecast> forecast(const Model& model,
                          const std::string& path,
                          const Options& o,
                          const IoOptions& io,
                          const PlanNeeds& needs,
                          int n_threads,
                          Budget& budget) {
  constexpr double kProbe_s = 0.4;
  SLUICE_TRY(const auto checked, check_model(path));
  const ModelLayout layout = layout_of(checked->file, checked->hparams);
  const Schedule schedule = make_schedule(layout, checked->hparams);
  std::vector<const File*> files;
  for (const File& f : model.files()) files.push_back(&f);
  Forecast f;
  SLUICE_TRY(const auto disk, probe_disk(files, *layout.slices, schedule, io, budget, {.seconds = kProbe_s}));
  SLUICE_TRY(const auto compute, probe_compute(checked->hparams, layout, n_threads, budget, kProbe_s));
  f.speeds = {disk.bytes_per_s, compute.decode_s, compute.prompt_token_s, compute.memory_bytes_per_s};
  BudgetQuestion q;
  q.budget_bytes = budget.limit();
  q.needs = needs;
  q.walk_tokens = o.chunk;
  q.prompt_tokens = std::max<int64_t>(o.prompt, 1);
  SLUICE_TRY(const kernels::KvType kv_type, kv_type_from_name(o.kv));
  f.prediction = predict(pass_sizes(*layout.slices, schedule, checked->hparams, kv_type), q, f.speeds);
  return f;
}

Result<void> bench(const Options& o) {
  SLUICE_TRY(IoFault::check_environment());
  SLUICE_TRY(auto checked, check_model(o.model));
  SLUICE_TRY(const auto model, Model::load(std::move(checked)));
  const int64_t total = o.prompt + o.gen;
  if (total < 1 || total > model->hparams().max_seq_len) {
    return Error{"invalid_request", fmt::format("--prompt + --gen is {}, allowed 1..{}", total, model->hparams().max_seq_len)};
  }
  boost::json::object drivers;
  if (o.tune_drivers) {
    Budget own;
    SLUICE_TRY(DriverProbe probe, DriverProbe::create(own));
    for (const kernels::WeightType type : matrix_types(*model)) {
      const kernels::DriverWidths w = probe.find(type);
      drivers[kernels::info(type).name] = {{"row_tokens", w.row_tokens},
                                           {"tile_tokens", w.tile_tokens}};
    }
  }
  uint64_t limit = Budget::kUnlimited;
  if (!o.budget.empty()) {
    SLUICE_TRY(limit, parse_size(o.budget));
  }
  Budget budget(limit);
  ThreadPool pool(o.threads);
  PassOptions pass_options;
  pass_options.max_tokens = std::max(o.batch, std::clamp<int64_t>(o.chunk, 1, std::max<int64_t>(o.prompt, 1)));
  pass_options.max_seq_len = total;
  pass_options.max_outputs = o.batch;
  SLUICE_TRY(pass_options.kv_type, kv_type_from_name(o.kv));
  Reservation base;
  std::unique_ptr<Residency> residency;
  std::optional<Forecast> predicted;
  const auto layout = kernels::KvLayout::of(model->hparams(), pass_options.kv_type);
  const auto kv_pages = static_cast<uint64_t>((total + kernels::kPageTokens - 1) / kernels::kPageTokens);
  PlanNeeds needs;
  needs.kv_bytes = kv_pages * static_cast<uint64_t>(layout.page_bytes()) * static_cast<uint64_t>(o.batch);
  needs.activation_bytes =
      kernels::workspace_bytes(model->hparams(), {pass_options.max_tokens, total, o.batch, pool.n_threads()});
  if (limit != Budget::kUnlimited || o.virtual_disk > 0) {
    base = reserve_base(budget, 0);
    SLUICE_TRY(const IoMode mode, io_mode(o));
    IoOptions io;
    io.mode = mode;
    io.n_threads = o.io_threads;
    io.virtual_bytes_per_s = o.virtual_disk;
    io.page_cache = o.io == "auto" && o.io_replay_s == 0;
    if (limit != Budget::kUnlimited && o.io_replay_s == 0) {
      PlanNeeds all = needs;
      all.fixed_bytes = budget.used() - std::min(budget.used(), headroom_for(limit));
      // A prediction that fails is no reason not to measure.
      if (auto made = forecast(*model, o.model, o, io, all, pool.n_threads(), budget); made) predicted = made.value();
    }
    SLUICE_TRY(residency, Residency::create(model, io, needs, budget));
    SLUICE_TRY(residency->fill(needs.kv_bytes + needs.activation_bytes));
  }
  if (o.io_replay_s > 0) {
    if (!residency) return Error{"invalid_request", "--io-replay needs --budget: without one nothing is streamed"};
    SLUICE_TRY(auto replayed, replay(*model, *residency, o.io_replay_s));
    fmt::print("{}\n", boost::json::serialize(boost::json::object{{"schema", "sluice.bench.v1"}, {"replay", std::move(replayed)}}));
    return success();
  }
  SLUICE_TRY(auto pass, Pass::create(model, pass_options, budget, pool, residency ? &residency->source() : nullptr));
  const KvPool kv_pool(pass->kv_layout(), budget);
  std::mt19937 rng(1);
  std::vector<TokenId> ids(static_cast<size_t>(total));
  for (auto& id : ids) id = static_cast<TokenId>(rng() % static_cast<uint64_t>(model->hparams().vocab_size));

  Measured m;
  Measured warm_up;
  Options small = o;
  small.prompt = std::min<int64_t>(o.prompt, 32);
  small.gen = std::min<int64_t>(o.gen, 4);
  SLUICE_TRY(one_round(*pass, kv_pool, ids, small, warm_up));
  const SliceStoreStats before = residency ? residency->store().stats() : SliceStoreStats{};
  std::vector<SliceBlockStats> hits_before;
  if (residency) hits_before = residency->store().block_stats();
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < o.rounds; ++round) {
    SLUICE_TRY(one_round(*pass, kv_pool, ids, o, m));
  }
  boost::json::object more;
  if (residency) {
    const SliceStore& store = residency->store();
    const double elapsed = seconds_since(start);
    const SliceStoreStats after = store.stats();
    const auto streamed = static_cast<double>(after.streamed_bytes - before.streamed_bytes);
    const double busy = after.io.busy_s - before.io.busy_s;
    const PassSizes sizes = pass_sizes(model->slices(), make_schedule(*model), model->hparams());
    const double per_pass = walk_read_bytes(sizes, after.cut, 1, true);
    const double disk = busy > 0 ? streamed / busy : 0;
    more = {{"budget_bytes", budget.limit()},
            {"used_bytes", budget.used()},
            {"floor_bytes", residency->plan().floor_bytes},
            {"pinned_bytes", after.pinned_bytes},
            {"ring_bytes", store.ring_bytes()},
            {"io", io_mode_name(store.io_mode())},
            {"streamed_bytes_per_token", per_pass},
            {"hit_ratio", hit_ratio(hits_before, store.block_stats())},
            {"disk_bytes_per_s", disk},
            {"stall_ratio", (after.stall_s - before.stall_s) / elapsed},
            {"bound_tok_per_s", per_pass > 0 ? disk / per_pass : 0.0}};
  }
  if (o.tune_drivers) more["drivers"] = std::move(drivers);
  if (predicted) {
    const Prediction& p = predicted->prediction;
    more["predicted_tok_per_s"] = p.tok_per_s.likely;
    more["predicted_prefill_tok_per_s"] =
        p.ttft_s.likely > 0 ? static_cast<double>(o.prompt) / p.ttft_s.likely : 0.0;
    more["predicted"] = {{"low", p.tok_per_s.low},
                         {"high", p.tok_per_s.high},
                         {"streamed_bytes_per_token", p.streamed_bytes},
                         {"limited_by", speed_limit_name(p.limited_by)},
                         {"disk_bytes_per_s", predicted->speeds.disk_bytes_per_s.value},
                         {"decode_compute_ms", predicted->speeds.decode_s.value * 1000},
                         {"prompt_token_ms", predicted->speeds.prompt_token_s.value * 1000},
                         {"memory_bytes_per_s", predicted->speeds.memory_bytes_per_s}};
  }
  (o.json ? print_json : print_text)(o, *model, m, pool.n_threads(), more);
  return success();
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  sluice::Options o;
  CLI::App app("prefill and decode speed of a GGUF model", "sluice-bench");
  app.add_option("--model", o.model, "GGUF file")->required();
  app.add_option("--threads", o.threads, "compute threads (0: all usable)")->check(CLI::Range(0, 256));
  app.add_option("--prompt", o.prompt, "tokens to prefill")->check(CLI::Range(0, 1 << 20));
  app.add_option("--gen", o.gen, "tokens to decode")->check(CLI::Range(0, 1 << 20));
  app.add_option("--chunk", o.chunk, "prompt tokens per walk")->check(CLI::Range(1, 4096));
  app.add_option("--batch", o.batch, "sequences that decode together; the speed is that of all")->check(CLI::Range(1, 256));
  app.add_option("--kv", o.kv, "type of the KV: f16 or q8_0")->check(CLI::IsMember({"f16", "q8_0"}));
  app.add_option("--rounds", o.rounds, "repetitions; the median is reported")->check(CLI::Range(1, 1000));
  app.add_option("--budget", o.budget, "memory that all of it may take: 600M, 1.5G (default: no limit)");
  app.add_option("--io", o.io, "auto, direct, buffered or mmap");
  app.add_option("--io-threads", o.io_threads, "reads in flight (0: found while reading)")
      ->check(CLI::Range(0, 64));
  app.add_option("--io-replay", o.io_replay_s, "SECONDS of a pass's reads with compute off")->check(CLI::Range(0.0, 3600.0));
  app.add_option("--virtual-disk", o.virtual_disk, "BYTES_PER_S: pace reads of a file that is in the page cache");
  app.add_flag("--tune-drivers",
               o.tune_drivers,
               "first find which kernel drivers are best here for how many tokens, as a daemon does");
  app.add_flag("--json", o.json, "one JSON document");
  CLI11_PARSE(app, argc, argv);
  if (auto kernels = sluice::check_kernel_choice(); !kernels) {
    fmt::print(stderr, "{}\n", sluice::error_line(kernels.error()));
    return 2;
  }
  if (auto done = sluice::bench(o); !done) {
    fmt::print(stderr, "{}\n", sluice::error_line(done.error()));
    return 1;
  }
  return 0;
}
