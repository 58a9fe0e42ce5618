#include "storage/gguf_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/bytes.h"
#include "base/text_escape.h"

namespace sluice {
namespace {

static_assert(std::endian::native == std::endian::little,
              "GGUF numbers are read as they lie in the file");

using Limits = GgufLimits;
constexpr uint64_t kMaxCount = static_cast<uint64_t>(INT64_MAX);
constexpr uint64_t kMinKeyBytes = 13;  // length, no text, type, one byte of value
constexpr uint64_t kMinTensorBytes =
    25;  // length, one character, n_dims, type, offset (as the reference reader counts)
constexpr uint32_t kNValueTypes = 13;

// The name of the thing being read, put together only when it is needed for an error.
struct Field {
  const char* before = "";
  uint64_t index = UINT64_MAX;  // printed when it is set
  std::string_view name{};      // from the file: escaped when printed
  const char* after = "";

  std::string str() const {
    std::string s = before;
    if (!name.empty()) s += escape_text(name);
    if (index != UINT64_MAX) s += std::to_string(index);
    return s + after;
  }
};

bool printable_ascii(std::string_view s) {
  return std::all_of(s.begin(), s.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

std::string quoted(std::string_view s) { return fmt::format("\"{}\"", escape_text(s)); }

// What else a file may be, from its first bytes; empty when there is no idea.
std::string other_format(std::string_view head) {
  const auto starts = [&](std::string_view s) { return head.substr(0, s.size()) == s; };
  std::string lower(head.substr(0, 16));
  for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  if (starts("version https://git-lfs"))
    return "a git-lfs pointer: fetch the file itself with git lfs pull";
  if (lower.starts_with("<!doctype html") || lower.starts_with("<html"))
    return "an HTML page, not the download itself";
  if (starts("\x1f\x8b")) return "gzip: decompress it first";
  if (starts("PK\x03\x04")) return "a zip archive: unpack it first";
  if (starts("\x28\xb5\x2f\xfd")) return "zstd: decompress it first";
  if (starts(std::string_view("\xfd"
                              "7zXZ\0",
                              6)))
    return "xz: decompress it first";
  if (starts("\x7f"
             "ELF"))
    return "an ELF program";
  if (starts("FUGG")) return "other byte order: a big-endian machine's magic";
  if (starts("GGML") || starts("GGJT") || starts("GGMF") || starts("lmgg") || starts("tjgg") ||
      starts("fmgg")) {
    return "a model format older than GGUF";
  }
  if (head.size() > 9 && head[8] == '{' && (head[9] == '"' || head[9] == ' '))
    return "a safetensors file";
  return {};
}

class HeaderParser {
 public:
  HeaderParser(const File& file, uint64_t file_bytes, const std::string& path)
      : in_(file, file_bytes, path), path_(path) {}

  Result<ParsedHeader> parse() {
    SLUICE_TRY(read_preamble());
    SLUICE_TRY(read_values());
    SLUICE_TRY(read_alignment());
    SLUICE_TRY(read_tensors());
    SLUICE_TRY(place_tensors());
    out_.bytes = in_.take_buffer();
    resolve_views();
    return std::move(out_);
  }

 private:
  // Names and values by position while the buffer may still move.
  struct Span {
    uint64_t offset = 0, bytes = 0;
  };

  Error bad(const Field& field, uint64_t offset, std::string what, const char* code) const {
    return Error{.code = code,
                 .what = std::move(what),
                 .file = path_,
                 .field = field.str(),
                 .offset = offset};
  }

  std::string counts() const {
    return fmt::format(" (the header says n_kv {}, n_tensors {})", n_values_, n_tensors_);
  }

  Error truncated(const Field& field, uint64_t needed) const {
    return bad(field,
               in_.offset(),
               fmt::format("found {} bytes left of file size {}, allowed at least {}",
                           in_.left(),
                           in_.file_bytes(),
                           needed) +
                   (counted_ ? counts() : std::string()),
               "gguf.truncated");
  }

  Result<void> need(uint64_t n, const Field& field) {
    if (in_.has(n)) return success();
    if (n > in_.left()) return truncated(field, n);
    return in_.fill(n);
  }

  template <class T>
  Result<T> number(const Field& field) {
    SLUICE_TRY(need(sizeof(T), field));
    const T value = load<T>(in_.offset());
    in_.skip(sizeof(T));
    return value;
  }

  template <class T>
  T load(uint64_t offset) const {
    T value;
    std::memcpy(&value, in_.at(offset), sizeof value);
    return value;
  }

  // Length and bytes of a string; the bytes are where the result says.
  Result<Span> string(const Field& length_field, uint64_t limit, const char* code) {
    const uint64_t start = in_.offset();
    SLUICE_TRY(const uint64_t n, number<uint64_t>(length_field));
    if (n > limit) {
      return bad(
          length_field,
          start,
          fmt::format("found {}, allowed 0..{} and the {} bytes left", n, limit, in_.left()) +
              counts(),
          code);
    }
    SLUICE_TRY(need(n, length_field));
    const Span span{in_.offset(), n};
    in_.skip(n);
    return span;
  }

  Result<void> read_preamble();
  Result<void> read_values();
  Result<void> read_value(GgufValue& value, Span& span, std::string_view key);
  Result<void> read_array(GgufValue& value, Span& span, std::string_view key);
  Result<void> skip_strings(uint64_t count, std::string_view key);
  Result<void> read_alignment();
  Result<void> read_tensors();
  Result<void> read_tensor(uint64_t index);
  Result<void> read_tensor_shape(GgufTensor& tensor, std::string_view name);
  Result<void> place_tensors();
  void resolve_views();
  std::string shape_text(size_t i) const;  // "dims of NAME: 64 x 290, Q8_0"

  std::string_view key_text(size_t i) const { return in_.text(keys_[i].offset, keys_[i].bytes); }
  std::string_view name_text(size_t i) const { return in_.text(names_[i].offset, names_[i].bytes); }

  HeaderCursor in_;
  const std::string& path_;
  ParsedHeader out_;
  uint64_t n_tensors_ = 0, n_values_ = 0;
  bool counted_ = false;
  uint64_t alignment_ = 32;
  std::vector<Span> keys_, payloads_;    // of out_.values
  std::vector<Span> names_;              // of out_.tensors
  std::vector<uint64_t> offset_fields_;  // where each tensor's offset stands, for error lines
};

Result<void> HeaderParser::read_preamble() {
  constexpr uint64_t kPreamble = 24;
  const uint64_t head_bytes = std::min<uint64_t>(in_.file_bytes(), 64);
  SLUICE_TRY(in_.fill(head_bytes));
  const std::string_view head = in_.text(0, head_bytes);
  const std::string_view magic = head.substr(0, 4);
  if (std::string_view("GGUF").substr(0, magic.size()) != magic) {
    std::string what = "found " + quoted(magic);
    const std::string guess = other_format(head);
    if (!guess.empty()) what += " (" + guess + ")";
    return bad({"magic"}, 0, what + ", allowed \"GGUF\"", "gguf.magic");
  }
  if (in_.file_bytes() < kPreamble) {
    return bad(
        {"header"},
        0,
        fmt::format(
            "found a file size of {} bytes, allowed at least {}", in_.file_bytes(), kPreamble),
        "gguf.truncated");
  }
  in_.skip(4);
  SLUICE_TRY(out_.version, number<uint32_t>({"version"}));
  if (out_.version != 2 && out_.version != 3) {
    const uint32_t swapped = __builtin_bswap32(out_.version);
    const bool other_order = swapped >= 1 && swapped <= 0xffff && (out_.version & 0xffff) == 0;
    return bad(
        {"version"},
        4,
        fmt::format(
            "found {}{}, allowed 2..3", out_.version, other_order ? " (other byte order)" : ""),
        "gguf.version");
  }
  SLUICE_TRY(n_tensors_, number<uint64_t>({"n_tensors"}));
  SLUICE_TRY(n_values_, number<uint64_t>({"n_kv"}));
  counted_ = true;
  const auto check = [&](const char* field,
                         uint64_t at,
                         uint64_t found,
                         uint64_t limit,
                         uint64_t least) -> Result<void> {
    const uint64_t most = std::min(limit, in_.left() / least);
    if (found <= most) return success();
    return bad({field},
               at,
               fmt::format("found {}, allowed 0..{} ({} bytes left of file size {})",
                           found,
                           most,
                           in_.left(),
                           in_.file_bytes()),
               "gguf.count");
  };
  SLUICE_TRY(check("n_tensors", 8, n_tensors_, Limits::kTensors, kMinTensorBytes));
  SLUICE_TRY(check("n_kv", 16, n_values_, Limits::kKeys, kMinKeyBytes));
  return success();
}

Result<void> HeaderParser::read_values() {
  out_.value_index.assign(name_table_size(n_values_), 0);
  const size_t mask = out_.value_index.size() - 1;
  for (uint64_t i = 0; i < n_values_; ++i) {
    const Field field{"key ", i};
    GgufValue value;
    value.key_offset = in_.offset();
    SLUICE_TRY(const Span key_span,
               string({"key ", i, {}, " length"}, Limits::kKeyBytes, "gguf.key"));
    const std::string_view key = in_.text(key_span.offset, key_span.bytes);
    if (key.empty()) {
      return bad(field,
                 value.key_offset,
                 "found an empty key, allowed 1..65535 bytes" + counts(),
                 "gguf.key");
    }
    size_t slot = hash_name(key) & mask;
    for (; out_.value_index[slot] != 0; slot = (slot + 1) & mask) {
      const size_t other = out_.value_index[slot] - 1;
      if (key_text(other) != key) continue;
      return bad(field,
                 value.key_offset,
                 fmt::format("found {} again (first at offset {}), allowed once",
                             quoted(key),
                             out_.values[other].key_offset),
                 "gguf.duplicate_key");
    }
    if (!printable_ascii(key)) {
      return bad(field,
                 value.key_offset,
                 "found " + quoted(key) + ", allowed printable ASCII",
                 "gguf.key");
    }
    const uint64_t type_offset = in_.offset();
    SLUICE_TRY(const uint32_t type, number<uint32_t>({"type of key ", i}));
    if (type >= kNValueTypes) {
      return bad({"type of key ", i},
                 type_offset,
                 fmt::format("found {} for {}, allowed 0..12",
                             type,
                             quoted(in_.text(key_span.offset, key_span.bytes))) +
                     counts(),
                 "gguf.value_type");
    }
    value.type = static_cast<GgufValueType>(type);
    value.value_offset = in_.offset();
    Span payload;
    // The key's text may move while its value is read: errors get a copy.
    const std::string key_copy(in_.text(key_span.offset, key_span.bytes));
    SLUICE_TRY(read_value(value, payload, key_copy));
    out_.value_index[slot] = static_cast<uint32_t>(out_.values.size() + 1);
    out_.values.push_back(value);
    keys_.push_back(key_span);
    payloads_.push_back(payload);
  }
  return success();
}

Result<void> HeaderParser::read_value(GgufValue& value, Span& span, std::string_view key) {
  const Field field{"", UINT64_MAX, key};
  value.count = 1;
  if (value.type == GgufValueType::kArray) return read_array(value, span, key);
  if (value.type == GgufValueType::kString) {
    SLUICE_TRY(span, string({"", UINT64_MAX, key, " length"}, Limits::kStringBytes, "gguf.string"));
    return success();
  }
  const uint64_t n = gguf_scalar_bytes(value.type);
  SLUICE_TRY(need(n, field));
  span = {in_.offset(), n};
  if (value.type == GgufValueType::kBool && load<uint8_t>(span.offset) > 1) {
    return bad(field,
               span.offset,
               fmt::format("found {} in a bool, allowed 0..1", load<uint8_t>(span.offset)),
               "gguf.bool");
  }
  in_.skip(n);
  return success();
}

Result<void> HeaderParser::read_array(GgufValue& value, Span& span, std::string_view key) {
  const uint64_t type_offset = in_.offset();
  const Field type_field{"", UINT64_MAX, key, " element type"};
  SLUICE_TRY(const uint32_t type, number<uint32_t>(type_field));
  if (type == static_cast<uint32_t>(GgufValueType::kArray)) {
    return bad(type_field,
               type_offset,
               "found an array of arrays, allowed scalars and strings",
               "gguf.array");
  }
  if (type >= kNValueTypes) {
    return bad(
        type_field, type_offset, fmt::format("found {}, allowed 0..12 but 9", type), "gguf.array");
  }
  value.elem_type = static_cast<GgufValueType>(type);
  const uint64_t count_offset = in_.offset();
  const Field count_field{"", UINT64_MAX, key, " count"};
  SLUICE_TRY(value.count, number<uint64_t>(count_field));
  const bool strings = value.elem_type == GgufValueType::kString;
  const uint64_t least = strings ? 8 : gguf_scalar_bytes(value.elem_type);
  if (value.count > in_.left() / least) {
    return bad(
        count_field,
        count_offset,
        fmt::format("found {}, allowed 0..{} ({} bytes left of file size {}, {} or more for each)",
                    value.count,
                    in_.left() / least,
                    in_.left(),
                    in_.file_bytes(),
                    least),
        "gguf.array");
  }
  span.offset = in_.offset();
  if (strings) {
    SLUICE_TRY(skip_strings(value.count, key));
  } else {
    const uint64_t bytes = value.count * least;  // fits: at most the bytes left
    SLUICE_TRY(need(bytes, {"", UINT64_MAX, key}));
    in_.skip(bytes);
  }
  span.bytes = in_.offset() - span.offset;
  if (value.elem_type == GgufValueType::kBool) {
    const auto* first = in_.at(span.offset);
    const auto* wrong =
        std::find_if(first, first + span.bytes, [](std::byte b) { return b > std::byte{1}; });
    if (wrong != first + span.bytes) {
      return bad({"", UINT64_MAX, key},
                 span.offset + static_cast<uint64_t>(wrong - first),
                 fmt::format("found {} in a bool, allowed 0..1", static_cast<int>(*wrong)),
                 "gguf.bool");
    }
  }
  return success();
}

// Walks over the elements; a loop of its own because vocabularies have 10^5 of them.
Result<void> HeaderParser::skip_strings(uint64_t count, std::string_view key) {
  for (uint64_t i = 0; i < count; ++i) {
    const auto name = [&](const char* what) {
      return Error{.code = {},
                   .what = {},
                   .file = path_,
                   .field = fmt::format("{}[{}]{}", escape_text(key), i, what)};
    };
    if (!in_.has(8)) {
      if (in_.left() < 8) {
        Error e = truncated({}, 8);
        e.field = name(" length").field;
        return e;
      }
      SLUICE_TRY(in_.fill(8));
    }
    const auto n = load<uint64_t>(in_.offset());
    if (n > Limits::kStringBytes) {
      Error e = name(" length");
      e.code = "gguf.string";
      e.offset = in_.offset();
      e.what = fmt::format(
          "found {}, allowed 0..{} and the {} bytes left", n, Limits::kStringBytes, in_.left() - 8);
      return e;
    }
    in_.skip(8);
    if (!in_.has(n)) {
      if (in_.left() < n) {
        Error e = truncated({}, n);
        e.field = name("").field;
        return e;
      }
      SLUICE_TRY(in_.fill(n));
    }
    in_.skip(n);
  }
  return success();
}

Result<void> HeaderParser::read_alignment() {
  for (size_t i = 0; i < out_.values.size(); ++i) {
    if (key_text(i) != "general.alignment") continue;
    const GgufValue& v = out_.values[i];
    const Field field{"general.alignment"};
    if (v.type != GgufValueType::kU32) {
      return bad(field,
                 v.key_offset,
                 fmt::format("found type {}, allowed u32", gguf_value_type_name(v.type)),
                 "gguf.alignment");
    }
    alignment_ = load<uint32_t>(payloads_[i].offset);
    if (alignment_ < Limits::kMinAlignment || alignment_ > Limits::kMaxAlignment ||
        !std::has_single_bit(alignment_)) {
      return bad(field,
                 v.key_offset,
                 fmt::format("found {}, allowed a power of two in {}..{}",
                             alignment_,
                             Limits::kMinAlignment,
                             Limits::kMaxAlignment),
                 "gguf.alignment");
    }
  }
  return success();
}

Result<void> HeaderParser::read_tensors() {
  std::vector<uint32_t> index(name_table_size(n_tensors_), 0);
  const size_t mask = index.size() - 1;
  for (uint64_t i = 0; i < n_tensors_; ++i) {
    SLUICE_TRY(read_tensor(i));
    const std::string_view name = name_text(i);
    size_t slot = hash_name(name) & mask;
    for (; index[slot] != 0; slot = (slot + 1) & mask) {
      const size_t other = index[slot] - 1;
      if (name_text(other) != name) continue;
      return bad({"name of tensor ", i},
                 out_.tensors[i].info_offset,
                 fmt::format("found {} again (first at offset {}), allowed once",
                             quoted(name),
                             out_.tensors[other].info_offset),
                 "gguf.duplicate_tensor");
    }
    index[slot] = static_cast<uint32_t>(i + 1);
  }
  return success();
}

Result<void> HeaderParser::read_tensor(uint64_t index) {
  GgufTensor tensor;
  tensor.info_offset = in_.offset();
  const Field field{"name of tensor ", index};
  SLUICE_TRY(
      const Span name_span,
      string({"name of tensor ", index, {}, " length"}, Limits::kNameBytes, "gguf.tensor_name"));
  const std::string name(in_.text(name_span.offset, name_span.bytes));
  if (name.empty() || !printable_ascii(name)) {
    return bad(field,
               tensor.info_offset,
               "found " + quoted(name) + ", allowed 1..63 characters of printable ASCII" + counts(),
               "gguf.tensor_name");
  }
  SLUICE_TRY(read_tensor_shape(tensor, name));
  const uint64_t at = in_.offset();
  SLUICE_TRY(tensor.file_offset,
             number<uint64_t>({"offset of ", UINT64_MAX, name}));  // within the data section so far
  if (tensor.file_offset % alignment_ != 0) {
    return bad(
        {"offset of ", UINT64_MAX, name},
        at,
        fmt::format(
            "found {}, allowed multiples of general.alignment {}", tensor.file_offset, alignment_),
        "gguf.offset_align");
  }
  names_.push_back(name_span);
  offset_fields_.push_back(at);
  out_.tensors.push_back(tensor);
  return success();
}

// n_dims, dims and type; n_bytes by checked arithmetic only.
Result<void> HeaderParser::read_tensor_shape(GgufTensor& tensor, std::string_view name) {
  const uint64_t n_dims_offset = in_.offset();
  const Field n_dims_field{"n_dims of ", UINT64_MAX, name};
  SLUICE_TRY(tensor.n_dims, number<uint32_t>(n_dims_field));
  if (tensor.n_dims < 1 || tensor.n_dims > 4) {
    return bad(n_dims_field,
               n_dims_offset,
               fmt::format("found {}, allowed 1..4", tensor.n_dims),
               "gguf.dims");
  }
  const uint64_t dims_offset = in_.offset();
  const Field dims_field{"dims of ", UINT64_MAX, name};
  uint64_t n_elements = 1;
  std::string shape;
  for (uint32_t d = 0; d < tensor.n_dims; ++d) {
    const uint64_t at = in_.offset();
    SLUICE_TRY(tensor.dims[d], number<uint64_t>(dims_field));
    if (tensor.dims[d] < 1 || tensor.dims[d] > kMaxCount) {
      return bad(dims_field,
                 at,
                 fmt::format("found dims[{}] = {}, allowed 1..{}", d, tensor.dims[d], kMaxCount),
                 "gguf.dims");
    }
    shape += (d > 0 ? " x " : "") + std::to_string(tensor.dims[d]);
    if (!checked_mul(n_elements, tensor.dims[d], n_elements) || n_elements > kMaxCount) {
      return bad(dims_field,
                 dims_offset,
                 "found " + shape + " elements, allowed a product up to 2^63 - 1",
                 "gguf.dims");
    }
  }
  const uint64_t type_offset = in_.offset();
  const Field type_field{"type of ", UINT64_MAX, name};
  SLUICE_TRY(tensor.type_id, number<uint32_t>(type_field));
  const GgufTensorTypeInfo type = gguf_tensor_type(tensor.type_id);
  if (type.group_size == 0) {
    return bad(type_field,
               type_offset,
               fmt::format(
                   "found {}, allowed a tensor type of the GGUF specification (unknown or removed)",
                   tensor.type_id),
               "gguf.tensor_type");
  }
  if (tensor.dims[0] % type.group_size != 0) {
    return bad(dims_field,
               dims_offset,
               fmt::format("found dims[0] = {}, allowed multiples of {} for {}",
                           tensor.dims[0],
                           type.group_size,
                           type.name),
               "gguf.dims");
  }
  if (!checked_mul(n_elements / type.group_size, type.group_bytes, tensor.n_bytes) ||
      tensor.n_bytes > kMaxCount) {
    return bad(dims_field,
               dims_offset,
               "found " + shape + " of " + type.name + ", allowed up to 2^63 - 1 bytes",
               "gguf.dims");
  }
  return success();
}

std::string HeaderParser::shape_text(size_t i) const {
  const GgufTensor& t = out_.tensors[i];
  std::string s = "dims of " + escape_text(name_text(i)) + ": ";
  for (uint32_t d = 0; d < t.n_dims; ++d) s += (d > 0 ? " x " : "") + std::to_string(t.dims[d]);
  return s + ", " + gguf_tensor_type(t.type_id).name;
}

// Offsets against the data section and against each other; then they become positions in the file.
Result<void> HeaderParser::place_tensors() {
  const uint64_t file_bytes = in_.file_bytes();
  uint64_t start = 0;
  if (!checked_align(in_.offset(), alignment_, start)) {
    return bad({"data section"},
               in_.offset(),
               "found no room for it, allowed up to 2^64 bytes",
               "gguf.offset_range");
  }
  const uint64_t room = start <= file_bytes ? file_bytes - start : 0;
  out_.data_offset = start;

  std::vector<uint32_t> order(out_.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const GgufTensor& x = out_.tensors[a];
    const GgufTensor& y = out_.tensors[b];
    return x.file_offset != y.file_offset ? x.file_offset < y.file_offset : a < b;
  });
  uint64_t end = 0;
  uint64_t gaps = 0;
  const uint32_t* previous = nullptr;
  for (const uint32_t& i : order) {
    GgufTensor& t = out_.tensors[i];
    const Field field{"offset of ", UINT64_MAX, name_text(i)};
    if (t.file_offset > room || t.n_bytes > room - t.file_offset) {
      return bad(field,
                 offset_fields_[i],
                 fmt::format("found {} bytes at {} ({}), allowed inside the {} bytes of data that "
                             "file size {} leaves",
                             t.n_bytes,
                             t.file_offset,
                             shape_text(i),
                             room,
                             file_bytes),
                 "gguf.offset_range");
    }
    if (t.file_offset < end) {
      return bad(field,
                 offset_fields_[i],
                 fmt::format("found {}, allowed from {} on, where the data before it ends ({})",
                             t.file_offset,
                             end,
                             shape_text(*previous)),
                 "gguf.offset_overlap");
    }
    uint64_t expected = end;
    if (checked_align(end, alignment_, expected) && t.file_offset > expected)
      gaps += t.file_offset - expected;
    end = t.file_offset + t.n_bytes;  // both are inside the file
    previous = &i;
  }
  for (GgufTensor& t : out_.tensors) t.file_offset += start;

  if (gaps > 0) out_.warnings.push_back(fmt::format("{} unused bytes between tensors", gaps));
  uint64_t data_end = end;
  if (checked_align(end, alignment_, data_end) && room > data_end) {
    out_.warnings.push_back(fmt::format(
        "{} bytes after the last tensor's data, at offset {}", room - data_end, start + data_end));
  }
  return success();
}

void HeaderParser::resolve_views() {
  const auto text = [&](const Span& s) {
    return std::string_view(reinterpret_cast<const char*>(out_.bytes.data()) + s.offset,
                            static_cast<size_t>(s.bytes));
  };
  for (size_t i = 0; i < out_.values.size(); ++i) {
    out_.values[i].key = text(keys_[i]);
    out_.values[i].bytes = {out_.bytes.data() + payloads_[i].offset,
                            static_cast<size_t>(payloads_[i].bytes)};
  }
  for (size_t i = 0; i < out_.tensors.size(); ++i) out_.tensors[i].name = text(names_[i]);
}

}  // namespace

Result<ParsedHeader> parse_gguf_header(const File& file,
                                       uint64_t file_bytes,
                                       const std::string& path) {
  return HeaderParser(file, file_bytes, path).parse();
}

}  // namespace sluice
