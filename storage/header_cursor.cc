// Reading a header in growing steps, and the hash of its names.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <random>
#include <utility>

#include "storage/gguf_parser.h"

namespace sluice {

uint64_t hash_name(std::string_view name) {
  static const uint64_t seed = (uint64_t{std::random_device{}()} << 32) ^ std::random_device{}();
  return XXH3_64bits_withSeed(name.data(), name.size(), seed);
}

size_t name_table_size(uint64_t n) { return std::bit_ceil(static_cast<size_t>(n) * 2 + 2); }

Result<void> HeaderCursor::fill(uint64_t n) {
  constexpr uint64_t kFirstRead = 64u << 10;
  constexpr uint64_t kLargestRead = 4u << 20;
  const uint64_t wanted = offset_ + n;  // n <= left(): inside the file
  if (wanted <= buffer_.size()) return success();
  if (wanted > GgufLimits::kHeaderBytes) {
    return Error{.code = "gguf.header_size",
                 .what = fmt::format("found a header of at least {} bytes, allowed up to {}",
                                     wanted,
                                     GgufLimits::kHeaderBytes),
                 .file = *path_,
                 .field = "header",
                 .offset = offset_};
  }
  // What is needed, and as much again as is there already: few reads for a large vocabulary, little
  // for a small file.
  const uint64_t have = buffer_.size();
  const uint64_t ahead = have + std::clamp<uint64_t>(have, kFirstRead, kLargestRead);
  const uint64_t target =
      std::min({std::max(wanted, ahead), file_bytes_, GgufLimits::kHeaderBytes});
  buffer_.resize(static_cast<size_t>(target));
  auto read = file_->pread_exact(buffer_.data() + have, static_cast<size_t>(target - have), have);
  if (!read) {
    Error e = std::move(read).error();
    e.file = *path_;
    e.field = "header";
    return e;
  }
  return success();
}

std::vector<std::byte> HeaderCursor::take_buffer() {
  buffer_.resize(static_cast<size_t>(offset_));
  return std::move(buffer_);
}

}  // namespace sluice
