// Cuts template source into tokens, one at a time, with Jinja's whitespace rules under trim_blocks
// and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice::jinja {

enum class TokenKind : uint8_t {
  kEnd,
  kData,  // text outside of tags
  kPrintBegin,
  kPrintEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kInteger,
  kFloat,
  kString,
  kOperator,  // op: the character, or two of them as first * 256 + second
  kError,     // text: what is wrong
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  uint16_t op = 0;
  uint32_t line = 1;
  std::string_view text;  // into the source; a string with its quotes

  bool is(char c) const { return kind == TokenKind::kOperator && op == static_cast<uint8_t>(c); }
  bool is(char c, char d) const {
    return kind == TokenKind::kOperator &&
           op == static_cast<uint8_t>(c) * 256 + static_cast<uint8_t>(d);
  }
  bool is_name(std::string_view name) const { return kind == TokenKind::kName && text == name; }
};

class Lexer {
 public:
  // `source` is valid UTF-8, normalized by normalize_source, and outlives the lexer.
  explicit Lexer(std::string_view source) : source_(source) {}
  Token next();

 private:
  enum class Mode : uint8_t { kText, kPrint, kBlock };
  Token next_in_text();
  Token next_in_tag();
  Token number();
  Token string_literal(char quote);
  Token make(TokenKind kind, size_t length);
  Token error(std::string_view what);
  bool skip_comment();
  bool take_raw(Token& out);
  void skip_space();
  // Length of the tag end at the cursor with the whitespace it takes along; 0 if there is none.
  size_t tag_end(char close) const;
  std::string_view rest() const { return source_.substr(at_); }

  std::string_view source_;
  size_t at_ = 0;
  uint32_t line_ = 1;
  Mode mode_ = Mode::kText;
  bool line_starting_ = true;  // the cursor stands at the start of a line, for lstrip_blocks
  std::string brackets_;       // closing brackets still owed inside a tag
};

// \r\n and \r become \n; one newline at the end is dropped.
std::string normalize_source(std::string source);

// The value of a string literal given with its quotes. False, and `out` says why, for a bad escape.
bool unescape_string(std::string_view literal, std::string& out);

}  // namespace sluice::jinja
