#include "daemon/memory_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <chrono>
#include <cmath>

#include "base/bytes.h"
#include "base/host_memory.h"
#include "base/log.h"

namespace sluice {
namespace {

namespace json = boost::json;

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

MemoryWatch::MemoryWatch(MemoryWatchOptions options,
                         Budget& budget,
                         BudgetControl& control,
                         ModelRegistry& registry,
                         EventBus& events)
    : options_(std::move(options)),
      budget_(budget),
      control_(control),
      registry_(registry),
      events_(events),
      ladder_(options_.pressure) {
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  open_trigger();
}

void MemoryWatch::nudge() {
  const uint64_t one = 1;
  [[maybe_unused]] const auto n = ::write(wake_, &one, sizeof one);
}

void MemoryWatch::start() {
  thread_ = std::thread([this] { run(); });
}

MemoryWatch::~MemoryWatch() {
  stopping_ = true;
  nudge();
  if (thread_.joinable()) thread_.join();
  if (trigger_ >= 0) ::close(trigger_);
  if (wake_ >= 0) ::close(wake_);
}

// The text must end in NUL (the kernel overwrites the last byte), the window must be a multiple of
// 2 s without CAP_SYS_RESOURCE. Older kernels say EPERM: then there is the look every second.
void MemoryWatch::open_trigger() {
  if (!options_.root.empty() || !options_.pressure.react) return;
  trigger_ = ::open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (trigger_ < 0) return;
  const auto stall_us = static_cast<int64_t>(options_.pressure.some_percent * 20'000);
  const std::string text =
      fmt::format("some {} 2000000", std::clamp<int64_t>(stall_us, 1000, 2'000'000));
  if (::write(trigger_, text.c_str(), text.size() + 1) < 0) {
    ::close(trigger_);
    trigger_ = -1;
  }
}

bool MemoryWatch::sleep(int64_t ms) {
  pollfd fds[2] = {{wake_, POLLIN, 0}, {trigger_, POLLPRI, 0}};
  uint64_t nudges = 0;
  [[maybe_unused]] const auto n = ::read(wake_, &nudges, sizeof nudges);
  // A trigger that fired stays quiet for its window: it cannot make us spin.
  ::poll(fds, trigger_ >= 0 ? 2 : 1, static_cast<int>(ms));
  if (trigger_ >= 0 && (fds[1].revents & POLLPRI) != 0) pressed_ = true;
  if (trigger_ >= 0 && (fds[1].revents & POLLERR) != 0) {
    ::close(trigger_);
    trigger_ = -1;
  }
  return !stopping_;
}

void MemoryWatch::run() {
  int64_t next_look = 0;
  do {
    try {
      if (pressed_ || now_ms() >= next_look) {
        look(std::exchange(pressed_, false));
        next_look = now_ms() + options_.every_ms;
      }
      tell_blocks();
    } catch (const std::exception& e) {
      spdlog::error("watching memory failed: {}", e.what());
    }
  } while (sleep(events_.readers() > 0 ? std::min(options_.block_events_ms, options_.every_ms)
                                       : options_.every_ms));
}

void MemoryWatch::look(bool triggered) {
  PressureSample sample = read_pressure(options_.root);
  sample.now_ms = now_ms();
  // The average lags; the trigger says what the last two seconds were like.
  if (triggered && sample.some)
    sample.some = std::max(*sample.some, options_.pressure.some_percent);
  const uint64_t limit = budget_.limit();
  sample.floor_share = static_cast<double>(control_.floor().bytes) / static_cast<double>(limit);
  const uint64_t group = cgroup_memory_limit(options_.root);
  apply(ladder_.step(sample), group == kNoMemoryLimit ? Budget::kUnlimited : group);
  control_.check_gap();
}

void MemoryWatch::apply(const PressureState& state, uint64_t ceiling) {
  some_ = state.some;
  full_ = state.full;
  level_ = state.level;
  registry_.refuse_loads(state.level == PressureLevel::kFull);
  const uint64_t pressure =
      state.share >= 1 ? Budget::kUnlimited
                       : static_cast<uint64_t>(state.share * static_cast<double>(budget_.limit()));
  if (state.moved) {
    spdlog::warn("memory pressure level={} some={:.1f} full={:.1f} share={:.2f}",
                 pressure_level_name(state.level),
                 state.some,
                 state.full,
                 state.share);
    events_.publish("pressure",
                    {{"level", pressure_level_name(state.level)},
                     {"some", state.some},
                     {"full", state.full},
                     {"share_ratio", state.share}});
  }
  if (pressure != pressure_ || ceiling != ceiling_) {
    const char* cause = ceiling != ceiling_ ? "cgroup" : state.moved ? "pressure" : nullptr;
    pressure_ = pressure;
    ceiling_ = ceiling;
    control_.constrain(ceiling, pressure, cause);
  }
  if (state.trim) {
    spdlog::warn("memory is short, idle models give back what they can");
    registry_.trim_idle(UINT64_MAX);
    ::malloc_trim(0);
  }
}

// What changed since the last time, one frame for each kind and model.
void MemoryWatch::tell_blocks() {
  if (events_.readers() == 0) {
    told_.clear();
    telling_ = false;
    return;
  }
  const bool begins = !std::exchange(telling_, true);
  for (const auto& entry : registry_.list()) {
    const auto blocks = registry_.blocks(*entry);
    if (blocks.empty()) {
      told_.erase(entry->name);
      continue;
    }
    auto& before = told_[entry->name];
    // What was loaded before anybody read is nobody's news.
    const bool first = begins && before.empty();
    before.resize(blocks.size());
    json::array loads, evictions, stalls;
    uint64_t loaded = 0, evicted = 0;
    double stalled_ms = 0;
    std::vector<SliceBlockStats> now;
    for (size_t i = 0; i < blocks.size(); ++i) {
      const SliceBlockStats& s = blocks[i].stats;
      now.push_back(s);
      if (first) continue;
      const SliceBlockStats& b = before[i];
      const auto add = [&](json::array& out, uint64_t& sum, uint64_t had, uint64_t has) {
        if (has <= had) return;
        out.push_back(json::object{{"id", blocks[i].id}, {"bytes", has - had}});
        sum += has - had;
      };
      for (size_t why = 0; why < s.loads.size(); ++why) {
        const SliceLoads &had = b.loads[why], &has = s.loads[why];
        if (has.n <= had.n) continue;
        const double ms = (has.ms - had.ms) / static_cast<double>(has.n - had.n);
        loads.push_back(json::object{{"id", blocks[i].id},
                                     {"bytes", has.bytes - had.bytes},
                                     {"ms", std::round(ms * 100) / 100},
                                     {"reason", load_reason_name(static_cast<LoadReason>(why))}});
        loaded += has.bytes - had.bytes;
      }
      add(evictions, evicted, b.evicted_bytes, s.evicted_bytes);
      const double ms = (s.stall_s - b.stall_s) * 1000;
      if (ms >= 1) {
        stalls.push_back(json::object{{"id", blocks[i].id}, {"ms", std::round(ms)}});
        stalled_ms += ms;
      }
    }
    before = std::move(now);
    const auto tell = [&](const char* type,
                          const char* key,
                          json::value sum,
                          json::array list,
                          json::object more = {}) {
      if (list.empty()) return;
      json::object e{{"model", entry->name}, {key, std::move(sum)}, {"blocks", std::move(list)}};
      for (auto& item : more) e[item.key()] = std::move(item.value());
      events_.publish(type, std::move(e));
    };
    tell("block.load", "bytes", loaded, std::move(loads));
    const std::string_view why = registry_.evict_reason(*entry);
    const bool pressed = why == "budget" && level_.load() != PressureLevel::kNone;
    tell("block.evict",
         "bytes",
         evicted,
         std::move(evictions),
         {{"reason", pressed ? "pressure" : why.data()}});
    const std::string request = registry_.last_request(*entry);
    tell("stall",
         "ms",
         std::round(stalled_ms),
         std::move(stalls),
         {{"request", request.empty() ? json::value(nullptr) : json::value(request)}});
  }
}

}  // namespace sluice
