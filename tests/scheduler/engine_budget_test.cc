// The budget changes the speed, never the text: one engine after the other under budgets from the floor up.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "scheduler/block_residency.h"
#include "scheduler/engine.h"
#include "scheduler/failure_window.h"
#include "scheduler/thread_pool.h"
#include "tests/support/golden_model.h"

namespace sluice {
namespace {

class Collect final : public TokenSink {
 public:
  std::vector<TokenId> ids;
  bool on_token(const Sampled& t) override {
    ids.push_back(t.id);
    return true;
  }
};

std::shared_ptr<const Model> demo_model() {
  auto checked = check_model(std::string(SLUICE_SOURCE_DIR) + "/assets/demo.gguf");
  EXPECT_TRUE(checked);
  return Model::load(std::move(checked.value())).value();
}

GenerationRequest request(float temperature) {
  GenerationRequest r;
  r.prompt = {7, 300, 12, 55, 901, 4, 77, 1023, 2, 18, 600, 44};
  r.max_tokens = 80;
  r.sampling.temperature = temperature;
  r.sampling.seed = 11;
  return r;
}

std::vector<TokenId> text(Engine& engine, float temperature) {
  Collect sink;
  const auto done = engine.generate(request(temperature), sink, CancelToken{});
  EXPECT_TRUE(done) << (done ? "" : done.error().what);
  return sink.ids;
}

TEST(EngineUnderBudget, TextIsTheSameFromTheFloorUp) {
  const auto model = demo_model();
  ThreadPool pool(2);
  Budget unlimited;
  auto free = std::move(Engine::create(model, {}, unlimited, pool)).value();
  const auto greedy = text(*free, 0);
  const auto seeded = text(*free, 0.9f);
  ASSERT_EQ(greedy.size(), 80u);

  // The floor that the refusal names is the one that works.
  Budget tiny(1u << 20);
  const auto refused = Engine::create(model, {}, tiny, pool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "budget_below_floor");
  uint64_t floor = 0;
  ASSERT_EQ(std::sscanf(refused.error().hint.c_str(), "try a budget of %luM", &floor), 1) << refused.error().hint;
  for (uint64_t extra = 0; extra <= 9; ++extra) {
    Budget budget((floor + extra) << 20);
    auto engine = Engine::create(model, {}, budget, pool);
    ASSERT_TRUE(engine) << engine.error().what;
    EXPECT_EQ(text(*engine.value(), 0), greedy) << "budget " << floor + extra << " MiB";
    EXPECT_EQ(text(*engine.value(), 0.9f), seeded);
    EXPECT_LE(budget.used(), budget.limit());
  }
}

TEST(EngineUnderBudget, LimitFlapsWhileTokensAreComputed) {
  const auto model = demo_model();
  ThreadPool pool(2);
  Budget unlimited;
  const auto want = text(*std::move(Engine::create(model, {}, unlimited, pool)).value(), 0);
  Budget budget(64u << 20);
  auto engine = std::move(Engine::create(model, {}, budget, pool)).value();
  const uint64_t lowest = budget.used() + (1u << 20);      // no pins yet; a page or two of KV
  std::atomic<bool> stop{false};
  const uint32_t seed = std::random_device{}();
  std::thread flapper([&] {
    std::mt19937 rng(seed);
    while (!stop) {
      const uint64_t limit = lowest + rng() % (8u << 20);
      if (budget.set_limit(limit)) {
        EXPECT_LE(budget.used(), budget.limit());
      }
    }
  });
  for (int i = 0; i < 6; ++i) EXPECT_EQ(text(*engine, 0), want) << "seed " << seed;
  stop = true;
  flapper.join();
}

TEST(EngineUnderBudget, PressureFlapsWhileTokensAreComputed) {
  const auto model = demo_model();
  ThreadPool pool(2);
  Budget unlimited;
  const auto want = text(*std::move(Engine::create(model, {}, unlimited, pool)).value(), 0);
  Budget budget(64u << 20);
  auto engine = std::move(Engine::create(model, {}, budget, pool)).value();
  std::atomic<bool> stop{false};
  const uint32_t seed = std::random_device{}();
  std::thread flapper([&] {
    std::mt19937 rng(seed);
    while (!stop) {
      budget.set_pressure(rng() % 4 == 0 ? 0 : rng() % (16u << 20));
      if (rng() % 8 == 0) budget.set_pressure(Budget::kUnlimited);
      engine->give_back_pins(rng() % (1u << 20));
      engine->give_back_kv();
      EXPECT_LE(budget.used(), budget.limit());
    }
  });
  for (int i = 0; i < 6; ++i) EXPECT_EQ(text(*engine, 0), want) << "seed " << seed;
  stop = true;
  flapper.join();
}

TEST(EngineUnderBudget, AnIdleEngineGivesItsKeptKeysAndValuesBack) {
  const auto model = demo_model();
  ThreadPool pool(1);
  Budget budget(40u << 20);
  auto engine = std::move(Engine::create(model, {}, budget, pool)).value();
  const auto want = text(*engine, 0);
  EXPECT_GT(engine->memory().kv, 0u);
  EXPECT_EQ(engine->memory().kv_to_come, 0u) << "nothing runs";
  engine->give_back_kv();
  EXPECT_EQ(budget.used(MemoryClass::kKv), 0u);
  engine->give_back_pins(UINT64_MAX);
  EXPECT_EQ(budget.used(MemoryClass::kWeightsPinned), 0u);
  EXPECT_EQ(text(*engine, 0), want);
}

// Nobody asks for anything, and yet the first answer finds the weights that the budget has room
// for.
TEST(EngineUnderBudget, WarmReadsWhatMayStayBeforeAnybodyAsks) {
  const auto model = demo_model();
  ThreadPool pool(1);
  std::vector<TokenId> want;
  {
    Budget all(64u << 20);
    want = text(*std::move(Engine::create(model, {}, all, pool)).value(), 0);
  }
  Budget budget(64u << 20);
  auto engine = std::move(Engine::create(model, {}, budget, pool)).value();
  const auto resident_when_quiet = [&] {
    uint64_t before = UINT64_MAX;
    for (int calm = 0; calm < 50;) {
      const uint64_t now = engine->memory().weights_resident;
      calm = now == before ? calm + 1 : 0;
      before = now;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return before;
  };
  // Room for some weights, not for all.
  auto others = budget.reserve(budget.available() - (4u << 20), MemoryClass::kHttp).value();
  engine->warm();
  const uint64_t little = resident_when_quiet();
  EXPECT_LE(little, 4u << 20);
  others = {};
  engine->warm();
  const uint64_t much = resident_when_quiet();
  EXPECT_GT(much, little);
  uint64_t all = 0;
  for (const BlockResidency& b : engine->blocks()) {
    all += b.kind == BlockKind::kEmbed ? 0 : b.stats.bytes;
  }
  // What the ring held meanwhile is read when it is let go of.
  EXPECT_GE(much + engine->memory().ring, all);
  const uint64_t streamed = engine->memory().streamed_bytes;
  EXPECT_EQ(text(*engine, 0), want);
  EXPECT_EQ(engine->memory().streamed_bytes, streamed);
}

TEST(EngineUnderBudget, AModelWhoseReadsFailThreeTimesInAMinuteHasFailed) {
  const auto model = demo_model();
  ThreadPool pool(1);
  Budget budget(64u << 20);
  IoFault fault = std::move(IoFault::parse("read:*:EIO")).value();
  EngineOptions options;
  options.io.fault = &fault;
  auto engine = std::move(Engine::create(model, options, budget, pool)).value();
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(engine->failed()) << i;
    Collect sink;
    const auto done = engine->generate(request(0), sink, CancelToken{});
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, "io.read");
  }
  EXPECT_TRUE(engine->failed());
}

TEST(FailureWindow, CountsOnlyWhatFallsIntoAMinute) {
  FailureWindow w;
  EXPECT_FALSE(w.add(100));
  EXPECT_FALSE(w.add(130));
  EXPECT_FALSE(w.add(161));  // 100 is too long ago
  EXPECT_TRUE(w.add(189));
  EXPECT_FALSE(w.add(400));
  EXPECT_FALSE(w.add(401));
  EXPECT_TRUE(w.add(402));
  EXPECT_TRUE(w.add(403));
}

TEST(EngineUnderBudget, BlocksAddUpToWhatIsPinnedAndCountWhatWasRead) {
  const auto model = demo_model();
  ThreadPool pool(1);
  Budget budget(64u << 20);
  auto engine = std::move(Engine::create(model, {}, budget, pool)).value();
  (void)text(*engine, 0);
  const auto blocks = engine->blocks();
  ASSERT_GE(blocks.size(), model->blocks().size() + 1);
  uint64_t resident = 0;
  for (const BlockResidency& b : blocks) {
    resident += b.stats.resident_bytes;
    if (b.kind == BlockKind::kEmbed) continue;
    EXPECT_EQ(b.stats.resident_bytes, b.stats.bytes) << b.name;
    EXPECT_EQ(b.stats.pin_bytes, b.stats.bytes) << b.name;
    EXPECT_GE(b.stats.read_bytes, b.stats.bytes) << b.name;
    uint64_t loaded = 0;
    for (const SliceLoads& l : b.stats.loads) {
      loaded += l.bytes;
      EXPECT_EQ(l.n > 0, l.ms > 0) << b.name;
    }
    EXPECT_GE(loaded, b.stats.bytes) << b.name;
    EXPECT_LE(loaded, b.stats.read_bytes) << b.name;
    EXPECT_EQ(b.stats.loads[static_cast<size_t>(LoadReason::kPrefetch)].n, 0u) << "all of it stays";
    EXPECT_GT(b.stats.hit_bytes, b.stats.miss_bytes) << b.name;
  }
  EXPECT_EQ(resident, engine->memory().weights_resident);
  engine->give_back_pins(UINT64_MAX);
  for (const BlockResidency& b : engine->blocks()) {
    const uint64_t all = b.kind == BlockKind::kEmbed ? 0 : b.stats.bytes;
    EXPECT_EQ(b.stats.evicted_bytes, all) << b.name;
  }
}

// What a running generation is said to need is enough for it, whatever others take.
TEST(EngineUnderBudget, AGenerationEndsAtTheFloorItWasSaidToHave) {
  const auto model = demo_model();
  ThreadPool pool(1);
  Budget budget(64u << 20);
  auto engine = std::move(Engine::create(model, {}, budget, pool)).value();
  const auto want = text(*engine, 0);
  engine->give_back_kv();
  class Lower final : public TokenSink {
   public:
    Lower(Budget& b, Engine& e) : budget(b), engine(e) {}
    bool on_token(const Sampled& t) override {
      ids.push_back(t.id);
      if (ids.size() == 5) {
        const uint64_t unpinned = budget.used() - budget.used(MemoryClass::kWeightsPinned);
        const auto lowered = budget.set_limit(unpinned + engine.memory().kv_to_come);
        EXPECT_TRUE(lowered);
      }
      return true;
    }
    std::vector<TokenId> ids;
    Budget& budget;
    Engine& engine;
  } sink(budget, *engine);
  const auto done = engine->generate(request(0), sink, CancelToken{});
  ASSERT_TRUE(done) << done.error().what;
  EXPECT_EQ(sink.ids, want);
}

TEST(EngineUnderBudget, KeyValuePagesTakePinsBack) {
  const auto model = demo_model();
  ThreadPool pool(1);
  Budget budget(40u << 20);
  auto engine = std::move(Engine::create(model, {}, budget, pool)).value();
  auto r = request(0);
  Collect sink;
  ASSERT_TRUE(engine->generate(r, sink, CancelToken{}));
  const uint64_t pinned = budget.used(MemoryClass::kWeightsPinned);
  EXPECT_GT(pinned, 0u);
  // Somebody else takes all that is free and a bit more: the pins give way.
  auto other = budget.reserve(budget.available() + (1u << 20), MemoryClass::kHttp);
  ASSERT_TRUE(other) << other.error().what;
  EXPECT_LT(budget.used(MemoryClass::kWeightsPinned), pinned);
  Collect again;
  ASSERT_TRUE(engine->generate(r, again, CancelToken{}));
  EXPECT_EQ(again.ids, sink.ids);
}

}  // namespace
}  // namespace sluice
