#include "scheduler/run_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>

namespace sluice {
namespace {

using std::chrono::milliseconds;

// A door that jobs wait behind.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

// What happened, in order.
class Log {
 public:
  void add(const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(line);
    changed_.notify_all();
  }
  std::vector<std::string> wait_for(size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return lines_.size() >= n; });
    return lines_;
  }
  std::vector<std::string> lines() {
    const std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
};

// Submits jobs that note their name, behind a first one that holds the queue until release().
class RunQueueTest : public testing::Test {
 protected:
  void hold(RunQueue& queue, uint32_t uid = 999) {
    RunQueue::Job job;
    job.uid = uid;
    job.model = "held";
    job.work = [this] {
      running_.open();
      gate_.wait();
    };
    ASSERT_TRUE(queue.submit(job));
    running_.wait();
  }
  void release() { gate_.open(); }

  RunQueue::Job named(const std::string& name,
                      uint32_t uid,
                      Priority priority = Priority::kNormal) {
    RunQueue::Job job;
    job.uid = uid;
    job.priority = priority;
    job.model = name;
    job.work = [this, name] { log_.add(name); };
    job.dropped = [this, name] { log_.add("-" + name); };
    return job;
  }

  std::string submit(RunQueue& queue,
                     const std::string& name,
                     uint32_t uid,
                     Priority priority = Priority::kNormal) {
    auto r = queue.submit(named(name, uid, priority));
    EXPECT_TRUE(r) << name << ": " << (r ? "" : r.error().what);
    return r ? r.value().id : "";
  }

  Gate running_, gate_;
  Log log_;
};

TEST_F(RunQueueTest, RunsAtOnceWhenIdle) {
  RunQueue queue({});
  auto r = queue.submit(named("a", 1));
  ASSERT_TRUE(r);
  EXPECT_EQ(r.value().position, 0u);
  EXPECT_FALSE(r.value().id.empty());
  EXPECT_EQ(log_.wait_for(1), (std::vector<std::string>{"a"}));
}

TEST_F(RunQueueTest, FirstInFirstOutForOneUid) {
  RunQueue queue({});
  hold(queue);
  for (const char* name : {"a", "b", "c", "d"}) submit(queue, name, 1);
  release();
  EXPECT_EQ(log_.wait_for(4), (std::vector<std::string>{"a", "b", "c", "d"}));
}

TEST_F(RunQueueTest, UidsTakeTurns) {
  RunQueue queue({});
  hold(queue);
  for (const char* name : {"a1", "a2", "a3"}) submit(queue, name, 1);
  for (const char* name : {"b1", "b2"}) submit(queue, name, 2);
  submit(queue, "c1", 3);
  release();
  EXPECT_EQ(log_.wait_for(6), (std::vector<std::string>{"a1", "b1", "c1", "a2", "b2", "a3"}));
}

TEST_F(RunQueueTest, HigherPriorityGoesFirst) {
  RunQueue queue({});
  hold(queue);
  submit(queue, "low", 1, Priority::kLow);
  submit(queue, "normal", 2, Priority::kNormal);
  submit(queue, "high", 3, Priority::kHigh);
  release();
  EXPECT_EQ(log_.wait_for(3), (std::vector<std::string>{"high", "normal", "low"}));
}

TEST_F(RunQueueTest, LowPriorityStartsWithinTheDocumentedBound) {
  // Every high and normal job that runs is replaced at once, so that both classes never run dry.
  std::atomic<int> ran{0};
  std::atomic<bool> stop{false};
  Gate low_ran;
  std::atomic<int> low_at{-1};
  RunQueue queue({.max_waiting = 100, .max_waiting_per_uid = 100});
  std::function<void(uint32_t, Priority)> add = [&](uint32_t uid, Priority priority) {
    RunQueue::Job job;
    job.uid = uid;
    job.priority = priority;
    job.work = [&, uid, priority] {
      ++ran;
      if (!stop) add(uid, priority);
    };
    (void)queue.submit(job);
  };
  hold(queue);
  for (int i = 0; i < 5; ++i) {
    add(1, Priority::kHigh);
    add(2, Priority::kNormal);
  }
  constexpr int kLowJobs = 3;
  std::atomic<int> low_done{0};
  for (int i = 0; i < kLowJobs; ++i) {
    RunQueue::Job job;
    job.uid = 3;
    job.priority = Priority::kLow;
    job.work = [&] {
      if (++low_done < kLowJobs) return;
      low_at = ran.load();
      stop = true;
      low_ran.open();
    };
    ASSERT_TRUE(queue.submit(job));
  }
  release();
  low_ran.wait();
  EXPECT_LT(low_at + kLowJobs - 1, kLowJobs * (RunQueue::kMaxPassedOver + 2));
  EXPECT_GE(low_at, kLowJobs * RunQueue::kMaxPassedOver);  // and priority means something
  queue.shutdown(0);
}

TEST_F(RunQueueTest, LimitOfAllWaitingJobs) {
  const RunQueueLimits limits{.max_waiting = 5, .max_waiting_per_uid = 3};
  RunQueue queue(limits);
  hold(queue);
  for (uint32_t i = 0; i < 5; ++i) {
    EXPECT_EQ(queue.waiting(), i);
    submit(queue, "j" + std::to_string(i), i);
  }
  const auto r = queue.submit(named("over", 77));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, "overloaded");
  EXPECT_NE(r.error().what.find("5 requests are waiting, the limit is 5"), std::string::npos)
      << r.error().what;
  EXPECT_EQ(queue.waiting(), 5u);
  release();
  EXPECT_EQ(log_.wait_for(5).size(), 5u);
  queue.shutdown(10000);
  EXPECT_EQ(log_.lines().size(), 5u);  // neither callback of the refused one
}

TEST_F(RunQueueTest, LimitOfOneUid) {
  RunQueue queue({.max_waiting = 64, .max_waiting_per_uid = 3});
  hold(queue, 7);  // the running one does not count
  for (int i = 0; i < 3; ++i) submit(queue, "j", 7);
  const auto r = queue.submit(named("over", 7));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, "queue_full");
  EXPECT_NE(r.error().what.find("3 of your requests are waiting, the limit is 3"),
            std::string::npos)
      << r.error().what;
  submit(queue, "another user's", 8);
  release();
  log_.wait_for(4);
  // Room again: the limit is on what waits now.
  Gate done;
  RunQueue::Job job;
  job.uid = 7;
  job.work = [&] { done.open(); };
  ASSERT_TRUE(queue.submit(job));
  done.wait();
}

TEST_F(RunQueueTest, NothingMayWaitWhenTheLimitIsZero) {
  RunQueue queue({.max_waiting = 0, .max_waiting_per_uid = 0});
  hold(queue);  // runs at once, waits for nobody
  EXPECT_FALSE(queue.submit(named("a", 1)));
  release();
}

TEST_F(RunQueueTest, CancelOfAWaitingJobDropsItBeforeReturning) {
  RunQueue queue({});
  hold(queue);
  const std::string a = submit(queue, "a", 1);
  submit(queue, "b", 1);
  EXPECT_TRUE(queue.cancel(a, 1, false));
  EXPECT_EQ(log_.lines(), (std::vector<std::string>{"-a"}));
  EXPECT_FALSE(queue.cancel(a, 1, false));
  EXPECT_EQ(queue.waiting(), 1u);
  release();
  EXPECT_EQ(log_.wait_for(2), (std::vector<std::string>{"-a", "b"}));
}

TEST_F(RunQueueTest, CancelOfTheRunningJobSetsItsToken) {
  RunQueue queue({});
  RunQueue::Job job;
  job.uid = 5;
  job.cancel = std::make_shared<CancelToken>();
  Gate started;
  job.work = [&, token = job.cancel] {
    started.open();
    while (!token->cancelled()) std::this_thread::yield();
    log_.add("stopped");
  };
  job.dropped = [&] { log_.add("dropped"); };
  const auto id = queue.submit(job).value().id;
  started.wait();
  EXPECT_TRUE(queue.cancel(id, 5, false));
  EXPECT_EQ(log_.wait_for(1), (std::vector<std::string>{"stopped"}));
}

TEST_F(RunQueueTest, JobWhoseTokenIsSetWhileItWaitsIsDropped) {
  RunQueue queue({});
  hold(queue);
  auto job = named("a", 1);
  job.cancel = std::make_shared<CancelToken>();
  ASSERT_TRUE(queue.submit(job));
  submit(queue, "b", 1);
  job.cancel->cancel();  // the client left; nobody told the queue
  release();
  EXPECT_EQ(log_.wait_for(2), (std::vector<std::string>{"-a", "b"}));
}

TEST_F(RunQueueTest, OthersJobsDoNotExistExceptForRoot) {
  RunQueue queue({});
  hold(queue, 1);
  const std::string a = submit(queue, "a", 1);
  const std::string b = submit(queue, "b", 1);
  const std::string held = queue.list()[0].id;
  EXPECT_FALSE(queue.cancel(a, 2, false));
  EXPECT_FALSE(queue.cancel(held, 2, false));
  EXPECT_FALSE(queue.cancel("r-9999", 0, true));
  EXPECT_TRUE(queue.cancel(a, 0, false));
  EXPECT_TRUE(queue.cancel(b, 2, true));
  EXPECT_EQ(log_.lines(), (std::vector<std::string>{"-a", "-b"}));
  release();
}

TEST_F(RunQueueTest, PositionsTellTheOrderTheyRunIn) {
  double now = 100;
  std::mutex clock_mutex;
  RunQueue queue({}, [&] {
    const std::lock_guard lock(clock_mutex);
    return now;
  });
  hold(queue);
  std::map<std::string, std::string> names;
  names[submit(queue, "a1", 1)] = "a1";
  names[submit(queue, "a2", 1)] = "a2";
  {
    const std::lock_guard lock(clock_mutex);
    now = 103.5;
  }
  names[submit(queue, "low", 2, Priority::kLow)] = "low";
  auto b = queue.submit(named("b1", 3));
  names[b.value().id] = "b1";
  EXPECT_EQ(b.value().position, 2u);  // after a1, before a2
  auto high = queue.submit(named("high", 1, Priority::kHigh));
  names[high.value().id] = "high";
  EXPECT_EQ(high.value().position, 1u);

  const auto list = queue.list();
  ASSERT_EQ(list.size(), 6u);
  EXPECT_TRUE(list[0].running);
  EXPECT_EQ(list[0].position, 0u);
  EXPECT_EQ(list[0].model, "held");
  EXPECT_EQ(list[0].uid, 999u);
  EXPECT_DOUBLE_EQ(list[0].age_s, 3.5);
  std::vector<std::string> expected;
  for (size_t i = 1; i < list.size(); ++i) {
    EXPECT_FALSE(list[i].running);
    EXPECT_EQ(list[i].position, i);
    EXPECT_EQ(names[list[i].id], list[i].model);
    expected.push_back(list[i].model);
  }
  EXPECT_EQ(expected, (std::vector<std::string>{"high", "a1", "b1", "a2", "low"}));
  release();
  EXPECT_EQ(log_.wait_for(5), expected);
}

TEST_F(RunQueueTest, RetryAfterIsWhatIsLeftAtTheMeanRunTime) {
  std::atomic<double> now{0};
  RunQueue queue({}, [&] { return now.load(); });
  EXPECT_EQ(queue.retry_after_s(), 1);  // nothing there: at once, and never 0
  auto run_for = [&](double seconds) {
    Gate done;
    RunQueue::Job job;
    job.work = [&] { now = now + seconds; };
    ASSERT_TRUE(queue.submit(job));
    while (!queue.list().empty()) std::this_thread::yield();
  };
  run_for(10);  // mean 10
  run_for(20);  // 10 + 0.3 * 10 = 13
  hold(queue);
  for (int i = 0; i < 3; ++i) submit(queue, "j", 1);
  EXPECT_EQ(queue.retry_after_s(), 4 * 13);
  now = now + 4.5;                       // the running one has used some of its time
  EXPECT_EQ(queue.retry_after_s(), 48);  // ceil(52 - 4.5)
  now = now + 100;
  EXPECT_EQ(queue.retry_after_s(), 39);  // it is late: nothing is left of it, as far as we know
  release();
  log_.wait_for(3);
  while (!queue.list().empty()) std::this_thread::yield();
  run_for(100000);
  Gate again;
  RunQueue::Job job;
  job.work = [&] { again.wait(); };
  ASSERT_TRUE(queue.submit(job));
  EXPECT_EQ(queue.retry_after_s(), 120);
  again.open();
}

TEST_F(RunQueueTest, ShutdownRefusesNewJobsAndDrainsTheOthers) {
  RunQueue queue({});
  hold(queue);
  submit(queue, "a", 1);
  submit(queue, "b", 2);
  std::thread stopper([&] { queue.shutdown(60000); });
  // Until the shutdown has begun a probe gets in, and is taken out again.
  Result<RunQueue::Ticket> probe = queue.submit(named("x", 3));
  while (probe) {
    queue.cancel(probe.value().id, 3, false);
    std::this_thread::yield();
    probe = queue.submit(named("x", 3));
  }
  EXPECT_EQ(probe.error().code, "shutting_down");
  release();
  stopper.join();
  // All had ended when shutdown() returned.
  auto lines = log_.lines();
  std::erase(lines, "-x");
  EXPECT_EQ(lines, (std::vector<std::string>{"a", "b"}));
}

TEST_F(RunQueueTest, ShutdownCancelsWhatTheDrainLeftOver) {
  RunQueue queue({});
  Gate started;
  RunQueue::Job job;
  job.cancel = std::make_shared<CancelToken>();
  job.work = [&, token = job.cancel] {
    started.open();
    while (!token->cancelled()) std::this_thread::yield();
    log_.add("stopped");
  };
  ASSERT_TRUE(queue.submit(job));
  started.wait();
  submit(queue, "a", 1);
  queue.shutdown(20);
  const auto lines = log_.wait_for(2);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), "stopped"), 1);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), "-a"), 1);
  queue.shutdown(0);  // again does nothing
}

TEST_F(RunQueueTest, DestructorEndsEverything) {
  {
    RunQueue queue({});
    Gate started;
    RunQueue::Job job;
    job.cancel = std::make_shared<CancelToken>();
    job.work = [&, token = job.cancel] {
      started.open();
      while (!token->cancelled()) std::this_thread::yield();
      log_.add("stopped");
    };
    ASSERT_TRUE(queue.submit(job));
    started.wait();
    submit(queue, "a", 1);
  }
  auto lines = log_.lines();
  std::sort(lines.begin(), lines.end());
  EXPECT_EQ(lines, (std::vector<std::string>{"-a", "stopped"}));
}

TEST_F(RunQueueTest, ExceptionsOfAJobDoNotStopTheQueue) {
  RunQueue queue({});
  hold(queue);
  RunQueue::Job job;
  job.work = [] { throw std::runtime_error("of the job"); };
  ASSERT_TRUE(queue.submit(job));
  job.work = [] { throw 42; };
  ASSERT_TRUE(queue.submit(job));
  job.work = nullptr;
  ASSERT_TRUE(queue.submit(job));
  auto bad = named("bad", 1);
  bad.dropped = [] { throw std::runtime_error("of dropped"); };
  const auto id = queue.submit(bad).value().id;
  EXPECT_TRUE(queue.cancel(id, 1, false));
  submit(queue, "good", 1);
  release();
  EXPECT_EQ(log_.wait_for(1), (std::vector<std::string>{"good"}));
}

TEST_F(RunQueueTest, CallbacksMayCallTheQueue) {
  RunQueue queue({});
  hold(queue);
  std::string victim;
  RunQueue::Job job;
  job.work = [&] {
    EXPECT_EQ(queue.list().size(), 2u);
    EXPECT_TRUE(queue.cancel(victim, 0, true));
    submit(queue, "later", 1);
  };
  ASSERT_TRUE(queue.submit(job));
  auto v = named("victim", 1);
  v.dropped = [&] {
    EXPECT_EQ(queue.waiting(), 0u);
    EXPECT_GE(queue.retry_after_s(), 1);
    log_.add("-victim");
  };
  victim = queue.submit(v).value().id;
  release();
  EXPECT_EQ(log_.wait_for(2), (std::vector<std::string>{"-victim", "later"}));
}

TEST_F(RunQueueTest, IdsAreUnique) {
  RunQueue queue({.max_waiting = 200, .max_waiting_per_uid = 200});
  hold(queue);
  std::vector<std::string> ids;
  for (int i = 0; i < 100; ++i) ids.push_back(submit(queue, "j", 1));
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
  release();
}

// Many threads submit, cancel by id, cancel by token and look; each admitted job must end in
// exactly one of work and dropped, and no refused one in either.
TEST_F(RunQueueTest, EveryJobEndsExactlyOnceUnderRandomTraffic) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  struct Fate {
    std::atomic<int> worked{0}, dropped{0};
    bool admitted = false;
  };
  constexpr int kThreads = 6;
  constexpr int kJobs = 400;
  std::vector<std::vector<Fate>> fates(kThreads);
  for (auto& f : fates) f = std::vector<Fate>(kJobs);
  std::atomic<int> refused{0};
  std::atomic<bool> overlapped{false};
  std::atomic<int> inside{0};
  {
    RunQueue queue({.max_waiting = 12, .max_waiting_per_uid = 5});
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 rng(seed + static_cast<uint32_t>(t));
        std::vector<std::string> ids;
        std::vector<std::shared_ptr<CancelToken>> tokens;
        for (int i = 0; i < kJobs; ++i) {
          Fate& fate = fates[static_cast<size_t>(t)][static_cast<size_t>(i)];
          RunQueue::Job job;
          job.uid = rng() % 4;
          job.priority = static_cast<Priority>(rng() % 3);
          job.cancel = std::make_shared<CancelToken>();
          const auto spins = static_cast<int>(rng() % 2000);
          job.work = [&, spins, token = job.cancel] {
            if (++inside != 1) overlapped = true;
            for (int s = 0; s < spins && !token->cancelled(); ++s)
              std::atomic_signal_fence(std::memory_order_seq_cst);
            --inside;
            ++fate.worked;
          };
          job.dropped = [&] { ++fate.dropped; };
          tokens.push_back(job.cancel);
          auto r = queue.submit(std::move(job));
          fate.admitted = static_cast<bool>(r);
          if (r) ids.push_back(r.value().id);
          refused += r ? 0 : 1;
          switch (rng() % 8) {
            case 0:
              if (!ids.empty()) queue.cancel(ids[rng() % ids.size()], 0, true);
              break;
            case 1:
              tokens[rng() % tokens.size()]->cancel();
              break;
            case 2:
              (void)queue.list();
              break;
            case 3:
              (void)queue.retry_after_s();
              break;
            case 4:
              std::this_thread::yield();
              break;
            default:
              break;
          }
        }
      });
    }
    for (auto& t : threads) t.join();
    if (seed % 2 == 0) queue.shutdown(static_cast<int64_t>(seed % 3));
  }
  for (const auto& of_thread : fates) {
    for (const Fate& f : of_thread) ASSERT_EQ(f.worked + f.dropped, f.admitted ? 1 : 0);
  }
  EXPECT_FALSE(overlapped);
  EXPECT_LT(refused, kThreads * kJobs);
}

TEST_F(RunQueueTest, ShutdownRacesWithSubmitAndCancel) {
  for (int round = 0; round < 100; ++round) {
    std::atomic<int> ended{0};
    std::atomic<int> admitted{0};
    {
      RunQueue queue({});
      std::vector<std::thread> threads;
      for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&, t] {
          for (int i = 0; i < 5; ++i) {
            RunQueue::Job job;
            job.uid = static_cast<uint32_t>(t);
            job.work = [&] { ++ended; };
            job.dropped = [&] { ++ended; };
            auto r = queue.submit(job);
            if (!r) continue;
            ++admitted;
            if (i % 2 == 0) queue.cancel(r.value().id, static_cast<uint32_t>(t), false);
          }
        });
      }
      threads.emplace_back([&] { queue.shutdown(round % 3); });
      for (auto& t : threads) t.join();
    }
    ASSERT_EQ(ended, admitted);
  }
}

// A job that parks in its first turn and ends in its second.
TEST_F(RunQueueTest, AParkedJobLetsOthersRunAndComesBackWhenResumed) {
  RunQueue queue({});
  std::atomic<int> turns{0};
  RunQueue::Job slow = named("slow", 1);
  slow.work = [&] {
    log_.add("slow" + std::to_string(++turns));
    if (turns == 1) queue.park();
  };
  const std::string id = queue.submit(slow).value().id;
  EXPECT_EQ(log_.wait_for(1).back(), "slow1");
  for (int i = 0; i < 5; ++i) submit(queue, "other", 1);
  EXPECT_EQ(log_.wait_for(6).back(), "other");
  while (queue.list().size() > 1) std::this_thread::yield();
  const auto jobs = queue.list();
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_TRUE(jobs[0].parked);
  EXPECT_FALSE(jobs[0].running);
  EXPECT_EQ(queue.waiting(), 0u);
  queue.resume("r-9999");  // nobody's
  queue.resume(id);
  EXPECT_EQ(log_.wait_for(7).back(), "slow2");
  while (!queue.list().empty()) std::this_thread::yield();
  queue.resume(id);  // has ended
  EXPECT_EQ(log_.lines().size(), 7u);
}

TEST_F(RunQueueTest, AResumeThatComesBeforeTheTurnEndsIsNotLost) {
  for (const bool others : {false, true}) {
    RunQueue queue({});
    Gate first, go;
    int turns = 0;
    RunQueue::Job slow = named("slow", 1);
    std::string id;
    slow.work = [&] {
      if (++turns == 2) return log_.add("second");
      queue.park();
      first.open();
      go.wait();
    };
    const size_t before = log_.lines().size();
    id = queue.submit(slow).value().id;
    first.wait();
    queue.resume(id);
    if (others) submit(queue, "other", 1);
    go.open();
    const auto lines = log_.wait_for(before + (others ? 2 : 1));
    EXPECT_EQ(lines.back(), "second") << "after those it stepped aside for";
  }
}

TEST_F(RunQueueTest, AParkedJobEndsInOneDropWhenCancelledOrShutDown) {
  for (const bool by_shutdown : {false, true}) {
    RunQueue queue({});
    RunQueue::Job slow = named("slow", 1);
    slow.work = [&] { queue.park(); };
    const size_t before = log_.lines().size();
    const auto cancel = slow.cancel = std::make_shared<CancelToken>();
    const std::string id = queue.submit(slow).value().id;
    while (queue.list().empty() || !queue.list()[0].parked) std::this_thread::yield();
    if (by_shutdown) {
      queue.shutdown(20);
    } else {
      EXPECT_FALSE(queue.cancel(id, 2, false)) << "of another uid";
      EXPECT_TRUE(queue.cancel(id, 1, false));
    }
    EXPECT_TRUE(cancel->cancelled());
    EXPECT_EQ(log_.wait_for(before + 1).back(), "-slow");
    queue.resume(id);
    EXPECT_FALSE(queue.cancel(id, 1, false));
    EXPECT_TRUE(queue.list().empty());
    EXPECT_EQ(log_.lines().size(), before + 1);
  }
}

TEST_F(RunQueueTest, ACancelInTheTurnThatParksIsADropToo) {
  RunQueue queue({});
  Gate parked, go;
  RunQueue::Job slow = named("slow", 1);
  slow.work = [&] {
    queue.park();
    parked.open();
    go.wait();
  };
  const std::string id = queue.submit(slow).value().id;
  parked.wait();
  EXPECT_TRUE(queue.cancel(id, 1, false));
  go.open();
  EXPECT_EQ(log_.wait_for(1), (std::vector<std::string>{"-slow"}));
  while (!queue.list().empty()) std::this_thread::yield();
}

TEST_F(RunQueueTest, ParkedJobsCountInTheLimits) {
  RunQueueLimits limits;
  limits.max_waiting = 3;
  limits.max_waiting_per_uid = 2;
  RunQueue queue(limits);
  const auto park_one = [&](uint32_t uid) {
    RunQueue::Job job = named("parked", uid);
    job.work = [&queue] { queue.park(); };
    return queue.submit(job);
  };
  const auto settle = [&](size_t n) {
    for (;;) {
      const auto jobs = queue.list();
      if (jobs.size() == n &&
          std::all_of(jobs.begin(), jobs.end(), [](auto& j) { return j.parked; }))
        return;
      std::this_thread::yield();
    }
  };
  const std::string first = park_one(1).value().id;
  settle(1);
  ASSERT_TRUE(park_one(1));
  settle(2);
  EXPECT_EQ(park_one(1).error().code, "queue_full");
  ASSERT_TRUE(park_one(2));
  settle(3);
  EXPECT_EQ(park_one(3).error().code, "overloaded");
  EXPECT_TRUE(queue.cancel(first, 1, false));
  ASSERT_TRUE(park_one(3)) << "its place is free again";
  settle(3);
  queue.shutdown(0);
  EXPECT_TRUE(queue.list().empty());
}

TEST_F(RunQueueTest, EveryJobEndsExactlyOnceAlsoWhenSomePark) {
  const unsigned seed = std::random_device{}();
  std::mt19937 rng(seed);
  for (int round = 0; round < 20; ++round) {
    RunQueueLimits limits;
    limits.max_waiting = limits.max_waiting_per_uid = 64;
    RunQueue queue(limits);
    constexpr int kJobs = 60;
    std::vector<std::atomic<int>> ended(kJobs), turns(kJobs);
    std::vector<std::string> ids;
    for (int i = 0; i < kJobs; ++i) {
      RunQueue::Job job = named("j", static_cast<uint32_t>(i % 3));
      const int parks = static_cast<int>(rng() % 3);
      job.work = [&, i, parks] {
        if (turns[static_cast<size_t>(i)]++ < parks) return queue.park();
        ++ended[static_cast<size_t>(i)];
      };
      job.dropped = [&, i] { ++ended[static_cast<size_t>(i)]; };
      auto ticket = queue.submit(job);
      ASSERT_TRUE(ticket);
      ids.push_back(ticket.value().id);
      if (rng() % 4 == 0) queue.cancel(ids[rng() % ids.size()], 0, true);
      if (rng() % 2 == 0) queue.resume(ids[rng() % ids.size()]);
    }
    const bool drain = rng() % 2 == 0;
    while (drain && !queue.list().empty()) {
      for (const std::string& id : ids) queue.resume(id);
    }
    queue.shutdown(0);
    while (!queue.list().empty()) std::this_thread::yield();
    for (int i = 0; i < kJobs; ++i)
      ASSERT_EQ(ended[static_cast<size_t>(i)], 1) << "job " << i << " seed " << seed;
  }
}

}  // namespace
}  // namespace sluice
