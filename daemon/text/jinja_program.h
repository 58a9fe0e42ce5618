// A parsed template: nodes in one array that name each other by index, so that neither building nor
// destroying it recurses. Read-only after parsing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::jinja {

using NodeId = uint32_t;  // 0 is "none"
using NameId = uint32_t;  // index into Program::strings; equal names have equal ids

// Names that every program has.
inline constexpr NameId kLoopName = 1;
inline constexpr NameId kCallerName = 2;

// clang-format off
enum class NodeKind : uint8_t {
  kNone,
  // Statements
  kText,         // name: the text
  kPrint,        // a: expression
  kIf,           // kids: condition, body, condition, body, ...; a: else body
  kFor,          // a: target, b: iterable, c: filter, kids: body, else body
  kSet,          // a: target, b: value
  kSetBlock,     // a: target, b: body, c: filter chain over kCaptured
  kFilterBlock,  // b: body, c: filter chain over kCaptured
  kMacro,        // name; b: body; kids: parameter (kName), default or 0, ...
  kCallBlock,    // a: the call, c: the kMacro made of the body
  kWith,         // kids: target, value, ...; b: body
  kBody,         // kids: statements
  kBreak,
  kContinue,
  // Expressions
  kNil,          // None
  kBool,         // a: 0 or 1
  kInt,          // integer()
  kFloat,        // a: index into Program::floats
  kString,       // name
  kName,         // name
  kNamespaceRef, // name: the variable, b: the attribute's NameId (only as a target)
  kAttr,         // a: object, name
  kItem,         // a: object, b: key
  kSlice,        // a: object, kids: start, stop, step (0 where left out)
  kCall,         // a: callee, kids: arguments
  kFilter,       // a: input, name, b: index in the table of filters or UINT32_MAX, kids: arguments
  kTest,         // a: input, name, b: index in the table of tests or UINT32_MAX, kids: arguments
  kKeyword,      // name, a: value (only as an argument)
  kSpread,       // a: value, *args (only as an argument)
  kCaptured,     // the block a filter chain is applied to
  kNot, kNegate, kPlus,                                          // a
  kAnd, kOr,                                                     // a, b
  kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower,  // a, b
  kConcat,       // kids
  kCompare,      // a: first; kids: operator (CompareOp), operand, ...
  kCondition,    // a: condition, b: then, c: else or 0
  kList, kTuple, // kids
  kDict,         // kids: key, value, ...
};
// clang-format on

enum class CompareOp : uint32_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Node {
  NodeKind kind = NodeKind::kNone;
  uint16_t height = 1;  // of the tree below: bounds the recursion of rendering
  uint32_t line = 0;
  NodeId a = 0, b = 0, c = 0;
  NameId name = 0;
  uint32_t first_kid = 0, n_kids = 0;

  int64_t integer() const { return static_cast<int64_t>((static_cast<uint64_t>(b) << 32) | a); }
};

struct Program {
  std::string source;  // newlines as \n, one trailing newline dropped; strings may view it
  std::vector<Node> nodes;
  std::vector<uint32_t> kids;
  std::vector<std::string> strings;
  std::vector<double> floats;
  NodeId root = 0;

  const Node& node(NodeId id) const { return nodes[id]; }
  uint32_t kid(const Node& n, uint32_t i) const { return kids[n.first_kid + i]; }
  const std::string& text(NameId id) const { return strings[id]; }
};

// Bounds the stack where recursion follows a template's nesting: the counted limits are the
// contract, this is what makes them hold whatever a compiler makes of the frames.
class StackGuard {
 public:
  StackGuard() : base_(here()) {}
  bool exhausted() const { return base_ - here() > kMaxBytes; }

 private:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr intptr_t kMaxBytes = 4 << 20;  // frames are several times larger there
#else
  static constexpr intptr_t kMaxBytes = 192 << 10;
#endif
  static intptr_t here() { return reinterpret_cast<intptr_t>(__builtin_frame_address(0)); }
  const intptr_t base_;
};

}  // namespace sluice::jinja
