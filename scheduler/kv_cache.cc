#include "scheduler/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace sluice {

const char* kv_type_name(kernels::KvType type) {
  switch (type) {
    case kernels::KvType::kF16: return "f16";
    case kernels::KvType::kQ8_0: return "q8_0";
    default: return "f32";
  }
}

Result<kernels::KvType> kv_type_from_name(const std::string& name) {
  if (name == "f16") return kernels::KvType::kF16;
  if (name == "q8_0") return kernels::KvType::kQ8_0;
  return Error{"invalid_request", "kv type \"" + name + "\" is not known; allowed: f16, q8_0"};
}

using kernels::kPageTokens;

Result<std::shared_ptr<KvPage>> KvPool::allocate() const {
  const auto bytes = static_cast<size_t>(layout_.page_bytes());
  SLUICE_TRY(Reservation reservation, budget_->reserve(bytes, MemoryClass::kKv));
  SLUICE_TRY(AnonymousMemory memory, AnonymousMemory::create(bytes, "a KV page"));
  return std::shared_ptr<KvPage>(new KvPage(std::move(reservation), std::move(memory)));
}

Result<void> Sequence::reserve(int64_t length) {
  const auto want = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
  // The page that the next token goes into may be shared with a fork.
  const auto first_written = static_cast<size_t>(this->length() / kPageTokens);
  for (size_t i = first_written; i < std::min(want, pages_.size()); ++i) {
    if (pages_[i].use_count() == 1) continue;
    SLUICE_TRY(auto copy, pool_->allocate());
    std::memcpy(copy->data(), pages_[i]->data(), static_cast<size_t>(pool_->layout().page_bytes()));
    pages_[i] = std::move(copy);
    table_[i] = pages_[i]->data();
  }
  while (pages_.size() < want) {
    SLUICE_TRY(auto page, pool_->allocate());
    table_.push_back(page->data());
    pages_.push_back(std::move(page));
  }
  return success();
}

void Sequence::append(std::span<const TokenId> ids, Role role) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  roles_.insert(roles_.end(), ids.size(), role);
  SLUICE_DCHECK(pages_.size() * kPageTokens >= ids_.size());
}

void Sequence::truncate(int64_t length) {
  SLUICE_CHECK(length >= 0 && length <= this->length());
  ids_.resize(static_cast<size_t>(length));
  roles_.resize(static_cast<size_t>(length));
  const auto keep = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
  if (keep < pages_.size()) {
    pages_.resize(keep);
    table_.resize(keep);
  }
}

int64_t Sequence::common_prefix(std::span<const TokenId> ids, std::span<const Role> roles) const {
  const size_t n = std::min({ids.size(), roles.size(), ids_.size()});
  size_t i = 0;
  while (i < n && ids[i] == ids_[i] && roles[i] == roles_[i]) ++i;
  return static_cast<int64_t>(i);
}

}  // namespace sluice
