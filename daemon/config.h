// The daemon's settings: one table of keys, typed and validated, each value knowing where it came
// from. Order (the caller applies them lowest first): built-in, file, drop-ins, SLUICED_*
// variables, flags. Unknown keys are errors with a suggestion. Nothing here touches the daemon.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sluice {

enum class KeyKind : uint8_t {
  kText,
  kChoice,
  kSize,
  kDuration,
  kInteger,
  kNumber,
  kBool,
  kTextList
};

struct KeySpec {
  const char* name;  // "budget.ram"; below [models."NAME"] the bare key
  KeyKind kind;
  const char* builtin;  // as it would be written; lists separated by commas
  const char* help;
  std::vector<std::string>
      words{};     // kChoice: all that is allowed; others: words allowed besides the type ("auto")
  double min = 0;  // kInteger, kNumber, kSize
  double max = 9e15;
  const char* variable = "";  // a short SLUICED_ variable besides SLUICED_SECTION_KEY
  bool effective = true;  // false: checked, but the part of Sluice it belongs to is not built yet
};

struct Setting {
  std::string value;                // as written, without quotes; lists joined with ", "
  std::string origin = "built-in";  // "flag --budget", "env SLUICED_IO", "/path/sluiced.toml:3:8"
};

class Config {
 public:
  Config();  // all built-in values

  static const std::vector<KeySpec>& keys();
  static const std::vector<KeySpec>& model_keys();

  // `key` is "section.key" or `models."NAME".key`. Errors: invalid_config, naming `origin`, what
  // was found and what is allowed, or the nearest key.
  Result<void> set(const std::string& key, const std::string& value, const std::string& origin);
  // "section.key=value", as --set takes it.
  Result<void> set_assignment(const std::string& assignment);
  // Errors: invalid_config as "FILE:LINE:COL: ..."; io_error when it cannot be read. `must_exist`
  // false: a missing file is fine.
  Result<void> merge_file(const std::string& path, bool must_exist);
  // FILE.d/*.toml in the order of their names.
  Result<void> merge_drop_ins(const std::string& path);
  Result<void> merge_text(std::string_view toml, const std::string& file_name);
  // All SLUICED_* of `environment` (NAME=VALUE, null-terminated list) except SLUICED_CONFIG, which
  // the caller reads.
  Result<void> merge_environment(const char* const* environment);

  const Setting& get(const std::string& key) const;  // `key` must be in keys()
  bool is_default(const std::string& key) const;
  bool is_auto(const std::string& key) const;
  uint64_t size(const std::string& key) const;  // not for "auto"
  int64_t duration_ms(const std::string& key) const;
  int64_t integer(const std::string& key) const;  // "auto" is 0
  bool boolean(const std::string& key) const;
  std::vector<std::string> list(const std::string& key) const;
  const std::map<std::string, std::map<std::string, Setting>>& models() const { return models_; }

  // Keys set by someone whose part of Sluice is not built yet.
  std::vector<std::string> without_effect() const;

  // {"section":{"key":{"value":..,"origin":".."}},...}
  boost::json::object document() const;
  // As TOML; with `origins` each line ends in a comment.
  std::string toml(bool origins) const;
  // A commented file of all keys with their built-in values.
  static std::string example();

 private:
  std::map<std::string, Setting> settings_;
  std::map<std::string, std::map<std::string, Setting>> models_;  // models."NAME".key
};

// `--budget`, [budget] ram: bytes of "auto" (60 % of the ceiling), a percentage or a size. More
// than the ceiling (the smaller of MemTotal and the cgroup limit) is lowered to it. Errors:
// invalid_config.
struct RamBudget {
  uint64_t bytes = 0;
  bool lowered = false;
};
Result<RamBudget> ram_budget(const std::string& text, uint64_t ceiling_bytes);

}  // namespace sluice
