// Reads the header of a GGUF file (v2, v3; split files from part 1) with pread into private memory, checks every
// number against the bytes that are really there, and keeps the raw header so that values are views into it.
// Nothing is mapped here and no allocation is sized by a number the file claims (limits: RELIABILITY section 3).
// A refusal is an Error with file, offset, field, and what = "found V, allowed RANGE".
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "storage/file.h"
#include "storage/gguf_types.h"

namespace sluice {

// One metadata value. `bytes` views the header copy: the scalar, the string's bytes, or the array's elements.
struct GgufValue {
  std::string_view key;
  GgufValueType type{};
  GgufValueType elem_type{};        // arrays only
  uint64_t count = 0;               // array elements; 1 otherwise
  uint64_t key_offset = 0;          // in the file: start of the key's length
  uint64_t value_offset = 0;        // in the file: start of the value
  std::span<const std::byte> bytes;
};

struct GgufTensor {
  std::string_view name;
  uint32_t n_dims = 0;
  uint64_t dims[4] = {1, 1, 1, 1};   // dims[0] is the row length (fastest)
  uint32_t type_id = 0;
  uint64_t n_bytes = 0;
  uint64_t file_offset = 0;         // absolute, in its part
  uint32_t part = 0;                // which file of a split model
  uint64_t info_offset = 0;         // where its entry stands in the header, for error lines
};

// Elements of a string array in order, without copies.
class GgufStringArray {
 public:
  explicit GgufStringArray(std::span<const std::byte> bytes, uint64_t count) : bytes_(bytes), left_(count) {}
  // The next string; nullopt at the end.
  std::optional<std::string_view> next();

 private:
  std::span<const std::byte> bytes_;
  uint64_t left_;
};

struct GgufPart {
  File file;                        // the fd that was checked; weights are mapped from it
  uint64_t file_bytes = 0;
  uint64_t data_offset = 0;         // first byte of the data section
  std::string path;
  FileIdentity identity;            // taken before the header was read
};

// The limits of RELIABILITY section 3; a file over one of them is refused with both numbers.
struct GgufLimits {
  static constexpr uint64_t kStringBytes = 16u << 20;
  static constexpr uint64_t kKeyBytes = 65535;
  static constexpr uint64_t kNameBytes = 63;
  static constexpr uint64_t kKeys = 65536;
  static constexpr uint64_t kTensors = 65536;       // of all parts together
  static constexpr uint64_t kMinAlignment = 8;
  static constexpr uint64_t kMaxAlignment = 65536;
  static constexpr uint64_t kHeaderBytes = 64u << 20;  // the private copy: no vocabulary in use needs half of it
  static constexpr uint64_t kParts = 1024;
};

class GgufFile {
 public:
  // Errors: gguf.* (see above), io.open, io.read, gguf.not_regular.
  static Result<GgufFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  std::span<const GgufValue> values() const { return values_; }
  std::span<const GgufTensor> tensors() const { return tensors_; }
  std::span<const GgufPart> parts() const { return parts_; }
  // The checked descriptors, part by part, for whoever maps them; the parts keep none.
  std::vector<File> take_files();
  // Not errors, but worth a line: bytes after the data, unaligned gaps.
  std::span<const std::string> warnings() const { return warnings_; }

  // Null when absent. Lookups are by hash.
  const GgufValue* find(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;

  // Typed reads; nullopt when absent, of another kind, or negative (uint). Any integer width is accepted.
  std::optional<uint64_t> uint(std::string_view key) const;
  std::optional<double> real(std::string_view key) const;      // F32, F64
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string_view> string(std::string_view key) const;
  // Element i of an integer/bool/float array.
  static uint64_t array_uint(const GgufValue& v, uint64_t i);   // negative values wrap: check elem_type
  static double array_real(const GgufValue& v, uint64_t i);
  static GgufStringArray array_strings(const GgufValue& v);

  // "FILE: offset N: FIELD: WHAT" as an Error. A null value (the key is missing) points at the count of keys.
  // `field` and `what` are printed as they are: text from the file must have been through escape_text.
  Error refuse(const GgufValue* v, std::string_view field, const std::string& what, const char* code) const;
  Error refuse(const GgufTensor& t, std::string_view field, const std::string& what, const char* code) const;

  // A tensor that is not there: points at the count of tensors.
  Error refuse_tensors(std::string_view field, const std::string& what, const char* code) const;

  // XXH3 of the header bytes: part of a model's identity.
  uint64_t header_hash() const { return header_hash_; }
  // Where the header copy lives and how large it is (charged while a model loads).
  uint64_t header_bytes() const;

 private:
  friend class GgufJoiner;
  std::string path_;
  uint32_t version_ = 0;
  uint64_t header_hash_ = 0;
  std::vector<std::shared_ptr<const std::vector<std::byte>>> headers_;  // one per part
  std::vector<GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  std::vector<GgufPart> parts_;
  std::vector<std::string> warnings_;
  std::vector<uint32_t> value_index_;    // open-addressed: hash -> index + 1, a power of two of entries
  std::vector<uint32_t> tensor_index_;
};

// "sluice: FILE: offset N: FIELD: found V, allowed RANGE [code]": the one line of a refusal, escaped.
std::string error_line(const Error& e);

}  // namespace sluice
