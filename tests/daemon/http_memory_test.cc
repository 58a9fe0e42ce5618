#include "daemon/http_memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "daemon/answer.h"
#include "daemon/worker.h"

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

TEST(HttpMemory, ABodyThatWaitsForAWorkerIsHeldWhenItsClientHasGone) {
  Budget budget(64 * kMiB);
  HttpMemory memory(budget);
  Worker worker(1);
  for (const IfGone if_gone : {IfGone::kSkip, IfGone::kDoIt}) {
    std::promise<void> busy, done;
    worker.post([&] { busy.get_future().wait(); });
    std::atomic<bool> made{false};
    {
      HttpRequest request;
      request.body = std::string(2 * kMiB, 'x');
      const auto hold = std::make_shared<HttpHold>(memory);
      ASSERT_TRUE(hold->grow_to(6 * kMiB));
      request.hold = hold;
      const auto answer = answer_on(
          worker,
          [&made, r = std::move(request)] {
            made = true;
            return HttpResponse();
          },
          "req",
          true,
          if_gone);
      answer->start([] {});
      answer->cancel(Gone::kLeft);
    }
    EXPECT_GE(budget.used(), 6 * kMiB) << "nobody but the worker has it";
    busy.set_value();
    worker.post([&] { done.set_value(); });
    done.get_future().wait();
    EXPECT_EQ(budget.used(), HttpMemory::kKept);
    EXPECT_EQ(made.load(), if_gone == IfGone::kDoIt);
  }
}

}  // namespace
}  // namespace sluice
