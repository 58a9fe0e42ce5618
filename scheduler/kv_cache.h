// Keys and values of sequences, in pages of kernels::kPageTokens tokens behind a page table. Pages are reference-counted:
// a fork shares them and copies one when it first writes into it. Every page is charged to the Budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/transformer/kv_layout.h"
#include "scheduler/model_loader.h"
#include "storage/anonymous_memory.h"
#include "storage/budget.h"

namespace sluice {

// Which definition a token's keys and values were computed with (DESIGN section 7). A page is reused only if ids and
// roles match. What Role::kPrompt means is KernelTable::prompt_definition, one for the life of the process: KV that
// outlives it must carry that as well.
using kernels::KvType;
using kernels::Role;

// "f16", "q8_0", "f32" (that of the reference path); what a person may choose: f16, q8_0. Errors: invalid_request.
const char* kv_type_name(KvType type);
Result<KvType> kv_type_from_name(const std::string& name);

// Anonymous memory of one page, given back to the system when the last sequence drops it.
class KvPage {
 public:
  std::byte* data() const { return memory_.data(); }

 private:
  friend class KvPool;
  KvPage(Reservation reservation, AnonymousMemory memory)
      : reservation_(std::move(reservation)), memory_(std::move(memory)) {}
  Reservation reservation_;
  AnonymousMemory memory_;
};

class KvPool {
 public:
  KvPool(const kernels::KvLayout& layout, Budget& budget) : layout_(layout), budget_(&budget) {}
  // A zeroed page. Errors: budget_exceeded, out_of_memory.
  Result<std::shared_ptr<KvPage>> allocate() const;
  const kernels::KvLayout& layout() const { return layout_; }

 private:
  kernels::KvLayout layout_;
  Budget* budget_;
};

// One sequence: its tokens, their roles and the page table. Used by one thread at a time.
class Sequence {
 public:
  explicit Sequence(const KvPool& pool) : pool_(&pool) {}

  int64_t length() const { return static_cast<int64_t>(ids_.size()); }
  std::span<const TokenId> ids() const { return ids_; }
  std::span<const Role> roles() const { return roles_; }

  // Makes room for tokens up to `length` that only this sequence owns: allocates pages, copies shared ones that will be
  // written. On error nothing is lost. Errors: as KvPool::allocate.
  Result<void> reserve(int64_t length);
  // Records tokens whose keys and values are in the pages now (or will be when the walk ends).
  void append(std::span<const TokenId> ids, Role role);
  // Forgets tokens from `length` on; pages that hold none any more are dropped.
  void truncate(int64_t length);
  // Shares all pages with this sequence.
  Sequence fork() const { return *this; }
  // How many leading tokens have these ids and roles.
  int64_t common_prefix(std::span<const TokenId> ids, std::span<const Role> roles) const;

  std::byte* const* page_table() const { return table_.data(); }
  uint64_t kv_bytes() const { return pages_.size() * static_cast<uint64_t>(pool_->layout().page_bytes()); }

 private:
  const KvPool* pool_;
  std::vector<TokenId> ids_;
  std::vector<Role> roles_;
  std::vector<std::shared_ptr<KvPage>> pages_;
  std::vector<std::byte*> table_;      // pages_[i]->data(): what the kernels read
};

}  // namespace sluice
