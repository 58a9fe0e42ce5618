// Template source -> Program.
#pragma once

#include <string>

#include "base/result.h"
#include "daemon/text/chat_template.h"
#include "daemon/text/jinja_program.h"

namespace sluice::jinja {

// Errors: template.syntax ("line N: ..."), template.limit (source too long, nested too deep).
Result<Program> parse_program(std::string source, const TemplateLimits& limits);

}  // namespace sluice::jinja
