#include "daemon/text/token_table.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <random>

namespace sluice {
namespace {

// Longer added tokens are never matched: no model has them, and each position of a text may cost
// this much.
constexpr size_t kMaxSpecialBytes = 256;

Error refuse(std::string what) {
  Error e{.code = "gguf.tokenizer", .what = std::move(what)};
  e.field = "tokenizer.ggml.tokens";
  return e;
}

}  // namespace

uint64_t hash_seed() {
  static const uint64_t seed = [] {
    std::random_device device;
    return (static_cast<uint64_t>(device()) << 32) | device();
  }();
  return seed;
}

Result<TokenTable> TokenTable::create(const VocabSource& source) {
  if (source.tokens == nullptr || source.tokens->count == 0) return refuse("no tokens");
  const uint64_t n = source.tokens->count;
  if (n > INT32_MAX / 4)
    return refuse("found " + std::to_string(n) + " tokens, allowed 1..536870911");
  if (source.token_types != nullptr && source.token_types->count != n) {
    return refuse("found " + std::to_string(source.token_types->count) + " token types, allowed " +
                  std::to_string(n));
  }
  TokenTable table;
  table.seed_ = hash_seed();
  table.types_.reserve(n);
  table.offsets_.reserve(n + 1);
  table.offsets_.push_back(0);
  table.slots_.assign(std::bit_ceil(n * 8 / 5 + 1), 0);

  size_t pool_bytes = 0;
  GgufStringArray measure = GgufFile::array_strings(*source.tokens);
  while (const auto text = measure.next()) pool_bytes += text->size();
  if (pool_bytes > UINT32_MAX) return refuse("spellings take 4 GiB or more");
  table.pool_.reserve(pool_bytes);

  GgufStringArray strings = GgufFile::array_strings(*source.tokens);
  const size_t mask = table.slots_.size() - 1;
  for (uint64_t i = 0; i < n; ++i) {
    const auto text = strings.next();
    if (!text) return refuse("the array ends early");
    table.pool_.append(*text);
    table.offsets_.push_back(static_cast<uint32_t>(table.pool_.size()));
    const uint64_t type = source.token_types ? GgufFile::array_uint(*source.token_types, i) : 1;
    table.types_.push_back(type <= 6 ? static_cast<TokenType>(type) : TokenType::kUndefined);
    size_t slot = XXH3_64bits_withSeed(text->data(), text->size(), table.seed_) & mask;
    while (table.slots_[slot] != 0) {
      if (table.text(static_cast<TokenId>(table.slots_[slot] - 1)) == *text) break;
      slot = (slot + 1) & mask;
    }
    if (table.slots_[slot] == 0) table.slots_[slot] = static_cast<uint32_t>(i) + 1;
  }
  return table;
}

std::string_view TokenTable::text(TokenId id) const {
  const auto i = static_cast<uint32_t>(id);
  if (id < 0 || i + 1 >= offsets_.size()) return {};
  return std::string_view(pool_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

std::optional<TokenId> TokenTable::find(std::string_view text) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = XXH3_64bits_withSeed(text.data(), text.size(), seed_) & mask;
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    const auto id = static_cast<TokenId>(slots_[slot] - 1);
    if (this->text(id) == text) return id;
  }
  return std::nullopt;
}

uint64_t TokenTable::memory_bytes() const {
  return pool_.capacity() + offsets_.capacity() * sizeof(uint32_t) +
         slots_.capacity() * sizeof(uint32_t) + types_.capacity() * sizeof(TokenType);
}

SpecialMatcher::SpecialMatcher(const TokenTable& table) {
  for (uint32_t i = 0; i < table.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    const TokenType type = table.type(id);
    const std::string_view text = table.text(id);
    if (type != TokenType::kControl && type != TokenType::kUserDefined &&
        type != TokenType::kUnknown) {
      continue;
    }
    if (!text.empty() && text.size() <= kMaxSpecialBytes) ids_.push_back(id);
  }
  std::stable_sort(ids_.begin(), ids_.end(), [&](TokenId a, TokenId b) {
    return table.text(a) < table.text(b);
  });
  ids_.erase(std::unique(ids_.begin(),
                         ids_.end(),
                         [&](TokenId a, TokenId b) { return table.text(a) == table.text(b); }),
             ids_.end());
  ids_.shrink_to_fit();
  size_t k = 0;
  for (uint32_t b = 0; b < 256; ++b) {
    first_[b] = static_cast<uint32_t>(k);
    while (k < ids_.size() && static_cast<uint8_t>(table.text(ids_[k])[0]) == b) ++k;
  }
  first_[256] = static_cast<uint32_t>(ids_.size());
}

SpecialMatcher::Match SpecialMatcher::next(const TokenTable& table,
                                           std::string_view text,
                                           size_t from,
                                           bool control) const {
  for (size_t p = from; p < text.size(); ++p) {
    const auto b = static_cast<uint8_t>(text[p]);
    auto lo = ids_.begin() + first_[b];
    auto hi = ids_.begin() + first_[b + 1u];
    Match best;
    // [lo, hi) are the tokens that agree with the text in `depth` bytes; a token of that length
    // stands first.
    for (size_t depth = 1; lo != hi; ++depth) {
      if (table.text(*lo).size() == depth) {
        if (control || table.type(*lo) == TokenType::kUserDefined) best = {p, depth, *lo};
        ++lo;
      }
      if (p + depth >= text.size()) break;
      const auto c = static_cast<uint8_t>(text[p + depth]);
      const auto at = [&](TokenId id) { return static_cast<uint8_t>(table.text(id)[depth]); };
      lo = std::lower_bound(lo, hi, c, [&](TokenId id, uint8_t v) { return at(id) < v; });
      hi = std::upper_bound(lo, hi, c, [&](uint8_t v, TokenId id) { return v < at(id); });
    }
    if (best.length != 0) return best;
  }
  return {text.size(), 0, -1};
}

}  // namespace sluice
