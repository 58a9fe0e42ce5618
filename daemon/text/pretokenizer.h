// Cuts text into the pieces that BPE merges inside: the regular expressions of the models' own
// tokenizers, run by PCRE2's JIT with Unicode properties. Immutable after create; any thread.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sluice {

class PreTokenizer {
 public:
  // `name` is tokenizer.ggml.pre. Errors: model_unsupported, naming it.
  static Result<PreTokenizer> create(std::string_view name);

  // Appends the pieces of `text` (valid UTF-8, views into it) in order; together they are all of
  // it. Errors: tokenizer.limit.
  Result<void> split(std::string_view text, std::vector<std::string_view>& pieces) const;

  // The text is brought to NFC before it is cut (Qwen2).
  bool nfc() const { return nfc_; }
  // A piece that is in the vocabulary as a whole is that token, whatever the merges say (Llama 3).
  bool whole_words() const { return whole_words_; }

 private:
  struct FreeCode {
    void operator()(pcre2_code_8* code) const { pcre2_code_free_8(code); }
  };
  std::vector<std::unique_ptr<pcre2_code_8, FreeCode>> codes_;  // applied one after the other
  bool nfc_ = false;
  bool whole_words_ = false;
};

}  // namespace sluice
