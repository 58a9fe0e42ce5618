// Calls: macros, the global functions, methods.
#include <algorithm>
#include <ctime>

#include "base/text_escape.h"
#include "daemon/text/jinja_deeper.h"
#include "daemon/text/jinja_render.h"

namespace sluice::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as Jinja's sandbox

}  // namespace

const Value* Args::get(size_t i, std::string_view name) const {
  if (i < positional.size()) return &positional[i];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Value Renderer::evaluate_call(const Node& node) {
  const Node& target = program_.node(node.a);
  if (target.kind == NodeKind::kAttr) {  // x.method(...): no value for the bound method
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
    return fail("macro '" + escape_text(name) + "' takes not more than " +
                std::to_string(n_params) + " arguments");
  }
  const bool alive =
      macro.scope < scopes_.size() && scopes_[macro.scope].serial == macro.scope_serial;
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
      if (given)
        fail("macro '" + escape_text(name) + "' got '" + escape_text(args.named[k].first) +
             "' twice");
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
      fail("macro '" + escape_text(name) + "' has no parameter '" +
           escape_text(args.named[k].first) + "'");
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
    case Function::kRange:
      return make_range(args);
    case Function::kNamespace:
      return make_namespace(args);
    case Function::kStrftimeNow:
      return strftime_now(args);
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
  if (args.positional.empty() || args.positional.size() > 3)
    return fail("range takes 1 to 3 integers");
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
    n = (static_cast<uint64_t>(stop) - static_cast<uint64_t>(start) - 1) /
            static_cast<uint64_t>(step) +
        1;
  } else if (step < 0 && start > stop) {
    n = (static_cast<uint64_t>(start) - static_cast<uint64_t>(stop) - 1) /
            (0 - static_cast<uint64_t>(step)) +
        1;
  }
  if (n > kMaxRange)
    return fail_limit("a range of more than " + std::to_string(kMaxRange) + " numbers");
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
  if (format == nullptr || !format->is_string() ||
      format->str().find('\0') != std::string_view::npos) {
    return fail("strftime_now takes a format");
  }
  if (format->str().size() > 256) return fail_limit("a date format of more than 256 bytes");
  if (format->str().empty()) return Value::text("");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  // The result of an empty format cannot be told from an overflow: a mark at the end makes it
  // non-empty.
  const std::string marked = std::string(format->str()) + "|";
  std::vector<char> buffer(8192);
  const size_t n = std::strftime(buffer.data(), buffer.size(), marked.c_str(), &local);
  if (n == 0) return fail_limit("a date of more than 8192 bytes");
  return make_string(to_valid_utf8({buffer.data(), n - 1}));
}

}  // namespace sluice::jinja
