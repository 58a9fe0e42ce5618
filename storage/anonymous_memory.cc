#include "storage/anonymous_memory.h"

#include <sys/mman.h>

#include <cerrno>

namespace sluice {

Result<AnonymousMemory> AnonymousMemory::create(uint64_t n_bytes, const char* name, bool huge) {
  AnonymousMemory m;
  m.n_bytes_ = n_bytes;
  m.mapped_bytes_ = n_bytes + (huge ? kHugePageBytes : 0);
  if (m.mapped_bytes_ == 0) return m;
  void* p = mmap(nullptr, m.mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return errno_error("out_of_memory", std::string("mmap of ") + name, errno);
  m.mapping_ = p;
  m.data_ = static_cast<std::byte*>(p);
  if (huge) {
    const auto address = reinterpret_cast<uintptr_t>(p);
    m.data_ += (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
    // Only whole huge pages: the tail must not draw in more than was asked for.
    madvise(m.data_, n_bytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  }
  return m;
}

AnonymousMemory::~AnonymousMemory() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_bytes_);
}

void AnonymousMemory::give_back_from(uint64_t offset) {
  if (offset < n_bytes_) madvise(data_ + offset, n_bytes_ - offset, MADV_DONTNEED);
}

}  // namespace sluice
