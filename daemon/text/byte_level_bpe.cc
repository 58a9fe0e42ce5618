#include "daemon/text/byte_level_bpe.h"

#include <algorithm>
#include <bit>
#include <queue>

#include "base/text_escape.h"
#include "daemon/text/unicode.h"

namespace sluice {
namespace {

// GPT-2's alphabet: printable bytes stand for themselves, the rest for U+0100 and up, in byte
// order.
struct ByteAlphabet {
  std::array<uint32_t, 256> code{};
  std::array<int16_t, 512> byte{};  // by code point; -1: not in the alphabet

  constexpr ByteAlphabet() {
    byte.fill(-1);
    uint32_t extra = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      code[b] = printable ? b : extra++;
      byte[code[b]] = static_cast<int16_t>(b);
    }
  }
};
constexpr ByteAlphabet kAlphabet;

// Pieces up to this many bytes are merged by looking at every pair; longer ones with a heap. Nearly
// all words are shorter; at this length both ways take about as long.
constexpr size_t kShortPiece = 48;

uint64_t mix(TokenId left, TokenId right, uint64_t seed) {
  uint64_t x =
      (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  x ^= seed;
  x = (x ^ (x >> 32)) * 0x9FB21C651E98DF25u;
  x = (x ^ (x >> 29)) * 0xD6E8FEB86659FD93u;
  return x ^ (x >> 32);
}

Error refuse_merge(uint64_t i, std::string_view entry, const char* what) {
  Error e{.code = "gguf.tokenizer",
          .what = "entry " + std::to_string(i) + ": found '" + escape_text(entry) + "', " + what};
  e.field = "tokenizer.ggml.merges";
  return e;
}

}  // namespace

Result<MergeTable> MergeTable::create(const GgufValue* merges, const TokenTable& table) {
  MergeTable out;
  out.seed_ = hash_seed();
  const uint64_t n = merges != nullptr ? merges->count : 0;
  if (n > INT32_MAX / 4) return refuse_merge(n, "", "too many merges");
  out.merges_.reserve(n);
  out.slots_.assign(std::bit_ceil(n * 8 / 5 + 1), 0);
  if (merges == nullptr) return out;
  GgufStringArray strings = GgufFile::array_strings(*merges);
  const size_t mask = out.slots_.size() - 1;
  std::string joined;
  for (uint64_t i = 0; i < n; ++i) {
    const auto entry = strings.next();
    if (!entry) return refuse_merge(i, "", "the array ends early");
    const size_t space = entry->find(' ', 1);
    if (space == std::string_view::npos || space + 1 == entry->size()) {
      return refuse_merge(i, *entry, "allowed 'left right'");
    }
    const auto left = table.find(entry->substr(0, space));
    const auto right = table.find(entry->substr(space + 1));
    if (!left || !right) return refuse_merge(i, *entry, "which names a token that is not there");
    joined.assign(entry->substr(0, space));
    joined.append(entry->substr(space + 1));
    const auto result = table.find(joined);
    if (!result || out.rank(*left, *right) != kNone) continue;
    size_t slot = mix(*left, *right, out.seed_) & mask;
    while (out.slots_[slot] != 0) slot = (slot + 1) & mask;
    out.merges_.push_back({*left, *right, *result});
    out.slots_[slot] = static_cast<uint32_t>(out.merges_.size());
  }
  return out;
}

uint32_t MergeTable::rank(TokenId left, TokenId right) const {
  const size_t mask = slots_.size() - 1;
  for (size_t slot = mix(left, right, seed_) & mask; slots_[slot] != 0; slot = (slot + 1) & mask) {
    const Merge& m = merges_[slots_[slot] - 1];
    if (m.left == left && m.right == right) return slots_[slot] - 1;
  }
  return kNone;
}

uint64_t MergeTable::memory_bytes() const {
  return merges_.capacity() * sizeof(Merge) + slots_.capacity() * sizeof(uint32_t);
}

// Reused from piece to piece of one encode() call.
struct ByteLevelBpe::Scratch {
  struct Symbol {
    TokenId id;
    uint32_t rank;  // of merging with the next one
    int32_t prev, next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t left;
    TokenId left_id, right_id;  // stale when the symbols have changed since
    // The queue gives its greatest first; we want the lowest rank, then the leftmost.
    bool operator<(const Candidate& o) const {
      return rank != o.rank ? rank > o.rank : left > o.left;
    }
  };
  std::vector<std::string_view> pieces;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string spelling;
};

Result<std::shared_ptr<const Tokenizer>> ByteLevelBpe::create(const VocabSource& source) {
  SLUICE_TRY(auto pre, PreTokenizer::create(source.pre));
  SLUICE_TRY(auto table, TokenTable::create(source));
  SLUICE_TRY(auto merges, MergeTable::create(source.merges, table));
  std::shared_ptr<ByteLevelBpe> out(
      new ByteLevelBpe(std::move(table), std::move(merges), std::move(pre)));
  out->set_control_ids(source);
  return std::shared_ptr<const Tokenizer>(std::move(out));
}

ByteLevelBpe::ByteLevelBpe(TokenTable table, MergeTable merges, PreTokenizer pre)
    : table_(std::move(table)),
      merges_(std::move(merges)),
      pre_(std::move(pre)),
      specials_(table_) {
  for (size_t b = 0; b < 256; ++b) {
    std::string spelling;
    append_utf8(spelling, kAlphabet.code[b]);
    byte_tokens_[b] = table_.find(spelling).value_or(-1);
  }
}

Result<std::vector<TokenId>> ByteLevelBpe::encode(std::string_view text, bool parse_special) const {
  if (text.size() > kMaxEncodeBytes) {
    return Error{.code = "text_too_long",
                 .what = "found " + std::to_string(text.size()) + " bytes of text, allowed " +
                         std::to_string(kMaxEncodeBytes)};
  }
  const std::string valid = to_valid_utf8(text);
  std::vector<TokenId> out;
  out.reserve(valid.size() / 3);
  Scratch scratch;
  for (size_t from = 0; from < valid.size();) {
    const SpecialMatcher::Match m = specials_.next(table_, valid, from, parse_special);
    SLUICE_TRY(encode_plain(std::string_view(valid).substr(from, m.begin - from), scratch, out));
    if (m.length == 0) break;
    out.push_back(m.id);
    from = m.begin + m.length;
  }
  return out;
}

Result<void> ByteLevelBpe::encode_plain(std::string_view text,
                                        Scratch& scratch,
                                        std::vector<TokenId>& out) const {
  if (text.empty()) return success();
  std::string normalized;
  if (pre_.nfc() && !is_surely_nfc(text)) {
    normalized = to_nfc(text);
    text = normalized;
  }
  scratch.pieces.clear();
  SLUICE_TRY(pre_.split(text, scratch.pieces));
  for (const std::string_view piece : scratch.pieces) encode_piece(piece, scratch, out);
  return success();
}

void ByteLevelBpe::encode_piece(std::string_view piece,
                                Scratch& scratch,
                                std::vector<TokenId>& out) const {
  if (pre_.whole_words()) {
    scratch.spelling.clear();
    for (const char c : piece)
      append_utf8(scratch.spelling, kAlphabet.code[static_cast<uint8_t>(c)]);
    const auto whole = table_.find(scratch.spelling);
    if (whole && table_.type(*whole) == TokenType::kNormal) {
      out.push_back(*whole);
      return;
    }
  }
  scratch.symbols.clear();
  for (const char c : piece) {
    const TokenId id = byte_tokens_[static_cast<uint8_t>(c)];
    if (id < 0) continue;  // as HF without an unknown token: the byte is lost
    const auto at = static_cast<int32_t>(scratch.symbols.size());
    scratch.symbols.push_back({id, MergeTable::kNone, at - 1, at + 1});
  }
  if (scratch.symbols.empty()) return;
  scratch.symbols.back().next = -1;
  if (scratch.symbols.size() <= kShortPiece) {
    merge_short(scratch, out);
  } else {
    merge_long(scratch, out);
  }
}

void ByteLevelBpe::merge_short(Scratch& scratch, std::vector<TokenId>& out) const {
  auto& s = scratch.symbols;
  size_t n = s.size();
  for (size_t i = 0; i + 1 < n; ++i) s[i].rank = merges_.rank(s[i].id, s[i + 1].id);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (s[i].rank < s[best].rank) best = i;
    }
    if (s[best].rank == MergeTable::kNone) break;
    s[best].id = merges_.result(s[best].rank);
    for (size_t i = best + 1; i + 1 < n; ++i) {
      s[i].id = s[i + 1].id;
      s[i].rank = s[i + 1].rank;
    }
    --n;
    s[n - 1].rank = MergeTable::kNone;
    if (best + 1 < n) s[best].rank = merges_.rank(s[best].id, s[best + 1].id);
    if (best > 0) s[best - 1].rank = merges_.rank(s[best - 1].id, s[best].id);
  }
  for (size_t i = 0; i < n; ++i) out.push_back(s[i].id);
}

void ByteLevelBpe::merge_long(Scratch& scratch, std::vector<TokenId>& out) const {
  auto& s = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  const auto at = [&](int32_t i) -> Scratch::Symbol& { return s[static_cast<size_t>(i)]; };
  const auto consider = [&](int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const TokenId a = at(left).id;
    const TokenId b = at(at(left).next).id;
    const uint32_t rank = merges_.rank(a, b);
    if (rank == MergeTable::kNone) return;
    heap.push_back({rank, left, a, b});
    std::push_heap(heap.begin(), heap.end());
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(s.size()); ++i) consider(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Scratch::Candidate c = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = at(c.left);
    if (left.id != c.left_id || left.next < 0 || at(left.next).id != c.right_id) continue;
    Scratch::Symbol& right = at(left.next);
    left.id = merges_.result(c.rank);
    right.id = -1;  // gone: no candidate names it any more
    left.next = right.next;
    if (left.next >= 0) at(left.next).prev = c.left;
    consider(left.prev);
    consider(c.left);
  }
  for (int32_t i = 0; i >= 0; i = at(i).next) out.push_back(at(i).id);
}

std::string ByteLevelBpe::token_bytes(TokenId id) const {
  const std::string_view text = table_.text(id);
  const std::string valid = to_valid_utf8(text);
  std::string out;
  out.reserve(valid.size());
  for (size_t i = 0; i < valid.size();) {
    const uint32_t c = next_code_point(valid, i);
    const int byte = c < kAlphabet.byte.size() ? kAlphabet.byte[c] : -1;
    // A spelling outside the alphabet ("<｜User｜>", "a b") is the text itself, as HF's ByteLevel
    // decoder has it.
    if (byte < 0) return std::string(text);
    out += static_cast<char>(static_cast<uint8_t>(byte));
  }
  return out;
}

std::string ByteLevelBpe::token_text(TokenId id) const { return to_valid_utf8(table_.text(id)); }

std::optional<TokenId> ByteLevelBpe::find(std::string_view token_text) const {
  return table_.find(token_text);
}

bool ByteLevelBpe::is_control(TokenId id) const {
  const TokenType type = table_.type(id);
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

bool ByteLevelBpe::is_special(TokenId id) const {
  return is_control(id) || table_.type(id) == TokenType::kUserDefined;
}

uint64_t ByteLevelBpe::memory_bytes() const {
  return sizeof(*this) + table_.memory_bytes() + merges_.memory_bytes() + specials_.memory_bytes() +
         stop_tokens_.capacity() * sizeof(TokenId);
}

}  // namespace sluice
