// Parses the header of one GGUF file into tables of plain numbers. Internal to storage:
// GgufFile::open joins the parts of a model. Every count is compared with the bytes that are left
// before anything depends on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "storage/file.h"
#include "storage/gguf_reader.h"

namespace sluice {

// Index over names for duplicates and lookups: open addressing over 32-bit entries (index + 1; 0 is
// free), hashed with a seed of this process, so that no file can be made to collide on purpose.
uint64_t hash_name(std::string_view name);
// Entries for `n` names: a power of two, at most half full.
size_t name_table_size(uint64_t n);

// The header of one file, as the file's bytes are read: pread in growing steps into private memory.
class HeaderCursor {
 public:
  HeaderCursor(const File& file, uint64_t file_bytes, const std::string& path)
      : file_(&file), file_bytes_(file_bytes), path_(&path) {}

  uint64_t offset() const { return offset_; }
  uint64_t left() const { return file_bytes_ - offset_; }
  uint64_t file_bytes() const { return file_bytes_; }
  const std::byte* at(uint64_t offset) const { return buffer_.data() + offset; }
  std::string_view text(uint64_t offset, uint64_t n) const {
    return {reinterpret_cast<const char*>(buffer_.data()) + offset, static_cast<size_t>(n)};
  }

  // True when the n bytes at offset() are in memory already.
  bool has(uint64_t n) const { return n <= buffer_.size() - offset_; }
  // Brings them in. n <= left(). Errors: io.read, gguf.header_size.
  Result<void> fill(uint64_t n);
  void skip(uint64_t n) { offset_ += n; }

  // Ends reading: the buffer, cut at offset().
  std::vector<std::byte> take_buffer();

 private:
  const File* file_;
  uint64_t file_bytes_;
  const std::string* path_;
  uint64_t offset_ = 0;  // <= buffer_.size() after every fill
  std::vector<std::byte> buffer_;
};

struct ParsedHeader {
  uint32_t version = 0;
  std::vector<std::byte> bytes;   // the header copy
  std::vector<GgufValue> values;  // views into `bytes`: moving the vector keeps them
  std::vector<GgufTensor> tensors;
  std::vector<uint32_t> value_index;
  uint64_t data_offset = 0;
  std::vector<std::string> warnings;
};

// Errors: gguf.*, io.read; each with file, and all gguf.* with offset and field.
Result<ParsedHeader> parse_gguf_header(const File& file,
                                       uint64_t file_bytes,
                                       const std::string& path);

}  // namespace sluice
