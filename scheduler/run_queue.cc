#include "scheduler/run_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/log.h"

namespace sluice {
namespace {

constexpr size_t kClasses = 3;
constexpr double kFirstGuess_s = 5.0;  // mean run time before any job has ended
constexpr double kNewest = 0.3;        // weight of the newest run in the moving average

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The order of waiting jobs, by number; the jobs themselves live elsewhere, so that a copy can be
// played forward to tell everybody's position.
class Lanes {
 public:
  void add(uint64_t seq, uint32_t uid, size_t cls) {
    Lane& lane = lanes_[cls];
    std::deque<uint64_t>& own = lane.by_uid[uid];
    if (own.empty()) lane.turns.push_back(uid);
    own.push_back(seq);
    ++size_;
    ++by_uid_[uid];
  }

  void remove(uint64_t seq, uint32_t uid, size_t cls) {
    Lane& lane = lanes_[cls];
    std::deque<uint64_t>& own = lane.by_uid.at(uid);
    own.erase(std::find(own.begin(), own.end(), seq));
    if (own.empty()) {
      lane.turns.erase(std::find(lane.turns.begin(), lane.turns.end(), uid));
      lane.by_uid.erase(uid);
      if (lane.turns.empty()) lane.passed_over = 0;
    }
    forget(uid);
  }

  std::optional<uint64_t> pop() {
    if (size_ == 0) return std::nullopt;
    const size_t cls = next_class();
    for (size_t c = cls + 1; c < kClasses; ++c) {
      if (!lanes_[c].turns.empty()) ++lanes_[c].passed_over;
    }
    Lane& lane = lanes_[cls];
    lane.passed_over = 0;
    const uint32_t uid = lane.turns.front();
    lane.turns.pop_front();
    std::deque<uint64_t>& own = lane.by_uid.at(uid);
    const uint64_t seq = own.front();
    own.pop_front();
    if (own.empty()) {
      lane.by_uid.erase(uid);
    } else {
      lane.turns.push_back(uid);
    }
    forget(uid);
    return seq;
  }

  size_t size() const { return size_; }
  size_t of_uid(uint32_t uid) const {
    const auto it = by_uid_.find(uid);
    return it == by_uid_.end() ? 0 : it->second;
  }

 private:
  struct Lane {
    std::deque<uint32_t> turns;  // uids with waiting jobs; the front one is served next
    std::map<uint32_t, std::deque<uint64_t>> by_uid;
    int passed_over = 0;  // picks of a higher class in a row while this one waited
  };

  size_t next_class() const {
    for (size_t c = 1; c < kClasses; ++c) {
      if (lanes_[c].passed_over >= RunQueue::kMaxPassedOver) return c;
    }
    size_t c = 0;
    while (lanes_[c].turns.empty()) ++c;
    return c;
  }

  void forget(uint32_t uid) {
    --size_;
    if (--by_uid_.at(uid) == 0) by_uid_.erase(uid);
  }

  std::array<Lane, kClasses> lanes_;
  std::map<uint32_t, size_t> by_uid_;
  size_t size_ = 0;
};

struct Entry {
  RunQueue::Job job;
  double submitted = 0;
  std::optional<double> started;
  double ran_s = 0;      // before it was parked
  bool parking = false;  // park() was called in the turn under way
  bool parked = false;
  bool resumed = false;  // resume() was called before that turn ended
};

// The door where exceptions of other people's code are caught (STYLE 5).
void call(const std::function<void()>& f, const std::string& id, const char* what) {
  if (!f) return;
  try {
    f();
  } catch (const std::exception& e) {
    spdlog::error("{} of a request threw: {} request={}", what, e.what(), id);
  } catch (...) {
    spdlog::error("{} of a request threw request={}", what, id);
  }
}

void drop(const Entry& entry) {
  entry.job.cancel->cancel();
  call(entry.job.dropped, entry.job.id, "dropping");
}

}  // namespace

// `current` is filled by submit() when nothing runs, and by the thread when a job ends: jobs never
// wait while nothing runs, which makes the limits exact.
struct RunQueue::State {
  const RunQueueLimits limits;
  const Clock clock;

  mutable std::mutex mutex;
  std::condition_variable has_work;   // the thread waits
  std::condition_variable idle;       // shutdown() waits
  std::map<uint64_t, Entry> entries;  // admitted and not ended, the running one included
  Lanes lanes;
  std::optional<uint64_t> current;
  uint64_t next_seq = 1;
  double mean_run_s = kFirstGuess_s;
  bool any_run = false;
  bool refusing = false;
  bool stopping = false;

  std::thread thread;

  State(RunQueueLimits l, Clock c) : limits(l), clock(c ? std::move(c) : Clock(steady_seconds)) {}

  size_t parked(std::optional<uint32_t> uid = std::nullopt) const {
    return static_cast<size_t>(std::count_if(entries.begin(), entries.end(), [&](const auto& item) {
      const Entry& e = item.second;
      return (e.parked || e.parking) && (!uid || e.job.uid == *uid);
    }));
  }

  static size_t class_of(const RunQueue::Job& job) {
    return std::min(static_cast<size_t>(job.priority), kClasses - 1);
  }

  // Waits for its turn from now on, or has it.
  void enqueue(uint64_t seq) {
    Entry& entry = entries.at(seq);
    entry.parked = entry.resumed = false;
    if (!current) {
      current = seq;
      has_work.notify_one();
    } else {
      lanes.add(seq, entry.job.uid, class_of(entry.job));
    }
  }

  // The waiting jobs in the order they would run, by playing a copy of the lanes forward.
  std::vector<uint64_t> order() const {
    std::vector<uint64_t> out;
    Lanes copy = lanes;
    while (const auto seq = copy.pop()) out.push_back(*seq);
    return out;
  }

  std::vector<Entry> take_waiting() {
    std::vector<Entry> out;
    for (auto it = entries.begin(); it != entries.end();) {
      if (it->second.parked) {
        out.push_back(std::move(it->second));
        it = entries.erase(it);
      } else {
        ++it;
      }
    }
    while (const auto seq = lanes.pop()) {
      out.push_back(std::move(entries.at(*seq)));
      entries.erase(*seq);
    }
    return out;
  }

  void cancel_current() {
    if (current) entries.at(*current).job.cancel->cancel();
  }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      has_work.wait(lock, [this] { return current || stopping; });
      if (!current) return;
      // References to map entries stay valid, and nobody else erases the current one.
      Entry& entry = entries.at(*current);
      entry.started = clock();
      lock.unlock();
      const bool ran = !entry.job.cancel->cancelled();
      call(ran ? entry.job.work : entry.job.dropped, entry.job.id, ran ? "the work" : "dropping");
      lock.lock();
      if (entry.parking && !entry.job.cancel->cancelled()) {
        set_aside();
        continue;
      }
      const bool cancelled_aside = entry.parking;
      Entry ended = finish(ran);
      lock.unlock();
      if (cancelled_aside) call(ended.job.dropped, ended.job.id, "dropping");
      ended = Entry();  // what the callbacks captured is freed outside the lock
      lock.lock();
    }
  }

  // Parks the current job and makes the next one current; that may be the same one.
  void set_aside() {
    const uint64_t seq = *current;
    Entry& entry = entries.at(seq);
    entry.ran_s += std::max(0.0, clock() - entry.started.value());
    entry.started.reset();
    entry.parking = false;
    entry.parked = true;
    current.reset();
    // Those that waited meanwhile come first: it stepped aside for them.
    const bool again = entry.resumed;
    if (again && lanes.size() > 0) enqueue_behind(seq);
    current = lanes.pop();
    if (again && !current) enqueue(seq);
  }

  void enqueue_behind(uint64_t seq) {
    Entry& entry = entries.at(seq);
    entry.parked = entry.resumed = false;
    lanes.add(seq, entry.job.uid, class_of(entry.job));
  }

  // Ends the current job and makes the next one current.
  Entry finish(bool ran) {
    Entry ended = std::move(entries.at(*current));
    entries.erase(*current);
    if (ran) {
      const double took = ended.ran_s + std::max(0.0, clock() - ended.started.value());
      mean_run_s = any_run ? mean_run_s + kNewest * (took - mean_run_s) : took;
      any_run = true;
    }
    current = lanes.pop();
    if (entries.empty()) idle.notify_all();
    return ended;
  }
};

RunQueue::RunQueue(RunQueueLimits limits, Clock clock)
    : state_(std::make_unique<State>(limits, std::move(clock))) {
  state_->thread = std::thread([s = state_.get()] { s->run(); });
}

RunQueue::~RunQueue() {
  SLUICE_CHECK(std::this_thread::get_id() != state_->thread.get_id());
  shutdown(0);
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->has_work.notify_all();
  state_->thread.join();
}

Result<RunQueue::Ticket> RunQueue::submit(Job job) {
  State& s = *state_;
  if (!job.cancel) job.cancel = std::make_shared<CancelToken>();
  const std::lock_guard lock(s.mutex);
  if (s.refusing) return Error{"shutting_down", "the daemon is shutting down"};
  const bool at_once = !s.current;
  const size_t parked = s.parked();
  const size_t own = s.lanes.of_uid(job.uid) + s.parked(job.uid);
  const size_t all = s.lanes.size() + parked;
  const char* slow = parked > 0 ? ", those whose client does not read included" : "";
  // A limit of 0 still lets one run.
  if ((!at_once || parked > 0) && own >= s.limits.max_waiting_per_uid) {
    return Error{"queue_full",
                 fmt::format("{} of your requests are waiting{}, the limit is {} per user",
                             own,
                             slow,
                             s.limits.max_waiting_per_uid)};
  }
  if ((!at_once || parked > 0) && all >= s.limits.max_waiting) {
    return Error{
        "overloaded",
        fmt::format("{} requests are waiting{}, the limit is {}", all, slow, s.limits.max_waiting)};
  }
  const uint64_t seq = s.next_seq++;
  job.id = fmt::format("r-{:04}", seq);
  Ticket ticket{job.id, 0};
  const uint32_t uid = job.uid;
  const size_t cls = State::class_of(job);
  s.entries.emplace(seq, Entry{std::move(job), s.clock(), std::nullopt});
  if (at_once) {
    s.current = seq;
    s.has_work.notify_one();
    return ticket;
  }
  s.lanes.add(seq, uid, cls);
  const auto order = s.order();
  ticket.position =
      static_cast<size_t>(std::find(order.begin(), order.end(), seq) - order.begin()) + 1;
  return ticket;
}

bool RunQueue::cancel(const std::string& id, uint32_t uid, bool any_uid) {
  State& s = *state_;
  Entry dropped;
  {
    const std::lock_guard lock(s.mutex);
    const auto it = std::find_if(
        s.entries.begin(), s.entries.end(), [&](const auto& e) { return e.second.job.id == id; });
    if (it == s.entries.end()) return false;
    Job& job = it->second.job;
    if (uid != 0 && !any_uid && job.uid != uid) return false;
    if (s.current == it->first) {
      job.cancel->cancel();
      return true;
    }
    if (!it->second.parked) s.lanes.remove(it->first, job.uid, State::class_of(job));
    dropped = std::move(it->second);
    s.entries.erase(it);
    if (s.entries.empty()) s.idle.notify_all();
  }
  drop(dropped);
  return true;
}

void RunQueue::park() {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  SLUICE_CHECK(s.current && std::this_thread::get_id() == s.thread.get_id());
  s.entries.at(*s.current).parking = true;
}

void RunQueue::resume(const std::string& id) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  const auto it = std::find_if(
      s.entries.begin(), s.entries.end(), [&](const auto& e) { return e.second.job.id == id; });
  if (it == s.entries.end()) return;
  if (it->second.parked) {
    s.enqueue(it->first);
  } else if (it->second.parking) {
    it->second.resumed = true;
  }
}

std::vector<RunQueue::JobInfo> RunQueue::list() const {
  const State& s = *state_;
  std::vector<JobInfo> out;
  const std::lock_guard lock(s.mutex);
  const double now = s.clock();
  auto add = [&](uint64_t seq, size_t position) {
    const Entry& e = s.entries.at(seq);
    out.push_back({e.job.id,
                   e.job.model,
                   e.job.uid,
                   !e.parked && position == 0,
                   e.parked,
                   position,
                   now - e.submitted,
                   e.job.priority});
  };
  if (s.current) add(*s.current, 0);
  size_t position = 0;
  for (const uint64_t seq : s.order()) add(seq, ++position);
  for (const auto& [seq, e] : s.entries) {
    if (e.parked) add(seq, 0);
  }
  return out;
}

size_t RunQueue::waiting() const {
  const std::lock_guard lock(state_->mutex);
  return state_->lanes.size();
}

int RunQueue::retry_after_s() const {
  const State& s = *state_;
  const std::lock_guard lock(s.mutex);
  double left = static_cast<double>(s.lanes.size()) * s.mean_run_s;
  if (s.current) {
    const double now = s.clock();
    left += std::max(0.0, s.mean_run_s - (now - s.entries.at(*s.current).started.value_or(now)));
  }
  return static_cast<int>(std::clamp(std::ceil(left), 1.0, 120.0));
}

void RunQueue::shutdown(int64_t drain_ms) {
  State& s = *state_;
  // A year is for ever; more would overflow the clock.
  const auto drain =
      std::chrono::milliseconds(std::clamp<int64_t>(drain_ms, 0, int64_t{365} * 24 * 3600 * 1000));
  std::vector<Entry> waiting;
  {
    std::unique_lock lock(s.mutex);
    s.refusing = true;
    s.idle.wait_until(
        lock, std::chrono::steady_clock::now() + drain, [&s] { return s.entries.empty(); });
    waiting = s.take_waiting();
    s.cancel_current();
  }
  for (const Entry& entry : waiting) drop(entry);
}

}  // namespace sluice
