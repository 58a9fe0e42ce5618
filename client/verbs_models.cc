// sluice models ls|show|add|rm, load, unload, list, stop.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "client/client.h"
#include "client/interrupt.h"
#include "client/json_fields.h"
#include "daemon/protocol/json_text.h"
#include "daemon/protocol/native.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr int64_t kLoadPollMs = 100;
constexpr int64_t kRemoveTimeoutMs = 60'000;

struct ModelFlags {
  std::string model, path, name, keep_alive;
  std::optional<int64_t> ctx;
  bool details = false, metadata = false, tensors = false, template_text = false, blocks = false;
  bool delete_file = false, all = false;
};

std::string parameters_text(int64_t n) {
  const auto count = static_cast<double>(n);
  if (n >= 1'000'000'000) return fmt::format("{:.1f}B", count / 1e9);
  if (n >= 1'000'000) return fmt::format("{:.1f}M", count / 1e6);
  return fmt::format("{}", n);
}

json::object object_of(json::value value) {
  return value.is_object() ? std::move(value.get_object()) : json::object();
}

int models_ls(Client& client, const ModelFlags& flags) {
  const char* what = "models ls";
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, what, link.error());
  auto answer = link.value().call("GET", "/sluice/v1/models");
  if (!answer) return report_failure(client.globals, what, answer.error());
  if (client.globals.json)
    return print_document(client.globals, "models", object_of(std::move(answer).value()));
  auto models = models_from_json(answer.value());
  if (!models) return report_failure(client.globals, what, models.error());
  if (models.value().empty() && !client.globals.quiet)
    write_stderr("no models yet; add one: sluice models add FILE.gguf\n");
  std::vector<std::vector<std::string>> rows;
  if (flags.details) {
    rows.push_back(
        {"NAME", "ARCH", "QUANT", "PARAMETERS", "SIZE", "CTX", "BLOCKS", "STATE", "PATH"});
  } else {
    rows.push_back({"NAME", "QUANT", "SIZE", "STATE"});
  }
  for (const ModelDoc& m : models.value()) {
    const std::string size =
        format_bytes(static_cast<uint64_t>(std::max<int64_t>(0, m.file_bytes)));
    const std::string state = m.load_error ? "failed" : m.loaded ? "loaded" : "-";
    if (flags.details) {
      rows.push_back({one_line(m.name),
                      one_line(m.arch),
                      one_line(m.quantization),
                      parameters_text(m.parameters),
                      size,
                      fmt::format("{}", m.ctx),
                      fmt::format("{}", m.blocks),
                      state,
                      one_line(m.path)});
    } else {
      rows.push_back({one_line(m.name), one_line(m.quantization), size, state});
    }
  }
  return finish_stdout(
      client.globals, format_table(rows, client.terminal.stdout_tty ? client.terminal.width() : 0));
}

std::string tensor_rows(const json::array& tensors) {
  std::vector<std::vector<std::string>> rows{{"TENSOR", "TYPE", "SHAPE", "BYTES", "OFFSET"}};
  for (const json::value& value : tensors) {
    const json::object* t = value.if_object();
    if (t == nullptr) continue;
    std::string shape;
    if (const json::array* dims = array_field(*t, "dims")) {
      for (const json::value& d : *dims)
        shape += (shape.empty() ? "" : " x ") + one_line(json_text(d));
    }
    rows.push_back({one_line(text_field(*t, "name")),
                    one_line(text_field(*t, "type")),
                    shape,
                    fmt::format("{}", integer_field(*t, "bytes")),
                    fmt::format("{}", integer_field(*t, "offset"))});
  }
  return format_table(rows, 0);
}

// Tensors of one block added up; "blk.7.ffn_up.weight" belongs to "blk.7".
std::string block_rows(const json::array& tensors) {
  std::vector<std::pair<std::string, std::pair<int64_t, int64_t>>>
      blocks;  // name -> (tensors, bytes)
  for (const json::value& value : tensors) {
    const json::object* t = value.if_object();
    if (t == nullptr) continue;
    const std::string name = text_field(*t, "name");
    std::string block = "other";
    if (name.starts_with("blk.")) block = name.substr(0, name.find('.', 4));
    if (name.starts_with("token_embd")) block = "embed";
    if (name.starts_with("output.")) block = "output";
    auto it =
        std::find_if(blocks.begin(), blocks.end(), [&](const auto& b) { return b.first == block; });
    if (it == blocks.end()) it = blocks.insert(blocks.end(), {block, {0, 0}});
    it->second.first += 1;
    it->second.second += integer_field(*t, "bytes");
  }
  std::vector<std::vector<std::string>> rows{{"BLOCK", "TENSORS", "SIZE"}};
  for (const auto& [name, sums] : blocks) {
    rows.push_back({one_line(name),
                    fmt::format("{}", sums.first),
                    format_bytes(static_cast<uint64_t>(sums.second))});
  }
  return format_table(rows, 0);
}

std::string metadata_rows(const json::object& metadata) {
  std::string text;
  for (const auto& item : metadata) {
    const json::object* summary = item.value().if_object();
    std::string value =
        item.value().is_string() ? std::string(item.value().get_string()) : json_text(item.value());
    if (summary != nullptr) {
      value =
          fmt::format("[{} x {}]", integer_field(*summary, "count"), text_field(*summary, "of"));
    }
    if (value.size() > 200) value = value.substr(0, 200) + "...";
    text += fmt::format("{} = {}\n", one_line(item.key()), one_line(value));
  }
  return text;
}

std::string summary_rows(const ModelDoc& m) {
  std::string text;
  auto row = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<14}{}\n", name, one_line(value));
  };
  row("name", m.name);
  row("path", m.path);
  row("architecture", m.arch);
  row("quantization", m.quantization);
  row("parameters", parameters_text(m.parameters));
  row("size", format_bytes(static_cast<uint64_t>(std::max<int64_t>(0, m.file_bytes))));
  row("context", fmt::format("{}", m.ctx));
  row("blocks", fmt::format("{}", m.blocks));
  row("state", m.loaded ? "loaded" : "not loaded");
  if (m.load_error) row("load error", *m.load_error);
  return text;
}

int models_show(Client& client, const ModelFlags& flags) {
  const char* what = "models show";
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, what, link.error());
  auto name = resolve_model(link.value(), flags.model);
  if (!name) return report_failure(client.globals, what, name.error());
  auto answer = link.value().call("GET", model_route(name.value()));
  if (!answer) return report_failure(client.globals, what, answer.error());
  if (client.globals.json)
    return print_document(client.globals, "model", object_of(std::move(answer).value()));
  auto model = model_from_json(answer.value());
  if (!model) return report_failure(client.globals, what, model.error());
  const json::object document = object_of(std::move(answer).value());
  const bool part = flags.metadata || flags.tensors || flags.template_text || flags.blocks;
  std::string text = part ? "" : summary_rows(model.value());
  if (flags.metadata) {
    if (const json::object* metadata = object_field(document, "metadata"))
      text += metadata_rows(*metadata);
  }
  const json::array* tensors = array_field(document, "tensors");
  if (flags.tensors && tensors != nullptr) text += tensor_rows(*tensors);
  if (flags.blocks && tensors != nullptr) text += block_rows(*tensors);
  if (flags.template_text) {
    std::string source = text_field(document, "template");
    if (client.terminal.stdout_tty) {
      source = sanitise(source, client.terminal.utf8);
    }
    text += source + (source.ends_with('\n') ? "" : "\n");
  }
  return finish_stdout(client.globals, text);
}

int models_add(Client& client, const ModelFlags& flags) {
  const char* what = "models add";
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, what, link.error());
  std::error_code ec;
  if (!std::filesystem::exists(flags.path, ec)) {
    return report_failure(
        client.globals,
        what,
        Error{"model_not_found", fmt::format("'{}' is not there", escape_text(flags.path, 200))});
  }
  json::object body{
      {"path", std::filesystem::absolute(flags.path, ec).lexically_normal().string()}};
  if (!flags.name.empty()) body["name"] = flags.name;
  auto answer = link.value().call("POST", "/sluice/v1/models", body, kRemoveTimeoutMs);
  if (!answer) return report_failure(client.globals, what, answer.error());
  if (client.globals.json)
    return print_document(client.globals, "model", object_of(std::move(answer).value()));
  auto model = model_from_json(answer.value());
  if (!model) return report_failure(client.globals, what, model.error());
  const ModelDoc& m = model.value();
  return finish_stdout(
      client.globals,
      fmt::format("{}  {}  {}\n",
                  one_line(m.name),
                  one_line(m.quantization),
                  format_bytes(static_cast<uint64_t>(std::max<int64_t>(0, m.file_bytes)))));
}

int models_rm(Client& client, const ModelFlags& flags) {
  const char* what = "models rm";
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, what, link.error());
  const json::object body{{"delete_file", flags.delete_file}};
  auto answer = link.value().call("DELETE", model_route(flags.model), body, kRemoveTimeoutMs);
  if (!answer) return report_failure(client.globals, what, answer.error());
  json::object document = object_of(std::move(answer).value());
  if (client.globals.json) return print_document(client.globals, "model", std::move(document));
  const bool deleted = bool_field(document, "file_deleted");
  return finish_stdout(client.globals,
                       fmt::format("{} removed{}\n",
                                   one_line(flags.model),
                                   deleted ? ", its file deleted" : "; its file stays"));
}

// Follows request `id` until it is gone; the model's document then says how it ended.
Answer<void> wait_for_load(const Client& client, const DaemonLink& link, const std::string& id) {
  ProgressLine progress(client.terminal);
  for (;;) {
    SLUICE_TRY(const auto answer, link.call("GET", "/sluice/v1/requests"));
    SLUICE_TRY(const auto requests, requests_from_json(answer));
    const auto it = std::find_if(
        requests.begin(), requests.end(), [&](const RequestDoc& r) { return r.id == id; });
    if (it == requests.end()) break;
    progress.show(fmt::format("  {} {}/{}", it->phase, it->done, it->total));
    auto slept = interruptible_sleep(kLoadPollMs);
    if (!slept) {
      progress.clear();
      return Failure(std::move(slept).error());
    }
  }
  progress.clear();
  return success();
}

int load(Client& client, const ModelFlags& flags) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, "load", link.error());
  auto name = resolve_model(link.value(), flags.model);
  if (!name) return report_failure(client.globals, "load", name.error());
  json::object body;
  if (flags.ctx) body["ctx"] = *flags.ctx;
  if (!flags.keep_alive.empty()) body["keep_alive"] = flags.keep_alive;
  const int64_t start = now_ms();
  auto answer = link.value().call("POST", model_route(name.value(), "/load"), body);
  if (!answer) return report_failure(client.globals, "load", answer.error());
  const json::object accepted = object_of(std::move(answer).value());
  // Ctrl-C leaves the waiting only: the load itself goes on.
  auto waited = wait_for_load(client, link.value(), text_field(accepted, "request_id"));
  if (!waited) return report_failure(client.globals, "load", waited.error());
  auto after = link.value().call("GET", model_route(name.value()));
  if (!after) return report_failure(client.globals, "load", after.error());
  auto model = model_from_json(after.value());
  if (!model) return report_failure(client.globals, "load", model.error());
  const ModelDoc& m = model.value();
  if (m.load_error)
    return report_failure(
        client.globals, "load", Error{"load_failed", *m.load_error, "sluice doctor"});
  if (client.globals.json) {
    json::object document = to_json(m);
    document["load_ms"] = now_ms() - start;
    return print_document(client.globals, "load", std::move(document));
  }
  return finish_stdout(
      client.globals,
      fmt::format("{} loaded in {}\n", one_line(m.name), format_duration(now_ms() - start)));
}

Answer<std::vector<std::string>> loaded_models(const DaemonLink& link) {
  SLUICE_TRY(const auto answer, link.call("GET", "/sluice/v1/status"));
  SLUICE_TRY(const StatusDoc status, status_from_json(answer));
  std::vector<std::string> names;
  for (const LoadedModelDoc& m : status.models) names.push_back(m.name);
  return names;
}

int unload(Client& client, const ModelFlags& flags) {
  if (flags.all == !flags.model.empty()) {
    return report_failure(client.globals,
                          "unload",
                          Error{"usage", "name one model, or --all", "sluice unload --all"});
  }
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "unload", link.error());
  std::vector<std::string> names{flags.model};
  if (flags.all) {
    auto loaded = loaded_models(link.value());
    if (!loaded) return report_failure(client.globals, "unload", loaded.error());
    names = loaded.value();
  }
  std::string text;
  json::array done;
  for (const std::string& name : names) {
    auto answer = link.value().call("POST", model_route(name, "/unload"), json::object());
    if (!answer) return report_failure(client.globals, "unload", answer.error());
    text += one_line(name) + " unloaded\n";
    done.emplace_back(name);
  }
  if (client.globals.json)
    return print_document(client.globals, "unload", {{"unloaded", std::move(done)}});
  return finish_stdout(client.globals, text);
}

}  // namespace

void add_model_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<ModelFlags>();
  auto act = [&client, flags](CLI::App* verb, int (*function)(Client&, const ModelFlags&)) {
    verb->callback([&client, flags, function] {
      client.action = [&client, flags, function] { return function(client, *flags); };
    });
  };
  CLI::App* models =
      add_verb(app,
               "models",
               "registered models",
               "  sluice models ls -l\n  sluice models add ~/models/qwen2.5-7b.gguf");
  models->require_subcommand(1);
  CLI::App* ls =
      add_verb(*models, "ls", "list them", "  sluice models ls\n  sluice models ls --json");
  ls->add_flag("-l,--long", flags->details, "architecture, parameters, path");
  act(ls, models_ls);
  CLI::App* show =
      add_verb(*models,
               "show",
               "one model",
               "  sluice models show qwen2.5-7b\n  sluice models show qwen2.5-7b --tensors");
  show->add_option("MODEL", flags->model, "name or path")->required();
  show->add_flag("--metadata", flags->metadata, "the file's keys and values");
  show->add_flag("--template", flags->template_text, "the chat template");
  show->add_flag("--tensors", flags->tensors, "every tensor");
  show->add_flag("--blocks", flags->blocks, "bytes of every block");
  act(show, models_show);
  CLI::App* add = add_verb(*models,
                           "add",
                           "register a file in place; nothing is copied",
                           "  sluice models add ./model.gguf --name small");
  add->add_option("FILE", flags->path, "a .gguf; of a split model the first part")->required();
  add->add_option("--name", flags->name, "its name; without it: from the file");
  act(add, models_add);
  CLI::App* rm = add_verb(*models,
                          "rm",
                          "forget a model",
                          "  sluice models rm small\n  sluice models rm small --delete-file");
  rm->add_option("MODEL", flags->model, "name")->required();
  rm->add_flag("--delete-file", flags->delete_file, "delete its file, too");
  act(rm, models_rm);
  CLI::App* list = add_verb(app, "list", "models ls", "  sluice list");
  list->add_flag("-l,--long", flags->details, "architecture, parameters, path");
  act(list, models_ls);

  CLI::App* load_verb = add_verb(
      app, "load", "load a model before it is needed", "  sluice load qwen2.5-7b --keep-alive 1h");
  load_verb->add_option("MODEL", flags->model, "name or path")->required();
  load_verb->add_option("--ctx", flags->ctx, "context length")->check(number_between(1, 16777216));
  load_verb->add_option("--keep-alive", flags->keep_alive, "5m, 0, -1 = for ever")
      ->check(check_duration);
  act(load_verb, load);
  for (const char* name : {"unload", "stop"}) {
    CLI::App* verb = add_verb(app,
                              name,
                              "give a model's memory back",
                              fmt::format("  sluice {} qwen2.5-7b\n  sluice {} --all", name, name));
    verb->add_option("MODEL", flags->model, "name");
    verb->add_flag("--all", flags->all, "every loaded model");
    act(verb, unload);
  }
}

}  // namespace sluice
