#include "daemon/check_command.h"

#include <boost/json.hpp>
#include <cstdio>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "scheduler/model_loader.h"

namespace sluice {
namespace {

namespace bj = boost::json;

void print_line(std::FILE* out, const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), out);
  std::fputc('\n', out);
}

uint64_t total_bytes(const GgufFile& file) {
  uint64_t sum = 0;
  for (const GgufPart& part : file.parts()) sum += part.file_bytes;
  return sum;
}

int report_error(const Error& e, bool json) {
  if (!json) {
    print_line(stderr, error_line(e));
    return 1;
  }
  bj::object error{
      {"code", e.code}, {"message", e.what}, {"file", to_valid_utf8(e.file)}, {"field", e.field}};
  if (e.offset != Error::kNoOffset) error["offset"] = e.offset;
  print_line(stdout,
             bj::serialize(bj::object{
                 {"schema", "sluice.check.v1"}, {"ok", false}, {"error", std::move(error)}}));
  return 1;
}

void report_json(const CheckedModel& model, const std::string& path) {
  const kernels::HParams& h = model.hparams;
  bj::array warnings;
  for (const std::string& w : model.file.warnings()) warnings.emplace_back(w);
  print_line(stdout,
             bj::serialize(bj::object{{"schema", "sluice.check.v1"},
                                      {"ok", true},
                                      {"file", to_valid_utf8(path)},
                                      {"architecture", architecture_name(h.arch)},
                                      {"quantization", quantization_name(model.file)},
                                      {"blocks", h.n_layers},
                                      {"context_length", h.max_seq_len},
                                      {"vocab_size", h.vocab_size},
                                      {"tensors", model.file.tensors().size()},
                                      {"parts", model.file.parts().size()},
                                      {"file_bytes", total_bytes(model.file)},
                                      {"warnings", std::move(warnings)}}));
}

void report_text(const CheckedModel& model, const std::string& path) {
  const kernels::HParams& h = model.hparams;
  const std::string shown = escape_text(path, 4096);
  std::string line =
      shown + ": ok: " + architecture_name(h.arch) + ", " + quantization_name(model.file) + ", " +
      std::to_string(h.n_layers) + " blocks, context " + std::to_string(h.max_seq_len) + ", " +
      std::to_string(h.vocab_size) + " tokens, " + std::to_string(model.file.tensors().size()) +
      " tensors, " + format_bytes(total_bytes(model.file));
  if (model.file.parts().size() > 1)
    line += " in " + std::to_string(model.file.parts().size()) + " parts";
  print_line(stdout, line);
  for (const std::string& w : model.file.warnings()) print_line(stdout, shown + ": warning: " + w);
}

}  // namespace

int check_command(const std::string& path, bool json) {
  auto model = check_model(path);
  if (!model) return report_error(model.error(), json);
  if (json) {
    report_json(*model.value(), path);
  } else {
    report_text(*model.value(), path);
  }
  return 0;
}

}  // namespace sluice
