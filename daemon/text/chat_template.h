// Messages -> prompt text by the model's own chat template: a bounded subset of Jinja, as HF
// transformers renders it (trim_blocks and lstrip_blocks on, transformers' tojson, raise_exception,
// strftime_now). No attributes but the keys of dicts and a fixed list of methods; no include,
// import or extends; nothing is opened or run. Immutable after parse; render is const, keeps no
// state and may be called from any thread.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sluice {

// What one template may cost (RELIABILITY section 3). Every limit ends in template.limit.
struct TemplateLimits {
  uint64_t source_bytes = 1 << 20;
  uint32_t nesting = 256;           // blocks and parentheses in the source
  uint32_t eval_depth = 400;        // the same while rendering, through macro calls
  uint64_t loop_steps = 1'000'000;  // iterations of all loops together
  uint64_t output_bytes = 4 << 20;
  uint64_t live_bytes = 32 << 20;  // strings, lists and captured output alive at one moment
  uint32_t render_ms = 250;
};

namespace jinja {
struct Program;
}

class ChatTemplate {
 public:
  // Errors: template.syntax ("line N: ..."), template.limit.
  static Result<ChatTemplate> parse(std::string source, TemplateLimits limits = {});

  // `context` holds messages, tools, add_generation_prompt, enable_thinking, bos_token, eos_token,
  // ...; it is only read. The result is valid UTF-8. Errors: template.limit; template.error
  // (raise_exception's own text, or what failed and the line).
  Result<std::string> render(const boost::json::object& context) const;

  const std::string& source() const;

 private:
  ChatTemplate() = default;
  std::shared_ptr<const jinja::Program> program_;
  TemplateLimits limits_;
};

}  // namespace sluice
