#include "daemon/event_bus.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace sluice {
namespace {

TEST(EventBus, ReadersGetEverythingInOrderFromTheirPlace) {
  EventBus bus;
  bus.publish("model.loaded", {{"model", "a"}});
  const uint64_t here = bus.last();
  bus.publish("budget", {});
  bus.publish("model.idle", {{"model", "a"}});
  EventFilter all;
  auto batch = bus.read(here, all, 1 << 20);
  ASSERT_EQ(batch.events.size(), 2u);
  EXPECT_EQ(batch.events[0].type, "budget");
  EXPECT_EQ(batch.events[1].seq, 3u);
  EXPECT_NE(batch.events[1].data.find("\"model\":\"a\""), std::string::npos);
  EXPECT_EQ(batch.dropped, 0u);
  EXPECT_TRUE(bus.read(batch.next, all, 1 << 20).events.empty());
  EXPECT_EQ(bus.read(0, all, 1).events.size(), 1u) << "a little at a time";
}

TEST(EventBus, ALaggardIsToldHowMuchItMissed) {
  EventBus bus;
  for (size_t i = 0; i < EventBus::kRing + 100; ++i) bus.publish("block.load", {});
  const auto batch = bus.read(10, {}, SIZE_MAX);
  EXPECT_EQ(batch.dropped, 90u);
  EXPECT_EQ(batch.events.size(), EventBus::kRing);
  EXPECT_EQ(batch.events.front().seq, 101u);
}

TEST(EventBus, FiltersByTypeFamilyAndOwner) {
  EventBus bus;
  bus.publish("block.load", {});
  bus.publish("blocks", {});
  bus.publish("request.started", {}, 7);
  EventFilter f;
  f.types = {"block"};
  EXPECT_EQ(bus.read(0, f, SIZE_MAX).events.size(), 1u);
  EXPECT_EQ(bus.read(0, f, SIZE_MAX).next, 3u) << "what is filtered is read, too";
  f.types.clear();
  f.uid = 8;
  EXPECT_EQ(bus.read(0, f, SIZE_MAX).events.size(), 2u);
  f.uid = 7;
  EXPECT_EQ(bus.read(0, f, SIZE_MAX).events.size(), 3u);
  f.uid = 8;
  f.all_users = true;
  EXPECT_EQ(bus.read(0, f, SIZE_MAX).events.size(), 3u);
}

TEST(EventBus, ANumberOfAnotherDaemonStartsAtTheEnd) {
  EventBus bus;
  bus.publish("budget", {});
  const auto batch = bus.read(99, {}, SIZE_MAX);
  EXPECT_TRUE(batch.events.empty());
  EXPECT_EQ(batch.next, 1u);
}

TEST(EventBus, WakesOnceUntilArmedAgainAndBoundsItsReaders) {
  EventBus bus;
  int woken = 0;
  const auto reader = bus.join([&] { ++woken; });
  ASSERT_TRUE(reader);
  bus.publish("budget", {});
  EXPECT_EQ(woken, 0);
  bus.arm(*reader);
  bus.publish("budget", {});
  bus.publish("budget", {});
  EXPECT_EQ(woken, 1);
  for (size_t i = 1; i < EventBus::kReaders; ++i) EXPECT_TRUE(bus.join([] {}));
  EXPECT_FALSE(bus.join([] {}));
  bus.arm(*reader);
  bus.leave(*reader);
  bus.publish("budget", {});
  EXPECT_EQ(woken, 1);
  EXPECT_TRUE(bus.join([] {}));
}

TEST(EventBus, ManyWritersAndReadersLoseNothing) {
  EventBus bus;
  constexpr int kWriters = 4, kEach = 500;
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) bus.publish("block.load", {{"i", i}});
    });
  }
  uint64_t at = 0, seen = 0;
  while (seen < kWriters * kEach) {
    const auto batch = bus.read(at, {}, 4096);
    for (const Event& e : batch.events) EXPECT_EQ(e.seq, ++seen);
    at = batch.next;
    ASSERT_EQ(batch.dropped, 0u);
  }
  for (auto& t : writers) t.join();
}

}  // namespace
}  // namespace sluice
