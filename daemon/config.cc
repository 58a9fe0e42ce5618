#include "daemon/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <sstream>

#include "base/bytes.h"
#include "base/check.h"
#include "base/host_memory.h"
#include "base/suggest.h"
#include "base/text_escape.h"

namespace sluice {
namespace {

constexpr double kAutoBudgetShare = 0.6;

const KeySpec* find_spec(const std::vector<KeySpec>& keys, std::string_view name) {
  const auto it =
      std::find_if(keys.begin(), keys.end(), [&](const KeySpec& k) { return k.name == name; });
  return it == keys.end() ? nullptr : &*it;
}

Error invalid(const std::string& origin, const std::string& why, std::string hint = "") {
  return Error{"invalid_config", fmt::format("{}: {}", origin, why), std::move(hint)};
}

Error unknown_key(const std::string& origin,
                  const std::string& key,
                  const std::vector<KeySpec>& keys) {
  std::vector<std::string> names;
  for (const KeySpec& spec : keys) names.emplace_back(spec.name);
  std::string near = nearest_word(key, names);
  const size_t dot = key.find('.');
  if (near.empty() && dot == std::string::npos) {  // a key without its section, or a section
    for (const std::string& name : names) {
      if (name.substr(name.find('.') + 1) == key) near = name;
    }
  }
  return invalid(origin,
                 fmt::format("unknown key '{}'", escape_text(key)),
                 near.empty() ? "sluice config example" : fmt::format("did you mean '{}'?", near));
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> items;
  std::stringstream in(text);
  for (std::string item; std::getline(in, item, ',');) {
    const size_t first = item.find_first_not_of(' ');
    if (first == std::string::npos) continue;
    items.push_back(item.substr(first, item.find_last_not_of(' ') - first + 1));
  }
  return items;
}

bool parse_bool(const std::string& text, bool& out) {
  out = text == "true" || text == "1" || text == "yes" || text == "on";
  return out || text == "false" || text == "0" || text == "no" || text == "off";
}

std::string join(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

// The one place where a value is judged. Errors carry no origin yet.
Result<void> check_number(const KeySpec& spec, double value, const std::string& text) {
  if (std::isfinite(value) && value >= spec.min && value <= spec.max) return success();
  return Error{
      "invalid_config",
      fmt::format(
          "'{}' is out of range; allowed: {} to {}", escape_text(text), spec.min, spec.max)};
}

Result<void> check_value(const KeySpec& spec, const std::string& text) {
  const bool is_word = std::find(spec.words.begin(), spec.words.end(), text) != spec.words.end();
  if (is_word) return success();
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  switch (spec.kind) {
    case KeyKind::kText:
    case KeyKind::kTextList:
      if (text.find('\0') != std::string::npos)
        return Error{"invalid_config", "the value holds a NUL byte"};
      return success();
    case KeyKind::kChoice:
      return Error{"invalid_config",
                   fmt::format("found '{}', allowed: {}", escape_text(text), join(spec.words)),
                   [&] {
                     const std::string near = nearest_word(text, spec.words);
                     return near.empty() ? std::string() : fmt::format("did you mean '{}'?", near);
                   }()};
    case KeyKind::kSize: {
      SLUICE_TRY(const uint64_t bytes, parse_size(text, memory_ceiling_bytes()));
      return check_number(spec, static_cast<double>(bytes), text);
    }
    case KeyKind::kDuration: {
      SLUICE_TRY(const int64_t ms, parse_duration_ms(text));
      return spec.min > 0 ? check_number(spec, static_cast<double>(ms), text)
                          : Result<void>(success());
    }
    case KeyKind::kInteger: {
      int64_t value = 0;
      const auto [rest, ec] = std::from_chars(begin, end, value);
      if (ec != std::errc{} || rest != end) {
        return Error{"invalid_config", fmt::format("'{}' is not an integer", escape_text(text))};
      }
      return check_number(spec, static_cast<double>(value), text);
    }
    case KeyKind::kNumber: {
      double value = 0;
      const auto [rest, ec] = std::from_chars(begin, end, value);
      if (ec != std::errc{} || rest != end) {
        return Error{"invalid_config", fmt::format("'{}' is not a number", escape_text(text))};
      }
      return check_number(spec, value, text);
    }
    case KeyKind::kBool: {
      bool value = false;
      if (parse_bool(text, value)) return success();
      return Error{"invalid_config",
                   fmt::format("found '{}', allowed: true, false", escape_text(text))};
    }
  }
  return success();
}

// `models."a.b".ctx` or models.a.b.ctx -> {"a.b", "ctx"}; false when `rest` names no model.
bool split_model_key(std::string_view rest, std::string& model, std::string& key) {
  const size_t dot = rest.find_last_of('.');
  if (dot == std::string_view::npos || dot == 0) return false;
  std::string_view name = rest.substr(0, dot);
  if (name.size() >= 2 && name.front() == '"' && name.back() == '"')
    name = name.substr(1, name.size() - 2);
  model = name;
  key = rest.substr(dot + 1);
  return !model.empty();
}

}  // namespace

Config::Config() {
  for (const KeySpec& spec : keys()) settings_[spec.name].value = spec.builtin;
}

Result<void> Config::set(const std::string& key,
                         const std::string& value,
                         const std::string& origin) {
  const KeySpec* spec = find_spec(keys(), key);
  std::string model;
  std::string model_key;
  if (spec == nullptr && key.starts_with("models.") &&
      split_model_key(std::string_view(key).substr(7), model, model_key)) {
    spec = find_spec(model_keys(), model_key);
    if (spec == nullptr) return unknown_key(origin, model_key, model_keys());
  }
  if (spec == nullptr) return unknown_key(origin, key, keys());
  auto checked = check_value(*spec, value);
  if (!checked) {
    Error e = std::move(checked).error();
    return invalid(origin, fmt::format("{}: {}", key, e.what), e.hint);
  }
  Setting& setting = model.empty() ? settings_[key] : models_[model][model_key];
  setting = Setting{spec->kind == KeyKind::kTextList ? join(split_list(value)) : value, origin};
  return success();
}

Result<void> Config::set_assignment(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    return invalid("flag --set",
                   fmt::format("found '{}', expected section.key=value", escape_text(assignment)),
                   "--set queue.max=32");
  }
  return set(assignment.substr(0, equals), assignment.substr(equals + 1), "flag --set");
}

Result<void> Config::merge_environment(const char* const* environment) {
  constexpr std::string_view kPrefix = "SLUICED_";
  std::map<std::string, std::string> by_variable;
  for (const KeySpec& spec : keys()) {
    std::string name(kPrefix);
    for (const char c : std::string_view(spec.name)) {
      name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    by_variable[name] = spec.name;
    if (spec.variable[0] != '\0') by_variable[spec.variable] = spec.name;
  }
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view entry(*environment);
    const size_t equals = entry.find('=');
    if (!entry.starts_with(kPrefix) || equals == std::string_view::npos) continue;
    const std::string name(entry.substr(0, equals));
    if (name == "SLUICED_CONFIG") continue;
    const auto it = by_variable.find(name);
    if (it == by_variable.end()) {
      std::vector<std::string> names{"SLUICED_CONFIG"};
      for (const auto& [variable, key] : by_variable) names.push_back(variable);
      const std::string near = nearest_word(name, names);
      return invalid(
          "environment",
          fmt::format("unknown variable '{}'", escape_text(name)),
          near.empty() ? "sluice config example" : fmt::format("did you mean '{}'?", near));
    }
    SLUICE_TRY(set(it->second, std::string(entry.substr(equals + 1)), "env " + name));
  }
  return success();
}

const Setting& Config::get(const std::string& key) const {
  const auto it = settings_.find(key);
  SLUICE_CHECK(it != settings_.end());
  return it->second;
}

bool Config::is_default(const std::string& key) const { return get(key).origin == "built-in"; }
bool Config::is_auto(const std::string& key) const { return get(key).value == "auto"; }

uint64_t Config::size(const std::string& key) const {
  const auto bytes = parse_size(get(key).value, memory_ceiling_bytes());
  SLUICE_CHECK(bytes.has_value());  // set() has checked it
  return bytes.value();
}

int64_t Config::duration_ms(const std::string& key) const {
  const auto ms = parse_duration_ms(get(key).value);
  SLUICE_CHECK(ms.has_value());
  return ms.value();
}

int64_t Config::integer(const std::string& key) const {
  int64_t value = 0;
  const std::string& text = get(key).value;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool Config::boolean(const std::string& key) const {
  bool value = false;
  parse_bool(get(key).value, value);
  return value;
}

std::vector<std::string> Config::list(const std::string& key) const {
  return split_list(get(key).value);
}

std::vector<std::string> Config::without_effect() const {
  std::vector<std::string> found;
  for (const KeySpec& spec : keys()) {
    if (!spec.effective && settings_.at(spec.name).value != spec.builtin)
      found.emplace_back(spec.name);
  }
  for (const auto& [model, settings] : models_) {
    for (const auto& [key, setting] : settings) {
      if (!find_spec(model_keys(), key)->effective)
        found.push_back(fmt::format("models.\"{}\".{}", model, key));
    }
  }
  return found;
}

Result<RamBudget> ram_budget(const std::string& text, uint64_t ceiling_bytes) {
  RamBudget budget;
  if (text == "auto") {
    budget.bytes = static_cast<uint64_t>(kAutoBudgetShare * static_cast<double>(ceiling_bytes));
    return budget;
  }
  auto bytes = parse_size(text, ceiling_bytes);
  if (!bytes) return Error{"invalid_config", "budget: " + bytes.error().what, "--budget 2G"};
  if (bytes.value() == 0) {
    return Error{"invalid_config",
                 "budget: 0 leaves no memory to work in; allowed: a size such as 2G or 40%",
                 "--budget 2G"};
  }
  budget.lowered = ceiling_bytes != 0 && bytes.value() > ceiling_bytes;
  budget.bytes = budget.lowered ? ceiling_bytes : bytes.value();
  return budget;
}

}  // namespace sluice
