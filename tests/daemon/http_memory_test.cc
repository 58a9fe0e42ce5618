#include "daemon/http_memory.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr uint64_t kMiB = 1u << 20;

TEST(HttpMemory, WhatIsKeptIsTakenWithoutAskingAndComesBack) {
  Budget budget(8 * kMiB);
  HttpMemory memory(budget);
  EXPECT_EQ(budget.used(MemoryClass::kHttp), HttpMemory::kKept);
  {
    HttpHold a(memory);
    EXPECT_TRUE(a.take_to(HttpMemory::kKept - 10));
    HttpHold b(memory);
    EXPECT_TRUE(b.take_to(10));
    EXPECT_FALSE(b.take_to(11)) << "not one byte more";
    EXPECT_EQ(b.bytes(), 10u);
    EXPECT_EQ(budget.used(), HttpMemory::kKept) << "nobody was asked";
    ASSERT_TRUE(b.grow_to(2 * kMiB));
    EXPECT_EQ(b.bytes(), 2 * kMiB);
    EXPECT_EQ(budget.used(), HttpMemory::kKept + 2 * kMiB - 10);
    ASSERT_TRUE(b.grow_to(kMiB)) << "never less";
    EXPECT_EQ(b.bytes(), 2 * kMiB);
  }
  EXPECT_EQ(budget.used(MemoryClass::kHttp), HttpMemory::kKept);
  HttpHold again(memory);
  EXPECT_TRUE(again.take_to(HttpMemory::kKept));
}

TEST(HttpMemory, WhatDoesNotFitIsAnErrorAndChangesNothing) {
  Budget budget(4 * kMiB);
  HttpMemory memory(budget);
  HttpHold hold(memory);
  ASSERT_TRUE(hold.grow_to(3 * kMiB)) << "to the last byte, beside what is kept";
  EXPECT_EQ(budget.used(), 4 * kMiB);
  ASSERT_TRUE(hold.grow_to(4 * kMiB)) << "and with that";
  const auto more = hold.grow_to(4 * kMiB + 1);
  ASSERT_FALSE(more);
  EXPECT_FALSE(hold.could_grow_to(4 * kMiB + 1));
  EXPECT_TRUE(hold.could_grow_to(4 * kMiB));
  EXPECT_EQ(more.error().code, "budget_exceeded");
  EXPECT_EQ(hold.bytes(), 4 * kMiB);
  EXPECT_EQ(budget.used(), 4 * kMiB);
}

TEST(HttpMemory, ABudgetWithoutRoomForWhatIsKeptKeepsNothing) {
  Budget budget(kMiB / 2);
  HttpMemory memory(budget);
  EXPECT_EQ(budget.used(), 0u);
  HttpHold hold(memory);
  EXPECT_FALSE(hold.take_to(1));
  EXPECT_TRUE(hold.grow_to(1000));
  EXPECT_EQ(budget.used(), 1000u);
}

// Pins make room for a body, as for everything that is no pin.
TEST(HttpMemory, PinsMakeRoom) {
  struct Pins final : Reclaimer {
    Reservation held;
    void reclaim(uint64_t bytes) override {
      ASSERT_TRUE(held.resize(held.bytes() > bytes ? held.bytes() - bytes : 0));
    }
  };
  Budget budget(8 * kMiB);
  HttpMemory memory(budget);
  Pins pins;
  pins.held = budget.reserve(budget.available(), MemoryClass::kWeightsPinned).value();
  budget.add_reclaimer(&pins);
  {
    HttpHold hold(memory);
    EXPECT_TRUE(hold.grow_to(3 * kMiB));
    EXPECT_EQ(budget.used(), 8 * kMiB);
  }
  budget.remove_reclaimer(&pins);
}

}  // namespace
}  // namespace sluice
