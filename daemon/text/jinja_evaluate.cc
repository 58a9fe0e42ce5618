// Expressions: operators, comparisons, slices, containers.
#include <algorithm>
#include <cmath>

#include "base/text_escape.h"
#include "daemon/text/jinja_deeper.h"
#include "daemon/text/jinja_render.h"
#include "daemon/text/jinja_tables.h"
#include "daemon/text/unicode.h"

namespace sluice::jinja {
namespace {

// Python's slice.indices: clamps to [0, n] going up and [-1, n-1] going down.
int64_t clamp_index(int64_t i, int64_t n, bool down) {
  if (i < 0) i += n;
  if (down) return std::clamp<int64_t>(i, -1, n - 1);
  return std::clamp<int64_t>(i, 0, n);
}

}  // namespace

Value Renderer::evaluate(NodeId id) {
  Deeper deeper(*this);
  if (!charge(1)) return {};
  const Node& node = program_.node(id);
  switch (node.kind) {
    case NodeKind::kNil:
      return Value::none();
    case NodeKind::kBool:
      return Value::boolean(node.a != 0);
    case NodeKind::kInt:
      return Value::integer(node.integer());
    case NodeKind::kFloat:
      return Value::real(program_.floats[node.a]);
    case NodeKind::kString:
      return Value::text(program_.text(node.name));
    case NodeKind::kName:
      return lookup(node.name);
    case NodeKind::kCaptured:
      return captured_;
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
    case NodeKind::kNot:
      return Value::boolean(!evaluate(node.a).truthy());
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
    case NodeKind::kNegate:
      return negate(evaluate(node.a));
    case NodeKind::kPlus: {
      const Value v = evaluate(node.a);
      if (failed_ || !v.is_number()) return failed_ ? Value() : fail_type(v, "unary +");
      return v.is(Kind::kBool) ? Value::integer(v.as_int()) : v;
    }
    case NodeKind::kSlice:
      return evaluate_slice(node);
    case NodeKind::kCall:
      return evaluate_call(node);
    case NodeKind::kFilter:
      return evaluate_filter(node);
    case NodeKind::kTest:
      return evaluate_test(node);
    case NodeKind::kConcat:
      return evaluate_concat(node);
    case NodeKind::kCompare:
      return evaluate_compare(node);
    case NodeKind::kList:
    case NodeKind::kTuple:
    case NodeKind::kDict:
      return evaluate_container(node);
    default:
      return evaluate_arithmetic(node);
  }
}

Value Renderer::evaluate_container(const Node& node) {
  if (node.kind != NodeKind::kDict) {
    std::vector<Value> items;
    items.reserve(node.n_kids);
    for (uint32_t i = 0; i < node.n_kids && !failed_; ++i)
      items.push_back(evaluate(program_.kid(node, i)));
    return failed_ ? Value() : make_list(std::move(items), node.kind == NodeKind::kTuple);
  }
  std::vector<DictObject::Entry> entries;
  for (uint32_t i = 0; i + 1 < node.n_kids && charge(entries.size() / 8); i += 2) {
    Value key = evaluate(program_.kid(node, i));
    Value value = evaluate(program_.kid(node, i + 1));
    if (failed_) return {};
    if (key.is(Kind::kList) || key.is_dict()) return fail_type(key, "use as a key");
    const auto old = std::find_if(
        entries.begin(), entries.end(), [&](const auto& e) { return equals(e.first, key); });
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
    case CompareOp::kEq:
      return equals(a, b);
    case CompareOp::kNe:
      return !equals(a, b);
    case CompareOp::kLt:
      return less(a, b);
    case CompareOp::kGt:
      return less(b, a);
    // Not the opposite of < for NaN, but of what templates compare.
    case CompareOp::kLe:
      return less(a, b) || equals(a, b);
    case CompareOp::kGe:
      return less(b, a) || equals(a, b);
    case CompareOp::kIn:
      return contains(b, a);
    case CompareOp::kNotIn:
      return !contains(b, a);
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
  const int64_t start =
      parts[0].is_none() ? (down ? n - 1 : 0) : clamp_index(parts[0].as_int(), n, down);
  const int64_t stop =
      parts[1].is_none() ? (down ? -1 : n) : clamp_index(parts[1].as_int(), n, down);
  int64_t count = 0;
  if (!down && stop > start) count = (stop - start - 1) / step + 1;
  if (down && start > stop) count = step == INT64_MIN ? 1 : (start - stop - 1) / -step + 1;

  if (v.is_sequence()) {
    if (!room(static_cast<uint64_t>(count) * sizeof(Value))) return {};
    std::vector<Value> items;
    items.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      items.push_back(v.at(static_cast<size_t>(start + i * step)));
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
  for (size_t i = 0; i < s.size(); i += code_point_bytes(s[i]))
    starts.push_back(static_cast<uint32_t>(i));
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
  if (node.b == kUnknownName)
    return fail("no filter named '" + escape_text(program_.text(node.name)) + "'");
  return apply_filter(node.b, input, args);
}

Value Renderer::evaluate_test(const Node& node) {
  const Value input = evaluate(node.a);
  Args args;
  if (failed_ || !collect(node, args)) return {};
  if (node.b == kUnknownName)
    return fail("no test named '" + escape_text(program_.text(node.name)) + "'");
  return Value::boolean(apply_test(node.b, input, args));
}

}  // namespace sluice::jinja
