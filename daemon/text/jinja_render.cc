#include "daemon/text/jinja_render.h"

#include <algorithm>
#include <cmath>
#include <ctime>

#include "base/text_escape.h"
#include "daemon/text/jinja_tables.h"
#include "daemon/text/python_text.h"
#include "daemon/text/unicode.h"

namespace sluice::jinja {
namespace {

constexpr int64_t kUnitsPerLook = 4096;     // of the clock: some 200 us
constexpr uint32_t kMaxContainerDepth = 100;   // lists in lists: destroying them recurses
constexpr int64_t kMaxRange = 100'000;      // as Jinja's sandbox

constexpr std::pair<std::string_view, Function> kFunctions[] = {
    {"range", Function::kRange},
    {"dict", Function::kDict},
    {"namespace", Function::kNamespace},
    {"raise_exception", Function::kRaiseException},
    {"strftime_now", Function::kStrftimeNow}};

// Python's slice.indices: clamps to [0, n] going up and [-1, n-1] going down.
int64_t clamp_index(int64_t i, int64_t n, bool down) {
  if (i < 0) i += n;
  if (down) return std::clamp<int64_t>(i, -1, n - 1);
  return std::clamp<int64_t>(i, 0, n);
}

}  // namespace

const Value* Args::get(size_t i, std::string_view name) const {
  if (i < positional.size()) return &positional[i];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

// One level of recursion while it lives.
class Renderer::Deeper {
 public:
  explicit Deeper(Renderer& r) : r_(r) {
    if (++r_.depth_ > r_.limits_.eval_depth || r_.stack_.exhausted()) r_.fail_depth();
  }
  ~Deeper() { --r_.depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  Renderer& r_;
};

// Output goes to a string of its own while it lives; the bytes set aside count as live.
class Renderer::Captured {
 public:
  explicit Captured(Renderer& r) : r_(r), outer_(std::move(r.output_)), bytes_(outer_.size()) {
    r_.output_.clear();
    r_.heap_.add(bytes_);
  }
  std::string take() {
    std::string inner = std::move(r_.output_);
    r_.output_.clear();
    return inner;
  }
  ~Captured() {
    r_.output_ = std::move(outer_);
    r_.heap_.remove(bytes_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

 private:
  Renderer& r_;
  std::string outer_;
  const uint64_t bytes_;
};

Renderer::Renderer(const Program& program,
                   const TemplateLimits& limits,
                   const boost::json::object& context)
    : program_(program), limits_(limits), context_(context), heap_(limits.live_bytes) {
  scopes_.push_back({0, 0, {}});
}

Renderer::~Renderer() {
  captured_ = Value();
  scopes_.clear();
  for (const auto& n : namespaces_) n->entries.clear();
  for (const auto& l : loops_) l->changed.reset();
}

Result<std::string> Renderer::run() {
  deadline_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(limits_.render_ms);
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
  return fail(std::string(operation) + " does not work on a value of type " + std::string(type_name(v)));
}

bool Renderer::charge(uint64_t units) {
  if (failed_) return false;
  units_ -= static_cast<int64_t>(std::min<uint64_t>(units, INT32_MAX)) + 1;
  if (units_ > 0) return true;
  units_ = kUnitsPerLook;
  if (std::chrono::steady_clock::now() < deadline_) return true;
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
  if (!charge(entries.size() / 4) || !room(entries.capacity() * sizeof(DictObject::Entry))) return {};
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
    case NodeKind::kText: write(program_.text(node.name)); return Flow::kNormal;
    case NodeKind::kPrint: execute_print(node); return Flow::kNormal;
    case NodeKind::kIf: return execute_if(node);
    case NodeKind::kFor: return execute_for(node);
    case NodeKind::kBody: return execute_body(node);
    case NodeKind::kSet: assign(node.a, evaluate(node.b)); return Flow::kNormal;
    case NodeKind::kSetBlock: case NodeKind::kFilterBlock: execute_set_block(node); return Flow::kNormal;
    case NodeKind::kWith: return execute_with(node);
    case NodeKind::kCallBlock: execute_call_block(node); return Flow::kNormal;
    case NodeKind::kMacro:
      assign_name(node.name,
                  Value::object(Kind::kMacro,
                                new MacroObject(heap_, id, scope_, scopes_[scope_].serial)));
      return Flow::kNormal;
    case NodeKind::kBreak: return Flow::kBreak;
    case NodeKind::kContinue: return Flow::kContinue;
    default: fail("a statement that is none"); return Flow::kNormal;
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
  for (uint32_t i = 0; i < node.n_kids && !failed_; i += 2) assign(program_.kid(node, i), values[i / 2]);
  const Flow flow = execute(node.b);
  pop_scope();
  return flow;
}

void Renderer::execute_call_block(const Node& node) {
  const Node& target = program_.node(node.a);
  const Value callee = evaluate(target.a);
  Args args;
  if (failed_ || !collect(target, args)) return;
  args.named.emplace_back("caller",
                          Value::object(Kind::kMacro,
                                        new MacroObject(heap_, node.c, scope_, scopes_[scope_].serial)));
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

// Back to the scope below on the stack's parent chain; only for scopes pushed with parent = the current one.
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

// ---- expressions

Value Renderer::evaluate(NodeId id) {
  Deeper deeper(*this);
  if (!charge(1)) return {};
  const Node& node = program_.node(id);
  switch (node.kind) {
    case NodeKind::kNil: return Value::none();
    case NodeKind::kBool: return Value::boolean(node.a != 0);
    case NodeKind::kInt: return Value::integer(node.integer());
    case NodeKind::kFloat: return Value::real(program_.floats[node.a]);
    case NodeKind::kString: return Value::text(program_.text(node.name));
    case NodeKind::kName: return lookup(node.name);
    case NodeKind::kCaptured: return captured_;
    case NodeKind::kAttr: {
      const Value object = evaluate(node.a);
      line_ = node.line;
      return failed_ ? Value() : attribute(object, program_.text(node.name));
    }
    case NodeKind::kItem: {
      const Value object = evaluate(node.a);
      const Value key = evaluate(node.b);
      line_ = node.line;
      return failed_ ? Value() : item(object, key);
    }
    case NodeKind::kNot: return Value::boolean(!evaluate(node.a).truthy());
    case NodeKind::kAnd: {
      Value left = evaluate(node.a);
      return failed_ || !left.truthy() ? left : evaluate(node.b);
    }
    case NodeKind::kOr: {
      Value left = evaluate(node.a);
      return failed_ || left.truthy() ? left : evaluate(node.b);
    }
    case NodeKind::kCondition:
      if (evaluate(node.a).truthy()) return evaluate(node.b);
      return failed_ || node.c == 0 ? Value() : evaluate(node.c);
    case NodeKind::kNegate: return negate(evaluate(node.a));
    case NodeKind::kPlus: {
      const Value v = evaluate(node.a);
      if (failed_ || !v.is_number()) return failed_ ? Value() : fail_type(v, "unary +");
      return v.is(Kind::kBool) ? Value::integer(v.as_int()) : v;
    }
    case NodeKind::kSlice: return evaluate_slice(node);
    case NodeKind::kCall: return evaluate_call(node);
    case NodeKind::kFilter: return evaluate_filter(node);
    case NodeKind::kTest: return evaluate_test(node);
    case NodeKind::kConcat: return evaluate_concat(node);
    case NodeKind::kCompare: return evaluate_compare(node);
    case NodeKind::kList: case NodeKind::kTuple: case NodeKind::kDict: return evaluate_container(node);
    default: return evaluate_arithmetic(node);
  }
}

Value Renderer::evaluate_container(const Node& node) {
  if (node.kind != NodeKind::kDict) {
    std::vector<Value> items;
    items.reserve(node.n_kids);
    for (uint32_t i = 0; i < node.n_kids && !failed_; ++i) items.push_back(evaluate(program_.kid(node, i)));
    return failed_ ? Value() : make_list(std::move(items), node.kind == NodeKind::kTuple);
  }
  std::vector<DictObject::Entry> entries;
  for (uint32_t i = 0; i + 1 < node.n_kids && charge(entries.size() / 8); i += 2) {
    Value key = evaluate(program_.kid(node, i));
    Value value = evaluate(program_.kid(node, i + 1));
    if (failed_) return {};
    if (key.is(Kind::kList) || key.is_dict()) return fail_type(key, "use as a key");
    const auto old = std::find_if(entries.begin(), entries.end(), [&](const auto& e) {
      return equals(e.first, key);
    });
    if (old != entries.end()) {
      old->second = std::move(value);
    } else {
      entries.emplace_back(std::move(key), std::move(value));
    }
  }
  return failed_ ? Value() : make_dict(std::move(entries));
}

Value Renderer::evaluate_concat(const Node& node) {
  std::string out;
  for (uint32_t i = 0; i < node.n_kids; ++i) {
    const Value v = evaluate(program_.kid(node, i));
    if (failed_ || !print(v, out)) return {};
  }
  return make_string(std::move(out));
}

Value Renderer::evaluate_compare(const Node& node) {
  Value left = evaluate(node.a);
  for (uint32_t i = 0; i + 1 < node.n_kids && !failed_; i += 2) {
    Value right = evaluate(program_.kid(node, i + 1));
    if (failed_) break;
    if (!compare_one(static_cast<CompareOp>(program_.kid(node, i)), left, right)) {
      return Value::boolean(false);
    }
    left = std::move(right);
  }
  return Value::boolean(true);
}

bool Renderer::compare_one(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::kEq: return equals(a, b);
    case CompareOp::kNe: return !equals(a, b);
    case CompareOp::kLt: return less(a, b);
    case CompareOp::kGt: return less(b, a);
    // Not the opposite of < for NaN, but of what templates compare.
    case CompareOp::kLe: return less(a, b) || equals(a, b);
    case CompareOp::kGe: return less(b, a) || equals(a, b);
    case CompareOp::kIn: return contains(b, a);
    case CompareOp::kNotIn: return !contains(b, a);
  }
  return false;
}

Value Renderer::negate(const Value& v) {
  if (failed_) return {};
  if (v.is(Kind::kFloat)) return Value::real(-v.as_double());
  if (!v.is_integral() || v.as_int() == INT64_MIN) return fail_type(v, "unary -");
  return Value::integer(-v.as_int());
}

Value Renderer::evaluate_arithmetic(const Node& node) {
  const Value a = evaluate(node.a);
  const Value b = evaluate(node.b);
  if (failed_) return {};
  line_ = node.line;
  if (node.kind == NodeKind::kAdd) return add(a, b);
  if (node.kind == NodeKind::kMultiply) {
    if (b.is_integral() && (a.is_string() || a.is_sequence())) return repeat(a, b);
    if (a.is_integral() && (b.is_string() || b.is_sequence())) return repeat(b, a);
  }
  if (!a.is_number()) return fail_type(a, "arithmetic");
  if (!b.is_number()) return fail_type(b, "arithmetic");
  if (node.kind == NodeKind::kPower) return power(a, b);
  if (node.kind != NodeKind::kSubtract && node.kind != NodeKind::kMultiply) {
    return divide(node.kind, a, b);
  }
  if (a.is_integral() && b.is_integral()) {
    int64_t result = 0;
    const bool overflow = node.kind == NodeKind::kSubtract
                              ? __builtin_sub_overflow(a.as_int(), b.as_int(), &result)
                              : __builtin_mul_overflow(a.as_int(), b.as_int(), &result);
    return overflow ? fail_limit("an integer of more than 64 bits") : Value::integer(result);
  }
  return Value::real(node.kind == NodeKind::kSubtract ? a.as_double() - b.as_double()
                                                      : a.as_double() * b.as_double());
}

Value Renderer::add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    if (!room(a.str().size() + b.str().size())) return {};
    std::string out;
    out.reserve(a.str().size() + b.str().size());
    out += a.str();
    out += b.str();
    return make_string(std::move(out));
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const size_t n = a.size() + b.size();
    if (!room(n * sizeof(Value)) || !charge(n)) return {};
    std::vector<Value> items;
    items.reserve(n);
    for (size_t i = 0; i < a.size(); ++i) items.push_back(a.at(i));
    for (size_t i = 0; i < b.size(); ++i) items.push_back(b.at(i));
    return make_list(std::move(items), a.is(Kind::kTuple));
  }
  if (!a.is_number() || !b.is_number()) {
    if (a.is_undefined() || b.is_undefined()) return fail_type(a.is_undefined() ? a : b, "+");
    return fail("cannot add " + std::string(type_name(a)) + " and " + std::string(type_name(b)));
  }
  if (a.is_integral() && b.is_integral()) {
    int64_t result = 0;
    if (__builtin_add_overflow(a.as_int(), b.as_int(), &result)) {
      return fail_limit("an integer of more than 64 bits");
    }
    return Value::integer(result);
  }
  return Value::real(a.as_double() + b.as_double());
}

Value Renderer::divide(NodeKind kind, const Value& a, const Value& b) {
  if (!b.truthy()) return fail("division by zero");
  if (kind == NodeKind::kDivide) return Value::real(a.as_double() / b.as_double());
  if (a.is_integral() && b.is_integral()) {
    const int64_t x = a.as_int();
    const int64_t y = b.as_int();
    if (x == INT64_MIN && y == -1) return fail_limit("an integer of more than 64 bits");
    // Python rounds towards minus infinity; the remainder has the divisor's sign.
    const int64_t remainder = x % y;
    const bool adjust = remainder != 0 && (remainder < 0) != (y < 0);
    if (kind == NodeKind::kModulo) return Value::integer(adjust ? remainder + y : remainder);
    return Value::integer(x / y - (adjust ? 1 : 0));
  }
  const double x = a.as_double();
  const double y = b.as_double();
  // CPython's float_divmod, signs of zero included.
  double remainder = std::fmod(x, y);
  double quotient = (x - remainder) / y;
  if (remainder == 0) {
    remainder = std::copysign(0.0, y);
  } else if ((y < 0) != (remainder < 0)) {
    remainder += y;
    quotient -= 1.0;
  }
  if (kind == NodeKind::kModulo) return Value::real(remainder);
  if (quotient == 0) return Value::real(std::copysign(0.0, x / y));
  const double whole = std::floor(quotient);
  return Value::real(quotient - whole > 0.5 ? whole + 1.0 : whole);
}

Value Renderer::power(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral() && b.as_int() >= 0) {
    int64_t result = 1;
    int64_t base = a.as_int();
    for (auto e = static_cast<uint64_t>(b.as_int()); e != 0; e >>= 1) {
      if ((e & 1) != 0 && __builtin_mul_overflow(result, base, &result)) {
        return fail_limit("an integer of more than 64 bits");
      }
      if (e > 1 && __builtin_mul_overflow(base, base, &base)) {
        return fail_limit("an integer of more than 64 bits");
      }
    }
    return Value::integer(result);
  }
  if (!a.truthy() && b.as_double() < 0) return fail("division by zero");
  return Value::real(std::pow(a.as_double(), b.as_double()));
}

Value Renderer::repeat(const Value& v, const Value& times) {
  const auto n = static_cast<uint64_t>(std::max<int64_t>(0, times.as_int()));
  uint64_t size = 0;
  const uint64_t unit = v.is_string() ? v.str().size() : v.size() * sizeof(Value);
  if (__builtin_mul_overflow(unit, n, &size)) size = UINT64_MAX / 2;
  if (!room(size) || !charge(size / 64)) return {};
  if (v.is_string()) {
    std::string out;
    out.reserve(size);
    for (uint64_t i = 0; i < n && unit != 0; ++i) out += v.str();
    return make_string(std::move(out));
  }
  std::vector<Value> items;
  items.reserve(size / sizeof(Value));
  for (uint64_t i = 0; i < n && unit != 0; ++i) {
    for (size_t k = 0; k < v.size(); ++k) items.push_back(v.at(k));
  }
  return make_list(std::move(items), v.is(Kind::kTuple));
}

Value Renderer::evaluate_slice(const Node& node) {
  const Value v = evaluate(node.a);
  Value parts[3];
  for (uint32_t i = 0; i < 3 && !failed_; ++i) {
    const NodeId id = program_.kid(node, i);
    parts[i] = id == 0 ? Value::none() : evaluate(id);
  }
  if (failed_) return {};
  line_ = node.line;
  for (const Value& part : parts) {
    if (!part.is_none() && !part.is_integral()) return fail_type(part, "a slice index");
  }
  if (v.is_undefined()) return fail_type(v, "a slice");
  // As Jinja: what cannot be sliced has no such item.
  if (!v.is_string() && !v.is_sequence()) return Value();
  const int64_t step = parts[2].is_none() ? 1 : parts[2].as_int();
  if (step == 0) return fail("a slice step of 0");
  const bool down = step < 0;
  const auto n = static_cast<int64_t>(v.is_string() ? count_code_points(v.str()) : v.size());
  if (!charge(static_cast<uint64_t>(n) / 16)) return {};
  const int64_t start = parts[0].is_none() ? (down ? n - 1 : 0) : clamp_index(parts[0].as_int(), n, down);
  const int64_t stop = parts[1].is_none() ? (down ? -1 : n) : clamp_index(parts[1].as_int(), n, down);
  int64_t count = 0;
  if (!down && stop > start) count = (stop - start - 1) / step + 1;
  if (down && start > stop) count = step == INT64_MIN ? 1 : (start - stop - 1) / -step + 1;

  if (v.is_sequence()) {
    if (!room(static_cast<uint64_t>(count) * sizeof(Value))) return {};
    std::vector<Value> items;
    items.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) items.push_back(v.at(static_cast<size_t>(start + i * step)));
    return make_list(std::move(items), v.is(Kind::kTuple));
  }
  const std::string_view s = v.str();
  if (step == 1) {
    size_t begin = 0;
    for (int64_t i = 0; i < start && count > 0; ++i) begin += code_point_bytes(s[begin]);
    size_t end = begin;
    for (int64_t i = 0; i < count; ++i) end += code_point_bytes(s[end]);
    return v.part(s.substr(begin, end - begin));
  }
  if (!room(s.size() + static_cast<uint64_t>(n) * sizeof(uint32_t))) return {};
  std::vector<uint32_t> starts;
  starts.reserve(static_cast<size_t>(n));
  for (size_t i = 0; i < s.size(); i += code_point_bytes(s[i])) starts.push_back(static_cast<uint32_t>(i));
  std::string out;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t at = starts[static_cast<size_t>(start + i * step)];
    out += s.substr(at, code_point_bytes(s[at]));
  }
  return make_string(std::move(out));
}

bool Renderer::collect(const Node& node, Args& args) {
  for (uint32_t i = 0; i < node.n_kids && !failed_; ++i) {
    const Node& arg = program_.node(program_.kid(node, i));
    if (arg.kind == NodeKind::kKeyword) {
      args.named.emplace_back(program_.text(arg.name), evaluate(arg.a));
    } else if (arg.kind == NodeKind::kSpread) {
      const Value items = iterate(evaluate(arg.a));
      for (size_t k = 0; !failed_ && k < items.size() && room(k * sizeof(Value)); ++k) {
        args.positional.push_back(items.at(k));
      }
    } else {
      args.positional.push_back(evaluate(program_.kid(node, i)));
    }
  }
  line_ = node.line;
  return !failed_;
}

Value Renderer::evaluate_filter(const Node& node) {
  const Value input = evaluate(node.a);
  Args args;
  if (failed_ || !collect(node, args)) return {};
  if (node.b == kUnknownName) return fail("no filter named '" + escape_text(program_.text(node.name)) + "'");
  return apply_filter(node.b, input, args);
}

Value Renderer::evaluate_test(const Node& node) {
  const Value input = evaluate(node.a);
  Args args;
  if (failed_ || !collect(node, args)) return {};
  if (node.b == kUnknownName) return fail("no test named '" + escape_text(program_.text(node.name)) + "'");
  return Value::boolean(apply_test(node.b, input, args));
}

// ---- calls

Value Renderer::evaluate_call(const Node& node) {
  const Node& target = program_.node(node.a);
  if (target.kind == NodeKind::kAttr) {   // x.method(...): no value for the bound method
    const Value receiver = evaluate(target.a);
    Args args;
    if (failed_) return {};
    const Value callee = attribute(receiver, program_.text(target.name));
    if (failed_ || !collect(node, args)) return {};
    if (callee.is_undefined()) {
      return fail("a value of type " + std::string(type_name(receiver)) + " has no method '" +
                  escape_text(program_.text(target.name)) + "'");
    }
    return call(callee, std::move(args));
  }
  const Value callee = evaluate(node.a);
  Args args;
  if (failed_ || !collect(node, args)) return {};
  return call(callee, std::move(args));
}

Value Renderer::call(const Value& callee, Args args) {
  if (const MethodObject* m = callee.as_method()) {
    if (LoopObject* loop = m->receiver.as_loop()) return call_loop(*loop, m->name, args);
    return call_method(m->receiver, m->name, args);
  }
  if (callee.is(Kind::kFunction)) return call_function(callee.as_function(), args);
  if (const MacroObject* macro = callee.as_macro()) return call_macro(*macro, args);
  if (callee.is(Kind::kLoop)) return fail("recursive loops are not supported");
  return fail_type(callee, "a call");
}

Value Renderer::call_macro(const MacroObject& macro, Args& args) {
  Deeper deeper(*this);
  if (failed_) return {};
  const Node& node = program_.node(macro.node);
  const std::string& name = program_.text(node.name);
  const uint32_t n_params = node.n_kids / 2;
  if (args.positional.size() > n_params) {
    return fail("macro '" + escape_text(name) + "' takes not more than " + std::to_string(n_params) +
                " arguments");
  }
  const bool alive = macro.scope < scopes_.size() && scopes_[macro.scope].serial == macro.scope_serial;
  const uint32_t caller_scope = push_scope(alive ? macro.scope : 0);
  std::vector<bool> used(args.named.size(), false);
  for (uint32_t i = 0; i < n_params && !failed_; ++i) {
    const NameId param = program_.node(program_.kid(node, 2 * i)).name;
    const NodeId fallback = program_.kid(node, 2 * i + 1);
    Value value = Value::undefined(program_.text(param));
    bool given = i < args.positional.size();
    if (given) value = args.positional[i];
    for (size_t k = 0; k < args.named.size(); ++k) {
      if (args.named[k].first != program_.text(param)) continue;
      if (given) fail("macro '" + escape_text(name) + "' got '" + escape_text(args.named[k].first) + "' twice");
      used[k] = given = true;
      value = args.named[k].second;
    }
    if (!given && fallback != 0) value = evaluate(fallback);
    assign_name(param, value);
  }
  for (size_t k = 0; k < args.named.size() && !failed_; ++k) {
    if (used[k]) continue;
    if (args.named[k].first == "caller") {
      assign_name(kCallerName, args.named[k].second);
    } else {
      fail("macro '" + escape_text(name) + "' has no parameter '" + escape_text(args.named[k].first) + "'");
    }
  }
  std::string text;
  if (!failed_) {
    Captured captured(*this);
    execute(node.b);
    text = captured.take();
  }
  scopes_.pop_back();
  scope_ = caller_scope;
  return failed_ ? Value() : make_string(std::move(text));
}

Value Renderer::call_function(Function f, const Args& args) {
  switch (f) {
    case Function::kRange: return make_range(args);
    case Function::kNamespace: return make_namespace(args);
    case Function::kStrftimeNow: return strftime_now(args);
    case Function::kDict: {
      std::vector<DictObject::Entry> entries;
      if (const Value* base = args.positional.empty() ? nullptr : &args.positional[0]) {
        if (!base->is_dict()) return fail_type(*base, "dict()");
        for (size_t i = 0; i < base->dict_size() && room(i * sizeof(DictObject::Entry)); ++i) {
          entries.emplace_back(base->dict_key(i), base->dict_value(i));
        }
      }
      for (const auto& [key, value] : args.named) {
        const auto old = std::find_if(entries.begin(), entries.end(), [&](const auto& e) {
          return e.first.is_string() && e.first.str() == key;
        });
        if (old != entries.end()) {
          old->second = value;
        } else {
          entries.emplace_back(Value::text(key), value);
        }
      }
      return failed_ ? Value() : make_dict(std::move(entries));
    }
    case Function::kRaiseException: {
      std::string text;
      if (const Value* message = args.get(0, "message")) print(*message, text);
      if (failed_) return {};
      failed_ = true;
      error_ = Error{.code = "template.error", .what = std::move(text), .field = "raise_exception"};
      return {};
    }
  }
  return {};
}

Value Renderer::make_range(const Args& args) {
  if (args.positional.empty() || args.positional.size() > 3) return fail("range takes 1 to 3 integers");
  for (const Value& v : args.positional) {
    if (!v.is_integral()) return fail_type(v, "range()");
  }
  const bool one = args.positional.size() == 1;
  const int64_t start = one ? 0 : args.positional[0].as_int();
  const int64_t stop = args.positional[one ? 0 : 1].as_int();
  const int64_t step = args.positional.size() == 3 ? args.positional[2].as_int() : 1;
  if (step == 0) return fail("a range step of 0");
  uint64_t n = 0;
  if (step > 0 && stop > start) {
    n = (static_cast<uint64_t>(stop) - static_cast<uint64_t>(start) - 1) / static_cast<uint64_t>(step) + 1;
  } else if (step < 0 && start > stop) {
    n = (static_cast<uint64_t>(start) - static_cast<uint64_t>(stop) - 1) / (0 - static_cast<uint64_t>(step)) + 1;
  }
  if (n > kMaxRange) return fail_limit("a range of more than " + std::to_string(kMaxRange) + " numbers");
  if (!room(n * sizeof(Value)) || !charge(n)) return {};
  std::vector<Value> items;
  items.reserve(n);
  for (uint64_t i = 0; i < n; ++i) {
    items.push_back(Value::integer(
        static_cast<int64_t>(static_cast<uint64_t>(start) + i * static_cast<uint64_t>(step))));
  }
  return make_list(std::move(items));
}

Value Renderer::make_namespace(const Args& args) {
  if (!room(sizeof(NamespaceObject))) return {};
  boost::intrusive_ptr<NamespaceObject> space(new NamespaceObject(heap_));
  const auto set = [&](std::string_view key, const Value& value) {
    if (Value* old = space->find(key)) {
      *old = value;
    } else if (room(sizeof(std::pair<std::string, Value>) + key.size())) {
      space->grow(sizeof(std::pair<std::string, Value>) + key.size());
      space->entries.emplace_back(key, value);
    }
  };
  if (!args.positional.empty()) {
    const Value& base = args.positional[0];
    if (!base.is_dict()) return fail_type(base, "namespace()");
    for (size_t i = 0; i < base.dict_size() && charge(i / 8); ++i) {
      if (base.dict_key(i).is_string()) set(base.dict_key(i).str(), base.dict_value(i));
    }
  }
  for (const auto& [key, value] : args.named) set(key, value);
  if (failed_) return {};
  namespaces_.push_back(space);
  return Value::object(Kind::kNamespace, std::move(space));
}

Value Renderer::strftime_now(const Args& args) {
  const Value* format = args.get(0, "format");
  if (format == nullptr || !format->is_string() || format->str().find('\0') != std::string_view::npos) {
    return fail("strftime_now takes a format");
  }
  if (format->str().size() > 256) return fail_limit("a date format of more than 256 bytes");
  if (format->str().empty()) return Value::text("");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  // The result of an empty format cannot be told from an overflow: a mark at the end makes it non-empty.
  const std::string marked = std::string(format->str()) + "|";
  std::vector<char> buffer(8192);
  const size_t n = std::strftime(buffer.data(), buffer.size(), marked.c_str(), &local);
  if (n == 0) return fail_limit("a date of more than 8192 bytes");
  return make_string(to_valid_utf8({buffer.data(), n - 1}));
}

}  // namespace sluice::jinja
