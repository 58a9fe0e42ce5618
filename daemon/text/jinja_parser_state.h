// The parser itself; its statements are in jinja_parser.cc, its expressions in
// jinja_parser_expressions.cc.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/text_escape.h"
#include "daemon/text/jinja_lexer.h"
#include "daemon/text/jinja_parser.h"

namespace sluice::jinja {

// Binding strength of binary operators, loosest first, as in Jinja (where ~ binds tighter than +).
enum Precedence : int {
  kOrLevel = 1,
  kAndLevel,
  kNotLevel,
  kCompareLevel,
  kSumLevel,
  kConcatLevel,
  kProductLevel,
  kPowerLevel,
  kUnaryLevel
};

// Recursive descent with operator precedence. The first error is kept, the source is skipped to its
// end, and every function returns as soon as it sees `failed_`: no Result on the way, because
// frames must stay small (the nesting limit bounds the stack).
class Parser {
 public:
  Parser(Program& program, const TemplateLimits& limits)
      : program_(program), limits_(limits), lexer_(program.source) {
    program_.nodes.emplace_back();  // NodeId 0 is "none"
    intern("");
    intern("loop");    // kLoopName
    intern("caller");  // kCallerName
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
      fail_limit("an expression is a chain of more than " + std::to_string(limits_.nesting * 2) +
                 " steps");
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

}  // namespace sluice::jinja
