// The tests of Jinja: what stands behind "is".
#include <iterator>

#include "base/text_escape.h"
#include "daemon/text/jinja_render.h"
#include "daemon/text/jinja_tables.h"
#include "daemon/text/python_text.h"

namespace sluice::jinja {
namespace {

using Test = bool (*)(Renderer&, const Value&, const Args&);

Value argument(Renderer& r, const Args& args) {
  const Value* v = args.get(0, "other");
  return v != nullptr ? *v : r.fail("the test takes an argument");
}

bool defined(Renderer&, const Value& v, const Args&) { return !v.is_undefined(); }
bool undefined(Renderer&, const Value& v, const Args&) { return v.is_undefined(); }
bool none(Renderer&, const Value& v, const Args&) { return v.is_none(); }
bool is_true(Renderer&, const Value& v, const Args&) { return v.is(Kind::kBool) && v.as_bool(); }
bool is_false(Renderer&, const Value& v, const Args&) { return v.is(Kind::kBool) && !v.as_bool(); }
bool boolean(Renderer&, const Value& v, const Args&) { return v.is(Kind::kBool); }
bool integer(Renderer&, const Value& v, const Args&) {
  return v.is(Kind::kInt) || v.is(Kind::kUint);
}
bool real(Renderer&, const Value& v, const Args&) { return v.is(Kind::kFloat); }
bool number(Renderer&, const Value& v, const Args&) { return v.is_number(); }
bool string(Renderer&, const Value& v, const Args&) { return v.is_string(); }
bool mapping(Renderer&, const Value& v, const Args&) { return v.is_dict(); }
// What has len() and []. An undefined value says that it has both.
bool sequence(Renderer&, const Value& v, const Args&) {
  return v.is_string() || v.is_sequence() || v.is_dict() || v.is_undefined();
}
bool iterable(Renderer&, const Value& v, const Args&) {
  return v.is_string() || v.is_sequence() || v.is_dict() || v.is_undefined() || v.is(Kind::kLoop);
}
bool callable(Renderer&, const Value& v, const Args&) {
  return v.is(Kind::kMacro) || v.is(Kind::kFunction) || v.is(Kind::kMethod) || v.is(Kind::kLoop);
}
bool lower(Renderer& r, const Value& v, const Args&) { return is_lower(r.to_string(v).str()); }
bool upper(Renderer& r, const Value& v, const Args&) { return is_upper(r.to_string(v).str()); }

bool integral(Renderer& r, const Value& v, std::string_view what) {
  if (!v.is_integral()) r.fail_type(v, what);
  return v.is_integral();
}
bool even(Renderer& r, const Value& v, const Args&) {
  return integral(r, v, "even") && v.as_int() % 2 == 0;
}
bool odd(Renderer& r, const Value& v, const Args&) {
  return integral(r, v, "odd") && v.as_int() % 2 != 0;
}
bool divisible_by(Renderer& r, const Value& v, const Args& args) {
  const Value by = argument(r, args);
  if (!integral(r, v, "divisibleby") || !integral(r, by, "divisibleby")) return false;
  if (by.as_int() == 0) {
    r.fail("division by zero");
    return false;
  }
  return by.as_int() == -1 || v.as_int() % by.as_int() == 0;
}

bool equal_to(Renderer& r, const Value& v, const Args& args) {
  return r.equals(v, argument(r, args));
}
bool not_equal(Renderer& r, const Value& v, const Args& args) {
  return !r.equals(v, argument(r, args));
}
bool less_than(Renderer& r, const Value& v, const Args& args) {
  return r.less(v, argument(r, args));
}
bool greater_than(Renderer& r, const Value& v, const Args& args) {
  return r.less(argument(r, args), v);
}
bool at_most(Renderer& r, const Value& v, const Args& args) {
  return less_than(r, v, args) || r.equals(v, argument(r, args));
}
bool at_least(Renderer& r, const Value& v, const Args& args) {
  return greater_than(r, v, args) || r.equals(v, argument(r, args));
}
bool in(Renderer& r, const Value& v, const Args& args) { return r.contains(argument(r, args), v); }
// Identity; of constants, which is what it is used for, the value decides.
bool same_as(Renderer& r, const Value& v, const Args& args) {
  const Value other = argument(r, args);
  return v.kind() == other.kind() && r.equals(v, other);
}
bool known_filter(Renderer&, const Value& v, const Args&) {
  return v.is_string() && filter_index(v.str()) != kUnknownName;
}
bool known_test(Renderer&, const Value& v, const Args&) {
  return v.is_string() && test_index(v.str()) != kUnknownName;
}
bool escaped(Renderer&, const Value&, const Args&) { return false; }

struct Entry {
  std::string_view name;
  Test test;
};

// clang-format off
constexpr Entry kTests[] = {
    {"defined", defined}, {"undefined", undefined}, {"none", none}, {"true", is_true},
    {"false", is_false}, {"boolean", boolean}, {"integer", integer}, {"float", real},
    {"number", number}, {"string", string}, {"mapping", mapping}, {"sequence", sequence},
    {"iterable", iterable}, {"callable", callable}, {"lower", lower}, {"upper", upper},
    {"even", even}, {"odd", odd}, {"divisibleby", divisible_by}, {"eq", equal_to},
    {"equalto", equal_to}, {"==", equal_to}, {"ne", not_equal}, {"!=", not_equal},
    {"lt", less_than}, {"lessthan", less_than}, {"<", less_than}, {"gt", greater_than},
    {"greaterthan", greater_than}, {">", greater_than}, {"le", at_most}, {"<=", at_most},
    {"ge", at_least}, {">=", at_least}, {"in", in}, {"sameas", same_as}, {"filter", known_filter},
    {"test", known_test}, {"escaped", escaped}};
// clang-format on

}  // namespace

uint32_t test_index(std::string_view name) {
  for (uint32_t i = 0; i < std::size(kTests); ++i) {
    if (kTests[i].name == name) return i;
  }
  return kUnknownName;
}

bool Renderer::apply_test(uint32_t index, const Value& input, const Args& args) {
  return charge(1) && kTests[index].test(*this, input, args) && !failed_;
}

}  // namespace sluice::jinja
