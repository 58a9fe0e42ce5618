// sluice-bench: prefill and decode speed of one model in one process, no daemon and no text. Random token ids, as is the
// field's habit: speed does not depend on them. Each round prefills a fresh sequence and then decodes from it.

#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "scheduler/pass.h"

namespace sluice {
namespace {

struct Options {
  std::string model;
  int threads = 0;
  int64_t prompt = 512;
  int64_t gen = 128;
  int64_t chunk = 256;
  int rounds = 1;
  bool json = false;
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
  start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < o.gen; ++i) {
    const Run run{&sequence, ids.subspan(static_cast<size_t>(o.prompt + i), 1), Role::kRow, o.prompt + i + 1, 1};
    SLUICE_TRY(pass.walk({&run, 1}, sink, never));
  }
  if (o.gen > 0) m.decode.push_back(static_cast<double>(o.gen) / seconds_since(start));
  return success();
}

void print_json(const Options& o, const Model& model, const Measured& m, int threads) {
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
                          {"prefill", block(m.prefill)},
                          {"decode", block(m.decode)},
                          {"peak_rss_bytes", peak_rss_bytes()}};
  fmt::print("{}\n", boost::json::serialize(doc));
}

void print_text(const Options& o, const Model& model, const Measured& m, int threads) {
  const Summary p = summarise(m.prefill);
  const Summary d = summarise(m.decode);
  fmt::print("{} {}  {} threads  {}\n", model.name(), model.quantization(), threads, kernels::kernels().name);
  fmt::print("prefill {:5d} tok  {:8.2f} tok/s  ({:.2f}..{:.2f}, {} rounds)\n", o.prompt, p.median, p.low, p.high, o.rounds);
  fmt::print("decode  {:5d} tok  {:8.2f} tok/s  ({:.2f}..{:.2f}, {} rounds)\n", o.gen, d.median, d.low, d.high, o.rounds);
  fmt::print("peak RSS {:.0f} MiB\n", static_cast<double>(peak_rss_bytes()) / 1048576);
}

Result<void> bench(const Options& o) {
  SLUICE_TRY(auto checked, check_model(o.model));
  SLUICE_TRY(const auto model, Model::load(std::move(checked)));
  const int64_t total = o.prompt + o.gen;
  if (total < 1 || total > model->hparams().max_seq_len) {
    return Error{"invalid_request", fmt::format("--prompt + --gen is {}, allowed 1..{}", total, model->hparams().max_seq_len)};
  }
  Budget budget;
  ThreadPool pool(o.threads);
  PassOptions pass_options;
  pass_options.max_tokens = std::clamp<int64_t>(o.chunk, 1, std::max<int64_t>(o.prompt, 1));
  pass_options.max_seq_len = total;
  pass_options.max_outputs = 1;
  SLUICE_TRY(auto pass, Pass::create(model, pass_options, budget, pool));
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
  for (int round = 0; round < o.rounds; ++round) {
    SLUICE_TRY(one_round(*pass, kv_pool, ids, o, m));
  }
  (o.json ? print_json : print_text)(o, *model, m, pool.n_threads());
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
  app.add_option("--rounds", o.rounds, "repetitions; the median is reported")->check(CLI::Range(1, 1000));
  app.add_flag("--json", o.json, "one JSON document");
  CLI11_PARSE(app, argc, argv);
  if (auto done = sluice::bench(o); !done) {
    fmt::print(stderr, "{}\n", sluice::error_line(done.error()));
    return 1;
  }
  return 0;
}
