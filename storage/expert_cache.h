// Which experts have a cell of the pin region. Each block has as many cells as the cut leaves it,
// and the expert used longest ago goes first. A cell holds one expert of its block, all its slices.
// Bookkeeping only, under the slice store's lock.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "storage/slice_index.h"

namespace sluice {

// One expert: the slices of its matrices, in the order in which they are asked for.
struct ExpertSlices {
  uint32_t group = 0;  // the block, counted from 0 among those that have experts
  std::vector<SliceId> slices;
  bool operator==(const ExpertSlices&) const = default;
};

class ExpertCache {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Cells in the order in which they come with a growing cut, one for each expert: the first of
  // every group, the second of every group, and so on. Pure.
  struct Cell {
    uint32_t group = 0;
    uint64_t n_bytes = 0;  // of what is read for the largest expert of the group
  };
  static std::vector<Cell> cells_of(const SliceIndex& index, std::span<const ExpertSlices> experts);

  ExpertCache(const SliceIndex& index, std::vector<ExpertSlices> experts);

  size_t n_cells() const { return cells_.size(); }
  std::span<const ExpertSlices> experts() const { return experts_; }
  const Cell& cell(uint32_t c) const { return cells_[c]; }

  // Only cells [0, n) are given to experts from here on.
  void allow(size_t n) { n_allowed_ = n; }
  uint32_t cell_of(uint32_t expert) const { return state_[expert].cell; }
  uint32_t holder_of(uint32_t cell) const { return holder_[cell]; }
  void touch(uint32_t expert) { state_[expert].used = ++clock_; }

  // Gives an expert without a cell one of its block: a free one, else that of the expert used
  // longest ago of those that may_go(expert); that one has none then. None: neither was there.
  struct Given {
    uint32_t cell = kNone;
    uint32_t evicted = kNone;
  };
  template <class MayGo>
  std::optional<Given> give(uint32_t expert, MayGo&& may_go) {
    Given given;
    for (const uint32_t c : by_group_[experts_[expert].group]) {
      if (c >= n_allowed_) break;
      const uint32_t holder = holder_[c];
      if (holder == kNone) {
        given = {c, kNone};
        break;
      }
      const bool older = given.cell == kNone || state_[holder].used < state_[given.evicted].used;
      if (older && may_go(holder)) given = {c, holder};
    }
    if (given.cell == kNone) return std::nullopt;
    if (given.evicted != kNone) take_back(given.evicted);
    holder_[given.cell] = expert;
    state_[expert].cell = given.cell;
    return given;
  }
  void take_back(uint32_t expert);

 private:
  struct State {
    uint32_t cell = kNone;
    uint64_t used = 0;
  };
  const std::vector<ExpertSlices> experts_;
  const std::vector<Cell> cells_;
  std::vector<std::vector<uint32_t>> by_group_;  // cells, ascending
  std::vector<State> state_;                     // by expert
  std::vector<uint32_t> holder_;                 // by cell
  size_t n_allowed_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace sluice
