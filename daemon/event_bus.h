// What happens, in order, for whoever wants to watch (INTERFACE 3.7). A ring of the last 4096
// events; readers keep a place in it and nothing is queued for them, so that a slow one holds
// nobody up: it is told how many it missed. Any thread.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct Event {
  uint64_t seq = 0;             // from 1
  std::string type;             // "model.loaded"
  std::string data;             // JSON
  std::optional<uint32_t> uid;  // whose it is; none: everybody's
};

// Which events a reader wants: types or their first word ("block"), none: all.
struct EventFilter {
  std::vector<std::string> types;
  uint32_t uid = 0;
  bool all_users = false;
  bool takes(const Event& e) const;
};

class EventBus {
 public:
  static constexpr size_t kRing = 4096;
  static constexpr size_t kReaders = 32;

  // Adds "type", "seq" and "at".
  void publish(std::string_view type,
               boost::json::object data,
               std::optional<uint32_t> uid = std::nullopt);
  uint64_t last() const;

  struct Batch {
    std::vector<Event> events;
    uint64_t dropped = 0;  // fell out of the ring before they were read
    uint64_t next = 0;     // pass it as `after`
  };
  // What came after `after`, about `max_bytes` of it.
  Batch read(uint64_t after, const EventFilter& filter, size_t max_bytes) const;

  // `wake` is called once when something is published after arm(). nullopt: too many readers.
  std::optional<uint64_t> join(std::function<void()> wake);
  void arm(uint64_t reader);
  void leave(uint64_t reader);
  size_t readers() const;

 private:
  struct Reader {
    std::function<void()> wake;
    bool armed = false;
  };
  mutable std::mutex mutex_;  // guards all that follows
  std::deque<Event> ring_;
  uint64_t last_ = 0;
  std::map<uint64_t, Reader> readers_;
  uint64_t next_reader_ = 1;
};

}  // namespace sluice
