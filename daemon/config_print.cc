// Showing the settings: JSON with origins, TOML, and the commented example.
#include <fmt/format.h>
#include <boost/json/value.hpp>

#include <charconv>

#include "base/text_escape.h"
#include "daemon/config.h"

namespace sluice {
namespace {

namespace json = boost::json;

bool is_plain_number(const std::string& text) {
  double value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  return ec == std::errc{} && end == text.data() + text.size();
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::vector<std::string> items_of(const std::string& joined) {
  std::vector<std::string> items;
  for (size_t at = 0; at < joined.size();) {
    size_t end = joined.find(", ", at);
    if (end == std::string::npos) end = joined.size();
    items.push_back(joined.substr(at, end - at));
    at = end + 2;
  }
  return items;
}

std::string toml_value(const KeySpec& spec, const std::string& value) {
  switch (spec.kind) {
    case KeyKind::kBool: {
      const bool yes = value == "true" || value == "1" || value == "yes" || value == "on";
      return yes ? "true" : "false";
    }
    case KeyKind::kInteger:
    case KeyKind::kNumber:
      return is_plain_number(value) ? value : quoted(value);
    case KeyKind::kTextList: {
      std::string out;
      for (const std::string& item : items_of(value))
        out += (out.empty() ? "" : ", ") + quoted(item);
      return "[" + out + "]";
    }
    default:
      return quoted(value);
  }
}

json::value json_value(const KeySpec& spec, const std::string& value) {
  if (spec.kind == KeyKind::kBool) return toml_value(spec, value) == "true";
  if (spec.kind == KeyKind::kTextList) {
    json::array out;
    for (const std::string& item : items_of(value)) out.emplace_back(to_valid_utf8(item));
    return out;
  }
  if ((spec.kind == KeyKind::kInteger || spec.kind == KeyKind::kNumber) && is_plain_number(value)) {
    int64_t whole = 0;
    const auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), whole);
    if (ec == std::errc{} && end == value.data() + value.size()) return whole;
    double number = 0;
    std::from_chars(value.data(), value.data() + value.size(), number);
    return number;
  }
  return json::value(to_valid_utf8(value));
}

json::object entry(const KeySpec& spec, const Setting& setting) {
  return {{"value", json_value(spec, setting.value)}, {"origin", to_valid_utf8(setting.origin)}};
}

std::string section_of(std::string_view key) { return std::string(key.substr(0, key.find('.'))); }
std::string key_of(std::string_view key) { return std::string(key.substr(key.find('.') + 1)); }

}  // namespace

json::object Config::document() const {
  json::object out;
  for (const KeySpec& spec : keys()) {
    json::value& section = out[section_of(spec.name)];
    if (!section.is_object()) section = json::object();
    section.get_object()[key_of(spec.name)] = entry(spec, settings_.at(spec.name));
  }
  json::object models;
  for (const auto& [model, settings] : models_) {
    json::object values;
    for (const KeySpec& spec : model_keys()) {
      const auto it = settings.find(spec.name);
      if (it != settings.end()) values[spec.name] = entry(spec, it->second);
    }
    models[to_valid_utf8(model)] = std::move(values);
  }
  out["model_defaults"] = std::move(models);
  return out;
}

std::string Config::toml(bool origins) const {
  std::string out;
  std::string section;
  auto line = [&](const KeySpec& spec, const std::string& key, const Setting& setting) {
    const std::string text = fmt::format("{} = {}", key, toml_value(spec, setting.value));
    out += origins ? fmt::format("{:<40}  # {}\n", text, escape_text(setting.origin, 200))
                   : text + "\n";
  };
  for (const KeySpec& spec : keys()) {
    if (section_of(spec.name) != section) {
      out += fmt::format("{}[{}]\n", section.empty() ? "" : "\n", section_of(spec.name));
      section = section_of(spec.name);
    }
    line(spec, key_of(spec.name), settings_.at(spec.name));
  }
  for (const auto& [model, settings] : models_) {
    out += fmt::format("\n[models.{}]\n", quoted(model));
    for (const KeySpec& spec : model_keys()) {
      const auto it = settings.find(spec.name);
      if (it != settings.end()) line(spec, spec.name, it->second);
    }
  }
  return out;
}

std::string Config::example() {
  std::string out =
      "# sluiced.toml: every key with its built-in value. Copy what you change.\n"
      "# Order: flag, SLUICED_SECTION_KEY variable, this file, built-in.\n";
  std::string section;
  for (const KeySpec& spec : keys()) {
    if (section_of(spec.name) != section) {
      section = section_of(spec.name);
      out += fmt::format("\n[{}]\n", section);
    }
    std::string help = spec.help;
    if (spec.kind == KeyKind::kChoice && spec.words.size() <= 6) {
      help += fmt::format("{}{}", help.empty() ? "" : ": ", fmt::join(spec.words, ", "));
    }
    const std::string text =
        fmt::format("# {} = {}", key_of(spec.name), toml_value(spec, spec.builtin));
    out += help.empty() ? text + "\n" : fmt::format("{:<36}  # {}\n", text, help);
  }
  out +=
      "\n# [models.\"qwen2.5:7b\"]\n# ctx = 4096\n# temperature = 0.7\n# pin = [\"embed\", "
      "\"output\"]\n";
  return out;
}

}  // namespace sluice
