#include "storage/budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace sluice {
namespace {

constexpr size_t kClasses = static_cast<size_t>(MemoryClass::kCount);

uint64_t sum_by_class(const Budget& budget) {
  uint64_t sum = 0;
  for (size_t c = 0; c < kClasses; ++c) sum += budget.used(static_cast<MemoryClass>(c));
  return sum;
}

TEST(Budget, LimitIsReachedExactlyAndNeverPassed) {
  Budget budget(1000);
  auto a = budget.reserve(999, MemoryClass::kKv);
  ASSERT_TRUE(a);
  EXPECT_FALSE(budget.reserve(2, MemoryClass::kRing));
  auto b = budget.reserve(1, MemoryClass::kRing);
  ASSERT_TRUE(b);
  EXPECT_EQ(budget.used(), 1000u);
  EXPECT_EQ(budget.used(MemoryClass::kKv), 999u);
  EXPECT_FALSE(budget.reserve(1, MemoryClass::kRing));
  EXPECT_FALSE(b.value().resize(2));
  EXPECT_EQ(b.value().bytes(), 1u);
  EXPECT_TRUE(a.value().resize(500));
  EXPECT_TRUE(b.value().resize(500));
  EXPECT_FALSE(b.value().resize(501));
  EXPECT_FALSE(b.value().resize(UINT64_MAX));
  EXPECT_EQ(budget.used(), 1000u);
}

TEST(Budget, RefusalSaysWhatIsHeldAndWhatWasAsked) {
  Budget budget(100u << 20);
  auto kv = budget.reserve(60u << 20, MemoryClass::kKv);
  const auto refused = budget.reserve(50u << 20, MemoryClass::kRing);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "budget_exceeded");
  for (const char* part : {"50 MiB", "ring", "100 MiB", "kv 60 MiB"}) {
    EXPECT_NE(refused.error().what.find(part), std::string::npos) << refused.error().what;
  }
}

TEST(Budget, HugeNumbersDoNotWrap) {
  Budget budget;
  auto a = budget.reserve(UINT64_MAX - 10, MemoryClass::kWeightsMapped);
  ASSERT_TRUE(a);
  EXPECT_FALSE(budget.reserve(11, MemoryClass::kKv));
  EXPECT_TRUE(budget.reserve(10, MemoryClass::kKv));
}

TEST(Budget, MovedReservationGivesItsBytesBackOnce) {
  Budget budget(100);
  {
    Reservation a = budget.reserve(30, MemoryClass::kKv).value();
    Reservation b = std::move(a);
    EXPECT_EQ(a.bytes(), 0u);
    EXPECT_EQ(budget.used(), 30u);
    Reservation c = budget.reserve(50, MemoryClass::kRing).value();
    c = std::move(b);  // what c held goes back, what b held is c's
    EXPECT_EQ(budget.used(), 30u);
    EXPECT_EQ(budget.used(MemoryClass::kRing), 0u);
    Reservation& same = c;
    c = std::move(same);
    EXPECT_EQ(budget.used(), 30u);
  }
  EXPECT_EQ(budget.used(), 0u);
  Reservation none;
  EXPECT_TRUE(none.resize(0));
  EXPECT_FALSE(none.resize(1));
}

// The promise: used == sum by class, and used <= limit after every step, whatever several threads
// do.
TEST(Budget, RandomTracesKeepTheLedgerTrue) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  constexpr uint64_t kLimit = 100'000;
  Budget budget(kLimit);
  std::atomic<bool> broken{false};
  const auto worker = [&](uint64_t n) {
    std::mt19937_64 rng(seed + n);
    std::vector<Reservation> held;
    for (int step = 0; step < 20'000; ++step) {
      switch (rng() % 5) {
        case 0:
        case 1: {
          auto r = budget.reserve(rng() % 8000, static_cast<MemoryClass>(rng() % kClasses));
          if (r) held.push_back(std::move(r).value());
          break;
        }
        case 2:
          if (!held.empty()) {
            Reservation& r = held[rng() % held.size()];
            const uint64_t before = r.bytes();
            const uint64_t wanted = rng() % 12000;
            const bool ok = static_cast<bool>(r.resize(wanted));
            if (r.bytes() != (ok ? wanted : before) || (!ok && wanted <= before)) broken = true;
          }
          break;
        case 3:
          if (held.size() > 1) {  // assigned over: the one below is released
            held[rng() % (held.size() - 1)] = std::move(held.back());
            held.pop_back();
          }
          break;
        default:
          if (!held.empty())
            held.erase(held.begin() + static_cast<std::ptrdiff_t>(rng() % held.size()));
      }
      if (budget.used() > kLimit) broken = true;
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t n = 0; n < 4; ++n) threads.emplace_back(worker, n);
  for (std::thread& t : threads) t.join();
  EXPECT_FALSE(broken);
  EXPECT_EQ(budget.used(), 0u);
  EXPECT_EQ(sum_by_class(budget), 0u);

  // One thread, so that the sum can be looked at between steps.
  std::mt19937_64 rng(seed);
  std::vector<Reservation> held;
  uint64_t expected = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (rng() % 2 == 0 || held.empty()) {
      const uint64_t bytes = rng() % 8000;
      auto r = budget.reserve(bytes, static_cast<MemoryClass>(rng() % kClasses));
      ASSERT_EQ(static_cast<bool>(r), expected + bytes <= kLimit);
      if (r) {
        expected += bytes;
        held.push_back(std::move(r).value());
      }
    } else {
      expected -= held.back().bytes();
      held.pop_back();
    }
    ASSERT_EQ(budget.used(), expected);
    ASSERT_EQ(sum_by_class(budget), expected);
    ASSERT_LE(budget.used(), kLimit);
  }
}

TEST(Budget, EveryClassHasAName) {
  for (size_t c = 0; c < kClasses; ++c)
    EXPECT_STRNE(memory_class_name(static_cast<MemoryClass>(c)), "unknown");
  EXPECT_STREQ(memory_class_name(MemoryClass::kCount), "unknown");
}

}  // namespace
}  // namespace sluice
