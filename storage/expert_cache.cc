#include "storage/expert_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "storage/slice_memory.h"

namespace sluice {

std::vector<ExpertCache::Cell> ExpertCache::cells_of(const SliceIndex& index,
                                                     std::span<const ExpertSlices> experts) {
  struct Group {
    size_t n_experts = 0;
    uint64_t cell_bytes = 0;
  };
  std::vector<Group> groups;
  for (const ExpertSlices& x : experts) {
    if (x.group >= groups.size()) groups.resize(x.group + 1);
    uint64_t n_bytes = 0;
    for (const SliceId id : x.slices) n_bytes += read_range_of(index[id]).n_bytes;
    Group& g = groups[x.group];
    ++g.n_experts;
    g.cell_bytes = std::max(g.cell_bytes, n_bytes);
  }
  std::vector<Cell> cells;
  cells.reserve(experts.size());
  for (size_t round = 0; cells.size() < experts.size(); ++round) {
    for (uint32_t g = 0; g < groups.size(); ++g) {
      if (round < groups[g].n_experts) cells.push_back({g, groups[g].cell_bytes});
    }
  }
  return cells;
}

ExpertCache::ExpertCache(const SliceIndex& index, std::vector<ExpertSlices> experts)
    : experts_(std::move(experts)), cells_(cells_of(index, experts_)) {
  state_.resize(experts_.size());
  holder_.assign(cells_.size(), kNone);
  for (uint32_t c = 0; c < cells_.size(); ++c) {
    if (cells_[c].group >= by_group_.size()) by_group_.resize(cells_[c].group + 1);
    by_group_[cells_[c].group].push_back(c);
  }
}

void ExpertCache::take_back(uint32_t expert) {
  SLUICE_DCHECK(state_[expert].cell != kNone);
  holder_[state_[expert].cell] = kNone;
  state_[expert].cell = kNone;
}

}  // namespace sluice
