#include "client/http_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/text_escape.h"

namespace sluice {
namespace {

constexpr uint64_t kMaxBodyBytes = uint64_t{1}
                                   << 40;  // of one chunk or a Content-Length: a plain sanity limit

Error protocol(std::string what) {
  return Error{"protocol", "the daemon's answer is not valid HTTP: " + what};
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r'))
    text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return out;
}

}  // namespace

std::string ResponseHead::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

Result<bool> HttpReader::take_line(std::string_view& bytes, size_t limit) {
  const size_t newline = bytes.find('\n');
  const size_t n = newline == std::string_view::npos ? bytes.size() : newline + 1;
  if (line_.size() + n > limit)
    return protocol(fmt::format("a line is longer than {} bytes", limit));
  line_.append(bytes.substr(0, n));
  bytes.remove_prefix(n);
  return newline != std::string_view::npos;
}

Result<void> HttpReader::feed(std::string_view bytes, std::string& body) {
  while (!bytes.empty()) {
    switch (state_) {
      case State::kHead: {
        SLUICE_TRY(const bool whole, take_line(bytes, kMaxHeadBytes));
        if (!whole) break;
        const bool ended = line_.ends_with("\r\n\r\n") || line_.ends_with("\n\n");
        if (ended) {
          SLUICE_TRY(parse_head(line_));
          line_.clear();
        }
        break;
      }
      case State::kFixed:
      case State::kChunkData: {
        const size_t n = static_cast<size_t>(std::min<uint64_t>(remaining_, bytes.size()));
        body.append(bytes.substr(0, n));
        bytes.remove_prefix(n);
        remaining_ -= n;
        if (remaining_ == 0) state_ = state_ == State::kFixed ? State::kDone : State::kChunkEnd;
        break;
      }
      case State::kUntilClose:
        body.append(bytes);
        return success();
      case State::kChunkSize: {
        SLUICE_TRY(const bool whole, take_line(bytes, kMaxChunkLine));
        if (!whole) break;
        SLUICE_TRY(chunk_size_line(line_));
        line_.clear();
        break;
      }
      case State::kChunkEnd: {
        SLUICE_TRY(const bool whole, take_line(bytes, 2));
        if (!whole) break;
        if (line_ != "\r\n" && line_ != "\n") return protocol("a chunk is longer than it says");
        line_.clear();
        state_ = State::kChunkSize;
        break;
      }
      case State::kTrailers: {
        SLUICE_TRY(const bool whole, take_line(bytes, kMaxTrailerBytes));
        if (!whole) break;
        trailer_bytes_ += line_.size();
        if (trailer_bytes_ > kMaxTrailerBytes) return protocol("trailers are too long");
        if (line_ == "\r\n" || line_ == "\n") state_ = State::kDone;
        line_.clear();
        break;
      }
      case State::kDone:
        return protocol("bytes follow the end of the answer");
    }
  }
  return success();
}

Result<void> HttpReader::finish() const {
  if (state_ == State::kDone || state_ == State::kUntilClose) return success();
  return Error{"connection_lost",
               state_ == State::kHead
                   ? "the daemon closed the connection without an answer"
                   : "the daemon closed the connection in the middle of an answer"};
}

Result<void> HttpReader::parse_head(std::string_view text) {
  const size_t line_end = text.find('\n');
  const std::string_view status_line = trim(text.substr(0, line_end));
  const bool http1 = status_line.starts_with("HTTP/1.1 ") || status_line.starts_with("HTTP/1.0 ");
  int status = 0;
  if (http1 && status_line.size() >= 12) {
    std::from_chars(status_line.data() + 9, status_line.data() + 12, status);
  }
  if (status < 100 || status > 599)
    return protocol(fmt::format("status line '{}'", escape_text(status_line)));
  ResponseHead head;
  head.status = status;
  size_t n_headers = 0;
  for (std::string_view rest = text.substr(line_end + 1); !rest.empty();) {
    const size_t end = rest.find('\n');
    const std::string_view line = trim(rest.substr(0, end));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (line.empty()) continue;
    if (++n_headers > kMaxHeaders)
      return protocol(fmt::format("more than {} headers", kMaxHeaders));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0)
      return protocol(fmt::format("header '{}'", escape_text(line)));
    head.headers[lower(trim(line.substr(0, colon)))] = std::string(trim(line.substr(colon + 1)));
  }
  if (status < 200) {
    if (status == 101 || ++n_interim_ > kMaxInterim)
      return protocol("an endless or unasked-for interim answer");
    return success();  // 100, 102, 103: the real head follows
  }
  head_ = std::move(head);
  return choose_framing();
}

Result<void> HttpReader::choose_framing() {
  const std::string coding = lower(head_.header("transfer-encoding"));
  const std::string length = head_.header("content-length");
  if (head_.status == 204 || head_.status == 304) {
    state_ = State::kDone;
  } else if (!coding.empty()) {
    if (coding != "chunked")
      return protocol(fmt::format("transfer-encoding '{}'", escape_text(coding)));
    state_ = State::kChunkSize;
  } else if (!length.empty()) {
    const auto [end, ec] =
        std::from_chars(length.data(), length.data() + length.size(), remaining_);
    if (ec != std::errc{} || end != length.data() + length.size() || remaining_ > kMaxBodyBytes) {
      return protocol(fmt::format("content-length '{}'", escape_text(length)));
    }
    state_ = remaining_ == 0 ? State::kDone : State::kFixed;
  } else {
    state_ = State::kUntilClose;
  }
  return success();
}

Result<void> HttpReader::chunk_size_line(std::string_view line) {
  line = trim(line.substr(0, line.find('\n')));
  line = trim(line.substr(0, line.find(';')));
  uint64_t size = 0;
  const auto [end, ec] = std::from_chars(line.data(), line.data() + line.size(), size, 16);
  if (line.empty() || ec != std::errc{} || end != line.data() + line.size() ||
      size > kMaxBodyBytes) {
    return protocol(fmt::format("chunk size '{}'", escape_text(line)));
  }
  remaining_ = size;
  state_ = size == 0 ? State::kTrailers : State::kChunkData;
  return success();
}

}  // namespace sluice
