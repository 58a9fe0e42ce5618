// RAII for memory straight from the kernel: zero, charged when first touched, given back page by page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/result.h"

namespace sluice {

inline constexpr uint64_t kHugePageBytes = 2u << 20;

class AnonymousMemory {
 public:
  // `huge`: starts at a multiple of 2 MiB and asks for huge pages where the kernel has them. `name` is for the error.
  // Errors: out_of_memory.
  static Result<AnonymousMemory> create(uint64_t n_bytes, const char* name, bool huge = false);

  AnonymousMemory() = default;
  AnonymousMemory(AnonymousMemory&& o) noexcept
      : mapping_(std::exchange(o.mapping_, nullptr)), mapped_bytes_(o.mapped_bytes_), data_(std::exchange(o.data_, nullptr)), n_bytes_(o.n_bytes_) {}
  AnonymousMemory& operator=(AnonymousMemory&& o) noexcept {
    std::swap(mapping_, o.mapping_);
    std::swap(mapped_bytes_, o.mapped_bytes_);
    std::swap(data_, o.data_);
    std::swap(n_bytes_, o.n_bytes_);
    return *this;
  }
  ~AnonymousMemory();

  std::byte* data() const { return data_; }
  uint64_t size() const { return n_bytes_; }
  // Gives everything from `offset` on (a multiple of the page size) back to the kernel; it reads as zero again.
  void give_back_from(uint64_t offset);

 private:
  void* mapping_ = nullptr;
  uint64_t mapped_bytes_ = 0;
  std::byte* data_ = nullptr;
  uint64_t n_bytes_ = 0;
};

}  // namespace sluice
