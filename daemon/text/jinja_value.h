// What template expressions evaluate to. Lists, dicts and strings never change after they are made
// (only namespaces do), so values share them freely. Those that come from the caller's JSON or the
// template's source are views; everything made while rendering is counted by a Heap, which refuses
// to grow past its limit. One render, one thread: reference counts are plain integers.
#pragma once

#include <boost/json/value.hpp>
#include <boost/smart_ptr/intrusive_ptr.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/text/jinja_program.h"

namespace sluice::jinja {

// Live bytes of one render.
class Heap {
 public:
  explicit Heap(uint64_t limit) : limit_(limit) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;
  bool fits(uint64_t bytes) const { return bytes <= limit_ && live_ <= limit_ - bytes; }
  void add(uint64_t bytes) { live_ += bytes; }
  void remove(uint64_t bytes) { live_ -= bytes; }
  uint64_t live() const { return live_; }

 private:
  const uint64_t limit_;
  uint64_t live_ = 0;
};

// Base of everything counted; knows its bytes, so that they are given back when the last value lets
// go.
struct Object {
  Object(Heap& heap, uint64_t bytes) : heap_(heap), bytes_(bytes) { heap_.add(bytes_); }
  virtual ~Object() { heap_.remove(bytes_); }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  void grow(uint64_t bytes) {
    heap_.add(bytes);
    bytes_ += bytes;
  }

 private:
  friend void intrusive_ptr_add_ref(Object* o) { ++o->references_; }
  friend void intrusive_ptr_release(Object* o) {
    if (--o->references_ == 0) delete o;
  }
  Heap& heap_;
  uint64_t bytes_;
  uint32_t references_ = 0;
};

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kUint,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kNamespace,
  kLoop,
  kMacro,
  kFunction,
  kMethod
};

// Global functions.
enum class Function : uint8_t { kRange, kDict, kNamespace, kRaiseException, kStrftimeNow };

struct ListObject;
struct DictObject;
struct NamespaceObject;
struct LoopObject;
struct MacroObject;
struct MethodObject;

class Value {
 public:
  Value() = default;  // undefined
  // What an undefined value was looked up as, for the error line; `name` outlives the render.
  static Value undefined(std::string_view name);
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool b);
  static Value integer(int64_t i);
  static Value real(double d);
  // A view of text that outlives the render (source, caller's JSON) or that `owner` keeps alive.
  static Value text(std::string_view s, boost::intrusive_ptr<Object> owner = nullptr);
  static Value function(Function f);
  // Views; the JSON outlives the render.
  static Value json(const boost::json::value& v);
  static Value list(boost::intrusive_ptr<ListObject> o, bool tuple = false);
  static Value dict(boost::intrusive_ptr<DictObject> o);
  static Value object(Kind kind, boost::intrusive_ptr<Object> o);

  Kind kind() const { return kind_; }
  bool is(Kind k) const { return kind_ == k; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  bool is_dict() const { return kind_ == Kind::kDict; }
  // An int in Python's sense: bool too.
  bool is_integral() const { return kind_ == Kind::kBool || kind_ == Kind::kInt; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat || kind_ == Kind::kUint; }

  bool as_bool() const { return bits_.i != 0; }
  int64_t as_int() const { return bits_.i; }  // bool: 0 or 1
  uint64_t as_uint() const { return static_cast<uint64_t>(bits_.i); }
  double as_double() const;
  Function as_function() const { return static_cast<Function>(bits_.i); }
  std::string_view str() const { return {bits_.s, length_}; }  // kString; kUndefined: its name
  const boost::intrusive_ptr<Object>& owner() const { return owner_; }
  // A part of this string; shares what keeps it alive.
  Value part(std::string_view s) const { return text(s, owner_); }

  // Lists and tuples.
  size_t size() const;
  Value at(size_t i) const;
  // Dicts: entries in order.
  size_t dict_size() const;
  Value dict_key(size_t i) const;
  Value dict_value(size_t i) const;
  // Of a string key; nullopt when absent.
  std::optional<Value> dict_find(std::string_view key) const;
  // How deep destroying this recurses: 1 for a flat list, 0 for a string. The caller's JSON is not
  // ours to destroy and counts as 1; namespaces are emptied by the renderer and count as 0.
  uint32_t depth() const;

  bool truthy() const;

  NamespaceObject* as_namespace() const;
  LoopObject* as_loop() const;
  MacroObject* as_macro() const;
  MethodObject* as_method() const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kUndefined;
  uint32_t length_ = 0;  // of a string
  union Bits {
    int64_t i = 0;
    double d;
    const char* s;
    const boost::json::array* array;
    const boost::json::object* object;
  } bits_;
  boost::intrusive_ptr<Object> owner_;  // null: bits_ views something that outlives the render
};

struct StringObject final : Object {
  StringObject(Heap& heap, std::string s)
      : Object(heap, sizeof(StringObject) + s.capacity()), value(std::move(s)) {}
  const std::string value;
};

struct ListObject final : Object {
  ListObject(Heap& heap, std::vector<Value> v);
  const std::vector<Value> items;
  const uint32_t depth;
};

struct DictObject final : Object {
  using Entry = std::pair<Value, Value>;
  DictObject(Heap& heap, std::vector<Entry> e);
  const std::vector<Entry> entries;  // no key twice
  const uint32_t depth;
};

struct NamespaceObject final : Object {
  explicit NamespaceObject(Heap& heap) : Object(heap, sizeof(NamespaceObject)) {}
  // Small: one entry per name in the source.
  std::vector<std::pair<std::string, Value>> entries;
  Value* find(std::string_view name);
};

struct LoopObject final : Object {
  LoopObject(Heap& heap, Value items) : Object(heap, sizeof(LoopObject)), list(std::move(items)) {}
  const Value list;
  size_t index0 = 0;
  std::optional<Value> changed;  // the argument of the last loop.changed()
};

struct MacroObject final : Object {
  MacroObject(Heap& heap, NodeId n, uint32_t s, uint64_t i)
      : Object(heap, sizeof(MacroObject)), node(n), scope(s), scope_serial(i) {}
  const NodeId node;
  const uint32_t scope;  // where it was defined; the global scope if that is gone
  const uint64_t scope_serial;
};

// "x.upper" that was not called at once.
struct MethodObject final : Object {
  MethodObject(Heap& heap, Value r, std::string_view n)
      : Object(heap, sizeof(MethodObject)), receiver(std::move(r)), name(n) {}
  const Value receiver;
  const std::string_view name;  // static storage
};

// Python's ==. `budget` falls with every value looked at and is negative when it (or the depth) was
// not enough.
bool equal(const Value& a, const Value& b, int64_t& budget, uint32_t depth = 0);

enum class Order : int8_t { kLess = -1, kEqual = 0, kGreater = 1, kUnordered = 2, kTypeError = 3 };
// Python's < and >.
Order compare(const Value& a, const Value& b, int64_t& budget, uint32_t depth = 0);

// "str", "dict", ... as Python's messages name types.
std::string_view type_name(const Value& v);

}  // namespace sluice::jinja
