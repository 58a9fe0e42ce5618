#include "daemon/residency_log.h"

#include <algorithm>
#include <tuple>

namespace sluice {
namespace {

// All that a row shows but its age, which moves by itself.
auto shown(const SliceBlockStats& s) {
  return std::tie(s.bytes,
                  s.resident_bytes,
                  s.pin_bytes,
                  s.loading_bytes,
                  s.hit_bytes,
                  s.miss_bytes,
                  s.read_bytes,
                  s.evicted_bytes,
                  s.stall_s,
                  s.refs);
}

}  // namespace

ResidencyLog::News ResidencyLog::look(const std::string& model,
                                      const std::vector<BlockResidency>& now,
                                      std::optional<uint64_t> since) {
  const std::lock_guard lock(mutex_);
  if (!seen_.contains(model) && seen_.size() >= kMostModels) seen_.clear();
  Seen& seen = seen_[model];
  if (seen.begun == 0 || seen.rows.size() != now.size()) {
    ++seq_;
    seen.begun = seq_;
    seen.rows.clear();
    for (const BlockResidency& b : now) seen.rows.push_back(b.stats);
    seen.changed.assign(now.size(), seq_);
  } else {
    const uint64_t next = seq_ + 1;
    for (size_t i = 0; i < now.size(); ++i) {
      if (shown(seen.rows[i]) == shown(now[i].stats)) continue;
      seen.rows[i] = now[i].stats;
      seen.changed[i] = seq_ = next;
    }
  }
  News news;
  news.seq = seen.begun;
  for (const uint64_t at : seen.changed) news.seq = std::max(news.seq, at);
  news.full = !since || *since < seen.begun || *since > seq_;
  for (size_t i = 0; i < now.size(); ++i) {
    if (news.full || seen.changed[i] > *since) news.rows.push_back(i);
  }
  return news;
}

}  // namespace sluice
