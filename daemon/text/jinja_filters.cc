// The filters of Jinja that chat templates use, with transformers' tojson.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>

#include "base/text_escape.h"
#include "daemon/text/jinja_render.h"
#include "daemon/text/jinja_tables.h"
#include "daemon/text/python_text.h"
#include "daemon/text/unicode.h"

namespace sluice::jinja {
namespace {

using Filter = Value (*)(Renderer&, const Value&, const Args&);

std::string_view as_text(const Value& v) { return v.is_string() ? v.str() : std::string_view(); }

int64_t int_argument(
    Renderer& r, const Args& args, size_t i, std::string_view name, int64_t fallback) {
  const Value* v = args.get(i, name);
  if (v == nullptr || v->is_none()) return fallback;
  if (!v->is_integral()) {
    r.fail_type(*v, name);
    return fallback;
  }
  return v->as_int();
}

bool bool_argument(const Args& args, size_t i, std::string_view name, bool fallback) {
  const Value* v = args.get(i, name);
  return v == nullptr ? fallback : v->truthy();
}

// str(input) first, as Jinja's soft_str; then a method of strings by the same name.
Value string_method(Renderer& r, const Value& v, std::string_view name, const Args& args) {
  const Value s = r.to_string(v);
  return r.failed() ? Value() : r.call_method(s, name, args);
}

Value upper(Renderer& r, const Value& v, const Args&) { return string_method(r, v, "upper", {}); }
Value lower(Renderer& r, const Value& v, const Args&) { return string_method(r, v, "lower", {}); }
Value capitalize_filter(Renderer& r, const Value& v, const Args&) {
  return string_method(r, v, "capitalize", {});
}
Value trim(Renderer& r, const Value& v, const Args& args) {
  return string_method(r, v, "strip", args);
}
Value to_text(Renderer& r, const Value& v, const Args&) { return r.to_string(v); }
Value same(Renderer&, const Value& v, const Args&) { return v; }
Value length(Renderer& r, const Value& v, const Args&) { return r.length(v); }
Value to_json(Renderer& r, const Value& v, const Args& args) { return r.to_json(v, args); }

Value center(Renderer& r, const Value& v, const Args& args) {
  Args width;
  width.positional.push_back(Value::integer(int_argument(r, args, 0, "width", 80)));
  return r.failed() ? Value() : string_method(r, v, "center", width);
}

Value replace(Renderer& r, const Value& v, const Args& args) {
  Args texts;
  for (size_t i = 0; i < 2; ++i) {
    const Value* part = args.get(i, i == 0 ? "old" : "new");
    if (part == nullptr) return r.fail("replace takes two strings");
    texts.positional.push_back(r.to_string(*part));
  }
  if (const Value* count = args.get(2, "count")) texts.positional.push_back(*count);
  return r.failed() ? Value() : string_method(r, v, "replace", texts);
}

// Words start after white space, '-' and opening brackets; the rest of a word becomes lower case.
Value title(Renderer& r, const Value& v, const Args&) {
  const Value text = r.to_string(v);
  if (r.failed() || !r.room(2 * text.str().size()) || !r.charge(text.str().size() / 32)) return {};
  const std::string_view s = text.str();
  const auto separates = [&](uint32_t c) {
    return is_python_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  std::string out;
  bool starts = true;
  for (size_t i = 0; i < s.size();) {
    const size_t begin = i;
    const uint32_t c = next_code_point(s, i);
    const std::string_view one = s.substr(begin, i - begin);
    if (separates(c)) {
      out += one;
      starts = true;
    } else {
      out += starts ? to_upper(one) : to_lower(one);
      starts = false;
    }
  }
  return r.make_string(std::move(out));
}

Value default_value(Renderer&, const Value& v, const Args& args) {
  const Value* fallback = args.get(0, "default_value");
  const bool also_false = bool_argument(args, 1, "boolean", false);
  if (!v.is_undefined() && !(also_false && !v.truthy())) return v;
  return fallback != nullptr ? *fallback : Value::text("");
}

Value first(Renderer& r, const Value& v, const Args&) {
  if (v.is_sequence()) return v.size() > 0 ? v.at(0) : Value::undefined("first item");
  if (v.is_string())
    return v.str().empty() ? Value::undefined("first item") : r.item(v, Value::integer(0));
  const Value items = r.iterate(v);
  return r.failed() || items.size() == 0 ? Value::undefined("first item") : items.at(0);
}

Value last(Renderer& r, const Value& v, const Args&) {
  if (v.is_string())
    return v.str().empty() ? Value::undefined("last item") : r.item(v, Value::integer(-1));
  const Value items = r.iterate(v);
  return r.failed() || items.size() == 0 ? Value::undefined("last item")
                                         : items.at(items.size() - 1);
}

Value list(Renderer& r, const Value& v, const Args&) {
  const Value items = r.iterate(v);
  if (r.failed() || items.is(Kind::kList)) return items;
  std::vector<Value> copy;
  for (size_t i = 0; i < items.size(); ++i) copy.push_back(items.at(i));
  return r.make_list(std::move(copy));
}

Value items_filter(Renderer& r, const Value& v, const Args&) {
  if (v.is_undefined()) return r.make_list({});
  if (!v.is_dict()) return r.fail_type(v, "items");
  return r.call_method(v, "items", {});
}

Value reverse(Renderer& r, const Value& v, const Args&) {
  const Value items = r.iterate(v);
  if (r.failed() || !r.room(items.size() * sizeof(Value))) return {};
  if (v.is_string()) {
    std::string out;
    for (size_t i = items.size(); i > 0; --i) out += items.at(i - 1).str();
    return r.make_string(std::move(out));
  }
  std::vector<Value> out;
  out.reserve(items.size());
  for (size_t i = items.size(); i > 0; --i) out.push_back(items.at(i - 1));
  return r.make_list(std::move(out));
}

Value join(Renderer& r, const Value& v, const Args& args) {
  const Value* separator = args.get(0, "d");
  const Value* attribute = args.get(1, "attribute");
  const Value glue = separator != nullptr ? r.to_string(*separator) : Value::text("");
  const Value items = r.iterate(v);
  std::string out;
  for (size_t i = 0; !r.failed() && i < items.size(); ++i) {
    if (i > 0 && !r.print(glue, out)) return {};
    const Value item = items.at(i);
    if (!r.print(attribute != nullptr ? r.path(item, *attribute) : item, out)) return {};
  }
  return r.make_string(std::move(out));
}

Value indent(Renderer& r, const Value& v, const Args& args) {
  const Value text = r.to_string(v);
  if (r.failed()) return {};
  const Value* width = args.get(0, "width");
  std::string pad(4, ' ');
  if (width != nullptr && width->is_string()) {
    pad = width->str();
  } else if (width != nullptr) {
    const int64_t n = std::max<int64_t>(0, int_argument(r, args, 0, "width", 4));
    if (r.failed() || !r.room(static_cast<uint64_t>(n))) return {};
    pad.assign(static_cast<size_t>(n), ' ');
  }
  const bool first_line = bool_argument(args, 1, "first", false);
  const bool blank = bool_argument(args, 2, "blank", false);
  const std::string with_newline = std::string(text.str()) + "\n";
  const auto spaces = std::count(with_newline.begin(), with_newline.end(), '\n');
  if (!r.room(with_newline.size() + static_cast<uint64_t>(spaces) * sizeof(std::string_view)))
    return {};
  const std::vector<std::string_view> lines = split_lines(with_newline, false);
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool padded = i == 0 ? first_line : blank || !lines[i].empty();
    if (!r.room(out.size() + pad.size() + lines[i].size() + 1) || !r.charge(1)) return {};
    if (i > 0) out += '\n';
    if (padded) out += pad;
    out += lines[i];
  }
  return r.make_string(std::move(out));
}

Value truncate(Renderer& r, const Value& v, const Args& args) {
  const Value text = r.to_string(v);
  const int64_t length = int_argument(r, args, 0, "length", 255);
  const bool kill_words = bool_argument(args, 1, "killwords", false);
  const Value* end = args.get(2, "end");
  const std::string_view tail = end != nullptr ? as_text(*end) : "...";
  const int64_t leeway = int_argument(r, args, 3, "leeway", 5);
  if (r.failed()) return {};
  const auto tail_length = static_cast<int64_t>(count_code_points(tail));
  if (length < tail_length || leeway < 0) return r.fail("truncate: length or leeway is too small");
  const std::string_view s = text.str();
  const auto n = static_cast<int64_t>(count_code_points(s));
  if (n <= leeway || n - leeway <= length) return text;
  size_t cut = 0;
  for (int64_t i = 0; i < length - tail_length; ++i) cut += code_point_bytes(s[cut]);
  std::string_view kept = s.substr(0, cut);
  if (!kill_words) {
    const size_t space = kept.rfind(' ');
    if (space != std::string_view::npos) kept = kept.substr(0, space);
  }
  return r.make_string(std::string(kept) + std::string(tail));
}

Value escape_html(Renderer& r, const Value& v, const Args&) {
  const Value text = r.to_string(v);
  if (r.failed() || !r.room(6 * text.str().size())) return {};
  std::string out;
  for (const char c : text.str()) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return r.make_string(std::move(out));
}

Value wordcount(Renderer& r, const Value& v, const Args&) {
  const Value text = r.to_string(v);
  if (r.failed() || !r.charge(text.str().size() / 32)) return {};
  int64_t n = 0;
  bool inside = false;
  for (size_t i = 0; i < text.str().size();) {  // runs of \w
    const size_t begin = i;
    const uint32_t c = next_code_point(text.str(), i);
    const bool word = c == '_' || is_alnum(text.str().substr(begin, i - begin));
    n += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::integer(n);
}

Value to_int(Renderer& r, const Value& v, const Args& args) {
  const Value* fallback = args.get(0, "default");
  const int64_t base = int_argument(r, args, 1, "base", 10);
  if (r.failed()) return {};
  if (v.is_undefined()) return r.fail_type(v, "int");
  const Value otherwise = fallback != nullptr ? *fallback : Value::integer(0);
  double real = 0;
  if (v.is_string()) {
    if (v.str().size() > 4096) return otherwise;  // no number is that long
    if (const auto i = parse_int(v.str(), base >= 0 && base <= 36 ? static_cast<int>(base) : 10)) {
      return Value::integer(*i);
    }
    const auto f = parse_float(v.str());
    if (!f) return otherwise;
    real = *f;
  } else if (v.is_integral()) {
    return Value::integer(v.as_int());
  } else if (v.is_number()) {
    real = v.as_double();
  } else {
    return otherwise;
  }
  if (!(std::fabs(real) < 9.2e18)) {
    return std::isfinite(real) ? r.fail_limit("an integer of more than 64 bits") : otherwise;
  }
  return Value::integer(static_cast<int64_t>(real));
}

Value to_float(Renderer& r, const Value& v, const Args& args) {
  const Value* fallback = args.get(0, "default");
  if (v.is_undefined()) return r.fail_type(v, "float");
  if (v.is_number()) return Value::real(v.as_double());
  if (v.is_string() && v.str().size() <= 4096) {
    if (const auto f = parse_float(v.str())) return Value::real(*f);
  }
  return fallback != nullptr ? *fallback : Value::real(0);
}

Value absolute(Renderer& r, const Value& v, const Args&) {
  if (v.is(Kind::kFloat)) return Value::real(std::fabs(v.as_double()));
  if (!v.is_integral() || v.as_int() == INT64_MIN) return r.fail_type(v, "abs");
  return Value::integer(std::abs(v.as_int()));
}

Value round_filter(Renderer& r, const Value& v, const Args& args) {
  const int64_t precision = int_argument(r, args, 0, "precision", 0);
  const Value* how = args.get(1, "method");
  const std::string_view method = how != nullptr ? as_text(*how) : "common";
  if (r.failed()) return {};
  if (!v.is_number()) return r.fail_type(v, "round");
  if (precision < 0 || precision > 300) return r.fail("round: a precision of 0..300");
  const double x = v.as_double();
  if (method == "common") {
    if (v.is_integral()) return Value::integer(v.as_int());
    if (!std::isfinite(x)) return v;
    char text[700];  // 309 digits, a point, 300 digits
    std::snprintf(text, sizeof(text), "%.*f", static_cast<int>(precision), x);
    return Value::real(parse_float(text).value_or(x));
  }
  if (method != "ceil" && method != "floor")
    return r.fail("round: method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return Value::real((method == "ceil" ? std::ceil(x * scale) : std::floor(x * scale)) / scale);
}

// ---- sequences

// Texts compare without regard to case unless asked.
Value sort_key(Renderer& r, const Value& v, bool case_sensitive) {
  return v.is_string() && !case_sensitive ? r.call_method(v, "lower", {}) : v;
}

struct Keyed {
  Value key, item;
};

std::vector<Keyed> keyed_items(Renderer& r,
                               const Value& v,
                               const Value* attribute,
                               bool case_sensitive) {
  const Value items = r.iterate(v);
  std::vector<Keyed> out;
  if (r.failed() || !r.room(items.size() * sizeof(Keyed))) return out;
  out.reserve(items.size());
  for (size_t i = 0; i < items.size() && !r.failed(); ++i) {
    Value item = items.at(i);
    Value key = attribute != nullptr && !attribute->is_none() ? r.path(item, *attribute) : item;
    out.push_back({sort_key(r, key, case_sensitive), std::move(item)});
  }
  return out;
}

// Merge sort by hand: the comparison may fail at any point, and std's sorts must not see an order
// that changes.
void sort_keyed(Renderer& r, std::vector<Keyed>& items, bool descending) {
  std::vector<Keyed> other(items.size());
  for (size_t width = 1; width < items.size() && !r.failed(); width *= 2) {
    for (size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items.size());
      const size_t end = std::min(begin + 2 * width, items.size());
      size_t a = begin;
      size_t b = middle;
      for (size_t out = begin; out < end; ++out) {
        const bool from_b =
            a == middle || (b < end && (descending ? r.less(items[a].key, items[b].key)
                                                   : r.less(items[b].key, items[a].key)));
        other[out] = items[from_b ? b++ : a++];
      }
    }
    items.swap(other);
  }
}

Value sort(Renderer& r, const Value& v, const Args& args) {
  const bool descending = bool_argument(args, 0, "reverse", false);
  auto items =
      keyed_items(r, v, args.get(2, "attribute"), bool_argument(args, 1, "case_sensitive", false));
  sort_keyed(r, items, descending);
  std::vector<Value> out;
  out.reserve(items.size());
  for (Keyed& k : items) out.push_back(std::move(k.item));
  return r.failed() ? Value() : r.make_list(std::move(out));
}

Value dictsort(Renderer& r, const Value& v, const Args& args) {
  if (!v.is_dict()) return r.fail_type(v, "dictsort");
  const bool case_sensitive = bool_argument(args, 0, "case_sensitive", false);
  const Value* by = args.get(1, "by");
  const size_t position = by != nullptr && as_text(*by) == "value" ? 1 : 0;
  const Value pairs = r.call_method(v, "items", {});
  const Value index = Value::integer(static_cast<int64_t>(position));
  auto items = keyed_items(r, pairs, &index, case_sensitive);
  sort_keyed(r, items, bool_argument(args, 2, "reverse", false));
  std::vector<Value> out;
  for (Keyed& k : items) out.push_back(std::move(k.item));
  return r.failed() ? Value() : r.make_list(std::move(out));
}

Value unique(Renderer& r, const Value& v, const Args& args) {
  const auto items =
      keyed_items(r, v, args.get(1, "attribute"), bool_argument(args, 0, "case_sensitive", false));
  std::vector<Value> keys;
  std::vector<Value> out;
  for (const Keyed& k : items) {
    bool seen = false;
    for (size_t i = 0; i < keys.size() && !seen && !r.failed(); ++i)
      seen = r.equals(keys[i], k.key);
    if (r.failed()) return {};
    if (seen) continue;
    keys.push_back(k.key);
    out.push_back(k.item);
  }
  return r.failed() ? Value() : r.make_list(std::move(out));
}

Value extreme(Renderer& r, const Value& v, const Args& args, bool greatest) {
  const auto items =
      keyed_items(r, v, args.get(1, "attribute"), bool_argument(args, 0, "case_sensitive", false));
  if (r.failed() || items.empty()) return Value::undefined("item of an empty sequence");
  size_t best = 0;
  for (size_t i = 1; i < items.size() && !r.failed(); ++i) {
    if (greatest ? r.less(items[best].key, items[i].key) : r.less(items[i].key, items[best].key))
      best = i;
  }
  return items[best].item;
}
Value minimum(Renderer& r, const Value& v, const Args& args) { return extreme(r, v, args, false); }
Value maximum(Renderer& r, const Value& v, const Args& args) { return extreme(r, v, args, true); }

Value sum(Renderer& r, const Value& v, const Args& args) {
  const Value* attribute = args.get(0, "attribute");
  const Value* start = args.get(1, "start");
  Value total = start != nullptr ? *start : Value::integer(0);
  const Value items = r.iterate(v);
  for (size_t i = 0; !r.failed() && i < items.size(); ++i) {
    const Value item = items.at(i);
    total = r.add(total,
                  attribute != nullptr && !attribute->is_none() ? r.path(item, *attribute) : item);
  }
  return r.failed() ? Value() : total;
}

// select, reject, selectattr, rejectattr.
Value choose(Renderer& r, const Value& v, const Args& args, bool by_attribute, bool wanted) {
  const Value* attribute = by_attribute ? args.get(0, "attribute") : nullptr;
  if (by_attribute && attribute == nullptr) return r.fail("an attribute is missing");
  const size_t test_at = by_attribute ? 1 : 0;
  uint32_t test = kUnknownName;
  Args rest;
  if (args.positional.size() > test_at) {
    const Value& name = args.positional[test_at];
    test = test_index(as_text(name));
    if (test == kUnknownName) return r.fail("no test named '" + escape_text(as_text(name)) + "'");
    rest.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(test_at) + 1,
                           args.positional.end());
  }
  const Value items = r.iterate(v);
  std::vector<Value> out;
  for (size_t i = 0; !r.failed() && i < items.size() && r.charge(1); ++i) {
    const Value item = items.at(i);
    const Value tested = by_attribute ? r.path(item, *attribute) : item;
    if (r.failed()) return {};
    const bool yes = test == kUnknownName ? tested.truthy() : r.apply_test(test, tested, rest);
    if (yes == wanted) out.push_back(item);
  }
  return r.failed() ? Value() : r.make_list(std::move(out));
}
Value select(Renderer& r, const Value& v, const Args& a) { return choose(r, v, a, false, true); }
Value reject(Renderer& r, const Value& v, const Args& a) { return choose(r, v, a, false, false); }
Value selectattr(Renderer& r, const Value& v, const Args& a) { return choose(r, v, a, true, true); }
Value rejectattr(Renderer& r, const Value& v, const Args& a) {
  return choose(r, v, a, true, false);
}

Value map(Renderer& r, const Value& v, const Args& args) {
  const Value* attribute = nullptr;
  const Value* fallback = nullptr;
  for (const auto& [name, value] : args.named) {
    if (name == "attribute") attribute = &value;
    if (name == "default") fallback = &value;
  }
  uint32_t filter = kUnknownName;
  Args rest;
  if (attribute == nullptr) {
    if (args.positional.empty()) return r.fail("map takes a filter or an attribute");
    filter = filter_index(as_text(args.positional[0]));
    if (filter == kUnknownName) {
      return r.fail("no filter named '" + escape_text(as_text(args.positional[0])) + "'");
    }
    rest.positional.assign(args.positional.begin() + 1, args.positional.end());
    rest.named = args.named;
  }
  const Value items = r.iterate(v);
  std::vector<Value> out;
  for (size_t i = 0; !r.failed() && i < items.size() && r.charge(1); ++i) {
    const Value item = items.at(i);
    Value mapped =
        attribute != nullptr ? r.path(item, *attribute) : r.apply_filter(filter, item, rest);
    if (mapped.is_undefined() && attribute != nullptr && fallback != nullptr) mapped = *fallback;
    out.push_back(std::move(mapped));
  }
  return r.failed() ? Value() : r.make_list(std::move(out));
}

Value batch(Renderer& r, const Value& v, const Args& args) {
  const int64_t n = int_argument(r, args, 0, "linecount", 0);
  const Value* fill = args.get(1, "fill_with");
  const Value items = r.iterate(v);
  if (r.failed()) return {};
  if (n < 1 || n > 1'000'000) return r.fail("batch: a size of 1..1000000");
  std::vector<Value> out;
  std::vector<Value> row;
  for (size_t i = 0; i < items.size() && r.charge(1); ++i) {
    row.push_back(items.at(i));
    if (row.size() < static_cast<size_t>(n) && i + 1 < items.size()) continue;
    if (fill != nullptr && !fill->is_none()) {
      if (!r.room(static_cast<uint64_t>(n) * sizeof(Value))) return {};
      row.resize(static_cast<size_t>(n), *fill);
    }
    out.push_back(r.make_list(std::move(row)));
    row = {};
  }
  return r.failed() ? Value() : r.make_list(std::move(out));
}

// Only what a namespace or loop has: never items, and there is nothing else behind a dot here.
Value attr(Renderer& r, const Value& v, const Args& args) {
  const Value* name = args.get(0, "name");
  if (name == nullptr || !name->is_string()) return r.fail("attr takes a name");
  if (v.is(Kind::kNamespace)) return r.attribute(v, name->str());
  return Value::undefined("attribute");
}

struct Entry {
  std::string_view name;
  Filter filter;
};

// clang-format off
constexpr Entry kFilters[] = {
    {"abs", absolute}, {"attr", attr}, {"batch", batch}, {"capitalize", capitalize_filter},
    {"center", center}, {"count", length}, {"d", default_value}, {"default", default_value},
    {"dictsort", dictsort}, {"e", escape_html}, {"escape", escape_html}, {"first", first},
    {"float", to_float}, {"forceescape", escape_html}, {"indent", indent}, {"int", to_int},
    {"items", items_filter}, {"join", join}, {"last", last}, {"length", length}, {"list", list},
    {"lower", lower}, {"map", map}, {"max", maximum}, {"min", minimum}, {"reject", reject},
    {"rejectattr", rejectattr}, {"replace", replace}, {"reverse", reverse},
    {"round", round_filter}, {"safe", same}, {"select", select}, {"selectattr", selectattr},
    {"sort", sort}, {"string", to_text}, {"sum", sum}, {"title", title}, {"tojson", to_json},
    {"trim", trim}, {"truncate", truncate}, {"unique", unique}, {"upper", upper},
    {"wordcount", wordcount}};
// clang-format on

}  // namespace

uint32_t filter_index(std::string_view name) {
  for (uint32_t i = 0; i < std::size(kFilters); ++i) {
    if (kFilters[i].name == name) return i;
  }
  return kUnknownName;
}

Value Renderer::apply_filter(uint32_t index, const Value& input, const Args& args) {
  if (!charge(1)) return {};
  // map("map", "map", ...) recurses through here.
  if (++depth_ > limits_.eval_depth || stack_.exhausted()) fail_depth();
  Value result = failed_ ? Value() : kFilters[index].filter(*this, input, args);
  --depth_;
  return failed_ ? Value() : result;
}

}  // namespace sluice::jinja
