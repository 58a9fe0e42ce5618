#include "daemon/text/jinja_parser.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "daemon/text/jinja_parser_state.h"

namespace sluice::jinja {

NodeId Parser::parse_body(Words ends) {
  Nested nested(*this);
  Node node = start(NodeKind::kBody);
  std::vector<uint32_t> kids;
  while (!failed_ && token_.kind != TokenKind::kEnd) {
    NodeId kid = 0;
    if (token_.kind == TokenKind::kData) {
      Node text = start(NodeKind::kText);
      text.name = store(std::string(token_.text));
      advance();
      kid = add(text);
    } else if (token_.kind == TokenKind::kPrintBegin) {
      advance();
      Node print = start(NodeKind::kPrint);
      print.a = parse_tuple(true, {}, false);
      expect(TokenKind::kPrintEnd, "'}}'");
      kid = add(print);
    } else if (token_.kind == TokenKind::kBlockBegin) {
      advance();
      if (token_.kind == TokenKind::kName &&
          std::find(ends.begin(), ends.end(), token_.text) != ends.end()) {
        return add_with_kids(node, kids);
      }
      kid = parse_statement();
    } else {
      fail_unexpected("text or a tag");
    }
    if (kid != 0) kids.push_back(kid);
  }
  if (ends.size() != 0) {
    fail("found the end of the template, expected '{% " + std::string(*(ends.end() - 1)) + " %}'");
  }
  return add_with_kids(node, kids);
}

// The rest of an opening tag's end, then the body.
NodeId Parser::parse_block_until(Words ends) {
  expect(TokenKind::kBlockEnd, "'%}'");
  return failed_ ? 0 : parse_body(ends);
}

void Parser::end_tag(std::string_view name) {
  if (!skip_name(name)) fail_unexpected("'" + std::string(name) + "'");
  expect(TokenKind::kBlockEnd, "'%}'");
}

NodeId Parser::parse_statement() {
  if (token_.kind != TokenKind::kName) {
    fail_unexpected("the name of a tag");
    return 0;
  }
  const std::string_view tag = token_.text;
  if (tag == "if") return parse_if();
  if (tag == "for") return parse_for();
  if (tag == "set") return parse_set();
  if (tag == "macro") return parse_macro();
  if (tag == "call") return parse_call_block();
  if (tag == "filter") return parse_filter_block();
  if (tag == "with") return parse_with();
  if (tag == "generation") return parse_transparent("endgeneration");
  if (tag == "break" || tag == "continue") return parse_jump();
  return fail_tag();
}

NodeId Parser::parse_jump() {
  Node node = start(token_.text == "break" ? NodeKind::kBreak : NodeKind::kContinue);
  if (loops_ == 0) fail("'" + std::string(token_.text) + "' outside of a loop");
  advance();
  expect(TokenKind::kBlockEnd, "'%}'");
  return add(node);
}

NodeId Parser::fail_tag() {
  const std::string_view tag = token_.text;
  if (tag == "include" || tag == "import" || tag == "from" || tag == "extends" || tag == "block") {
    fail_as("template.error",
            "'{% " + std::string(tag) + " %}' is not allowed: a chat template stands alone");
  } else {
    fail("unknown tag '" + escape_text(tag, 40) + "'");
  }
  return 0;
}

NodeId Parser::parse_if() {
  Node node = start(NodeKind::kIf);
  std::vector<uint32_t> kids;
  do {  // at "if" or "elif"
    advance();
    kids.push_back(parse_tuple(false, {}, false));
    kids.push_back(parse_block_until({"elif", "else", "endif"}));
  } while (!failed_ && token_.is_name("elif"));
  if (skip_name("else")) node.a = parse_block_until({"endif"});
  end_tag("endif");
  return add_with_kids(node, kids);
}

NodeId Parser::parse_for() {
  Node node = start(NodeKind::kFor);
  advance();
  node.a = parse_target(false, {"in"});
  if (!skip_name("in")) fail_unexpected("'in'");
  node.b = parse_tuple(false, {"recursive"}, false);
  if (skip_name("if")) node.c = parse_expression();
  if (token_.is_name("recursive")) fail("recursive loops are not supported");
  ++loops_;
  const NodeId body = parse_block_until({"else", "endfor"});
  --loops_;
  NodeId otherwise = 0;
  if (skip_name("else")) otherwise = parse_block_until({"endfor"});
  end_tag("endfor");
  return add_with_kids(node, {body, otherwise});
}

NodeId Parser::parse_set() {
  Node node = start(NodeKind::kSet);
  advance();
  node.a = parse_target(true, {});
  if (skip_op('=')) {
    node.b = parse_tuple(true, {}, false);
    expect(TokenKind::kBlockEnd, "'%}'");
    return add(node);
  }
  node.kind = NodeKind::kSetBlock;
  if (token_.is('|')) {
    node.c = add(start(NodeKind::kCaptured));
    while (!failed_ && skip_op('|')) node.c = parse_filter(node.c);
  }
  node.b = parse_block_until({"endset"});
  end_tag("endset");
  return add(node);
}

NodeId Parser::parse_filter_block() {
  Node node = start(NodeKind::kFilterBlock);
  advance();
  node.c = parse_filter(add(start(NodeKind::kCaptured)));
  while (!failed_ && skip_op('|')) node.c = parse_filter(node.c);
  node.b = parse_block_until({"endfilter"});
  end_tag("endfilter");
  return add(node);
}

void Parser::parse_signature(std::vector<uint32_t>& kids) {
  expect_op('(');
  while (!failed_ && !token_.is(')')) {
    if (!kids.empty()) expect_op(',');
    if (token_.is(')')) break;
    Node name = start(NodeKind::kName);
    name.name = expect_name();
    kids.push_back(add(name));
    const bool has_default = skip_op('=');
    if (!has_default && kids.size() > 2 && kids[kids.size() - 2] != 0) {
      fail("a parameter without default follows one with a default");
    }
    kids.push_back(has_default ? parse_expression() : 0);
  }
  expect_op(')');
}

NodeId Parser::parse_macro() {
  Node node = start(NodeKind::kMacro);
  advance();
  node.name = expect_name();
  std::vector<uint32_t> kids;
  parse_signature(kids);
  const uint32_t outer_loops = std::exchange(loops_, 0);
  node.b = parse_block_until({"endmacro"});
  loops_ = outer_loops;
  end_tag("endmacro");
  return add_with_kids(node, kids);
}

NodeId Parser::parse_call_block() {
  Node node = start(NodeKind::kCallBlock);
  Node macro = start(NodeKind::kMacro);
  advance();
  std::vector<uint32_t> kids;
  if (token_.is('(')) parse_signature(kids);
  node.a = parse_expression();
  if (!failed_ && program_.node(node.a).kind != NodeKind::kCall) fail("expected a call");
  macro.name = intern("caller");
  const uint32_t outer_loops = std::exchange(loops_, 0);
  macro.b = parse_block_until({"endcall"});
  loops_ = outer_loops;
  end_tag("endcall");
  node.c = add_with_kids(macro, kids);
  return add(node);
}

NodeId Parser::parse_with() {
  Node node = start(NodeKind::kWith);
  advance();
  std::vector<uint32_t> kids;
  while (!failed_ && token_.kind != TokenKind::kBlockEnd) {
    if (!kids.empty()) expect_op(',');
    kids.push_back(parse_target(false, {}));
    expect_op('=');
    kids.push_back(parse_expression());
  }
  node.b = parse_block_until({"endwith"});
  end_tag("endwith");
  return add_with_kids(node, kids);
}

// {% generation %} only marks text for training.
NodeId Parser::parse_transparent(std::string_view end) {
  advance();
  const NodeId body = parse_block_until({end});
  end_tag(end);
  return body;
}

Result<Program> parse_program(std::string source, const TemplateLimits& limits) {
  if (source.size() > limits.source_bytes) {
    return Error{.code = "template.limit",
                 .what = "the template has " + format_bytes(source.size()) + ", allowed " +
                         format_bytes(limits.source_bytes)};
  }
  Program program;
  program.source = normalize_source(to_valid_utf8(source));
  Parser parser(program, limits);
  SLUICE_TRY(parser.run());
  program.nodes.shrink_to_fit();
  program.kids.shrink_to_fit();
  return program;
}

}  // namespace sluice::jinja
