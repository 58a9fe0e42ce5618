#include "daemon/text/chat_template.h"

#include <boost/json/value.hpp>

#include "base/text_escape.h"
#include "daemon/text/jinja_parser.h"
#include "daemon/text/jinja_render.h"

namespace sluice {

Result<ChatTemplate> ChatTemplate::parse(std::string source, TemplateLimits limits) {
  ChatTemplate out;
  out.limits_ = limits;
  SLUICE_TRY(auto program, jinja::parse_program(std::move(source), limits));
  out.program_ = std::make_shared<const jinja::Program>(std::move(program));
  return out;
}

Result<std::string> ChatTemplate::render(const boost::json::object& context) const {
  SLUICE_TRY(auto text, jinja::Renderer(*program_, limits_, context).run());
  return text;
}

const std::string& ChatTemplate::source() const { return program_->source; }

}  // namespace sluice
