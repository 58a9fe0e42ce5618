#include "daemon/text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>
#include <unordered_map>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "daemon/text/jinja_lexer.h"
#include "daemon/text/jinja_tables.h"
#include "daemon/text/python_text.h"

namespace sluice::jinja {
namespace {

// Binding strength of binary operators, loosest first, as in Jinja (where ~ binds tighter than +).
enum Precedence : int { kOrLevel = 1, kAndLevel, kNotLevel, kCompareLevel, kSumLevel, kConcatLevel,
                        kProductLevel, kPowerLevel, kUnaryLevel };

// Recursive descent with operator precedence. The first error is kept, the source is skipped to its end, and every
// function returns as soon as it sees `failed_`: no Result on the way, because frames must stay small (the nesting
// limit bounds the stack).
class Parser {
 public:
  Parser(Program& program, const TemplateLimits& limits)
      : program_(program), limits_(limits), lexer_(program.source) {
    program_.nodes.emplace_back();   // NodeId 0 is "none"
    intern("");
    intern("loop");     // kLoopName
    intern("caller");   // kCallerName
    advance();
    advance();
  }

  Result<void> run() {
    program_.root = parse_body({});
    if (failed_) return std::move(error_);
    return success();
  }

 private:
  using Words = std::initializer_list<std::string_view>;

  // One level of nesting while it lives.
  class Nested {
   public:
    explicit Nested(Parser& p) : p_(p) {
      if (++p_.depth_ > p_.limits_.nesting || p_.stack_.exhausted()) p_.fail_nesting();
    }
    ~Nested() { --p_.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    Parser& p_;
  };

  void advance() {
    token_ = next_;
    if (!failed_) next_ = lexer_.next();
    if (token_.kind == TokenKind::kError) fail(std::string(token_.text));
  }

  void fail(const std::string& what) { fail_as("template.syntax", what); }
  void fail_limit(const std::string& what) { fail_as("template.limit", what); }
  [[gnu::noinline]] void fail_nesting() {
    fail_limit("is nested more than " + std::to_string(limits_.nesting) + " levels deep");
  }
  [[gnu::noinline]] void fail_as(const char* code, const std::string& what) {
    if (failed_) return;
    failed_ = true;
    error_ = Error{.code = code, .what = "line " + std::to_string(token_.line) + ": " + what};
    token_ = next_ = Token{};
  }
  [[gnu::noinline]] void fail_unexpected(std::string_view wanted) {
    const bool end = token_.kind == TokenKind::kEnd;
    fail("found " + (end ? "the end of the template" : "'" + escape_text(token_.text, 40) + "'") +
         ", expected " + std::string(wanted));
  }

  bool skip_op(char c) {
    if (!token_.is(c)) return false;
    advance();
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!token_.is_name(name)) return false;
    advance();
    return true;
  }
  void expect_op(char c) {
    if (!skip_op(c)) fail_unexpected("'" + std::string(1, c) + "'");
  }
  void expect(TokenKind kind, std::string_view what) {
    if (token_.kind == kind) {
      advance();
    } else {
      fail_unexpected(what);
    }
  }
  NameId expect_name() {
    if (token_.kind != TokenKind::kName) {
      fail_unexpected("a name");
      return 0;
    }
    const NameId id = intern(token_.text);
    advance();
    return id;
  }

  NameId intern(std::string_view text) {
    const auto [it, fresh] =
        names_.try_emplace(std::string(text), static_cast<NameId>(program_.strings.size()));
    if (fresh) program_.strings.emplace_back(text);
    return it->second;
  }
  // For long texts that need no second use.
  NameId store(std::string text) {
    program_.strings.push_back(std::move(text));
    return static_cast<NameId>(program_.strings.size() - 1);
  }

  NodeId add(Node node) {
    if (failed_) return 0;
    if (node.line == 0) node.line = token_.line;
    uint32_t height = 0;
    const auto look = [&](NodeId id) {
      if (id != 0) height = std::max<uint32_t>(height, program_.nodes[id].height);
    };
    if (holds_nodes(node.kind)) {
      look(node.a);
      if (node.kind != NodeKind::kFilter && node.kind != NodeKind::kTest &&
          node.kind != NodeKind::kNamespaceRef) {
        look(node.b);
      }
      look(node.c);
      for (uint32_t i = 0; i < node.n_kids; ++i) {
        if (node.kind != NodeKind::kCompare || i % 2 == 1) look(program_.kid(node, i));
      }
    }
    if (height >= limits_.nesting * 2) {
      fail_limit("an expression is a chain of more than " + std::to_string(limits_.nesting * 2) + " steps");
      return 0;
    }
    node.height = static_cast<uint16_t>(height + 1);
    program_.nodes.push_back(node);
    return static_cast<NodeId>(program_.nodes.size() - 1);
  }
  static bool holds_nodes(NodeKind kind) {
    return kind != NodeKind::kInt && kind != NodeKind::kBool && kind != NodeKind::kFloat;
  }
  void set_kids(Node& node, const std::vector<uint32_t>& kids) {
    node.first_kid = static_cast<uint32_t>(program_.kids.size());
    node.n_kids = static_cast<uint32_t>(kids.size());
    program_.kids.insert(program_.kids.end(), kids.begin(), kids.end());
  }
  NodeId add_with_kids(Node node, const std::vector<uint32_t>& kids) {
    set_kids(node, kids);
    return add(node);
  }
  Node start(NodeKind kind) const {
    Node node;
    node.kind = kind;
    node.line = token_.line;
    return node;
  }

  // Statements. parse_body stops in front of a tag named in `ends`, with the cursor on that name.
  NodeId parse_body(Words ends);
  NodeId parse_block_until(Words ends);
  [[gnu::noinline]] NodeId parse_statement();
  [[gnu::noinline]] NodeId parse_if();
  [[gnu::noinline]] NodeId parse_for();
  [[gnu::noinline]] NodeId parse_set();
  [[gnu::noinline]] NodeId parse_filter_block();
  [[gnu::noinline]] NodeId parse_macro();
  [[gnu::noinline]] NodeId parse_call_block();
  [[gnu::noinline]] NodeId parse_with();
  NodeId parse_transparent(std::string_view end);
  [[gnu::noinline]] NodeId parse_jump();
  [[gnu::noinline]] NodeId fail_tag();
  void parse_signature(std::vector<uint32_t>& kids);
  void end_tag(std::string_view name);

  // Expressions. Not inlined, so that the frames that lie on every level stay small.
  [[gnu::noinline]] NodeId parse_tuple(bool with_condition, Words ends, bool parenthesized);
  NodeId parse_target(bool with_namespace, Words ends);
  NodeId parse_target_item(bool with_namespace);
  NodeId parse_expression(bool with_condition = true);
  NodeId parse_binary(int level);
  [[gnu::noinline]] NodeId parse_compare(NodeId left);
  [[gnu::noinline]] NodeId parse_concat(NodeId left);
  NodeId parse_unary(bool with_filter);
  NodeId parse_primary();
  [[gnu::noinline]] NodeId parse_number();
  [[gnu::noinline]] NodeId parse_string();
  [[gnu::noinline]] NodeId parse_list();
  [[gnu::noinline]] NodeId parse_dict();
  NodeId parse_postfix(NodeId left);
  NodeId parse_filters(NodeId left);
  [[gnu::noinline]] NodeId parse_filter(NodeId input);
  [[gnu::noinline]] NodeId parse_test(NodeId input);
  [[gnu::noinline]] NodeId parse_subscript(NodeId object);
  [[gnu::noinline]] NodeId parse_call(NodeId callee);
  void parse_arguments(std::vector<uint32_t>& kids);
  bool at_tuple_end(Words ends) const;
  int binary_level() const;
  [[gnu::noinline]] NodeId parse_not();
  [[gnu::noinline]] NodeId parse_sign();
  [[gnu::noinline]] NodeId parse_condition(NodeId then);

  Program& program_;
  const TemplateLimits& limits_;
  Lexer lexer_;
  Token token_, next_;
  std::unordered_map<std::string, NameId> names_;
  const StackGuard stack_;
  uint32_t depth_ = 0;
  uint32_t loops_ = 0;
  bool failed_ = false;
  Error error_;
};

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
      if (token_.kind == TokenKind::kName && std::find(ends.begin(), ends.end(), token_.text) != ends.end()) {
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
  do {   // at "if" or "elif"
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

bool Parser::at_tuple_end(Words ends) const {
  if (token_.kind == TokenKind::kPrintEnd || token_.kind == TokenKind::kBlockEnd || token_.is(')')) return true;
  return token_.kind == TokenKind::kName && std::find(ends.begin(), ends.end(), token_.text) != ends.end();
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
  static constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
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
  if (token_.is('*') || token_.is('/') || token_.is('/', '/') || token_.is('%')) return kProductLevel;
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
    node.kind = found == kOrLevel         ? NodeKind::kOr
                : found == kAndLevel      ? NodeKind::kAnd
                : token_.is('+')          ? NodeKind::kAdd
                : token_.is('-')          ? NodeKind::kSubtract
                : token_.is('*')          ? NodeKind::kMultiply
                : token_.is('/')          ? NodeKind::kDivide
                : token_.is('/', '/')     ? NodeKind::kFloorDivide
                : token_.is('%')          ? NodeKind::kModulo
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
    if (token_.is('=', '=')) op = CompareOp::kEq;
    else if (token_.is('!', '=')) op = CompareOp::kNe;
    else if (token_.is('<')) op = CompareOp::kLt;
    else if (token_.is('<', '=')) op = CompareOp::kLe;
    else if (token_.is('>')) op = CompareOp::kGt;
    else if (token_.is('>', '=')) op = CompareOp::kGe;
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
  const NodeId left = parse_postfix(token_.is('-') || token_.is('+') ? parse_sign() : parse_primary());
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
    case TokenKind::kString: return parse_string();
    case TokenKind::kInteger: case TokenKind::kFloat: return parse_number();
    default: break;
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
  while (!failed_ && token_.kind == TokenKind::kString) {   // neighbours are joined
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

}  // namespace

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
