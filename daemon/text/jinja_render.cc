#include "daemon/text/jinja_render.h"

#include <time.h>

#include <algorithm>

#include "base/text_escape.h"
#include "daemon/text/jinja_deeper.h"

namespace sluice::jinja {
namespace {

constexpr int64_t kUnitsPerLook = 4096;       // of the clock: some 200 us
constexpr uint32_t kMaxContainerDepth = 100;  // lists in lists: destroying them recurses

constexpr std::pair<std::string_view, Function> kFunctions[] = {
    {"range", Function::kRange},
    {"dict", Function::kDict},
    {"namespace", Function::kNamespace},
    {"raise_exception", Function::kRaiseException},
    {"strftime_now", Function::kStrftimeNow}};

}  // namespace

Renderer::Renderer(const Program& program,
                   const TemplateLimits& limits,
                   const boost::json::object& context)
    : program_(program), limits_(limits), context_(context), heap_(limits.live_bytes) {
  scopes_.push_back({0, 0, {}});
}

// Computing time, not wall time: a busy machine must not turn an honest template into an error.
static int64_t thread_cpu_ns() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

Renderer::~Renderer() {
  captured_ = Value();
  scopes_.clear();
  for (const auto& n : namespaces_) n->entries.clear();
  for (const auto& l : loops_) l->changed.reset();
}

Result<std::string> Renderer::run() {
  deadline_ns_ = thread_cpu_ns() + int64_t{limits_.render_ms} * 1'000'000;
  units_ = kUnitsPerLook;
  execute(program_.root);
  if (failed_) return std::move(error_);
  return std::move(output_);
}

Value Renderer::fail(const std::string& what) {
  if (!failed_) {
    failed_ = true;
    error_ = Error{.code = "template.error", .what = "line " + std::to_string(line_) + ": " + what};
  }
  return {};
}

Value Renderer::fail_limit(const std::string& what) {
  if (!failed_) {
    failed_ = true;
    error_ = Error{.code = "template.limit", .what = "line " + std::to_string(line_) + ": " + what};
  }
  return {};
}

void Renderer::fail_depth() { fail_limit("rendering is nested too deep"); }

Value Renderer::fail_type(const Value& v, std::string_view operation) {
  if (v.is_undefined()) {
    return fail("'" + escape_text(v.str()) + "' is undefined (" + std::string(operation) + ")");
  }
  return fail(std::string(operation) + " does not work on a value of type " +
              std::string(type_name(v)));
}

bool Renderer::charge(uint64_t units) {
  if (failed_) return false;
  units_ -= static_cast<int64_t>(std::min<uint64_t>(units, INT32_MAX)) + 1;
  if (units_ > 0) return true;
  units_ = kUnitsPerLook;
  if (thread_cpu_ns() < deadline_ns_) return true;
  fail_limit("rendering took more than " + std::to_string(limits_.render_ms) + " ms");
  return false;
}

bool Renderer::room(uint64_t bytes) {
  if (failed_) return false;
  if (heap_.fits(bytes)) return true;
  fail_limit("values take more than " + std::to_string(limits_.live_bytes) + " bytes");
  return false;
}

Value Renderer::make_string(std::string s) {
  if (!charge(s.size() / 256) || !room(s.size())) return {};
  boost::intrusive_ptr<StringObject> object(new StringObject(heap_, std::move(s)));
  const std::string_view view = object->value;
  return Value::text(view, std::move(object));
}

Value Renderer::make_list(std::vector<Value> items, bool tuple) {
  if (!charge(items.size() / 4) || !room(items.capacity() * sizeof(Value))) return {};
  boost::intrusive_ptr<ListObject> object(new ListObject(heap_, std::move(items)));
  if (object->depth > kMaxContainerDepth) return fail_limit("lists are nested too deep");
  return Value::list(std::move(object), tuple);
}

Value Renderer::make_dict(std::vector<DictObject::Entry> entries) {
  if (!charge(entries.size() / 4) || !room(entries.capacity() * sizeof(DictObject::Entry)))
    return {};
  boost::intrusive_ptr<DictObject> object(new DictObject(heap_, std::move(entries)));
  if (object->depth > kMaxContainerDepth) return fail_limit("dicts are nested too deep");
  return Value::dict(std::move(object));
}

Value Renderer::method(const Value& receiver, std::string_view name) {
  if (!room(sizeof(MethodObject))) return {};
  return Value::object(Kind::kMethod, new MethodObject(heap_, receiver, name));
}

// ---- statements

void Renderer::write(std::string_view text) {
  if (output_.size() + text.size() > limits_.output_bytes) {
    fail_limit("the output is longer than " + std::to_string(limits_.output_bytes) + " bytes");
    return;
  }
  if (!room(output_.size() + text.size()) || !charge(text.size() / 256)) return;
  output_ += text;
}

Renderer::Flow Renderer::execute(NodeId id) {
  if (id == 0 || !charge(1)) return Flow::kNormal;
  const Node& node = program_.node(id);
  line_ = node.line;
  switch (node.kind) {
    case NodeKind::kText:
      write(program_.text(node.name));
      return Flow::kNormal;
    case NodeKind::kPrint:
      execute_print(node);
      return Flow::kNormal;
    case NodeKind::kIf:
      return execute_if(node);
    case NodeKind::kFor:
      return execute_for(node);
    case NodeKind::kBody:
      return execute_body(node);
    case NodeKind::kSet:
      assign(node.a, evaluate(node.b));
      return Flow::kNormal;
    case NodeKind::kSetBlock:
    case NodeKind::kFilterBlock:
      execute_set_block(node);
      return Flow::kNormal;
    case NodeKind::kWith:
      return execute_with(node);
    case NodeKind::kCallBlock:
      execute_call_block(node);
      return Flow::kNormal;
    case NodeKind::kMacro:
      assign_name(
          node.name,
          Value::object(Kind::kMacro, new MacroObject(heap_, id, scope_, scopes_[scope_].serial)));
      return Flow::kNormal;
    case NodeKind::kBreak:
      return Flow::kBreak;
    case NodeKind::kContinue:
      return Flow::kContinue;
    default:
      fail("a statement that is none");
      return Flow::kNormal;
  }
}

Renderer::Flow Renderer::execute_body(const Node& node) {
  Deeper deeper(*this);
  for (uint32_t i = 0; i < node.n_kids && !failed_; ++i) {
    const Flow flow = execute(program_.kid(node, i));
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

void Renderer::execute_print(const Node& node) {
  const Value v = evaluate(node.a);
  if (failed_) return;
  if (v.is_string()) {
    write(v.str());
    return;
  }
  std::string text;
  if (print(v, text)) write(text);
}

Renderer::Flow Renderer::execute_if(const Node& node) {
  for (uint32_t i = 0; i + 1 < node.n_kids && charge(1); i += 2) {
    const bool yes = evaluate(program_.kid(node, i)).truthy();
    if (failed_) return Flow::kNormal;
    if (yes) return execute(program_.kid(node, i + 1));
  }
  return execute(node.a);
}

Value Renderer::filter_items(const Node& node, const Value& items) {
  const size_t n = items.size();
  std::vector<Value> kept;
  push_scope(scope_);
  for (size_t i = 0; i < n && !failed_; ++i) {
    if (++steps_ > limits_.loop_steps) {
      fail_limit("loops take more than " + std::to_string(limits_.loop_steps) + " steps");
      break;
    }
    scopes_[scope_].names.clear();
    assign(node.a, items.at(i));
    if (evaluate(node.c).truthy() && !failed_) kept.push_back(items.at(i));
  }
  pop_scope();
  return make_list(std::move(kept));
}

Renderer::Flow Renderer::execute_for(const Node& node) {
  Value items = iterate(evaluate(node.b));
  if (failed_) return Flow::kNormal;
  if (node.c != 0) items = filter_items(node, items);
  if (failed_) return Flow::kNormal;
  const size_t n = items.size();
  if (n == 0) {
    push_scope(scope_);
    const Flow flow = execute(program_.kid(node, 1));
    pop_scope();
    return flow;
  }
  if (!room(sizeof(LoopObject))) return Flow::kNormal;
  const boost::intrusive_ptr<LoopObject> loop(new LoopObject(heap_, items));
  push_scope(scope_);
  for (size_t i = 0; i < n && !failed_; ++i) {
    if (++steps_ > limits_.loop_steps) {
      fail_limit("loops take more than " + std::to_string(limits_.loop_steps) + " steps");
      break;
    }
    loop->index0 = i;
    scopes_[scope_].names.clear();
    assign_name(kLoopName, Value::object(Kind::kLoop, loop));
    assign(node.a, items.at(i));
    if (execute(program_.kid(node, 0)) == Flow::kBreak) break;
  }
  pop_scope();
  return Flow::kNormal;
}

Value Renderer::capture(NodeId body) {
  std::string text;
  {
    Captured captured(*this);
    push_scope(scope_);
    execute(body);
    pop_scope();
    text = captured.take();
  }
  return make_string(std::move(text));
}

void Renderer::execute_set_block(const Node& node) {
  Value text = capture(node.b);
  if (failed_) return;
  if (node.c != 0) {
    const Value outer = std::exchange(captured_, text);
    text = evaluate(node.c);
    captured_ = outer;
  }
  if (failed_) return;
  if (node.kind == NodeKind::kSetBlock) {
    assign(node.a, text);
  } else {
    std::string printed;
    if (print(text, printed)) write(printed);
  }
}

Renderer::Flow Renderer::execute_with(const Node& node) {
  std::vector<Value> values;
  for (uint32_t i = 1; i < node.n_kids; i += 2) values.push_back(evaluate(program_.kid(node, i)));
  push_scope(scope_);
  for (uint32_t i = 0; i < node.n_kids && !failed_; i += 2)
    assign(program_.kid(node, i), values[i / 2]);
  const Flow flow = execute(node.b);
  pop_scope();
  return flow;
}

void Renderer::execute_call_block(const Node& node) {
  const Node& target = program_.node(node.a);
  const Value callee = evaluate(target.a);
  Args args;
  if (failed_ || !collect(target, args)) return;
  args.named.emplace_back(
      "caller",
      Value::object(Kind::kMacro, new MacroObject(heap_, node.c, scope_, scopes_[scope_].serial)));
  const Value result = call(callee, std::move(args));
  std::string text;
  if (!failed_ && print(result, text)) write(text);
}

// ---- names

uint32_t Renderer::push_scope(uint32_t parent) {
  scopes_.push_back({parent, ++scope_serial_, {}});
  const uint32_t outer = scope_;
  scope_ = static_cast<uint32_t>(scopes_.size() - 1);
  return outer;
}

// Back to the scope below on the stack's parent chain; only for scopes pushed with parent = the
// current one.
void Renderer::pop_scope() {
  scope_ = scopes_.back().parent;
  scopes_.pop_back();
}

Value Renderer::lookup(NameId name) {
  for (uint32_t s = scope_;; s = scopes_[s].parent) {
    const auto& names = scopes_[s].names;
    charge(names.size() / 16);
    for (const auto& [id, value] : names) {
      if (id == name) return value;
    }
    if (s == 0) break;
  }
  const std::string& text = program_.text(name);
  if (const boost::json::value* v = context_.if_contains(text)) return Value::json(*v);
  for (const auto& [function_name, function] : kFunctions) {
    if (text == function_name) return Value::function(function);
  }
  return Value::undefined(text);
}

void Renderer::assign_name(NameId name, const Value& value) {
  auto& names = scopes_[scope_].names;
  charge(names.size() / 16);
  for (auto& [id, old] : names) {
    if (id == name) {
      old = value;
      return;
    }
  }
  if (room(names.size() * sizeof(names[0]))) names.emplace_back(name, value);
}

void Renderer::assign(NodeId target, const Value& value) {
  if (failed_) return;
  const Node& node = program_.node(target);
  if (node.kind == NodeKind::kName) {
    assign_name(node.name, value);
    return;
  }
  if (node.kind == NodeKind::kNamespaceRef) {
    NamespaceObject* space = lookup(node.name).as_namespace();
    if (space == nullptr) {
      fail("cannot assign an attribute of '" + escape_text(program_.text(node.name)) +
           "', which is no namespace");
      return;
    }
    const std::string& name = program_.text(node.b);
    if (Value* old = space->find(name)) {
      *old = value;
    } else if (room(sizeof(std::pair<std::string, Value>) + name.size())) {
      space->grow(sizeof(std::pair<std::string, Value>) + name.size());
      space->entries.emplace_back(name, value);
    }
    return;
  }
  Deeper deeper(*this);
  const Value items = iterate(value);
  if (failed_) return;
  if (items.size() != node.n_kids) {
    fail("cannot unpack " + std::to_string(items.size()) + " values into " +
         std::to_string(node.n_kids) + " names");
    return;
  }
  for (uint32_t i = 0; i < node.n_kids; ++i) assign(program_.kid(node, i), items.at(i));
}

}  // namespace sluice::jinja
