// Reading sluiced.toml: toml++ gives the positions, Config::set judges the values.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/text_escape.h"
#include "daemon/config.h"

namespace sluice {
namespace {

constexpr size_t kMaxConfigBytes = 1u << 20;

std::string position(const std::string& file, const toml::source_position& at) {
  return fmt::format("{}:{}:{}", file, at.line, at.column);
}

Error invalid_at(const std::string& where, const std::string& why) {
  return Error{"invalid_config", fmt::format("{}: {}", where, why)};
}

const char* type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date";
  }
}

struct Expected {
  const char* words;
  bool string, integer, number, boolean, array;
};

Expected expected_of(KeyKind kind) {
  switch (kind) {
    case KeyKind::kSize:
      return {"a size such as \"512M\", or bytes", true, true, false, false, false};
    case KeyKind::kDuration:
      return {"a duration such as \"5m\", or seconds", true, true, true, false, false};
    case KeyKind::kInteger:
      return {"an integer", true, true, false, false, false};
    case KeyKind::kNumber:
      return {"a number", false, true, true, false, false};
    case KeyKind::kBool:
      return {"true or false", false, false, false, true, false};
    case KeyKind::kTextList:
      return {"an array of strings", false, false, false, false, true};
    default:
      return {"a string", true, false, false, false, false};
  }
}

// The value as text for Config::set. kInteger accepts a string only for its words ("auto"); set()
// refuses others.
Result<std::string> text_of(const toml::node& node, const KeySpec& spec, const std::string& where) {
  const Expected e = expected_of(spec.kind);
  if (e.string && node.is_string()) return node.as_string()->get();
  if (e.integer && node.is_integer()) return fmt::format("{}", node.as_integer()->get());
  if (e.number && node.is_floating_point())
    return fmt::format("{}", node.as_floating_point()->get());
  if (e.boolean && node.is_boolean())
    return std::string(node.as_boolean()->get() ? "true" : "false");
  if (e.array && node.is_array()) {
    std::string joined;
    for (const toml::node& item : *node.as_array()) {
      if (!item.is_string())
        return invalid_at(
            where,
            fmt::format(
                "{}: found {} in the array, expected {}", spec.name, type_name(item), e.words));
      if (item.as_string()->get().find(',') != std::string::npos)
        return invalid_at(
            where, fmt::format("{}: a comma inside a list's item is not supported", spec.name));
      if (!joined.empty()) joined += ",";
      joined += item.as_string()->get();
    }
    return joined;
  }
  return invalid_at(where,
                    fmt::format("{}: found {}, expected {}", spec.name, type_name(node), e.words));
}

const KeySpec* find_key(const std::vector<KeySpec>& keys, const std::string& name) {
  const auto it =
      std::find_if(keys.begin(), keys.end(), [&](const KeySpec& k) { return k.name == name; });
  return it == keys.end() ? nullptr : &*it;
}

Result<void> merge_model(Config& config,
                         const std::string& model,
                         const toml::table& table,
                         const std::string& file) {
  for (const auto& [key, node] : table) {
    const KeySpec* spec = find_key(Config::model_keys(), std::string(key.str()));
    const std::string where = position(file, key.source().begin);
    std::string text;
    if (spec != nullptr) {
      SLUICE_TRY(text, text_of(node, *spec, where));
    }
    SLUICE_TRY(config.set(fmt::format("models.\"{}\".{}", model, key.str()), text, where));
  }
  return success();
}

Result<void> merge_table(Config& config, const toml::table& root, const std::string& file) {
  for (const auto& [section, section_node] : root) {
    const std::string where = position(file, section.source().begin);
    const std::string section_name(section.str());
    const auto& keys = Config::keys();
    const bool known = std::any_of(keys.begin(), keys.end(), [&](const KeySpec& k) {
      return std::string_view(k.name).starts_with(section_name + ".");
    });
    if (!known) {
      SLUICE_TRY(config.set(section_name, "", where));  // says what it should have been
    }
    if (!section_node.is_table()) {
      return invalid_at(
          where,
          fmt::format("{}: found {}, expected a table", section_name, type_name(section_node)));
    }
    for (const auto& [key, node] : *section_node.as_table()) {
      const std::string key_name = section_name + "." + std::string(key.str());
      const std::string key_where = position(file, key.source().begin);
      if (section_name == "models" && node.is_table()) {
        SLUICE_TRY(merge_model(config, std::string(key.str()), *node.as_table(), file));
        continue;
      }
      const KeySpec* spec = find_key(keys, key_name);
      std::string text;
      if (spec != nullptr) {
        SLUICE_TRY(text, text_of(node, *spec, key_where));
      }
      SLUICE_TRY(config.set(key_name, text, key_where));
    }
  }
  return success();
}

// A FIFO must not block the start, an endless device must end.
Result<std::string> read_config(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno_error("io_error", "open " + escape_text(path, 200), errno);
  std::string text;
  char buffer[65536];
  ssize_t n = 0;
  while (text.size() <= kMaxConfigBytes && (n = ::read(fd, buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(n));
  }
  const int read_errno = errno;
  ::close(fd);
  if (n < 0) return errno_error("io_error", "read " + escape_text(path, 200), read_errno);
  if (text.size() > kMaxConfigBytes) return invalid_at(escape_text(path, 200), "larger than 1 MiB");
  return text;
}

}  // namespace

Result<void> Config::merge_text(std::string_view text, const std::string& file_name) {
  try {
    const toml::table root = toml::parse(text, file_name);
    return merge_table(*this, root, file_name);
  } catch (const toml::parse_error& e) {
    return invalid_at(position(file_name, e.source().begin), std::string(e.description()));
  }
}

Result<void> Config::merge_file(const std::string& path, bool must_exist) {
  auto text = read_config(path);
  if (!text) {
    const bool missing = ::access(path.c_str(), F_OK) != 0 && errno == ENOENT;
    if (missing && !must_exist) return success();
    return std::move(text).error();
  }
  return merge_text(text.value(), path);
}

Result<void> Config::merge_drop_ins(const std::string& path) {
  std::error_code ec;
  std::vector<std::string> files;
  for (std::filesystem::directory_iterator it(path + ".d", ec), end; !ec && it != end;
       it.increment(ec)) {
    if (it->path().extension() == ".toml") files.push_back(it->path().string());
  }
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    SLUICE_TRY(merge_file(file, true));
  }
  return success();
}

}  // namespace sluice
