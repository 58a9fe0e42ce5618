#include "daemon/event_bus.h"

#include <algorithm>
#include <utility>

#include "daemon/protocol/budget.h"
#include "daemon/protocol/json_text.h"

namespace sluice {

bool EventFilter::takes(const Event& e) const {
  if (e.uid && !all_users && *e.uid != uid) return false;
  if (types.empty()) return true;
  return std::any_of(types.begin(), types.end(), [&](const std::string& t) {
    return e.type == t ||
           (e.type.size() > t.size() && e.type.starts_with(t) && e.type[t.size()] == '.');
  });
}

void EventBus::publish(std::string_view type,
                       boost::json::object data,
                       std::optional<uint32_t> uid) {
  data["type"] = type;
  data["at"] = rfc3339(unix_ms_now());
  const std::lock_guard lock(mutex_);
  data["seq"] = ++last_;
  if (ring_.size() >= kRing) ring_.pop_front();
  ring_.push_back({last_, std::string(type), json_text(data), uid});
  for (auto& [id, reader] : readers_) {
    if (std::exchange(reader.armed, false)) reader.wake();
  }
}

uint64_t EventBus::last() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

EventBus::Batch EventBus::read(uint64_t after, const EventFilter& filter, size_t max_bytes) const {
  const std::lock_guard lock(mutex_);
  Batch batch;
  batch.next = std::min(after, last_);  // a number of an earlier daemon means nothing here
  if (ring_.empty()) return batch;
  const uint64_t oldest = ring_.front().seq;
  if (batch.next + 1 < oldest) {
    batch.dropped = oldest - batch.next - 1;
    batch.next = oldest - 1;
  }
  size_t bytes = 0;
  for (size_t i = batch.next + 1 - oldest; i < ring_.size() && bytes < max_bytes; ++i) {
    batch.next = ring_[i].seq;
    if (!filter.takes(ring_[i])) continue;
    bytes += ring_[i].data.size() + ring_[i].type.size() + 32;
    batch.events.push_back(ring_[i]);
  }
  return batch;
}

std::optional<uint64_t> EventBus::join(std::function<void()> wake) {
  const std::lock_guard lock(mutex_);
  if (readers_.size() >= kReaders) return std::nullopt;
  readers_[next_reader_] = {std::move(wake), false};
  return next_reader_++;
}

void EventBus::arm(uint64_t reader) {
  const std::lock_guard lock(mutex_);
  const auto it = readers_.find(reader);
  if (it != readers_.end()) it->second.armed = true;
}

void EventBus::leave(uint64_t reader) {
  const std::lock_guard lock(mutex_);
  readers_.erase(reader);
}

size_t EventBus::readers() const {
  const std::lock_guard lock(mutex_);
  return readers_.size();
}

}  // namespace sluice
