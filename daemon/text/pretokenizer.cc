#include "daemon/text/pretokenizer.h"

#include <array>
#include <initializer_list>
#include <string>
#include <utility>

#include "base/text_escape.h"

namespace sluice {
namespace {

// clang-format off
// \s as HF's tokenizers mean it (White_Space): PCRE2's own \s has U+180E in addition.
#define SPACE R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"
#define CONTRACTIONS_ANY_CASE R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|)"
#define CONTRACTIONS R"('s|'t|'re|'ve|'m|'ll|'d|)"
#define SPACES_BUT_LAST "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"
#define NEWLINES "[" SPACE R"(]*[\r\n]+|)"
#define SYMBOLS " ?[^" SPACE R"(\p{L}\p{N}]+[\r\n]*|)"

constexpr const char* kGpt2 =
    CONTRACTIONS R"( ?\p{L}+| ?\p{N}+| ?[^)" SPACE R"(\p{L}\p{N}]+|)" SPACES_BUT_LAST;
constexpr const char* kQwen2 =
    CONTRACTIONS_ANY_CASE R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)" SYMBOLS NEWLINES SPACES_BUT_LAST;
constexpr const char* kLlama3 =
    CONTRACTIONS_ANY_CASE R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)" SYMBOLS NEWLINES SPACES_BUT_LAST;
// Mistral's tekken.
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^)" SPACE R"(\p{L}\p{N}]+[\r\n/]*|)" NEWLINES SPACES_BUT_LAST;
constexpr const char* kOneDigit = R"(\p{N})";
// clang-format on

struct Rule {
  std::string_view name;
  std::array<const char*, 2> patterns;
  bool nfc;
  bool whole_words;
};

// "default" is what HF's ByteLevel does when nothing else is said: GPT-2's expression.
constexpr Rule kRules[] = {
    {"qwen2", {kQwen2, nullptr}, true, false},
    {"deepseek-r1-qwen", {kQwen2, nullptr}, false, false},
    {"llama-bpe", {kLlama3, nullptr}, false, true},
    {"llama3", {kLlama3, nullptr}, false, true},
    {"llama-v3", {kLlama3, nullptr}, false, true},
    {"gpt-2", {kGpt2, nullptr}, false, false},
    {"gpt2", {kGpt2, nullptr}, false, false},
    {"default", {kGpt2, nullptr}, false, false},
    {"", {kGpt2, nullptr}, false, false},
    {"tekken", {kTekken, nullptr}, false, true},
    {"smollm", {kOneDigit, kGpt2}, false, false},
    {"starcoder", {kOneDigit, kGpt2}, false, false},
};

Error limit_error(int rc) {
  std::array<PCRE2_UCHAR8, 120> text{};
  pcre2_get_error_message_8(rc, text.data(), text.size());
  return Error{.code = "tokenizer.limit",
               .what = std::string("the text cannot be cut into words: ") +
                       reinterpret_cast<const char*>(text.data())};
}

}  // namespace

Result<PreTokenizer> PreTokenizer::create(std::string_view name) {
  for (const Rule& rule : kRules) {
    if (rule.name != name) continue;
    PreTokenizer out;
    out.nfc_ = rule.nfc;
    out.whole_words_ = rule.whole_words;
    for (const char* pattern : rule.patterns) {
      if (pattern == nullptr) continue;
      int error = 0;
      PCRE2_SIZE offset = 0;
      pcre2_code_8* code = pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern),
                                           PCRE2_ZERO_TERMINATED,
                                           PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                                           &error,
                                           &offset,
                                           nullptr);
      if (code == nullptr) return limit_error(error);
      out.codes_.emplace_back(code);
      // Without a JIT (some kernels forbid writable code) the interpreter gives the same pieces,
      // more slowly.
      pcre2_jit_compile_8(code, PCRE2_JIT_COMPLETE);
    }
    return out;
  }
  std::string known = "known:";
  for (const Rule& rule : kRules) known.append(" ").append(rule.name);
  return Error{.code = "model_unsupported",
               .what = "pre-tokenizer '" + escape_text(name) + "' is not known",
               .hint = std::move(known),
               .field = "tokenizer.ggml.pre"};
}

Result<void> PreTokenizer::split(std::string_view text,
                                 std::vector<std::string_view>& pieces) const {
  std::unique_ptr<pcre2_match_context_8, decltype(&pcre2_match_context_free_8)> context(
      pcre2_match_context_create_8(nullptr), pcre2_match_context_free_8);
  // The expressions need a few steps per byte; the limit only has to be finite.
  pcre2_set_match_limit_8(context.get(), static_cast<uint32_t>(1'000'000 + 8 * text.size()));
  pcre2_set_heap_limit_8(context.get(), 16 << 10);  // KiB; for the interpreter
  std::unique_ptr<pcre2_match_data_8, decltype(&pcre2_match_data_free_8)> match(
      pcre2_match_data_create_8(1, nullptr), pcre2_match_data_free_8);

  std::vector<std::string_view> current{text};
  std::vector<std::string_view> next;
  for (const auto& code : codes_) {
    next.clear();
    for (const std::string_view part : current) {
      size_t at = 0;
      size_t cut = 0;  // everything before it is in `next`
      while (at < part.size()) {
        const int rc = pcre2_match_8(code.get(),
                                     reinterpret_cast<PCRE2_SPTR8>(part.data()),
                                     part.size(),
                                     at,
                                     PCRE2_NO_UTF_CHECK,
                                     match.get(),
                                     context.get());
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return limit_error(rc);
        const PCRE2_SIZE* span = pcre2_get_ovector_pointer_8(match.get());
        if (span[0] > cut) next.push_back(part.substr(cut, span[0] - cut));
        if (span[1] > span[0]) next.push_back(part.substr(span[0], span[1] - span[0]));
        cut = span[1];
        at = span[1];
        if (span[1] == span[0]) break;  // no pattern above matches nothing
      }
      if (cut < part.size()) next.push_back(part.substr(cut));
    }
    current.swap(next);
  }
  pieces.insert(pieces.end(), current.begin(), current.end());
  return success();
}

}  // namespace sluice
