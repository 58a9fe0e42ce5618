#include "daemon/text/jinja_value.h"

#include <algorithm>
#include <cmath>

namespace sluice::jinja {
namespace {

// Containers made by templates are kept shallower than this; only a caller's JSON could be deeper.
constexpr uint32_t kMaxCompareDepth = 200;

uint32_t deepest(const std::vector<Value>& items) {
  uint32_t depth = 0;
  for (const Value& v : items) depth = std::max(depth, v.depth());
  return depth + 1;
}

uint32_t deepest(const std::vector<DictObject::Entry>& entries) {
  uint32_t depth = 0;
  for (const auto& [key, value] : entries) depth = std::max({depth, key.depth(), value.depth()});
  return depth + 1;
}

Value string_value(const boost::json::string& s) { return Value::text({s.data(), s.size()}); }

Order order_of(double a, double b) {
  return a < b    ? Order::kLess
         : a > b  ? Order::kGreater
         : a == b ? Order::kEqual
                  : Order::kUnordered;
}

// Both numbers; exact where both are integers.
Order order_numbers(const Value& a, const Value& b) {
  if (a.is(Kind::kFloat) || b.is(Kind::kFloat)) return order_of(a.as_double(), b.as_double());
  const bool big_a = a.is(Kind::kUint);
  const bool big_b = b.is(Kind::kUint);
  if (big_a != big_b) return big_a ? Order::kGreater : Order::kLess;
  if (big_a) {
    return a.as_uint() < b.as_uint()   ? Order::kLess
           : a.as_uint() > b.as_uint() ? Order::kGreater
                                       : Order::kEqual;
  }
  return a.as_int() < b.as_int()   ? Order::kLess
         : a.as_int() > b.as_int() ? Order::kGreater
                                   : Order::kEqual;
}

}  // namespace

Value Value::undefined(std::string_view name) {
  Value v;
  v.bits_.s = name.data();
  v.length_ = static_cast<uint32_t>(name.size());
  return v;
}

Value Value::boolean(bool b) {
  Value v(Kind::kBool);
  v.bits_.i = b ? 1 : 0;
  return v;
}

Value Value::integer(int64_t i) {
  Value v(Kind::kInt);
  v.bits_.i = i;
  return v;
}

Value Value::real(double d) {
  Value v(Kind::kFloat);
  v.bits_.d = d;
  return v;
}

Value Value::text(std::string_view s, boost::intrusive_ptr<Object> owner) {
  Value v(Kind::kString);
  v.bits_.s = s.data();
  v.length_ = static_cast<uint32_t>(s.size());
  v.owner_ = std::move(owner);
  return v;
}

Value Value::function(Function f) {
  Value v(Kind::kFunction);
  v.bits_.i = static_cast<int64_t>(f);
  return v;
}

Value Value::json(const boost::json::value& j) {
  switch (j.kind()) {
    case boost::json::kind::null:
      return none();
    case boost::json::kind::bool_:
      return boolean(j.get_bool());
    case boost::json::kind::int64:
      return integer(j.get_int64());
    case boost::json::kind::uint64: {
      Value v(j.get_uint64() > INT64_MAX ? Kind::kUint : Kind::kInt);
      v.bits_.i = static_cast<int64_t>(j.get_uint64());
      return v;
    }
    case boost::json::kind::double_:
      return real(j.get_double());
    case boost::json::kind::string:
      return string_value(j.get_string());
    case boost::json::kind::array: {
      Value v(Kind::kList);
      v.bits_.array = &j.get_array();
      return v;
    }
    case boost::json::kind::object: {
      Value v(Kind::kDict);
      v.bits_.object = &j.get_object();
      return v;
    }
  }
  return none();
}

Value Value::list(boost::intrusive_ptr<ListObject> o, bool tuple) {
  return object(tuple ? Kind::kTuple : Kind::kList, std::move(o));
}

Value Value::dict(boost::intrusive_ptr<DictObject> o) { return object(Kind::kDict, std::move(o)); }

Value Value::object(Kind kind, boost::intrusive_ptr<Object> o) {
  Value v(kind);
  v.owner_ = std::move(o);
  return v;
}

double Value::as_double() const {
  if (kind_ == Kind::kFloat) return bits_.d;
  if (kind_ == Kind::kUint) return static_cast<double>(as_uint());
  return static_cast<double>(bits_.i);
}

size_t Value::size() const {
  return owner_ ? static_cast<const ListObject&>(*owner_).items.size() : bits_.array->size();
}

Value Value::at(size_t i) const {
  return owner_ ? static_cast<const ListObject&>(*owner_).items[i] : json((*bits_.array)[i]);
}

size_t Value::dict_size() const {
  return owner_ ? static_cast<const DictObject&>(*owner_).entries.size() : bits_.object->size();
}

Value Value::dict_key(size_t i) const {
  if (owner_) return static_cast<const DictObject&>(*owner_).entries[i].first;
  const auto key = (bits_.object->begin() + static_cast<ptrdiff_t>(i))->key();
  return text({key.data(), key.size()});
}

Value Value::dict_value(size_t i) const {
  if (owner_) return static_cast<const DictObject&>(*owner_).entries[i].second;
  return json((bits_.object->begin() + static_cast<ptrdiff_t>(i))->value());
}

std::optional<Value> Value::dict_find(std::string_view key) const {
  if (owner_) {
    for (const auto& [k, v] : static_cast<const DictObject&>(*owner_).entries) {
      if (k.is_string() && k.str() == key) return v;
    }
    return std::nullopt;
  }
  const boost::json::value* found = bits_.object->if_contains({key.data(), key.size()});
  if (found == nullptr) return std::nullopt;
  return json(*found);
}

uint32_t Value::depth() const {
  if (kind_ == Kind::kDict) return owner_ ? static_cast<const DictObject&>(*owner_).depth : 1;
  if (is_sequence()) return owner_ ? static_cast<const ListObject&>(*owner_).depth : 1;
  if (kind_ == Kind::kLoop) return as_loop()->list.depth() + 1;
  if (kind_ == Kind::kMethod) return as_method()->receiver.depth() + 1;
  return 0;
}

bool Value::truthy() const {
  switch (kind_) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kUint:
      return bits_.i != 0;
    case Kind::kFloat:
      return bits_.d < 0 || bits_.d > 0 || std::isnan(bits_.d);
    case Kind::kString:
      return length_ != 0;
    case Kind::kList:
    case Kind::kTuple:
      return size() != 0;
    case Kind::kDict:
      return dict_size() != 0;
    default:
      return true;
  }
}

NamespaceObject* Value::as_namespace() const {
  return kind_ == Kind::kNamespace ? static_cast<NamespaceObject*>(owner_.get()) : nullptr;
}
LoopObject* Value::as_loop() const {
  return kind_ == Kind::kLoop ? static_cast<LoopObject*>(owner_.get()) : nullptr;
}
MacroObject* Value::as_macro() const {
  return kind_ == Kind::kMacro ? static_cast<MacroObject*>(owner_.get()) : nullptr;
}
MethodObject* Value::as_method() const {
  return kind_ == Kind::kMethod ? static_cast<MethodObject*>(owner_.get()) : nullptr;
}

ListObject::ListObject(Heap& heap, std::vector<Value> v)
    : Object(heap, sizeof(ListObject) + v.capacity() * sizeof(Value)),
      items(std::move(v)),
      depth(deepest(items)) {}

DictObject::DictObject(Heap& heap, std::vector<Entry> e)
    : Object(heap, sizeof(DictObject) + e.capacity() * sizeof(Entry)),
      entries(std::move(e)),
      depth(deepest(entries)) {}

Value* NamespaceObject::find(std::string_view name) {
  for (auto& [key, value] : entries) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool equal(const Value& a, const Value& b, int64_t& budget, uint32_t depth) {
  if (depth > kMaxCompareDepth) budget = -1;
  if (--budget < 0) return false;
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == Order::kEqual;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      budget -= static_cast<int64_t>(a.str().size() / 64);
      return a.str() == b.str();
    case Kind::kList:
    case Kind::kTuple: {
      const size_t n = a.size();
      if (b.size() != n) return false;
      for (size_t i = 0; i < n; ++i) {
        if (!equal(a.at(i), b.at(i), budget, depth + 1)) return false;
      }
      return true;
    }
    case Kind::kDict: {
      const size_t n = a.dict_size();
      if (b.dict_size() != n) return false;
      for (size_t i = 0; i < n; ++i) {
        const Value key = a.dict_key(i);
        bool same = false;
        if (key.is_string()) {
          budget -= static_cast<int64_t>(b.owner() ? n / 8 : 1);
          const auto other = b.dict_find(key.str());
          same = other && equal(a.dict_value(i), *other, budget, depth + 1);
        } else {
          for (size_t k = 0; k < n && !same && budget >= 0; ++k) {
            if (equal(key, b.dict_key(k), budget, depth + 1))
              same = equal(a.dict_value(i), b.dict_value(k), budget, depth + 1);
          }
        }
        if (!same) return false;
      }
      return true;
    }
    case Kind::kFunction:
      return a.as_function() == b.as_function();
    default:
      return a.owner() == b.owner();
  }
}

Order compare(const Value& a, const Value& b, int64_t& budget, uint32_t depth) {
  if (depth > kMaxCompareDepth) budget = -1;
  if (--budget < 0) return Order::kUnordered;
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is_string() && b.is_string()) {
    budget -= static_cast<int64_t>(std::min(a.str().size(), b.str().size()) / 64);
    const int c = a.str().compare(b.str());  // UTF-8 sorts as code points do
    return c < 0 ? Order::kLess : c > 0 ? Order::kGreater : Order::kEqual;
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const size_t n = std::min(a.size(), b.size());
    for (size_t i = 0; i < n; ++i) {
      if (!equal(a.at(i), b.at(i), budget, depth + 1))
        return compare(a.at(i), b.at(i), budget, depth + 1);
    }
    return a.size() < b.size()   ? Order::kLess
           : a.size() > b.size() ? Order::kGreater
                                 : Order::kEqual;
  }
  return Order::kTypeError;
}

std::string_view type_name(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kUint:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kMacro:
      return "Macro";
    case Kind::kFunction:
      return "function";
    case Kind::kMethod:
      return "builtin_function_or_method";
  }
  return "object";
}

}  // namespace sluice::jinja
