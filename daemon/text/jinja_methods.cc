// Attributes, subscripts and methods of values: the fixed list of what a template may reach. There
// is no way from here to anything but the values of this render.
#include <algorithm>
#include <array>

#include "base/text_escape.h"
#include "daemon/text/jinja_render.h"
#include "daemon/text/python_text.h"
#include "daemon/text/unicode.h"

namespace sluice::jinja {
namespace {

constexpr int64_t kCompareBudget = 1'000'000;  // values looked at by one comparison

// clang-format off
enum class Method : uint8_t {
  kCapitalize, kCasefold, kCenter, kCount, kEndsWith, kExpandTabs, kFind, kIndex, kIsAlnum, kIsAlpha, kIsAscii,
  kIsDigit, kIsLower, kIsNumeric, kIsSpace, kIsUpper, kJoin, kLjust, kLower, kLstrip, kPartition,
  kRemovePrefix, kRemoveSuffix, kReplace, kRfind, kRindex, kRjust, kRpartition, kRsplit, kRstrip, kSplit,
  kSplitLines, kStartsWith, kStrip, kSwapCase, kTitle, kUpper, kZfill,
  kDictGet, kDictItems, kDictKeys, kDictValues, kDictCopy, kListCount, kListIndex, kListCopy,
};
// clang-format on

struct MethodName {
  std::string_view name;
  Method method;
};

// clang-format off
constexpr MethodName kStringMethods[] = {
    {"capitalize", Method::kCapitalize}, {"casefold", Method::kCasefold},
    {"center", Method::kCenter}, {"count", Method::kCount}, {"endswith", Method::kEndsWith},
    {"expandtabs", Method::kExpandTabs},
    {"find", Method::kFind}, {"index", Method::kIndex}, {"isalnum", Method::kIsAlnum},
    {"isalpha", Method::kIsAlpha}, {"isascii", Method::kIsAscii}, {"isdecimal", Method::kIsDigit},
    {"isdigit", Method::kIsDigit}, {"islower", Method::kIsLower}, {"isnumeric", Method::kIsNumeric},
    {"isspace", Method::kIsSpace}, {"isupper", Method::kIsUpper}, {"join", Method::kJoin},
    {"ljust", Method::kLjust}, {"lower", Method::kLower}, {"lstrip", Method::kLstrip},
    {"partition", Method::kPartition}, {"removeprefix", Method::kRemovePrefix},
    {"removesuffix", Method::kRemoveSuffix}, {"replace", Method::kReplace},
    {"rfind", Method::kRfind}, {"rindex", Method::kRindex}, {"rjust", Method::kRjust},
    {"rpartition", Method::kRpartition}, {"rsplit", Method::kRsplit}, {"rstrip", Method::kRstrip},
    {"split", Method::kSplit}, {"splitlines", Method::kSplitLines},
    {"startswith", Method::kStartsWith}, {"strip", Method::kStrip},
    {"swapcase", Method::kSwapCase}, {"title", Method::kTitle}, {"upper", Method::kUpper},
    {"zfill", Method::kZfill}};
// clang-format on
constexpr MethodName kDictMethods[] = {{"get", Method::kDictGet},
                                       {"items", Method::kDictItems},
                                       {"keys", Method::kDictKeys},
                                       {"values", Method::kDictValues},
                                       {"copy", Method::kDictCopy}};
// Python would find these before the keys, and its sandbox forbids them.
constexpr std::string_view kDictChangers[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr MethodName kListMethods[] = {
    {"count", Method::kListCount}, {"index", Method::kListIndex}, {"copy", Method::kListCopy}};
constexpr std::string_view kLoopMethods[] = {"cycle", "changed"};

std::span<const MethodName> methods_of(const Value& v) {
  if (v.is_string()) return kStringMethods;
  if (v.is_dict()) return kDictMethods;
  if (v.is_sequence()) return kListMethods;
  return {};
}

const MethodName* find_method(const Value& v, std::string_view name) {
  for (const MethodName& m : methods_of(v)) {
    if (m.name == name) return &m;
  }
  return nullptr;
}

bool same_letter_case(uint32_t c) {
  std::string s;
  append_utf8(s, c);
  return is_upper(s);
}

// Code point index of a byte offset.
int64_t code_point_index(std::string_view s, size_t offset) {
  return static_cast<int64_t>(count_code_points(s.substr(0, offset)));
}

// One call of a string method: reads the arguments, says what is wrong with them.
class StringCall {
 public:
  StringCall(Renderer& r, const Value& receiver, std::string_view name, const Args& args)
      : r_(r), receiver_(receiver), s_(receiver.str()), name_(name), args_(args) {}

  Value run(Method method);

 private:
  Value fail_arguments() { return r_.fail("wrong arguments for str." + std::string(name_)); }
  // A string argument; nullopt and an error if it is missing or something else.
  std::optional<std::string_view> text(size_t i, std::string_view name) {
    const Value* v = args_.get(i, name);
    if (v == nullptr || !v->is_string()) {
      fail_arguments();
      return std::nullopt;
    }
    return v->str();
  }
  int64_t number(size_t i, std::string_view name, int64_t fallback) {
    const Value* v = args_.get(i, name);
    if (v == nullptr || v->is_none()) return fallback;
    if (!v->is_integral()) {
      fail_arguments();
      return fallback;
    }
    return v->as_int();
  }
  Value strip(bool left, bool right);
  Value split(bool from_right);
  Value partition(bool from_right);
  Value replace();
  Value find(bool last, bool required);
  Value starts_or_ends(bool starts);
  Value pad(bool left, bool right);
  Value pieces(const std::vector<std::string_view>& parts, bool tuple = false);
  // Whether a list of `n` parts of the receiver fits.
  bool room_for_parts(size_t n) { return r_.room(n * (sizeof(Value) + sizeof(std::string_view))); }

  Renderer& r_;
  const Value& receiver_;
  const std::string_view s_;
  const std::string_view name_;
  const Args& args_;
};

size_t count_of(std::string_view s, std::string_view part) {
  size_t n = 0;
  for (size_t i = s.find(part); i != std::string_view::npos; i = s.find(part, i + part.size())) ++n;
  return n;
}

// Upper bound of the pieces that splitting at white space or line ends gives.
size_t count_spaces(std::string_view s) {
  size_t n = 0;
  for (size_t i = 0; i < s.size();) n += is_python_space(next_code_point(s, i)) ? 1u : 0u;
  return n;
}

Value StringCall::pieces(const std::vector<std::string_view>& parts, bool tuple) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view p : parts) items.push_back(receiver_.part(p));
  return r_.make_list(std::move(items), tuple);
}

Value StringCall::strip(bool left, bool right) {
  const Value* chars = args_.get(0, "chars");
  std::string_view s = s_;
  if (chars == nullptr || chars->is_none()) {
    if (left) s = strip_left(s);
    if (right) s = strip_right(s);
  } else if (chars->is_string()) {
    if (!r_.charge(chars->str().size() * (1 + s.size() / 256))) return {};
    if (left) s = strip_left(s, chars->str());
    if (right) s = strip_right(s, chars->str());
  } else {
    return fail_arguments();
  }
  return receiver_.part(s);
}

Value StringCall::split(bool from_right) {
  const Value* separator = args_.get(0, "sep");
  const int64_t max_splits = number(1, "maxsplit", -1);
  if (r_.failed()) return {};
  if (separator == nullptr || separator->is_none()) {
    if (!room_for_parts(count_spaces(s_) + 1)) return {};
    return pieces(from_right ? rsplit_space(s_, max_splits) : split_space(s_, max_splits));
  }
  if (!separator->is_string()) return fail_arguments();
  if (separator->str().empty()) return r_.fail("empty separator");
  if (!room_for_parts(count_of(s_, separator->str()) + 1)) return {};
  return pieces(from_right ? sluice::rsplit(s_, separator->str(), max_splits)
                           : sluice::split(s_, separator->str(), max_splits));
}

Value StringCall::partition(bool from_right) {
  const auto separator = text(0, "sep");
  if (!separator) return {};
  if (separator->empty()) return r_.fail("empty separator");
  const size_t at = from_right ? s_.rfind(*separator) : s_.find(*separator);
  if (at == std::string_view::npos) {
    return from_right ? pieces({"", "", s_}, true) : pieces({s_, "", ""}, true);
  }
  return pieces(
      {s_.substr(0, at), s_.substr(at, separator->size()), s_.substr(at + separator->size())},
      true);
}

Value StringCall::replace() {
  const auto from = text(0, "old");
  const auto to = text(1, "new");
  if (!from || !to) return {};
  int64_t left = number(2, "count", -1);
  if (r_.failed()) return {};
  const size_t found = from->empty() ? count_code_points(s_) + 1 : count_of(s_, *from);
  const uint64_t n = left < 0 ? found : std::min<uint64_t>(found, static_cast<uint64_t>(left));
  uint64_t grown = 0;
  if (__builtin_mul_overflow(n, to->size(), &grown) || !r_.room(s_.size() + grown)) {
    return r_.failed() ? Value() : r_.fail_limit("a string that is too long");
  }
  if (n == 0) return receiver_;
  std::string out;
  out.reserve(s_.size() + grown - std::min<uint64_t>(s_.size(), n * from->size()));
  size_t at = 0;
  for (uint64_t i = 0; i < n; ++i) {
    if (from->empty()) {
      out += *to;
      if (at < s_.size()) {
        const size_t bytes = code_point_bytes(s_[at]);
        out += s_.substr(at, bytes);
        at += bytes;
      }
      continue;
    }
    const size_t next = s_.find(*from, at);
    out += s_.substr(at, next - at);
    out += *to;
    at = next + from->size();
  }
  out += s_.substr(at);
  return r_.make_string(std::move(out));
}

Value StringCall::find(bool last, bool required) {
  const auto part = text(0, "sub");
  if (!part) return {};
  if (args_.count() > 1)
    return r_.fail("str." + std::string(name_) + " with a range is not supported");
  const size_t at = last ? s_.rfind(*part) : s_.find(*part);
  if (at != std::string_view::npos) return Value::integer(code_point_index(s_, at));
  return required ? r_.fail("substring not found") : Value::integer(-1);
}

Value StringCall::starts_or_ends(bool starts) {
  const Value* v = args_.get(0, "prefix");
  if (v == nullptr || args_.count() > 1) return fail_arguments();
  const auto matches = [&](const Value& part) {
    return part.is_string() && (starts ? s_.starts_with(part.str()) : s_.ends_with(part.str()));
  };
  if (v->is_string()) return Value::boolean(matches(*v));
  if (!v->is(Kind::kTuple)) return v->is_undefined() ? r_.fail_type(*v, name_) : fail_arguments();
  for (size_t i = 0; i < v->size(); ++i) {
    if (matches(v->at(i))) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value StringCall::pad(bool left, bool right) {
  const int64_t width = number(0, "width", 0);
  std::string_view fill = " ";
  if (const Value* v = args_.get(1, "fillchar")) {
    if (!v->is_string() || count_code_points(v->str()) != 1) return fail_arguments();
    fill = v->str();
  }
  if (r_.failed()) return {};
  const auto n = static_cast<int64_t>(count_code_points(s_));
  if (width <= n) return receiver_;
  const auto total = static_cast<uint64_t>(width - n);
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(total, fill.size(), &bytes) || bytes > (1ull << 40))
    bytes = 1ull << 40;
  if (!r_.room(s_.size() + bytes)) return {};
  // Python's center puts the odd one on the left if the width is odd.
  const uint64_t before = left && right ? total / 2 + (total & static_cast<uint64_t>(width) & 1)
                          : left        ? total
                                        : 0;
  std::string out;
  for (uint64_t i = 0; i < before; ++i) out += fill;
  out += s_;
  for (uint64_t i = before; i < total; ++i) out += fill;
  return r_.make_string(std::move(out));
}

Value StringCall::run(Method method) {
  if (!r_.charge(1 + s_.size() / 128)) return {};
  const auto changed = [&](auto&& convert) {
    return r_.room(2 * s_.size()) ? r_.make_string(convert(s_)) : Value();
  };
  switch (method) {
    case Method::kUpper:
      return changed(to_upper);
    case Method::kLower:
    case Method::kCasefold:
      return changed(to_lower);
    case Method::kTitle:
      return changed(title_case);
    case Method::kCapitalize:
      return changed(sluice::capitalize);
    case Method::kSwapCase:
      return changed([](std::string_view s) {
        std::string out;
        for (size_t i = 0; i < s.size();) {
          const size_t begin = i;
          const bool upper = same_letter_case(next_code_point(s, i));
          out +=
              upper ? to_lower(s.substr(begin, i - begin)) : to_upper(s.substr(begin, i - begin));
        }
        return out;
      });
    case Method::kStrip:
      return strip(true, true);
    case Method::kLstrip:
      return strip(true, false);
    case Method::kRstrip:
      return strip(false, true);
    case Method::kSplit:
      return split(false);
    case Method::kRsplit:
      return split(true);
    case Method::kPartition:
      return partition(false);
    case Method::kRpartition:
      return partition(true);
    case Method::kSplitLines: {
      const Value* keep = args_.get(0, "keepends");
      if (!room_for_parts(count_spaces(s_) + 1)) return {};
      return pieces(split_lines(s_, keep != nullptr && keep->truthy()));
    }
    case Method::kReplace:
      return replace();
    case Method::kFind:
      return find(false, false);
    case Method::kIndex:
      return find(false, true);
    case Method::kRfind:
      return find(true, false);
    case Method::kRindex:
      return find(true, true);
    case Method::kCount: {
      const auto part = text(0, "sub");
      if (!part) return {};
      return Value::integer(
          static_cast<int64_t>(part->empty() ? count_code_points(s_) + 1 : count_of(s_, *part)));
    }
    case Method::kStartsWith:
      return starts_or_ends(true);
    case Method::kEndsWith:
      return starts_or_ends(false);
    case Method::kRemovePrefix:
    case Method::kRemoveSuffix: {
      const auto part = text(0, "prefix");
      if (!part) return {};
      if (method == Method::kRemovePrefix) {
        return s_.starts_with(*part) ? receiver_.part(s_.substr(part->size())) : receiver_;
      }
      return s_.ends_with(*part) ? receiver_.part(s_.substr(0, s_.size() - part->size()))
                                 : receiver_;
    }
    case Method::kCenter:
      return pad(true, true);
    case Method::kLjust:
      return pad(false, true);
    case Method::kRjust:
      return pad(true, false);
    case Method::kJoin: {
      const Value* parts = args_.get(0, "iterable");
      if (parts == nullptr) return fail_arguments();
      const Value items = r_.iterate(*parts);
      std::string out;
      for (size_t i = 0; !r_.failed() && i < items.size(); ++i) {
        const Value part = items.at(i);
        if (!part.is_string())
          return r_.fail("join expected a string, found " + std::string(type_name(part)));
        if (!r_.room(out.size() + s_.size() + part.str().size()) || !r_.charge(1)) return {};
        if (i > 0) out += s_;
        out += part.str();
      }
      return r_.make_string(std::move(out));
    }
    case Method::kIsAlnum:
      return Value::boolean(is_alnum(s_));
    case Method::kIsAlpha:
      return Value::boolean(is_alpha(s_));
    case Method::kIsDigit:
    case Method::kIsNumeric:
      return Value::boolean(is_digit(s_));
    case Method::kIsSpace:
      return Value::boolean(is_space(s_));
    case Method::kIsUpper:
      return Value::boolean(is_upper(s_));
    case Method::kIsLower:
      return Value::boolean(is_lower(s_));
    case Method::kIsAscii:
      return Value::boolean(
          std::all_of(s_.begin(), s_.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; }));
    default:
      return r_.fail("str." + std::string(name_) + " is not supported");
  }
}

Value dict_method(Renderer& r, Method method, const Value& v, const Args& args) {
  const size_t n = v.dict_size();
  if (method == Method::kDictGet) {
    const Value* key = args.get(0, "key");
    const Value* fallback = args.get(1, "default");
    if (key == nullptr) return r.fail("dict.get takes a key");
    if (r.contains(v, *key)) return r.item(v, *key);
    return fallback != nullptr ? *fallback : Value::none();
  }
  if (method == Method::kDictCopy) return v;
  if (!r.charge(n / 4) || !r.room(n * (sizeof(Value) * 3 + sizeof(ListObject)))) return {};
  std::vector<Value> items;
  items.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    if (method == Method::kDictKeys) items.push_back(v.dict_key(i));
    if (method == Method::kDictValues) items.push_back(v.dict_value(i));
    if (method == Method::kDictItems) {
      items.push_back(r.make_list({v.dict_key(i), v.dict_value(i)}, true));
    }
  }
  return r.failed() ? Value() : r.make_list(std::move(items));
}

Value list_method(Renderer& r, Method method, const Value& v, const Args& args) {
  if (method == Method::kListCopy) return v;
  const Value* wanted = args.get(0, "value");
  if (wanted == nullptr) return r.fail("a value to look for is missing");
  int64_t n = 0;
  for (size_t i = 0; i < v.size() && !r.failed(); ++i) {
    if (!r.equals(v.at(i), *wanted)) continue;
    if (method == Method::kListIndex) return Value::integer(static_cast<int64_t>(i));
    ++n;
  }
  if (method == Method::kListIndex && !r.failed()) return r.fail("the value is not in the list");
  return Value::integer(n);
}

}  // namespace

Value Renderer::attribute(const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kUndefined:
      return fail("'" + escape_text(object.str()) + "' is undefined, so it has no attribute '" +
                  escape_text(name) + "'");
    case Kind::kNamespace:
      if (const Value* v = object.as_namespace()->find(name)) return *v;
      return Value::undefined(name);
    case Kind::kLoop:
      return loop_attribute(*object.as_loop(), name);
    case Kind::kMacro:
      if (name == "name")
        return Value::text(program_.text(program_.node(object.as_macro()->node).name));
      return Value::undefined(name);
    case Kind::kDict:
      if (std::find(std::begin(kDictChangers), std::end(kDictChangers), name) !=
          std::end(kDictChangers)) {
        return fail("dict." + std::string(name) + " is not allowed: values do not change");
      }
      break;
    default:
      break;
  }
  if (const MethodName* m = find_method(object, name)) return method(object, m->name);
  if (object.is_dict()) {
    if (auto v = object.dict_find(name)) return *v;
  }
  return Value::undefined(name);
}

Value Renderer::item(const Value& object, const Value& key) {
  if (object.is_undefined()) return fail_type(object, "a subscript");
  if (object.is_dict()) {
    if (key.is_string()) {
      if (object.owner() && !charge(object.dict_size() / 8)) return {};
      if (auto v = object.dict_find(key.str())) return *v;
    } else {
      for (size_t i = 0; i < object.dict_size() && charge(1); ++i) {
        if (equals(object.dict_key(i), key)) return object.dict_value(i);
      }
      return Value::undefined("item");
    }
  }
  if (key.is_integral()) {
    if (object.is_sequence()) {
      const auto n = static_cast<int64_t>(object.size());
      const int64_t i = key.as_int() < 0 ? key.as_int() + n : key.as_int();
      if (i >= 0 && i < n) return object.at(static_cast<size_t>(i));
    } else if (object.is_string()) {
      const std::string_view s = object.str();
      if (!charge(s.size() / 64)) return {};
      const auto n = static_cast<int64_t>(count_code_points(s));
      int64_t i = key.as_int() < 0 ? key.as_int() + n : key.as_int();
      if (i >= 0 && i < n) {
        size_t at = 0;
        for (; i > 0; --i) at += code_point_bytes(s[at]);
        return object.part(s.substr(at, code_point_bytes(s[at])));
      }
    }
    return Value::undefined("item");
  }
  if (!key.is_string()) return Value::undefined("item");
  if (object.is(Kind::kNamespace)) return Value::undefined("item");
  // As Jinja: x["name"] is x.name where there is no such item. The name may be gone later, so it is
  // not kept.
  if (const MethodName* m = find_method(object, key.str())) return method(object, m->name);
  return Value::undefined("item");
}

Value Renderer::path(const Value& object, const Value& attribute_path) {
  if (attribute_path.is_integral()) return item(object, attribute_path);
  if (!attribute_path.is_string()) return fail_type(attribute_path, "an attribute");
  Value v = object;
  for (const std::string_view part : split(attribute_path.str(), ".", 64)) {
    const auto index = is_digit(part) ? parse_int(part, 10) : std::nullopt;
    v = item(v, index ? Value::integer(*index) : attribute_path.part(part));
    if (failed_) return {};
  }
  return v;
}

Value Renderer::iterate(const Value& v) {
  if (failed_) return make_list({});
  switch (v.kind()) {
    case Kind::kList:
    case Kind::kTuple:
      return v;
    case Kind::kUndefined:
      return make_list({});
    case Kind::kDict:
      return dict_method(*this, Method::kDictKeys, v, {});
    case Kind::kString: {
      const std::string_view s = v.str();
      const size_t n = count_code_points(s);
      if (!charge(n) || !room(n * sizeof(Value))) return {};
      std::vector<Value> items;
      items.reserve(n);
      for (size_t i = 0; i < s.size();) {
        const size_t bytes = code_point_bytes(s[i]);
        items.push_back(v.part(s.substr(i, bytes)));
        i += bytes;
      }
      return make_list(std::move(items));
    }
    default:
      return fail("a value of type " + std::string(type_name(v)) + " cannot be walked");
  }
}

bool Renderer::equals(const Value& a, const Value& b) {
  int64_t budget = kCompareBudget;
  const bool result = equal(a, b, budget);
  if (budget < 0) fail_limit("a comparison of values that are too large");
  charge(static_cast<uint64_t>(kCompareBudget - std::max<int64_t>(0, budget)) / 2);
  return result;
}

bool Renderer::less(const Value& a, const Value& b) {
  int64_t budget = kCompareBudget;
  const Order order = compare(a, b, budget);
  if (budget < 0) fail_limit("a comparison of values that are too large");
  charge(static_cast<uint64_t>(kCompareBudget - std::max<int64_t>(0, budget)) / 2);
  if (order == Order::kTypeError) {
    if (a.is_undefined() || b.is_undefined()) {
      fail_type(a.is_undefined() ? a : b, "a comparison");
    } else {
      fail("cannot compare " + std::string(type_name(a)) + " and " + std::string(type_name(b)));
    }
  }
  return order == Order::kLess;
}

bool Renderer::contains(const Value& container, const Value& v) {
  if (failed_) return false;
  if (container.is_string()) {
    if (!v.is_string()) {
      fail_type(v, "'in' a string");
      return false;
    }
    charge(container.str().size() / 64);
    return container.str().find(v.str()) != std::string_view::npos;
  }
  if (container.is_dict()) {
    if (v.is_string()) {
      if (container.owner()) charge(container.dict_size() / 8);
      return container.dict_find(v.str()).has_value();
    }
    for (size_t i = 0; i < container.dict_size() && charge(1); ++i) {
      if (equals(container.dict_key(i), v)) return true;
    }
    return false;
  }
  const Value items = iterate(container);
  for (size_t i = 0; !failed_ && i < items.size(); ++i) {
    if (equals(items.at(i), v)) return true;
  }
  return false;
}

Value Renderer::length(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return Value::integer(0);
    case Kind::kString:
      charge(v.str().size() / 64);
      return Value::integer(static_cast<int64_t>(count_code_points(v.str())));
    case Kind::kList:
    case Kind::kTuple:
      return Value::integer(static_cast<int64_t>(v.size()));
    case Kind::kDict:
      return Value::integer(static_cast<int64_t>(v.dict_size()));
    case Kind::kLoop:
      return Value::integer(static_cast<int64_t>(v.as_loop()->list.size()));
    default:
      return fail("a value of type " + std::string(type_name(v)) + " has no length");
  }
}

Value Renderer::call_method(const Value& receiver, std::string_view name, const Args& args) {
  const MethodName* m = find_method(receiver, name);
  if (m == nullptr) return fail("no method '" + escape_text(name) + "'");
  if (receiver.is_string()) return StringCall(*this, receiver, m->name, args).run(m->method);
  if (receiver.is_dict()) return dict_method(*this, m->method, receiver, args);
  return list_method(*this, m->method, receiver, args);
}

Value Renderer::loop_attribute(LoopObject& loop, std::string_view name) {
  const auto number = [](size_t i) { return Value::integer(static_cast<int64_t>(i)); };
  const size_t n = loop.list.size();
  const size_t i = loop.index0;
  if (name == "index") return number(i + 1);
  if (name == "index0") return number(i);
  if (name == "revindex") return number(n - i);
  if (name == "revindex0") return number(n - i - 1);
  if (name == "first") return Value::boolean(i == 0);
  if (name == "last") return Value::boolean(i + 1 == n);
  if (name == "length") return number(n);
  if (name == "depth") return number(1);  // of recursive loops, which there are not
  if (name == "depth0") return number(0);
  if (name == "previtem") return i > 0 ? loop.list.at(i - 1) : Value::undefined("previtem");
  if (name == "nextitem") return i + 1 < n ? loop.list.at(i + 1) : Value::undefined("nextitem");
  for (const std::string_view known : kLoopMethods) {
    if (known == name && room(sizeof(MethodObject))) {
      return method(Value::object(Kind::kLoop, &loop), known);
    }
  }
  return Value::undefined(name);
}

Value Renderer::call_loop(LoopObject& loop, std::string_view name, const Args& args) {
  if (name == "cycle") {
    if (args.positional.empty()) return fail("loop.cycle takes at least one value");
    return args.positional[loop.index0 % args.positional.size()];
  }
  const Value now = make_list(args.positional, true);
  if (failed_) return {};
  const bool same = loop.changed && equals(*loop.changed, now);
  if (!loop.changed) loops_.emplace_back(&loop);
  loop.changed = now;
  return Value::boolean(!same);
}

}  // namespace sluice::jinja
