#include "daemon/text/sentencepiece.h"

#include <algorithm>

#include "base/text_escape.h"
#include "daemon/text/unicode.h"

namespace sluice {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

struct Symbol {
  uint32_t begin, length;  // in the text; length 0: merged into its left neighbour
  int32_t prev, next;
};

struct Candidate {
  float score;
  int32_t left;
  uint32_t length;  // of both together; stale when either has changed since
  // The queue gives its greatest first: the highest score, then the leftmost.
  bool operator<(const Candidate& o) const {
    return score != o.score ? score < o.score : left > o.left;
  }
};

std::string byte_spelling(size_t b) {
  static const char* const kHex = "0123456789ABCDEF";
  return std::string("<0x") + kHex[b >> 4] + kHex[b & 15] + ">";
}

// The byte that "<0x0A>" stands for; -1 for any other spelling.
int byte_value(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> SentencePiece::create(const VocabSource& source) {
  SLUICE_TRY(auto table, TokenTable::create(source));
  if (source.scores != nullptr && source.scores->count != table.size()) {
    Error e{.code = "gguf.tokenizer",
            .what = "found " + std::to_string(source.scores->count) + " scores, allowed " +
                    std::to_string(table.size())};
    e.field = "tokenizer.ggml.scores";
    return e;
  }
  std::shared_ptr<SentencePiece> out(new SentencePiece(std::move(table), source));
  out->set_control_ids(source);
  return std::shared_ptr<const Tokenizer>(std::move(out));
}

SentencePiece::SentencePiece(TokenTable table, const VocabSource& source)
    : table_(std::move(table)), specials_(table_), add_space_prefix_(source.add_space_prefix) {
  scores_.reserve(table_.size());
  for (uint32_t i = 0; i < table_.size(); ++i) {
    const double score = source.scores != nullptr ? GgufFile::array_real(*source.scores, i) : 0.0;
    scores_.push_back(score == score ? static_cast<float>(score) : 0.0f);  // a NaN has no order
  }
  for (size_t b = 0; b < 256; ++b) byte_tokens_[b] = table_.find(byte_spelling(b)).value_or(-1);
}

TokenId SentencePiece::piece(std::string_view spelling) const {
  const auto id = table_.find(spelling);
  if (!id) return -1;
  const TokenType type = table_.type(*id);
  return type == TokenType::kNormal || type == TokenType::kUndefined ? *id : -1;
}

Result<std::vector<TokenId>> SentencePiece::encode(std::string_view text,
                                                   bool parse_special) const {
  if (text.size() > kMaxEncodeBytes) {
    return Error{.code = "text_too_long",
                 .what = "found " + std::to_string(text.size()) + " bytes of text, allowed " +
                         std::to_string(kMaxEncodeBytes)};
  }
  const std::string valid = to_valid_utf8(text);
  std::vector<TokenId> out;
  for (size_t from = 0; from < valid.size();) {
    const SpecialMatcher::Match m = specials_.next(table_, valid, from, parse_special);
    encode_plain(std::string_view(valid).substr(from, m.begin - from), out);
    if (m.length == 0) break;
    out.push_back(m.id);
    from = m.begin + m.length;
  }
  return out;
}

void SentencePiece::encode_plain(std::string_view text, std::vector<TokenId>& out) const {
  if (text.empty()) return;
  std::string s;
  s.reserve(text.size() + text.size() / 4 + kSpace.size());
  if (add_space_prefix_) s += kSpace;
  for (const char c : text) {
    if (c == ' ') {
      s += kSpace;
    } else {
      s += c;
    }
  }

  std::vector<Symbol> symbols;
  for (size_t i = 0; i < s.size();) {
    const size_t n = code_point_bytes(s[i]);
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({static_cast<uint32_t>(i), static_cast<uint32_t>(n), at - 1, at + 1});
    i += n;
  }
  symbols.back().next = -1;
  const auto at = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto spelling = [&](uint32_t begin, uint32_t length) {
    return std::string_view(s).substr(begin, length);
  };
  std::vector<Candidate> heap;
  const auto consider = [&](int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const uint32_t length = at(left).length + at(at(left).next).length;
    const TokenId id = piece(spelling(at(left).begin, length));
    if (id < 0) return;
    heap.push_back({scores_[static_cast<size_t>(id)], left, length});
    std::push_heap(heap.begin(), heap.end());
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) consider(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate c = heap.back();
    heap.pop_back();
    Symbol& left = at(c.left);
    if (left.length == 0 || left.next < 0 || left.length + at(left.next).length != c.length)
      continue;
    Symbol& right = at(left.next);
    left.length = c.length;
    right.length = 0;
    left.next = right.next;
    if (left.next >= 0) at(left.next).prev = c.left;
    consider(left.prev);
    consider(c.left);
  }

  for (int32_t i = 0; i >= 0; i = at(i).next) {
    const std::string_view word = spelling(at(i).begin, at(i).length);
    const TokenId id = piece(word);
    if (id >= 0) {
      out.push_back(id);
      continue;
    }
    const bool fallback = std::all_of(word.begin(), word.end(), [&](char c) {
      return byte_tokens_[static_cast<uint8_t>(c)] >= 0;
    });
    if (fallback) {
      for (const char c : word) out.push_back(byte_tokens_[static_cast<uint8_t>(c)]);
    } else if (unk_ >= 0 && (out.empty() || out.back() != unk_)) {
      out.push_back(unk_);
    }
  }
}

std::string SentencePiece::token_bytes(TokenId id) const {
  const std::string_view text = table_.text(id);
  if (is_special(id)) return std::string(text);
  const int byte = byte_value(text);
  if (byte >= 0) return std::string(1, static_cast<char>(static_cast<uint8_t>(byte)));
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i).starts_with(kSpace)) {
      out += ' ';
      i += kSpace.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

std::string SentencePiece::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string out = Tokenizer::decode(ids, skip_special);
  if (add_space_prefix_ && !out.empty() && out.front() == ' ') out.erase(0, 1);
  return out;
}

std::string SentencePiece::token_text(TokenId id) const { return to_valid_utf8(table_.text(id)); }

std::optional<TokenId> SentencePiece::find(std::string_view token_text) const {
  return table_.find(token_text);
}

bool SentencePiece::is_control(TokenId id) const {
  const TokenType type = table_.type(id);
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

bool SentencePiece::is_special(TokenId id) const {
  return is_control(id) || table_.type(id) == TokenType::kUserDefined;
}

uint64_t SentencePiece::memory_bytes() const {
  return sizeof(*this) + table_.memory_bytes() + specials_.memory_bytes() +
         scores_.capacity() * sizeof(float) + stop_tokens_.capacity() * sizeof(TokenId);
}

}  // namespace sluice
