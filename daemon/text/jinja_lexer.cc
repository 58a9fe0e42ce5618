#include "daemon/text/jinja_lexer.h"

#include <algorithm>

#include "daemon/text/python_text.h"
#include "daemon/text/unicode.h"

namespace sluice::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// \w of Python's regexes, near enough: what lies beyond ASCII is checked by nobody who writes
// templates.
bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' ||
         static_cast<uint8_t>(c) >= 0x80;
}

// Bytes of Python whitespace at text[i].
size_t space_at(std::string_view text, size_t i) {
  size_t end = i;
  while (end < text.size()) {
    size_t next = end;
    if (!is_python_space(next_code_point(text, next))) break;
    end = next;
  }
  return end - i;
}

uint32_t count_lines(std::string_view text) {
  return static_cast<uint32_t>(std::count(text.begin(), text.end(), '\n'));
}

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// `n` hex digits at text[i]; false if there are fewer.
bool read_hex(std::string_view text, size_t i, size_t n, uint32_t& value) {
  value = 0;
  if (i + n > text.size()) return false;
  for (size_t k = 0; k < n; ++k) {
    const int v = hex_value(text[i + k]);
    if (v < 0) return false;
    value = value * 16 + static_cast<uint32_t>(v);
  }
  return true;
}

}  // namespace

std::string normalize_source(std::string source) {
  size_t out = 0;
  for (size_t i = 0; i < source.size(); ++i) {
    char c = source[i];
    if (c == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') continue;
      c = '\n';
    }
    source[out++] = c;
  }
  source.resize(out);
  if (!source.empty() && source.back() == '\n') source.pop_back();
  return source;
}

Token Lexer::make(TokenKind kind, size_t length) {
  Token token{kind, 0, line_, source_.substr(at_, length)};
  line_ += count_lines(token.text);
  at_ += length;
  return token;
}

Token Lexer::error(std::string_view what) {
  at_ = source_.size();
  mode_ = Mode::kText;
  return {TokenKind::kError, 0, line_, what};
}

void Lexer::skip_space() {
  const size_t n = space_at(source_, at_);
  line_ += count_lines(source_.substr(at_, n));
  at_ += n;
}

Token Lexer::next() { return mode_ == Mode::kText ? next_in_text() : next_in_tag(); }

size_t Lexer::tag_end(char close) const {
  const std::string_view text = rest();
  size_t i = 0;
  const char sign = text.empty() ? '\0' : text[0];
  // "+" is an end of blocks and comments only: {{ x +}} is not one.
  if (sign == '-' || (sign == '+' && close != '}')) i = 1;
  if (i + 1 >= text.size() || text[i] != close || text[i + 1] != '}') return 0;
  i += 2;
  if (sign == '-') return i + space_at(text, i);
  if (sign != '+' && close != '}' && i < text.size() && text[i] == '\n') ++i;  // trim_blocks
  return i;
}

Token Lexer::next_in_text() {
  for (;;) {
    const size_t begin = at_;
    size_t open = begin;
    // The next "{{", "{%" or "{#".
    for (;; ++open) {
      open = source_.find('{', open);
      if (open == std::string_view::npos || open + 1 >= source_.size()) {
        open = source_.size();
        break;
      }
      const char c = source_[open + 1];
      if (c == '{' || c == '%' || c == '#') break;
    }
    if (open == source_.size()) {
      if (begin == open) return {TokenKind::kEnd, 0, line_, {}};
      return make(TokenKind::kData, open - begin);
    }
    const char kind = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    std::string_view data = source_.substr(begin, open - begin);
    if (sign == '-') {
      data = strip_right(data);
    } else if (sign != '+' && kind != '{') {  // lstrip_blocks
      const size_t newline = data.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_begin > 0 || line_starting_) &&
          space_at(data, line_begin) == data.size() - line_begin) {
        data = data.substr(0, line_begin);
      }
    }
    if (!data.empty()) {
      Token token{TokenKind::kData, 0, line_, data};
      line_ += count_lines(source_.substr(begin, open - begin));
      at_ = open;
      line_starting_ = false;  // asked again at the tag with nothing in front: leaves it as it is
      return token;
    }
    line_ += count_lines(source_.substr(begin, open - begin));
    at_ = open;
    if (kind == '#') {
      if (!skip_comment()) return error("a comment without end");
      continue;
    }
    if (kind == '%') {
      Token raw;
      if (take_raw(raw)) {
        if (raw.kind == TokenKind::kData && raw.text.empty()) continue;
        return raw;
      }
    }
    mode_ = kind == '{' ? Mode::kPrint : Mode::kBlock;
    const Token token = make(kind == '{' ? TokenKind::kPrintBegin : TokenKind::kBlockBegin,
                             sign == '-' || sign == '+' ? 3 : 2);
    return token;
  }
}

bool Lexer::skip_comment() {
  size_t i = at_ + 2;
  if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
  const size_t close = source_.find("#}", i);
  if (close == std::string_view::npos) return false;
  const size_t from =
      close > i && (source_[close - 1] == '-' || source_[close - 1] == '+') ? close - 1 : close;
  line_ += count_lines(source_.substr(at_, from - at_));
  at_ = from;
  const size_t end = tag_end('#');
  const std::string_view tail = source_.substr(at_, end);
  line_ += count_lines(tail);
  at_ += end;
  line_starting_ = tail.back() == '\n';
  return true;
}

bool Lexer::take_raw(Token& out) {
  const auto word_at = [&](size_t i, std::string_view word) -> size_t {
    // "{%[-+]? word": the index after the word and the space behind it; 0 if it is not there.
    i += 2;
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
    i += space_at(source_, i);
    if (source_.substr(i, word.size()) != word) return 0;
    i += word.size();
    return i + space_at(source_, i);
  };
  size_t i = word_at(at_, "raw");
  if (i == 0) return false;
  if (source_.substr(i, 2) == "%}") {
    i += 2;
  } else if (source_.substr(i, 3) == "-%}") {
    i += 3;
    i += space_at(source_, i);
  } else {
    return false;
  }
  const bool starts_line = source_[i - 1] == '\n';
  for (size_t open = source_.find("{%", i); open != std::string_view::npos;
       open = source_.find("{%", open + 1)) {
    const size_t behind = word_at(open, "endraw");
    if (behind == 0) continue;
    const size_t before = at_;
    at_ = behind;
    const size_t end = tag_end('%');
    at_ = before;
    if (end == 0) continue;
    std::string_view data = source_.substr(i, open - i);
    if (source_[open + 2] == '-') {
      data = strip_right(data);
    } else if (source_[open + 2] != '+') {
      const size_t newline = data.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_begin > 0 || starts_line) &&
          space_at(data, line_begin) == data.size() - line_begin) {
        data = data.substr(0, line_begin);
      }
    }
    out = {TokenKind::kData, 0, line_, data};
    line_ += count_lines(source_.substr(at_, behind + end - at_));
    at_ = behind + end;
    line_starting_ = source_[at_ - 1] == '\n';
    return true;
  }
  out = error("{% raw %} without {% endraw %}");
  return true;
}

Token Lexer::next_in_tag() {
  const char close = mode_ == Mode::kPrint ? '}' : '%';
  for (;;) {
    if (brackets_.empty()) {
      if (const size_t n = tag_end(close)) {
        const TokenKind kind = mode_ == Mode::kPrint ? TokenKind::kPrintEnd : TokenKind::kBlockEnd;
        mode_ = Mode::kText;
        const Token token = make(kind, n);
        line_starting_ = token.text.back() == '\n';
        return token;
      }
    }
    const size_t before = at_;
    skip_space();
    if (at_ == before) break;
  }
  if (at_ >= source_.size()) return error("the template ends inside a tag");
  const char c = source_[at_];
  if (is_digit(c)) return number();
  if (is_word(c)) {
    size_t n = 1;
    while (at_ + n < source_.size() && is_word(source_[at_ + n])) ++n;
    return make(TokenKind::kName, n);
  }
  if (c == '\'' || c == '"') return string_literal(c);

  const char d = at_ + 1 < source_.size() ? source_[at_ + 1] : '\0';
  const bool two = (c == '/' && d == '/') || (c == '*' && d == '*') ||
                   ((c == '=' || c == '!' || c == '<' || c == '>') && d == '=');
  if (!two && std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
    return error("unexpected character");
  }
  if (c == '(') brackets_ += ')';
  if (c == '[') brackets_ += ']';
  if (c == '{') brackets_ += '}';
  if (c == ')' || c == ']' || c == '}') {
    if (brackets_.empty() || brackets_.back() != c)
      return error("a closing bracket that was not opened");
    brackets_.pop_back();
  }
  Token token = make(TokenKind::kOperator, two ? 2 : 1);
  token.op = static_cast<uint16_t>(two ? static_cast<uint8_t>(c) * 256 + static_cast<uint8_t>(d)
                                       : static_cast<uint8_t>(c));
  return token;
}

Token Lexer::number() {
  // Digits may be grouped by single underscores. A float has a fraction, an exponent or both.
  const std::string_view text = rest();
  const auto digits = [&](size_t i, auto&& accept) {
    while (i < text.size() &&
           (accept(text[i]) || (text[i] == '_' && i + 1 < text.size() && accept(text[i + 1])))) {
      ++i;
    }
    return i;
  };
  if (text[0] == '0' && text.size() > 2) {
    const char base = static_cast<char>(text[1] | 0x20);
    const auto good = [&](char c) {
      const int v = hex_value(c);
      return v >= 0 && v < (base == 'x' ? 16 : base == 'o' ? 8 : 2);
    };
    if ((base == 'x' || base == 'o' || base == 'b') && good(text[2])) {
      return make(TokenKind::kInteger, digits(2, good));
    }
  }
  size_t i = digits(0, is_digit);
  bool real = false;
  // "messages.0.x" and "1..2" keep their dots: a fraction needs a digit, and what stands before
  // must not be a dot.
  const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
  if (!after_dot && i + 1 < text.size() && text[i] == '.' && is_digit(text[i + 1])) {
    i = digits(i + 1, is_digit);
    real = true;
  }
  if (!after_dot && i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    size_t k = i + 1;
    if (k < text.size() && (text[k] == '+' || text[k] == '-')) ++k;
    if (k < text.size() && is_digit(text[k])) {
      i = digits(k, is_digit);
      real = true;
    }
  }
  return make(real ? TokenKind::kFloat : TokenKind::kInteger, i);
}

Token Lexer::string_literal(char quote) {
  for (size_t i = at_ + 1; i < source_.size(); ++i) {
    if (source_[i] == '\\') {
      ++i;
    } else if (source_[i] == quote) {
      return make(TokenKind::kString, i + 1 - at_);
    }
  }
  return error("a string without end");
}

bool unescape_string(std::string_view literal, std::string& out) {
  const std::string_view s = literal.substr(1, literal.size() - 2);
  out.clear();
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '\\' || i + 1 >= s.size()) {
      out += s[i];
      continue;
    }
    const char c = s[++i];
    uint32_t code = 0;
    switch (c) {
      case '\n':
        break;
      case '\\':
      case '\'':
      case '"':
        out += c;
        break;
      case 'a':
        out += '\a';
        break;
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'v':
        out += '\v';
        break;
      case 'x':
      case 'u':
      case 'U': {
        const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        if (!read_hex(s, i + 1, n, code) || code > 0x10FFFF) {
          out = std::string("a bad \\") + c + " escape";
          return false;
        }
        i += n;
        uint32_t low = 0;
        // A pair of surrogates is one character here; a lone one has no UTF-8 and becomes U+FFFD.
        if (code >= 0xD800 && code < 0xDC00 && s.substr(i + 1, 2) == "\\u" &&
            read_hex(s, i + 3, 4, low) && low >= 0xDC00 && low < 0xE000) {
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          i += 6;
        } else if (code >= 0xD800 && code < 0xE000) {
          code = 0xFFFD;
        }
        append_utf8(out, code);
        break;
      }
      case 'N':
        out = "\\N escapes are not supported";
        return false;
      default:
        if (c >= '0' && c <= '7') {
          size_t n = 0;
          while (n < 3 && i + n < s.size() && s[i + n] >= '0' && s[i + n] <= '7') {
            code = code * 8 + static_cast<uint32_t>(s[i + n++] - '0');
          }
          i += n - 1;
          append_utf8(out, code);
        } else {
          out += '\\';
          out += c;
        }
    }
  }
  return true;
}

}  // namespace sluice::jinja
