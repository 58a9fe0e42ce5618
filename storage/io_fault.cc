#include "storage/io_fault.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/bytes.h"
#include "base/log.h"

namespace sluice {
namespace {

struct ErrnoName {
  const char* name;
  int value;
};
constexpr ErrnoName kErrnos[] = {{"EIO", EIO}, {"EINTR", EINTR}, {"EAGAIN", EAGAIN}, {"ENOMEM", ENOMEM}, {"EINVAL", EINVAL}};
constexpr int64_t kMaxDelayMs = 3600 * 1000;

Error bad_rule(const std::string& rule) {
  return Error{"invalid_config", "SLUICE_IOFAULT: \"" + rule + "\" is no fault",
               "read:N:WHAT, N a number, N+ or *, WHAT EIO, EINTR, EAGAIN, ENOMEM, EINVAL, short, eof, flip or a delay like 50ms"};
}

Result<IoFault> parse_environment() {
  const char* text = std::getenv("SLUICE_IOFAULT");
  return IoFault::parse(text == nullptr ? "" : text);
}

}  // namespace

Result<IoFault::Rule> IoFault::parse_rule(const std::string& text) {
  const size_t first = text.find(':');
  const size_t second = first == std::string::npos ? first : text.find(':', first + 1);
  if (second == std::string::npos || text.substr(0, first) != "read") return bad_rule(text);
  std::string which = text.substr(first + 1, second - first - 1);
  const std::string what = text.substr(second + 1);
  Rule rule;
  if (which != "*") {
    const bool and_later = which.ends_with('+');
    if (and_later) which.pop_back();
    const auto [end, ec] = std::from_chars(which.data(), which.data() + which.size(), rule.from);
    if (ec != std::errc() || end != which.data() + which.size() || rule.from == 0) return bad_rule(text);
    if (!and_later) rule.to = rule.from;
  }
  for (const ErrnoName& e : kErrnos) {
    if (what == e.name) {
      rule.value = e.value;
      return rule;
    }
  }
  if (what == "short") rule.kind = Rule::Kind::kShort;
  else if (what == "eof") rule.kind = Rule::Kind::kEof;
  else if (what == "flip") rule.kind = Rule::Kind::kFlip;
  else {
    const auto ms = parse_duration_ms(what);
    if (!ms || ms.value() < 0 || ms.value() > kMaxDelayMs) return bad_rule(text);
    rule.kind = Rule::Kind::kDelay;
    rule.value = ms.value();
  }
  return rule;
}

Result<IoFault> IoFault::parse(const std::string& text) {
  IoFault fault;
  for (size_t at = 0; at < text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    SLUICE_TRY(const Rule rule, parse_rule(text.substr(at, comma - at)));
    fault.rules_.push_back(rule);
    at = comma + 1;
  }
  return fault;
}

Result<void> IoFault::check_environment() {
  SLUICE_TRY(const auto fault, parse_environment());
  if (!fault.empty()) spdlog::warn("reads fail on purpose: SLUICE_IOFAULT is set");
  return success();
}

IoFault& IoFault::of_process() {
  static IoFault fault = [] {
    auto parsed = parse_environment();
    return parsed ? std::move(parsed).value() : IoFault();
  }();
  return fault;
}

IoFault::Due IoFault::next() {
  Due due;
  if (rules_.empty()) return due;
  const uint64_t n = count_.fetch_add(1) + 1;
  for (const Rule& r : rules_) {
    if (n < r.from || n > r.to) continue;
    switch (r.kind) {
      case Rule::Kind::kErrno: due.error = static_cast<int>(r.value); break;
      case Rule::Kind::kShort: due.shorten = true; break;
      case Rule::Kind::kEof: due.eof = true; break;
      case Rule::Kind::kFlip: due.flip = true; break;
      case Rule::Kind::kDelay: std::this_thread::sleep_for(std::chrono::milliseconds(r.value)); break;
    }
  }
  return due;
}

int64_t IoFault::pread(int fd, std::byte* dst, uint64_t n_bytes, uint64_t offset) {
  const Due due = next();
  if (due.error != 0) {
    errno = due.error;
    return -1;
  }
  if (due.eof) return 0;
  // Direct reads come in whole pages: one page cannot be shortened.
  constexpr uint64_t kPage = 4096;
  if (due.shorten && n_bytes > kPage) n_bytes = std::max(kPage, n_bytes / 2 / kPage * kPage);
  const ssize_t got = ::pread(fd, dst, n_bytes, static_cast<off_t>(offset));
  if (due.flip && got > 0) dst[got / 2] ^= std::byte{1};
  return got;
}

}  // namespace sluice
