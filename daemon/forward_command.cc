#include "daemon/forward_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <fstream>
#include <map>
#include <sstream>

#include "daemon/safetensors_writer.h"
#include "kernels/transformer/rope.h"
#include "scheduler/kernel_choice.h"
#include "scheduler/logprobs.h"
#include "scheduler/pass.h"

namespace sluice {
namespace {

using kernels::Tap;

// A reference run may go past the context a model was trained for (HF's does too): only memory bounds it.
constexpr int64_t kMaxIds = 1 << 17;

struct ForwardOptions {
  std::string model, ids, labels, out;
  bool taps = false;
  bool reference = false;
  int64_t decode_from = 0;       // 0: everything in one call
  int64_t logits_to_keep = 0;    // 0: all rows
  int64_t chunk = 256;
  int threads = 0;
};

Error bad_ids(const std::string& what) {
  return Error{"invalid_request", what, "give --ids 1,2,3 or --ids @file.json"};
}

Result<std::vector<int32_t>> ids_from_json(const std::string& path) {
  std::ifstream f(path);
  std::stringstream text;
  text << f.rdbuf();
  if (!f) return bad_ids(fmt::format("{}: cannot be read", path));
  boost::system::error_code ec;
  boost::json::value doc = boost::json::parse(text.str(), ec);
  if (ec) return bad_ids(fmt::format("{}: is not JSON", path));
  if (const auto* object = doc.if_object()) {
    for (const char* key : {"ids", "prompt_ids"}) {
      if (const auto* v = object->if_contains(key)) {
        boost::json::value inner = *v;
        doc = std::move(inner);
        break;
      }
    }
  }
  const auto* array = doc.if_array();
  if (array == nullptr) return bad_ids(fmt::format("{}: holds no array of ids", path));
  std::vector<int32_t> ids;
  for (const auto& v : *array) {
    const auto* i = v.if_int64();
    if (i == nullptr || *i < INT32_MIN || *i > INT32_MAX) return bad_ids(fmt::format("{}: holds what is no id", path));
    ids.push_back(static_cast<int32_t>(*i));
  }
  return ids;
}

// "1,2,3" or "@file.json" (an array, or an object with "ids" or "prompt_ids").
Result<std::vector<int32_t>> parse_ids(const std::string& text) {
  if (!text.empty() && text.front() == '@') return ids_from_json(text.substr(1));
  std::vector<int32_t> ids;
  const char* p = text.data();
  const char* end = p + text.size();
  while (p < end) {
    while (p < end && (*p == ',' || *p == ' ')) ++p;
    if (p == end) break;
    int32_t id = 0;
    auto [next, ec] = std::from_chars(p, end, id);
    if (ec != std::errc{}) return bad_ids(fmt::format("'{}' is not a list of ids", text.substr(0, 40)));
    ids.push_back(id);
    p = next;
  }
  return ids;
}

// Gathers taps over all calls of a forward; rows of later calls follow those of earlier ones.
class TapCollector final : public kernels::TapSink {
 public:
  explicit TapCollector(const kernels::HParams& hp) : hp_(hp) {}

  void tap(Tap what, int64_t layer, const float* rows, int64_t n, int64_t cols, int64_t stride) noexcept override {
    auto& kept = data_[{what, layer}];
    kept.cols = cols;
    for (int64_t r = 0; r < n; ++r) kept.rows.insert(kept.rows.end(), rows + r * stride, rows + r * stride + cols);
  }

  void write(SafetensorsWriter& out) const {
    std::vector<float> last;
    std::vector<float> all;
    int64_t n_tokens = 0;
    for (const auto& [key, kept] : data_) {
      const auto [what, layer] = key;
      const int64_t n = static_cast<int64_t>(kept.rows.size()) / kept.cols;
      const std::string i = std::to_string(layer);
      switch (what) {
        case Tap::kQRope: heads(out, "q_rope", layer, n, hp_.n_heads, kept.rows, true); break;
        case Tap::kKRope: heads(out, "k_rope", layer, n, hp_.n_kv_heads, kept.rows, true); break;
        case Tap::kV: heads(out, "v", layer, n, hp_.n_kv_heads, kept.rows, false); break;
        case Tap::kAttnCtx: out.add("attn_ctx." + i, {n, kept.cols}, kept.rows); break;
        case Tap::kAttnOut: out.add("attn_out." + i, {n, kept.cols}, kept.rows); break;
        case Tap::kMlpOut: out.add("mlp_out." + i, {n, kept.cols}, kept.rows); break;
        case Tap::kFinalNorm: out.add("final_norm", {n, kept.cols}, kept.rows); break;
        case Tap::kRouterLogits: out.add("router_logits." + i, {n, kept.cols}, kept.rows); break;
        case Tap::kRouterWeights: out.add("router_weights." + i, {n, kept.cols}, kept.rows); break;
        case Tap::kRouterExperts:
          out.add("router_experts." + i, {n, kept.cols}, std::vector<int32_t>(kept.rows.begin(), kept.rows.end()));
          break;
        case Tap::kHidden:
          n_tokens = n;
          last.insert(last.end(), kept.rows.end() - kept.cols, kept.rows.end());
          all.insert(all.end(), kept.rows.begin(), kept.rows.end());
          break;
      }
    }
    out.add("hidden_last", {hp_.n_layers + 1, hp_.dim}, std::move(last));
    out.add("hidden_all", {hp_.n_layers + 1, n_tokens, hp_.dim}, std::move(all));
  }

 private:
  struct Kept {
    int64_t cols = 0;
    std::vector<float> rows;
  };

  // Llama files hold Q and K rows in interleaved order: the tensor itself is NAME_ggml, NAME is in HF order.
  void heads(SafetensorsWriter& out, const std::string& name, int64_t layer, int64_t n, int64_t n_heads,
             const std::vector<float>& rows, bool rotated) const {
    const std::vector<int64_t> shape = {n, n_heads, hp_.head_dim};
    const std::string i = "." + std::to_string(layer);
    if (!rotated || !hp_.rope_interleaved) {
      out.add(name + i, shape, rows);
      return;
    }
    out.add(name + "_ggml" + i, shape, rows);
    std::vector<float> hf(rows);
    const int64_t half = hp_.rope_dim / 2;
    for (size_t head = 0; head < rows.size(); head += static_cast<size_t>(hp_.head_dim)) {
      for (int64_t k = 0; k < half; ++k) {
        hf[head + static_cast<size_t>(k)] = rows[head + static_cast<size_t>(2 * k)];
        hf[head + static_cast<size_t>(k + half)] = rows[head + static_cast<size_t>(2 * k + 1)];
      }
    }
    out.add(name + i, shape, std::move(hf));
  }

  const kernels::HParams& hp_;
  std::map<std::pair<Tap, int64_t>, Kept> data_;
};

class LogitsCollector final : public LogitsSink {
 public:
  std::vector<float> rows;
  void on_logits(size_t, int64_t, std::span<const float> logits) override {
    rows.insert(rows.end(), logits.begin(), logits.end());
  }
};

// Advances the sequence by ids in walks of at most `chunk` tokens.
Result<void> run_call(Pass& pass, Sequence& sequence, std::span<const TokenId> ids, Role role, int64_t call_length,
                      int64_t outputs_from, LogitsSink& sink, kernels::TapSink* taps, int64_t chunk) {
  const CancelToken never;
  for (size_t done = 0; done < ids.size();) {
    const size_t n = std::min(ids.size() - done, static_cast<size_t>(chunk));
    const int64_t end = sequence.length() + static_cast<int64_t>(n);
    const Run run{&sequence, ids.subspan(done, n), role, call_length, std::max<int64_t>(0, end - outputs_from)};
    SLUICE_TRY(pass.walk({&run, 1}, sink, never, taps));
    done += n;
  }
  return success();
}

// Shift by one, -100 ignored: token_loss[t] scores labels[t + 1] with logits[t] (goldens, "Semantics").
void add_loss(SafetensorsWriter& out, std::span<const float> logits, std::span<const int32_t> labels, int64_t vocab) {
  std::vector<float> losses;
  double sum = 0;
  int64_t counted = 0;
  for (size_t t = 0; t + 1 < labels.size(); ++t) {
    const int32_t label = labels[t + 1];
    float loss = 0;
    if (label >= 0 && label < vocab) {
      const auto row = logits.subspan(t * static_cast<size_t>(vocab), static_cast<size_t>(vocab));
      const double exact = log_sum_exp(row) - static_cast<double>(row[static_cast<size_t>(label)]);
      loss = static_cast<float>(exact);
      sum += exact;
      ++counted;
    }
    losses.push_back(loss);
  }
  const auto n = static_cast<int64_t>(losses.size());
  out.add("token_loss", {n}, std::move(losses));
  out.add("loss", {1}, std::vector<float>{counted > 0 ? static_cast<float>(sum / static_cast<double>(counted)) : 0.0f});
}

Result<void> check_ids(const std::vector<int32_t>& ids, const kernels::HParams& hp, const ForwardOptions& o) {
  if (ids.empty()) return bad_ids("no ids were given");
  if (static_cast<int64_t>(ids.size()) > kMaxIds) {
    return Error{"context_length_exceeded", fmt::format("{} ids, allowed 1..{}", ids.size(), kMaxIds)};
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= hp.vocab_size) return bad_ids(fmt::format("id {} is outside 0..{}", id, hp.vocab_size - 1));
  }
  if (o.decode_from < 0 || o.decode_from > static_cast<int64_t>(ids.size()) || o.logits_to_keep < 0 || o.chunk < 1) {
    return bad_ids("--decode-from must be 0..number of ids, --logits-to-keep >= 0, --chunk >= 1");
  }
  return success();
}

Result<void> forward(const ForwardOptions& o) {
  SLUICE_TRY(const auto ids, parse_ids(o.ids));
  SLUICE_TRY(const auto labels, parse_ids(o.labels));
  SLUICE_TRY(auto checked, check_model(o.model));
  SLUICE_TRY(const auto model, Model::load(std::move(checked)));
  const kernels::HParams& hp = model->hparams();
  SLUICE_TRY(check_ids(ids, hp, o));
  const auto total = static_cast<int64_t>(ids.size());
  if (!labels.empty() && labels.size() != ids.size()) return bad_ids("--labels needs one label for each id");

  Budget budget;
  ThreadPool pool(o.threads);
  PassOptions pass_options;
  pass_options.max_tokens = std::min(o.chunk, total);
  pass_options.max_seq_len = total;
  pass_options.max_outputs = std::min<int64_t>(32, total);
  pass_options.reference = o.reference;
  SLUICE_TRY(auto pass, Pass::create(model, pass_options, budget, pool));
  const KvPool kv_pool(pass->kv_layout(), budget);
  Sequence sequence(kv_pool);
  TapCollector taps(hp);
  kernels::TapSink* tap_sink = o.taps ? &taps : nullptr;
  LogitsCollector logits;
  const int64_t first_output = o.logits_to_keep == 0 ? 0 : std::max<int64_t>(0, total - o.logits_to_keep);
  const int64_t prompt = o.decode_from == 0 ? total : o.decode_from;
  // The last position of a prompt follows the row definition, as in a generation.
  const auto last = static_cast<size_t>(prompt) - 1;
  SLUICE_TRY(run_call(*pass, sequence, std::span(ids).first(last), Role::kPrompt, prompt, first_output, logits, tap_sink,
                      o.chunk));
  SLUICE_TRY(run_call(*pass, sequence, std::span(ids).subspan(last, 1), Role::kRow, prompt, first_output, logits,
                      tap_sink, 1));
  for (int64_t i = prompt; i < total; ++i) {
    SLUICE_TRY(run_call(*pass, sequence, std::span(ids).subspan(static_cast<size_t>(i), 1), Role::kRow, i + 1,
                        first_output, logits, tap_sink, 1));
  }

  SafetensorsWriter out;
  out.add("input_ids", {total}, std::vector<int32_t>(ids.begin(), ids.end()));
  if (!labels.empty() && first_output == 0) add_loss(out, logits.rows, labels, hp.vocab_size);
  if (o.taps) {
    std::vector<float> inv_freq(static_cast<size_t>(hp.rope_dim / 2));
    kernels::rope_frequencies(hp, model->rope_factors(), prompt, inv_freq.data());
    out.add("rope_inv_freq", {hp.rope_dim / 2}, std::move(inv_freq));
    taps.write(out);
  }
  out.add("logits", {total - first_output, hp.vocab_size}, std::move(logits.rows));
  return out.write(o.out);
}

}  // namespace

int forward_command(int argc, char** argv) {
  ForwardOptions o;
  CLI::App app("token ids in, logits and intermediate tensors out (safetensors)", "sluiced forward");
  app.add_option("model", o.model, "GGUF file")->required();
  app.add_option("--ids", o.ids, "1,2,3 or @file.json")->required();
  app.add_flag("--taps", o.taps, "also write the intermediate tensors");
  app.add_flag("--f32", o.reference, "dequantised weights, float32 activations: the reference path");
  app.add_option("--decode-from", o.decode_from, "feed ids from this position on one at a time");
  app.add_option("--labels", o.labels, "labels for the loss, -100 = ignored; as --ids");
  app.add_option("--logits-to-keep", o.logits_to_keep, "only the last N rows of logits (0: all)");
  app.add_option("--chunk", o.chunk, "tokens per walk")->check(CLI::Range(1, 4096));
  app.add_option("--threads", o.threads, "compute threads (0: all usable)")->check(CLI::Range(0, 256));
  app.add_option("-o,--out", o.out, "where to write")->required();
  std::vector<std::string> args(argv, argv + argc);
  std::reverse(args.begin(), args.end());
  try {
    app.parse(args);
  } catch (const CLI::ParseError& e) {
    const int rc = app.exit(e);
    return rc == 0 ? 0 : 2;
  }
  if (auto kernels = check_kernel_choice(); !kernels) {
    fmt::print(stderr, "{}\n", error_line(kernels.error()));
    return 2;
  }
  if (auto done = forward(o); !done) {
    fmt::print(stderr, "{}\n", error_line(done.error()));
    return 1;
  }
  return 0;
}

}  // namespace sluice
