#include "storage/budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
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

// Holds a reservation that it gives back when asked, and says in which order it was.
class Holder final : public Reclaimer {
 public:
  Holder(Budget& budget, uint64_t bytes, MemoryClass c, std::string name, std::string& log)
      : held_(budget.reserve(bytes, c).value()), name_(std::move(name)), log_(log) {}
  void reclaim(uint64_t bytes) override {
    log_ += name_;
    if (also) also();
    const uint64_t keep = held_.bytes() > bytes ? held_.bytes() - bytes : 0;
    ASSERT_TRUE(held_.resize(keep));
  }
  uint64_t bytes() const { return held_.bytes(); }
  std::function<void()> also;

 private:
  Reservation held_;
  const std::string name_;
  std::string& log_;
};

TEST(Budget, ALowerLimitTakesFromIdleModelsThenPinsThenUnloads) {
  Budget budget(1000);
  std::string log;
  Holder pins(budget, 300, MemoryClass::kWeightsPinned, "p", log);
  Holder unload(budget, 200, MemoryClass::kRing, "u", log);
  Holder idle(budget, 100, MemoryClass::kKv, "i", log);
  budget.add_reclaimer(&unload, ReclaimRank::kUnload);
  budget.add_reclaimer(&pins);
  budget.add_reclaimer(&idle, ReclaimRank::kIdle);
  ASSERT_TRUE(budget.set_limit(550));
  EXPECT_EQ(log, "i");
  ASSERT_TRUE(budget.set_limit(400));
  EXPECT_EQ(log, "iip");
  EXPECT_EQ(pins.bytes(), 200u);
  ASSERT_TRUE(budget.set_limit(100));
  EXPECT_EQ(log, "iipipu");
  EXPECT_EQ(budget.used(), 100u);
  for (Holder* h : {&pins, &unload, &idle}) budget.remove_reclaimer(h);
}

TEST(Budget, NothingIsTakenForWhatCannotFit) {
  class Known final : public Reclaimer {
   public:
    Known(Reclaimer& r, uint64_t most) : reclaimer_(r), most_(most) {}
    void reclaim(uint64_t bytes) override { reclaimer_.reclaim(bytes); }
    uint64_t most_unpinned() const override { return most_; }

   private:
    Reclaimer& reclaimer_;
    const uint64_t most_;
  };
  Budget budget(1000);
  std::string log;
  Holder pins(budget, 300, MemoryClass::kWeightsPinned, "p", log);
  Holder unload(budget, 200, MemoryClass::kRing, "u", log);
  auto busy = budget.reserve(400, MemoryClass::kKv);
  Known asked_pins(pins, 0), asked_unload(unload, 200);
  budget.add_reclaimer(&asked_pins);
  budget.add_reclaimer(&asked_unload, ReclaimRank::kUnload);
  const auto refused = budget.reserve(601, MemoryClass::kHttp);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "budget_exceeded");
  EXPECT_EQ(budget.could_reserve(601, MemoryClass::kHttp).error().code, "budget_exceeded");
  EXPECT_FALSE(budget.could_reserve(UINT64_MAX, MemoryClass::kHttp));
  EXPECT_FALSE(busy.value().resize(1001));
  EXPECT_TRUE(budget.could_reserve(600, MemoryClass::kHttp));
  EXPECT_EQ(log, "") << "nobody was asked";
  EXPECT_EQ(budget.used(), 900u);
  EXPECT_TRUE(budget.reserve(600, MemoryClass::kHttp)) << "to the last byte";
  EXPECT_EQ(log, "pu");
  EXPECT_EQ(budget.used(), 400u);
  for (Reclaimer* r : {&asked_pins, &asked_unload}) budget.remove_reclaimer(r);
}

TEST(Budget, ARefusedLimitLeavesTheOldOne) {
  Budget budget(1000);
  auto held = budget.reserve(600, MemoryClass::kActivations);
  const auto refused = budget.set_limit(599);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "budget_below_floor");
  EXPECT_EQ(budget.limit(), 1000u);
  EXPECT_TRUE(budget.reserve(400, MemoryClass::kKv));
  EXPECT_TRUE(budget.set_limit(600));
}

TEST(Budget, NobodyChargesPastALimitOnItsWayDown) {
  Budget budget(1000);
  std::string log;
  Holder pins(budget, 600, MemoryClass::kWeightsPinned, "p", log);
  budget.add_reclaimer(&pins);
  pins.also = [&] {
    EXPECT_FALSE(budget.reserve(300, MemoryClass::kWeightsPinned)) << "while the limit is lowered";
    EXPECT_EQ(budget.limit(), 1000u) << "not in force yet";
  };
  ASSERT_TRUE(budget.set_limit(500));
  EXPECT_EQ(log, "p");
  EXPECT_LE(budget.used(), budget.limit());
  budget.remove_reclaimer(&pins);
}

TEST(Budget, UnderPressurePinsKeepWithinItAndRequestsMayPassIt) {
  Budget budget(1000);
  std::string log;
  Holder pins(budget, 500, MemoryClass::kWeightsPinned, "p", log);
  Holder unload(budget, 100, MemoryClass::kRing, "u", log);
  budget.add_reclaimer(&pins);
  budget.add_reclaimer(&unload, ReclaimRank::kUnload);
  EXPECT_TRUE(budget.set_pressure(400));
  EXPECT_EQ(log, "p") << "pressure unloads nobody";
  EXPECT_EQ(budget.effective(), 400u);
  EXPECT_EQ(budget.limit(), 1000u);
  EXPECT_FALSE(budget.reserve(1, MemoryClass::kWeightsPinned));
  auto kv = budget.reserve(800, MemoryClass::kKv);
  ASSERT_TRUE(kv) << kv.error().what;
  EXPECT_EQ(budget.used(MemoryClass::kWeightsPinned), 0u);
  EXPECT_EQ(budget.effective(), budget.used())
      << "effective is never below what cannot be given back";
  EXPECT_FALSE(budget.reserve(300, MemoryClass::kFixed)) << "the limit holds for all";
  EXPECT_FALSE(budget.set_pressure(0)) << "less than what is held";
  budget.set_pressure(Budget::kUnlimited);
  EXPECT_EQ(budget.effective(), 1000u);
  EXPECT_TRUE(budget.reserve(50, MemoryClass::kWeightsPinned));
  budget.remove_reclaimer(&pins);
  budget.remove_reclaimer(&unload);
}

TEST(Budget, ACeilingOfOthersHoldsForAll) {
  Budget budget(1000);
  EXPECT_TRUE(budget.set_ceiling(300));
  EXPECT_EQ(budget.effective(), 300u);
  EXPECT_EQ(budget.limit(), 1000u);
  auto kv = budget.reserve(300, MemoryClass::kKv);
  ASSERT_TRUE(kv);
  EXPECT_FALSE(budget.reserve(1, MemoryClass::kKv));
  EXPECT_FALSE(budget.set_ceiling(200)) << "held and not to be had";
  EXPECT_TRUE(budget.set_ceiling(Budget::kUnlimited));
  EXPECT_TRUE(budget.reserve(700, MemoryClass::kKv));
}

TEST(Budget, AReclaimerMayEndAnother) {
  Budget budget(1000);
  std::string log;
  auto victim = std::make_unique<Holder>(budget, 300, MemoryClass::kWeightsPinned, "v", log);
  Holder first(budget, 100, MemoryClass::kKv, "f", log);
  budget.add_reclaimer(&first, ReclaimRank::kIdle);
  budget.add_reclaimer(victim.get());
  first.also = [&] {
    budget.remove_reclaimer(victim.get());
    victim.reset();
  };
  ASSERT_TRUE(budget.set_limit(10));
  EXPECT_EQ(log, "f");
  budget.remove_reclaimer(&first);
}

TEST(Budget, EveryClassHasAName) {
  for (size_t c = 0; c < kClasses; ++c)
    EXPECT_STRNE(memory_class_name(static_cast<MemoryClass>(c)), "unknown");
  EXPECT_STREQ(memory_class_name(MemoryClass::kCount), "unknown");
}

}  // namespace
}  // namespace sluice
