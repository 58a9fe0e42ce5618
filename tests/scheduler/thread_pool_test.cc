#include "scheduler/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace sluice {
namespace {

using kernels::parallel_for;

TEST(ThreadPool, HasAtLeastOneThreadAndAtMostTheCap) {
  EXPECT_GE(usable_cpus(), 1);
  EXPECT_EQ(ThreadPool(0).n_threads(), usable_cpus());
  EXPECT_EQ(ThreadPool(-3).n_threads(), usable_cpus());
  EXPECT_EQ(ThreadPool(1).n_threads(), 1);
  EXPECT_EQ(ThreadPool(5).n_threads(), 5);
}

TEST(ThreadPool, CoversTheRangeExactlyOnceInMultiplesOfTheGrain) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    for (int round = 0; round < 60; ++round) {
      const auto n = std::uniform_int_distribution<int64_t>(0, round % 4 == 0 ? 5000 : 50)(rng);
      const auto grain = std::uniform_int_distribution<int64_t>(-1, round % 2 == 0 ? 4 : 100)(rng);
      // Plain integers: two calls on one element, or a read before the barrier, is a race that TSan
      // reports.
      std::vector<int> hits(static_cast<size_t>(n));
      std::atomic<int> bad{0};
      parallel_for(pool, n, grain, [&](int64_t begin, int64_t end, int thread) {
        const bool cut = begin % std::max<int64_t>(grain, 1) == 0;
        if (begin < 0 || begin >= end || end > n || !cut || thread < 0 || thread >= threads) ++bad;
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      EXPECT_EQ(bad, 0) << "n=" << n << " grain=" << grain << " threads=" << threads;
      for (const int h : hits)
        ASSERT_EQ(h, 1) << "n=" << n << " grain=" << grain << " threads=" << threads;
    }
  }
}

TEST(ThreadPool, ThreadNumbersAreUniqueAtAnyMoment) {
  ThreadPool pool(4);
  std::vector<int> scratch(4);  // one each, without a lock: TSan sees a shared number
  for (int round = 0; round < 200; ++round) {
    parallel_for(pool, 64, 1, [&](int64_t begin, int64_t end, int thread) {
      scratch[static_cast<size_t>(thread)] += static_cast<int>(end - begin);
    });
  }
  int sum = 0;
  for (const int s : scratch) sum += s;
  EXPECT_EQ(sum, 200 * 64);
}

TEST(ThreadPool, EveryThreadTakesPartInALongJob) {
  ThreadPool pool(3);
  std::atomic<int> inside{0};
  // Each of three items waits for the others: this ends only when three threads run at the same
  // time.
  parallel_for(pool, 3, 1, [&](int64_t begin, int64_t end, int) {
    inside += static_cast<int>(end - begin);
    while (inside < 3) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 3);
}

TEST(ThreadPool, OversubscribedPoolFinishesTinyJobs) {
  ThreadPool pool(4 * usable_cpus());
  int64_t total = 0;
  for (int job = 0; job < 10000; ++job) {
    std::atomic<int64_t> sum{0};
    parallel_for(pool, 16, 1, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
    total += sum;
  }
  EXPECT_EQ(total, 160000);
}

TEST(ThreadPool, WritesBeforeAndInsideAJobAreSeenAfterIt) {
  ThreadPool pool(4);
  std::vector<int64_t> values(1000, 1);
  for (int round = 0; round < 300; ++round) {
    for (auto& v : values) ++v;  // by the caller
    parallel_for(pool, 1000, 7, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] *= 1;
      for (int64_t i = begin; i < end; ++i) ++values[static_cast<size_t>(i)];
    });
  }
  for (const auto v : values) ASSERT_EQ(v, 601);
}

TEST(ThreadPool, ComesAndGoesWithAndWithoutWork) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool idle(1 + i % 8);
    ThreadPool busy(1 + i % 5);
    std::atomic<int> n{0};
    // Work of one pool may use another one.
    parallel_for(busy, 4, 1, [&](int64_t begin, int64_t end, int) {
      ThreadPool inner(2);
      parallel_for(
          inner, end - begin, 1, [&](int64_t b, int64_t e, int) { n += static_cast<int>(e - b); });
    });
    EXPECT_EQ(n, 4);
  }
}

TEST(ThreadPool, MayBeUsedFromDifferentThreadsOneAtATime) {
  ThreadPool pool(3);
  int64_t sum = 0;
  for (int i = 0; i < 50; ++i) {
    std::thread([&] {
      std::atomic<int64_t> part{0};
      parallel_for(pool, 100, 3, [&](int64_t begin, int64_t end, int) { part += end - begin; });
      sum += part;
    }).join();
  }
  EXPECT_EQ(sum, 5000);
}

}  // namespace
}  // namespace sluice
