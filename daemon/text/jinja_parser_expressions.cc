#include <algorithm>

#include "base/text_escape.h"
#include "daemon/text/jinja_parser_state.h"
#include "daemon/text/jinja_tables.h"
#include "daemon/text/python_text.h"

namespace sluice::jinja {

bool Parser::at_tuple_end(Words ends) const {
  if (token_.kind == TokenKind::kPrintEnd || token_.kind == TokenKind::kBlockEnd || token_.is(')'))
    return true;
  return token_.kind == TokenKind::kName &&
         std::find(ends.begin(), ends.end(), token_.text) != ends.end();
}

NodeId Parser::parse_tuple(bool with_condition, Words ends, bool parenthesized) {
  Node node = start(NodeKind::kTuple);
  std::vector<uint32_t> kids;
  bool is_tuple = false;
  while (!failed_) {
    if (!kids.empty()) expect_op(',');
    if (at_tuple_end(ends)) break;
    kids.push_back(parse_expression(with_condition));
    if (!token_.is(',')) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!kids.empty()) return kids[0];
    if (!parenthesized) {
      fail_unexpected("an expression");
      return 0;
    }
  }
  return add_with_kids(node, kids);
}

NodeId Parser::parse_target(bool with_namespace, Words ends) {
  Node node = start(NodeKind::kTuple);
  std::vector<uint32_t> kids;
  bool is_tuple = false;
  while (!failed_) {
    if (!kids.empty()) expect_op(',');
    if (at_tuple_end(ends) || token_.is('=')) break;
    kids.push_back(parse_target_item(with_namespace));
    if (!token_.is(',')) break;
    is_tuple = true;
  }
  if (kids.empty()) fail_unexpected("a name to assign to");
  if (failed_) return 0;
  return is_tuple ? add_with_kids(node, kids) : kids[0];
}

NodeId Parser::parse_target_item(bool with_namespace) {
  Nested nested(*this);
  if (failed_) return 0;
  if (skip_op('(')) {
    const NodeId inner = parse_target(with_namespace, {});
    expect_op(')');
    return inner;
  }
  Node name = start(NodeKind::kName);
  static constexpr std::string_view kReserved[] = {
      "true", "false", "none", "True", "False", "None"};
  for (const std::string_view word : kReserved) {
    if (token_.is_name(word)) fail("cannot assign to '" + std::string(word) + "'");
  }
  name.name = expect_name();
  if (with_namespace && skip_op('.')) {
    name.kind = NodeKind::kNamespaceRef;
    name.b = expect_name();
  }
  return add(name);
}

NodeId Parser::parse_expression(bool with_condition) {
  Nested nested(*this);
  if (failed_) return 0;
  NodeId left = parse_binary(kOrLevel);
  while (with_condition && !failed_ && token_.is_name("if")) left = parse_condition(left);
  return left;
}

NodeId Parser::parse_condition(NodeId then) {
  Node node = start(NodeKind::kCondition);
  advance();
  node.b = then;
  node.a = parse_binary(kOrLevel);
  if (skip_name("else")) node.c = parse_expression();
  return add(node);
}

// 0: the token is no binary operator.
int Parser::binary_level() const {
  if (token_.kind == TokenKind::kName) {
    if (token_.text == "or") return kOrLevel;
    if (token_.text == "and") return kAndLevel;
    if (token_.text == "in" || (token_.text == "not" && next_.is_name("in"))) return kCompareLevel;
    return 0;
  }
  if (token_.kind != TokenKind::kOperator) return 0;
  if (token_.is('<') || token_.is('>') || token_.is('=', '=') || token_.is('!', '=') ||
      token_.is('<', '=') || token_.is('>', '=')) {
    return kCompareLevel;
  }
  if (token_.is('+') || token_.is('-')) return kSumLevel;
  if (token_.is('~')) return kConcatLevel;
  if (token_.is('*') || token_.is('/') || token_.is('/', '/') || token_.is('%'))
    return kProductLevel;
  if (token_.is('*', '*')) return kPowerLevel;
  return 0;
}

NodeId Parser::parse_not() {
  Nested nested(*this);
  if (failed_) return 0;
  Node node = start(NodeKind::kNot);
  advance();
  node.a = parse_binary(kNotLevel);
  return add(node);
}

NodeId Parser::parse_binary(int level) {
  NodeId left = level <= kNotLevel && token_.is_name("not") ? parse_not() : parse_unary(true);
  for (;;) {
    const int found = failed_ ? 0 : binary_level();
    if (found == 0 || found < level) return left;
    if (found == kCompareLevel) {
      left = parse_compare(left);
      continue;
    }
    if (found == kConcatLevel) {
      left = parse_concat(left);
      continue;
    }
    Node node = start(NodeKind::kNone);
    node.kind = found == kOrLevel     ? NodeKind::kOr
                : found == kAndLevel  ? NodeKind::kAnd
                : token_.is('+')      ? NodeKind::kAdd
                : token_.is('-')      ? NodeKind::kSubtract
                : token_.is('*')      ? NodeKind::kMultiply
                : token_.is('/')      ? NodeKind::kDivide
                : token_.is('/', '/') ? NodeKind::kFloorDivide
                : token_.is('%')      ? NodeKind::kModulo
                                      : NodeKind::kPower;
    advance();
    node.a = left;
    node.b = parse_binary(found + 1);
    left = add(node);
  }
}

NodeId Parser::parse_compare(NodeId left) {
  Node node = start(NodeKind::kCompare);
  node.a = left;
  std::vector<uint32_t> kids;
  while (!failed_ && binary_level() == kCompareLevel) {
    CompareOp op = CompareOp::kIn;
    if (token_.is('=', '='))
      op = CompareOp::kEq;
    else if (token_.is('!', '='))
      op = CompareOp::kNe;
    else if (token_.is('<'))
      op = CompareOp::kLt;
    else if (token_.is('<', '='))
      op = CompareOp::kLe;
    else if (token_.is('>'))
      op = CompareOp::kGt;
    else if (token_.is('>', '='))
      op = CompareOp::kGe;
    else if (token_.is_name("not")) {
      op = CompareOp::kNotIn;
      advance();
    }
    advance();
    kids.push_back(static_cast<uint32_t>(op));
    kids.push_back(parse_binary(kSumLevel));
  }
  return add_with_kids(node, kids);
}

NodeId Parser::parse_concat(NodeId left) {
  Node node = start(NodeKind::kConcat);
  std::vector<uint32_t> kids{left};
  while (!failed_ && skip_op('~')) kids.push_back(parse_binary(kProductLevel));
  return add_with_kids(node, kids);
}

NodeId Parser::parse_sign() {
  Nested nested(*this);
  if (failed_) return 0;
  Node node = start(token_.is('-') ? NodeKind::kNegate : NodeKind::kPlus);
  advance();
  node.a = parse_unary(false);
  return add(node);
}

NodeId Parser::parse_unary(bool with_filter) {
  const NodeId left =
      parse_postfix(token_.is('-') || token_.is('+') ? parse_sign() : parse_primary());
  return with_filter ? parse_filters(left) : left;
}

NodeId Parser::parse_primary() {
  Node node = start(NodeKind::kNone);
  switch (token_.kind) {
    case TokenKind::kName: {
      const std::string_view name = token_.text;
      if (name == "true" || name == "True" || name == "false" || name == "False") {
        node.kind = NodeKind::kBool;
        node.a = name[0] == 't' || name[0] == 'T' ? 1 : 0;
      } else if (name == "none" || name == "None") {
        node.kind = NodeKind::kNil;
      } else {
        node.kind = NodeKind::kName;
        node.name = intern(name);
      }
      advance();
      return add(node);
    }
    case TokenKind::kString:
      return parse_string();
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return parse_number();
    default:
      break;
  }
  if (token_.is('[')) return parse_list();
  if (token_.is('{')) return parse_dict();
  if (skip_op('(')) {
    const NodeId inner = parse_tuple(true, {}, true);
    expect_op(')');
    return inner;
  }
  fail_unexpected("an expression");
  return 0;
}

NodeId Parser::parse_string() {
  Node node = start(NodeKind::kString);
  std::string value;
  std::string part;
  while (!failed_ && token_.kind == TokenKind::kString) {  // neighbours are joined
    if (!unescape_string(token_.text, part)) {
      fail(part);
      return 0;
    }
    value += part;
    advance();
  }
  node.name = value.size() <= 64 ? intern(value) : store(std::move(value));
  return add(node);
}

NodeId Parser::parse_number() {
  Node node = start(NodeKind::kNone);
  if (token_.kind == TokenKind::kFloat) {
    const auto value = parse_float(token_.text);
    if (!value) fail("a number that cannot be read");
    node.kind = NodeKind::kFloat;
    node.a = static_cast<uint32_t>(program_.floats.size());
    program_.floats.push_back(value.value_or(0));
  } else {
    const auto value = parse_int(token_.text, 0);
    if (!value) fail_limit("an integer of more than 64 bits");
    node.kind = NodeKind::kInt;
    const auto bits = static_cast<uint64_t>(value.value_or(0));
    node.a = static_cast<uint32_t>(bits);
    node.b = static_cast<uint32_t>(bits >> 32);
  }
  advance();
  return add(node);
}

NodeId Parser::parse_list() {
  Node node = start(NodeKind::kList);
  advance();
  std::vector<uint32_t> kids;
  while (!failed_ && !token_.is(']')) {
    if (!kids.empty()) expect_op(',');
    if (token_.is(']')) break;
    kids.push_back(parse_expression());
  }
  expect_op(']');
  return add_with_kids(node, kids);
}

NodeId Parser::parse_dict() {
  Node node = start(NodeKind::kDict);
  advance();
  std::vector<uint32_t> kids;
  while (!failed_ && !token_.is('}')) {
    if (!kids.empty()) expect_op(',');
    if (token_.is('}')) break;
    kids.push_back(parse_expression());
    expect_op(':');
    kids.push_back(parse_expression());
  }
  expect_op('}');
  return add_with_kids(node, kids);
}

NodeId Parser::parse_postfix(NodeId left) {
  while (!failed_) {
    if (token_.is('.') || token_.is('[')) {
      left = parse_subscript(left);
    } else if (token_.is('(')) {
      left = parse_call(left);
    } else {
      break;
    }
  }
  return left;
}

NodeId Parser::parse_filters(NodeId left) {
  while (!failed_) {
    if (skip_op('|')) {
      left = parse_filter(left);
    } else if (token_.is_name("is")) {
      left = parse_test(left);
    } else if (token_.is('(')) {
      left = parse_call(left);
    } else {
      break;
    }
  }
  return left;
}

NodeId Parser::parse_filter(NodeId input) {
  Node node = start(NodeKind::kFilter);
  node.a = input;
  node.name = expect_name();
  node.b = filter_index(program_.text(node.name));
  std::vector<uint32_t> kids;
  if (token_.is('(')) parse_arguments(kids);
  return add_with_kids(node, kids);
}

NodeId Parser::parse_test(NodeId input) {
  Node node = start(NodeKind::kTest);
  advance();
  const bool negated = skip_name("not");
  node.a = input;
  node.name = expect_name();
  node.b = test_index(program_.text(node.name));
  std::vector<uint32_t> kids;
  if (token_.is('(')) {
    parse_arguments(kids);
  } else if (token_.kind == TokenKind::kString || token_.kind == TokenKind::kInteger ||
             token_.kind == TokenKind::kFloat || token_.is('[') || token_.is('{') ||
             (token_.kind == TokenKind::kName && !token_.is_name("else") && !token_.is_name("or") &&
              !token_.is_name("and") && !token_.is_name("if"))) {
    if (token_.is_name("is")) fail("tests cannot be chained with 'is'");
    kids.push_back(parse_postfix(parse_primary()));
  }
  const NodeId test = add_with_kids(node, kids);
  if (!negated) return test;
  Node invert = node;
  invert.kind = NodeKind::kNot;
  invert.a = test;
  invert.b = 0;
  invert.n_kids = 0;
  return add(invert);
}

NodeId Parser::parse_subscript(NodeId object) {
  Node node = start(NodeKind::kAttr);
  node.a = object;
  if (skip_op('.')) {
    if (token_.kind == TokenKind::kInteger) {
      node.kind = NodeKind::kItem;
      node.b = parse_number();
    } else {
      node.name = expect_name();
    }
    return add(node);
  }
  advance();
  NodeId parts[3] = {0, 0, 0};
  int n = 0;
  bool slice = false;
  while (!failed_ && !token_.is(']')) {
    if (skip_op(':')) {
      slice = true;
      if (++n > 2) fail("a slice has at most three parts");
      continue;
    }
    if (parts[n] != 0) {
      fail_unexpected("']'");
      break;
    }
    parts[n] = parse_expression();
  }
  expect_op(']');
  if (!slice) {
    if (parts[0] == 0) fail("an empty subscript");
    node.kind = NodeKind::kItem;
    node.b = parts[0];
    return add(node);
  }
  node.kind = NodeKind::kSlice;
  return add_with_kids(node, {parts[0], parts[1], parts[2]});
}

NodeId Parser::parse_call(NodeId callee) {
  Node node = start(NodeKind::kCall);
  node.a = callee;
  std::vector<uint32_t> kids;
  parse_arguments(kids);
  return add_with_kids(node, kids);
}

void Parser::parse_arguments(std::vector<uint32_t>& kids) {
  expect_op('(');
  bool keywords = false;
  bool first = true;
  while (!failed_ && !token_.is(')')) {
    if (!first) expect_op(',');
    first = false;
    if (token_.is(')')) break;
    if (token_.is('*', '*')) {
      fail("'**' arguments are not supported");
    } else if (token_.is('*')) {
      Node spread = start(NodeKind::kSpread);
      advance();
      spread.a = parse_expression();
      kids.push_back(add(spread));
    } else if (token_.kind == TokenKind::kName && next_.is('=')) {
      Node keyword = start(NodeKind::kKeyword);
      keyword.name = expect_name();
      advance();
      keyword.a = parse_expression();
      kids.push_back(add(keyword));
      keywords = true;
    } else {
      if (keywords) fail("a positional argument follows a named one");
      kids.push_back(parse_expression());
    }
  }
  expect_op(')');
}

}  // namespace sluice::jinja
