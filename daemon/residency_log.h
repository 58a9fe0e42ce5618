// What of the residency map is news to a reader that has seen it before: every block's row carries
// the number at which it was last seen to differ. Rows are compared when somebody asks, so that a
// map nobody reads costs nothing. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/block_residency.h"

namespace sluice {

class ResidencyLog {
 public:
  static constexpr size_t kMostModels = 256;  // more: all are forgotten, and readers get whole maps

  // `first` must be above every number that an earlier daemon gave out: those then mean "all".
  explicit ResidencyLog(uint64_t first) : seq_(first) {}

  struct News {
    uint64_t seq = 0;          // of the newest row; the next `since`
    bool full = true;          // false: only `rows` differ from what the reader has
    std::vector<size_t> rows;  // in the order of the map
  };
  // `since`: the seq of the map that the reader has.
  News look(const std::string& model,
            const std::vector<BlockResidency>& now,
            std::optional<uint64_t> since);

 private:
  struct Seen {
    std::vector<SliceBlockStats> rows;
    std::vector<uint64_t> changed;  // seq of each row
    uint64_t begun = 0;             // seq since which it has these rows at all
  };
  std::mutex mutex_;
  uint64_t seq_;  // guarded by mutex_, as is seen_
  std::map<std::string, Seen> seen_;
};

}  // namespace sluice
