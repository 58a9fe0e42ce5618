// Runs a Program on a context. One Renderer renders once, on one thread. The first failure is kept
// and everything returns at once (values are then undefined): frames stay small, and eval_depth
// bounds the stack.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "daemon/text/chat_template.h"
#include "daemon/text/jinja_program.h"
#include "daemon/text/jinja_value.h"

namespace sluice::jinja {

// Arguments of a call, filter or test.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> named;

  size_t count() const { return positional.size() + named.size(); }
  // Argument `i`, or the one named `name`; null when not given.
  const Value* get(size_t i, std::string_view name) const;
};

class Renderer {
 public:
  Renderer(const Program& program,
           const TemplateLimits& limits,
           const boost::json::object& context);
  ~Renderer();
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;

  Result<std::string> run();

  // For filters, tests and methods.
  bool failed() const { return failed_; }
  [[gnu::noinline]] Value fail(const std::string& what);        // template.error with the line
  [[gnu::noinline]] Value fail_limit(const std::string& what);  // template.limit
  [[gnu::noinline]] Value fail_type(const Value& v, std::string_view operation);
  // Work of about `units` of 50 ns; false once the time is over.
  bool charge(uint64_t units);
  // Room for `bytes` more; fails otherwise.
  bool room(uint64_t bytes);
  Value make_string(std::string s);
  Value make_list(std::vector<Value> items, bool tuple = false);
  Value make_dict(std::vector<DictObject::Entry> entries);
  Value method(const Value& receiver, std::string_view name);

  // x.name and x[key].
  Value attribute(const Value& object, std::string_view name);
  Value item(const Value& object, const Value& key);
  // The attribute path of map(attribute="a.b.0").
  Value path(const Value& object, const Value& attribute);
  // What a for loop walks: the items, the keys or the characters. Undefined is empty.
  Value iterate(const Value& v);
  bool equals(const Value& a, const Value& b);
  // a < b; fails for types without an order.
  bool less(const Value& a, const Value& b);
  bool contains(const Value& container, const Value& v);
  Value length(const Value& v);
  Value add(const Value& a, const Value& b);

  // str(v) appended to `out`; false when it does not fit.
  bool print(const Value& v, std::string& out);
  // str(v) as a string value; strings are themselves.
  Value to_string(const Value& v);
  Value to_json(const Value& v, const Args& args);

  Value apply_filter(uint32_t index, const Value& input, const Args& args);
  bool apply_test(uint32_t index, const Value& input, const Args& args);
  Value call(const Value& callee, Args args);
  // A method by name on a receiver that has it.
  Value call_method(const Value& receiver, std::string_view name, const Args& args);

 private:
  friend class Printer;
  enum class Flow : uint8_t { kNormal, kBreak, kContinue };
  struct Scope {
    uint32_t parent;
    uint64_t serial;
    std::vector<std::pair<NameId, Value>> names;
  };
  class Deeper;
  class Captured;

  [[gnu::noinline]] void fail_depth();

  Flow execute(NodeId id);
  Flow execute_body(const Node& node);
  [[gnu::noinline]] Flow execute_if(const Node& node);
  [[gnu::noinline]] Flow execute_for(const Node& node);
  [[gnu::noinline]] void execute_set_block(const Node& node);
  [[gnu::noinline]] Flow execute_with(const Node& node);
  [[gnu::noinline]] void execute_call_block(const Node& node);
  [[gnu::noinline]] void execute_print(const Node& node);
  Value filter_items(const Node& node, const Value& items);
  void write(std::string_view text);

  Value evaluate(NodeId id);
  [[gnu::noinline]] Value evaluate_arithmetic(const Node& node);
  [[gnu::noinline]] Value evaluate_compare(const Node& node);
  bool compare_one(CompareOp op, const Value& a, const Value& b);
  [[gnu::noinline]] Value evaluate_concat(const Node& node);
  [[gnu::noinline]] Value evaluate_container(const Node& node);
  [[gnu::noinline]] Value evaluate_slice(const Node& node);
  [[gnu::noinline]] Value evaluate_call(const Node& node);
  [[gnu::noinline]] Value evaluate_filter(const Node& node);
  [[gnu::noinline]] Value evaluate_test(const Node& node);
  Value negate(const Value& v);
  bool collect(const Node& node, Args& args);
  Value divide(NodeKind kind, const Value& a, const Value& b);
  Value power(const Value& a, const Value& b);
  Value repeat(const Value& v, const Value& times);
  Value capture(NodeId body);

  Value lookup(NameId name);
  void assign(NodeId target, const Value& value);
  void assign_name(NameId name, const Value& value);
  uint32_t push_scope(uint32_t parent);
  void pop_scope();

  Value call_function(Function f, const Args& args);
  [[gnu::noinline]] Value call_macro(const MacroObject& macro, Args& args);
  Value make_range(const Args& args);
  Value make_namespace(const Args& args);
  Value strftime_now(const Args& args);
  Value loop_attribute(LoopObject& loop, std::string_view name);
  Value call_loop(LoopObject& loop, std::string_view name, const Args& args);

  const Program& program_;
  const TemplateLimits& limits_;
  const boost::json::object& context_;
  Heap heap_;
  // What may hold itself in a ring; emptied at the end.
  std::vector<boost::intrusive_ptr<NamespaceObject>> namespaces_;
  std::vector<boost::intrusive_ptr<LoopObject>> loops_;  // with a `changed`
  std::vector<Scope> scopes_;
  uint32_t scope_ = 0;
  uint64_t scope_serial_ = 0;
  Value captured_;      // what kCaptured stands for
  std::string output_;  // of the template, or of the innermost capture
  uint32_t line_ = 0;
  const StackGuard stack_;
  uint32_t depth_ = 0;
  uint64_t steps_ = 0;
  int64_t units_ = 0;  // until the clock is looked at again
  int64_t deadline_ns_ = 0;      // of this thread's CPU time
  bool failed_ = false;
  Error error_;
};

}  // namespace sluice::jinja
