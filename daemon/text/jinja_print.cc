// str(), repr() and json.dumps() of values.
#include <algorithm>

#include "daemon/text/jinja_render.h"
#include "daemon/text/python_text.h"
#include "daemon/text/unicode.h"

namespace sluice::jinja {
namespace {

constexpr uint32_t kMaxPrintDepth =
    200;  // a caller's JSON may be deeper than anything a template makes

}  // namespace

// Appends to one string; stops at the first thing that does not fit.
class Printer {
 public:
  Printer(Renderer& r, std::string& out) : r_(r), out_(out) {}

  bool put(std::string_view text) {
    if (!r_.charge(1 + text.size() / 256)) return false;
    if (out_.size() + text.size() > checked_) {
      if (!r_.room(out_.size() + text.size())) return false;
      checked_ =
          out_.size() + text.size() + 4096;  // looked at again then: the limit is not that exact
    }
    out_ += text;
    return true;
  }

  bool repr(const Value& v, uint32_t depth);
  bool json(const Value& v, uint32_t depth);

  // json.dumps' arguments.
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";

 private:
  template <class Escape>
  bool quoted(std::string_view s, char quote, Escape&& escape) {
    // In pieces, because escapes may make a text six times longer.
    bool good = put({&quote, 1});
    std::string piece;
    for (size_t i = 0; i < s.size() && good;) {
      size_t end = std::min(s.size(), i + 4096);
      while (end < s.size() && (static_cast<uint8_t>(s[end]) & 0xC0) == 0x80) ++end;
      piece.clear();
      escape(piece, s.substr(i, end - i));
      good = put(piece);
      i = end;
    }
    return good && put({&quote, 1});
  }
  bool repr_string(std::string_view s) {
    const char quote = python_quote(s);
    return quoted(
        s, quote, [&](std::string& o, std::string_view p) { append_python_escaped(o, p, quote); });
  }
  bool json_string(std::string_view s) {
    return quoted(s, '"', [&](std::string& o, std::string_view p) {
      append_json_escaped(o, p, ensure_ascii);
    });
  }
  bool json_key(const Value& key);
  bool new_line(uint32_t level) {
    if (!pretty) return true;
    bool good = put("\n");
    for (uint32_t i = 0; i < level && good; ++i) good = put(indent);
    return good;
  }
  bool too_deep(uint32_t depth) {
    if (depth <= kMaxPrintDepth) return false;
    r_.fail_limit("a value is nested too deep to be printed");
    return true;
  }

  Renderer& r_;
  std::string& out_;
  size_t checked_ = 0;
};

bool Printer::repr(const Value& v, uint32_t depth) {
  if (too_deep(depth)) return false;
  switch (v.kind()) {
    case Kind::kUndefined:
      return put("Undefined");
    case Kind::kNone:
      return put("None");
    case Kind::kBool:
      return put(v.as_bool() ? "True" : "False");
    case Kind::kInt:
      return put(std::to_string(v.as_int()));
    case Kind::kUint:
      return put(std::to_string(v.as_uint()));
    case Kind::kFloat:
      return put(format_float(v.as_double()));
    case Kind::kString:
      return repr_string(v.str());
    case Kind::kList:
    case Kind::kTuple: {
      const bool tuple = v.is(Kind::kTuple);
      bool good = put(tuple ? "(" : "[");
      for (size_t i = 0; i < v.size() && good; ++i)
        good = (i == 0 || put(", ")) && repr(v.at(i), depth + 1);
      return good && put(tuple ? (v.size() == 1 ? ",)" : ")") : "]");
    }
    case Kind::kDict: {
      bool good = put("{");
      for (size_t i = 0; i < v.dict_size() && good; ++i) {
        good = (i == 0 || put(", ")) && repr(v.dict_key(i), depth + 1) && put(": ") &&
               repr(v.dict_value(i), depth + 1);
      }
      return good && put("}");
    }
    case Kind::kNamespace: {
      bool good = put("<Namespace {");
      bool first = true;
      for (const auto& [name, value] : v.as_namespace()->entries) {
        good = good && (first || put(", ")) && repr_string(name) && put(": ") &&
               repr(value, depth + 1);
        first = false;
      }
      return good && put("}>");
    }
    case Kind::kLoop:
      return put("<LoopContext>");
    case Kind::kMacro:
      return put("<Macro>");
    case Kind::kFunction:
    case Kind::kMethod:
      return put("<function>");
  }
  return false;
}

bool Printer::json_key(const Value& key) {
  switch (key.kind()) {
    case Kind::kString:
      return json_string(key.str());
    case Kind::kBool:
      return put(key.as_bool() ? "\"true\"" : "\"false\"");
    case Kind::kNone:
      return put("\"null\"");
    case Kind::kInt:
    case Kind::kFloat:
      return put("\"") && repr(key, 0) && put("\"");
    default:
      r_.fail_type(key, "a JSON key");
      return false;
  }
}

bool Printer::json(const Value& v, uint32_t depth) {
  if (too_deep(depth)) return false;
  switch (v.kind()) {
    case Kind::kNone:
      return put("null");
    case Kind::kBool:
      return put(v.as_bool() ? "true" : "false");
    case Kind::kInt:
    case Kind::kUint:
      return repr(v, depth);
    case Kind::kFloat: {
      const std::string text = format_float(v.as_double());
      return put(text == "nan"    ? "NaN"
                 : text == "inf"  ? "Infinity"
                 : text == "-inf" ? "-Infinity"
                                  : text);
    }
    case Kind::kString:
      return json_string(v.str());
    case Kind::kList:
    case Kind::kTuple: {
      if (v.size() == 0) return put("[]");
      bool good = put("[");
      for (size_t i = 0; i < v.size() && good; ++i) {
        good = (i == 0 || put(item_separator)) && new_line(depth + 1) && json(v.at(i), depth + 1);
      }
      return good && new_line(depth) && put("]");
    }
    case Kind::kDict: {
      const size_t n = v.dict_size();
      if (n == 0) return put("{}");
      std::vector<uint32_t> order(n);
      for (size_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(i);
      if (sort_keys) {
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
          const Value x = v.dict_key(a);
          const Value y = v.dict_key(b);
          return x.is_string() && y.is_string() && x.str() < y.str();
        });
      }
      bool good = put("{");
      bool first = true;
      for (const uint32_t i : order) {
        good = good && (first || put(item_separator)) && new_line(depth + 1) &&
               json_key(v.dict_key(i)) && put(key_separator) && json(v.dict_value(i), depth + 1);
        first = false;
        if (!good) break;
      }
      return good && new_line(depth) && put("}");
    }
    default:
      r_.fail("an object of type " + std::string(type_name(v)) + " is not JSON serializable");
      return false;
  }
}

bool Renderer::print(const Value& v, std::string& out) {
  Printer printer(*this, out);
  if (v.is_string()) return printer.put(v.str());
  if (v.is_undefined()) return !failed_;
  return printer.repr(v, 0);
}

Value Renderer::to_string(const Value& v) {
  if (v.is_string()) return v;
  std::string out;
  return print(v, out) ? make_string(std::move(out)) : Value();
}

// transformers' tojson: json.dumps(x, ensure_ascii=False, indent, separators, sort_keys).
Value Renderer::to_json(const Value& v, const Args& args) {
  std::string out;
  Printer printer(*this, out);
  if (const Value* a = args.get(0, "ensure_ascii")) printer.ensure_ascii = a->truthy();
  if (const Value* a = args.get(1, "indent"); a != nullptr && !a->is_none()) {
    printer.pretty = true;
    printer.item_separator = ",";
    if (a->is_string()) {
      printer.indent = a->str();
    } else if (a->is_integral()) {
      if (a->as_int() > 1000) return fail_limit("an indent of more than 1000");
      printer.indent.assign(static_cast<size_t>(std::max<int64_t>(0, a->as_int())), ' ');
    } else {
      return fail_type(*a, "an indent");
    }
  }
  if (const Value* a = args.get(2, "separators"); a != nullptr && !a->is_none()) {
    if (!a->is_sequence() || a->size() != 2 || !a->at(0).is_string() || !a->at(1).is_string()) {
      return fail("separators must be two strings");
    }
    printer.item_separator = a->at(0).str();
    printer.key_separator = a->at(1).str();
  }
  if (const Value* a = args.get(3, "sort_keys")) printer.sort_keys = a->truthy();
  return printer.json(v, 0) ? make_string(std::move(out)) : Value();
}

}  // namespace sluice::jinja
