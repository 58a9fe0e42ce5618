#include "daemon/http_parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/text_escape.h"

namespace sluice {
namespace {

constexpr size_t kMaxEmptyLines = 2;  // RFC 9112 2.2 asks for one
constexpr size_t kMaxChunkLine = 256;
constexpr size_t kMaxTrailerBytes = 4096;

Error bad(std::string what) { return Error{"invalid_request", std::move(what)}; }

bool is_token_char(char c) {
  const auto u = static_cast<unsigned char>(c);
  if ((u >= '0' && u <= '9') || (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z')) return true;
  return u != 0 && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool is_token(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), is_token_char);
}

std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t')) s.remove_suffix(1);
  return s;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

Result<int> minor_version(std::string_view version) {
  if (version == "HTTP/1.1") return 1;
  if (version == "HTTP/1.0") return 0;
  const bool shaped = version.size() == 8 && version.starts_with("HTTP/") && version[6] == '.' &&
                      version[5] >= '0' && version[5] <= '9' && version[7] >= '0' &&
                      version[7] <= '9';
  if (shaped)
    return Error{"http_version", fmt::format("{} is not spoken here", version), "use HTTP/1.1"};
  return bad("the request line does not end in an HTTP version");
}

Result<void> parse_target(std::string_view target, HttpRequest& r) {
  for (const char c : target) {
    if (c < 0x21 || c > 0x7e)
      return bad("the request target holds a byte that must be percent-encoded");
  }
  constexpr std::string_view kHttp = "http://";
  if (target.starts_with(kHttp)) {
    const size_t slash = target.find('/', kHttp.size());
    target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
  }
  if (!target.starts_with('/') && r.method != "CONNECT" &&
      !(target == "*" && r.method == "OPTIONS")) {
    return bad("the request target does not start with /");
  }
  target = target.substr(0, target.find('#'));
  const size_t question = target.find('?');
  r.path = target.substr(0, question);
  if (question != std::string_view::npos) r.query = target.substr(question + 1);
  return success();
}

Result<void> parse_request_line(std::string_view line, HttpRequest& r) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last)
    return bad("the request line is not METHOD TARGET VERSION");
  const std::string_view target = line.substr(first + 1, last - first - 1);
  r.method = line.substr(0, first);
  if (!is_token(r.method)) return bad("the method holds characters that are not allowed");
  if (target.empty() || target.find(' ') != std::string_view::npos)
    return bad("the request target holds a space");
  SLUICE_TRY(r.minor_version, minor_version(line.substr(last + 1)));
  constexpr std::array<std::string_view, 9> kMethods = {
      "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"};
  if (std::find(kMethods.begin(), kMethods.end(), r.method) == kMethods.end()) {
    return Error{"not_supported", fmt::format("unknown method {}", escape_text(r.method))};
  }
  return parse_target(target, r);
}

Result<void> parse_header_line(std::string_view line, HttpRequest& r) {
  if (line.front() == ' ' || line.front() == '\t')
    return bad("folded header lines are not allowed");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return bad("a header line has no colon");
  const std::string_view name = line.substr(0, colon);
  if (!is_token(name)) return bad("a header name holds characters that are not allowed");
  r.headers.emplace_back(lower(name), std::string(trim(line.substr(colon + 1))));
  return success();
}

// The one header of that name. Errors when it is there twice: two readers might choose differently.
Result<std::optional<std::string_view>> single(const HttpRequest& r, std::string_view name) {
  std::optional<std::string_view> found;
  for (const auto& [key, value] : r.headers) {
    if (key != name) continue;
    if (found) return bad(fmt::format("more than one {} header", name));
    found = value;
  }
  return found;
}

Result<uint64_t> content_length(std::string_view text, uint64_t max_bytes) {
  if (text.empty() ||
      !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return bad("Content-Length is not a number");
  }
  uint64_t n = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (ec != std::errc() || end != text.data() + text.size() || n > max_bytes) {
    return Error{
        "body_too_large",
        fmt::format("the body has {} bytes, {} are allowed", escape_text(text, 24), max_bytes)};
  }
  return n;
}

Result<BodyPlan> plan_body(const HttpRequest& r, const HttpLimits& limits) {
  BodyPlan plan;
  SLUICE_TRY(const auto length, single(r, "content-length"));
  SLUICE_TRY(const auto coding, single(r, "transfer-encoding"));
  SLUICE_TRY(const auto expect, single(r, "expect"));
  if (length && coding) return bad("Content-Length and Transfer-Encoding together");
  if (coding) {
    if (r.minor_version == 0) return bad("Transfer-Encoding in HTTP/1.0");
    if (lower(*coding) != "chunked") return bad("the only Transfer-Encoding understood is chunked");
    plan.chunked = true;
  }
  if (length) {
    SLUICE_TRY(plan.length, content_length(*length, limits.body_bytes));
  }
  if (expect && r.minor_version == 1) {
    if (lower(*expect) != "100-continue") {
      return Error{"expectation_failed", "the only Expect understood is 100-continue"};
    }
    plan.expects_continue = plan.chunked || plan.length > 0;
  }
  return plan;
}

bool wants_keep_alive(const HttpRequest& r) {
  if (r.minor_version == 0) return false;
  for (const auto& [key, value] : r.headers) {
    if (key != "connection") continue;
    std::string_view rest = value;
    while (!rest.empty()) {
      const size_t comma = std::min(rest.find(','), rest.size());
      if (lower(trim(rest.substr(0, comma))) == "close") return false;
      rest.remove_prefix(std::min(rest.size(), comma + 1));
    }
  }
  return true;
}

}  // namespace

Result<std::optional<size_t>> HeadScanner::scan(std::string_view buffer) {
  for (; at_ < buffer.size(); ++at_) {
    const char c = buffer[at_];
    if (cr_ != (c == '\n')) return bad("a line does not end in CR LF");
    if (c == '\r') {
      cr_ = true;
      continue;
    }
    if (c == '\n') {
      cr_ = false;
      if (line_bytes_ == 0) {
        if (lines_ > 0) return std::optional<size_t>(++at_);
        if (++empty_lines_ > kMaxEmptyLines) return bad("empty lines before the request");
        continue;
      }
      line_bytes_ = 0;
      if (lines_ > 0 && (header_bytes_ += 2) > limits_.header_bytes) {
        return Error{"headers_too_large",
                     fmt::format("the headers have more than {} bytes", limits_.header_bytes)};
      }
      if (++lines_ > limits_.header_count + 1) {
        return Error{"headers_too_large",
                     fmt::format("more than {} headers", limits_.header_count)};
      }
      continue;
    }
    const auto u = static_cast<unsigned char>(c);
    if ((u < 0x20 && c != '\t') || u == 0x7f) return bad("a control byte in the request's head");
    ++line_bytes_;
    if (lines_ == 0 && line_bytes_ > limits_.request_line_bytes) {
      return Error{
          "uri_too_long",
          fmt::format("the request line has more than {} bytes", limits_.request_line_bytes)};
    }
    if (lines_ > 0 && ++header_bytes_ > limits_.header_bytes) {
      return Error{"headers_too_large",
                   fmt::format("the headers have more than {} bytes", limits_.header_bytes)};
    }
  }
  return std::optional<size_t>();
}

Result<ParsedHead> parse_head(std::string_view head, const HttpLimits& limits) {
  ParsedHead out;
  bool first = true;
  while (!head.empty()) {
    const size_t end = head.find("\r\n");
    if (end == std::string_view::npos) return bad("the request's head is cut short");
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(end + 2);
    if (line.empty()) continue;  // before the request line, or the end
    if (first) {
      SLUICE_TRY(parse_request_line(line, out.request));
    } else {
      SLUICE_TRY(parse_header_line(line, out.request));
    }
    first = false;
  }
  if (first) return bad("no request line");
  SLUICE_TRY(const auto host, single(out.request, "host"));
  if (!host && out.request.minor_version == 1)
    return bad("an HTTP/1.1 request needs a Host header");
  out.request.keep_alive = wants_keep_alive(out.request);
  SLUICE_TRY(out.body, plan_body(out.request, limits));
  return out;
}

Result<void> ChunkedReader::size_line(std::string_view line) {
  const std::string_view digits = line.substr(0, line.find(';'));
  for (const char c : line) {
    if (static_cast<unsigned char>(c) < 0x20 && c != '\t')
      return bad("a control byte in a chunk's size line");
  }
  if (digits.empty() || digits.size() > 16) return bad("a chunk size is not a hexadecimal number");
  uint64_t n = 0;
  for (const char c : digits) {
    const int d = hex_digit(c);
    if (d < 0) return bad("a chunk size is not a hexadecimal number");
    n = n << 4 | static_cast<uint64_t>(d);
  }
  if (n > max_body_bytes_ || total_ + n > max_body_bytes_) {
    return Error{"body_too_large",
                 fmt::format("the body has more than the {} bytes allowed", max_body_bytes_)};
  }
  total_ += n;
  left_ = n;
  state_ = n == 0 ? State::kTrailer : State::kData;
  return success();
}

Result<bool> ChunkedReader::feed(std::string& buffer, std::string& body) {
  size_t at = 0;
  const auto take_line = [&](size_t limit) -> Result<std::optional<std::string_view>> {
    const std::string_view rest = std::string_view(buffer).substr(at);
    const size_t lf = rest.substr(0, limit + 2).find('\n');
    if (lf == std::string_view::npos) {
      if (rest.size() >= limit + 2) return bad("a line of the chunked body is too long");
      return std::optional<std::string_view>();
    }
    if (lf == 0 || rest[lf - 1] != '\r')
      return bad("a line of the chunked body does not end in CR LF");
    at += lf + 1;
    return std::optional<std::string_view>(rest.substr(0, lf - 1));
  };
  bool more = true;
  while (more && state_ != State::kDone) {
    switch (state_) {
      case State::kSize: {
        SLUICE_TRY(const auto line, take_line(kMaxChunkLine));
        more = line.has_value();
        if (line) {
          SLUICE_TRY(size_line(*line));
        }
        break;
      }
      case State::kData: {
        const size_t n = static_cast<size_t>(std::min<uint64_t>(left_, buffer.size() - at));
        body.append(buffer, at, n);
        at += n;
        left_ -= n;
        if (left_ == 0) state_ = State::kDataEnd;
        more = left_ == 0;
        break;
      }
      case State::kDataEnd:
        if (at < buffer.size() && buffer[at] != '\r') return bad("a chunk does not end in CR LF");
        if (buffer.size() - at < 2) {
          more = false;
          break;
        }
        if (buffer[at + 1] != '\n') return bad("a chunk does not end in CR LF");
        at += 2;
        state_ = State::kSize;
        break;
      case State::kTrailer: {
        SLUICE_TRY(const auto line, take_line(kMaxTrailerBytes));
        more = line.has_value();
        if (!line) break;
        trailer_bytes_ += line->size() + 2;
        if (trailer_bytes_ > kMaxTrailerBytes) {
          return Error{"headers_too_large",
                       fmt::format("trailers of more than {} bytes", kMaxTrailerBytes)};
        }
        if (line->empty()) state_ = State::kDone;
        break;
      }
      case State::kDone:
        break;
    }
  }
  buffer.erase(0, at);
  return state_ == State::kDone;
}

Result<std::string> percent_decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const int hi = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int lo = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (hi < 0 || lo < 0) return bad("a percent escape in the path is not %XX");
    out += static_cast<char>(hi * 16 + lo);
    i += 2;
  }
  return out;
}

std::optional<std::string> query_value(std::string_view query, std::string_view key) {
  while (!query.empty()) {
    const size_t amp = std::min(query.find('&'), query.size());
    const std::string_view item = query.substr(0, amp);
    query.remove_prefix(std::min(query.size(), amp + 1));
    const size_t equals = std::min(item.find('='), item.size());
    if (item.substr(0, equals) != key) continue;
    auto value = percent_decode(item.substr(std::min(item.size(), equals + 1)));
    if (value) return std::move(value).value();
    return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace sluice
