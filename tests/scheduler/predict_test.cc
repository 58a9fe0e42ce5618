// Predictions: the arithmetic agrees with what a Residency does, and behaves when a budget, a disk
// or a processor changes.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "scheduler/pass.h"
#include "scheduler/predict.h"
#include "scheduler/probe.h"
#include "scheduler/residency.h"
#include "scheduler/thread_pool.h"

namespace sluice {
namespace {

constexpr uint64_t kMiB = 1u << 20;

std::string source(const std::string& path) { return std::string(SLUICE_SOURCE_DIR) + "/" + path; }

struct Opened {
  explicit Opened(const std::string& path) : checked(std::move(check_model(source(path))).value()) {
    layout = layout_of(checked->file, checked->hparams);
    schedule = make_schedule(layout, checked->hparams);
    sizes = pass_sizes(*layout.slices, schedule, checked->hparams);
  }
  std::unique_ptr<CheckedModel> checked;
  ModelLayout layout;
  Schedule schedule;
  PassSizes sizes;
};

// A model of `n` slices of 2 MiB, nothing but numbers.
PassSizes made_up(size_t n, size_t n_experts = 0) {
  PassSizes s;
  for (size_t i = 0; i <= n + n_experts; ++i) s.pin_offsets.push_back(i * 2 * kMiB);
  s.skipped.assign(n + n_experts, false);
  for (size_t i = 0; i < n; i += 8) s.skipped[i] = true;
  s.n_dense = n;
  s.weight_bytes = s.pin_offsets[n];
  s.expert_bytes = s.pin_bytes() - s.weight_bytes;
  s.experts_active = n_experts > 0 ? 0.0625 : 0;
  s.slot_bytes = 2 * kMiB + 4096;
  s.row_read_bytes = 128 << 10;
  s.kv_token_bytes = 28 << 10;
  return s;
}

Speeds made_up_speeds() { return {{1.0e9, 0.1}, {0.030, 0.1}, {0.007, 0.1}, 33e9}; }

BudgetQuestion question(uint64_t budget) {
  BudgetQuestion q;
  q.budget_bytes = budget;
  q.needs.fixed_bytes = 20 * kMiB;
  q.needs.activation_bytes = 8 * kMiB;
  q.needs.kv_bytes = 14 * kMiB;
  return q;
}

TEST(Predict, LayoutOfAHeaderIsThatOfTheLoadedModel) {
  for (const char* path :
       {"assets/demo.gguf", "tests/golden/public/qwen3moe-tiny-q4_k/model.gguf"}) {
    const Opened m(path);
    const auto model = Model::load(std::move(check_model(source(path))).value()).value();
    EXPECT_EQ(make_schedule(*model).slices, m.schedule.slices);
    EXPECT_EQ(make_schedule(*model).experts, m.schedule.experts);
    EXPECT_EQ(make_schedule(*model).n_without_outputs, m.schedule.n_without_outputs);
    ASSERT_EQ(model->slices().slices().size(), m.layout.slices->slices().size());
    for (SliceId id = 0; id < model->slices().slices().size(); ++id) {
      EXPECT_EQ(model->slices()[id].file_offset, (*m.layout.slices)[id].file_offset);
      EXPECT_EQ(model->slices()[id].n_bytes, (*m.layout.slices)[id].n_bytes);
    }
  }
}

class Ignore final : public LogitsSink {
  void on_logits(size_t, int64_t, std::span<const float>) override {}
};

// Reads ahead end when the ring is full.
uint64_t streamed_when_quiet(const SliceStore& store) {
  uint64_t before = store.stats().streamed_bytes;
  for (int calm = 0; calm < 20;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const uint64_t now = store.stats().streamed_bytes;
    calm = now == before ? calm + 1 : 0;
    before = now;
  }
  return before;
}

TEST(Predict, AgreesWithResidencyToTheByte) {
  const Opened m("assets/demo.gguf");
  const auto model =
      Model::load(std::move(check_model(source("assets/demo.gguf"))).value()).value();
  ThreadPool pool(2);
  PassOptions options;
  options.max_tokens = 16;
  options.max_seq_len = 64;
  options.max_outputs = 1;
  BudgetQuestion q;
  q.needs.fixed_bytes = 5 * kMiB + 12345;
  q.needs.kv_bytes = static_cast<uint64_t>(
      kernels::KvLayout::of(model->hparams(), kernels::KvType::kF16).page_bytes());
  q.needs.activation_bytes = kernels::workspace_bytes(model->hparams(), {16, 64, 1, 2});
  const uint64_t floor = predict(m.sizes, q, made_up_speeds()).floor_bytes;
  bool streamed = false;
  bool resident = false;
  for (uint64_t extra = 0; extra <= 24 && !resident; ++extra) {
    q.budget_bytes = floor + extra * kMiB;
    SCOPED_TRACE(q.budget_bytes);
    Budget budget(q.budget_bytes);
    const auto base =
        budget.reserve(q.needs.fixed_bytes + headroom_for(q.budget_bytes), MemoryClass::kFixed)
            .value();
    PlanNeeds needs = q.needs;
    needs.fixed_bytes = 0;
    auto residency = Residency::create(model, {}, needs, budget);
    ASSERT_TRUE(residency) << residency.error().what;
    Residency& r = *residency.value();
    ASSERT_TRUE(r.fill(needs.kv_bytes + needs.activation_bytes));
    const Prediction p = predict(m.sizes, q, made_up_speeds());
    ASSERT_TRUE(p.fits);
    EXPECT_EQ(p.floor_bytes, r.plan().floor_bytes);
    EXPECT_EQ(p.plan.ring_bytes, r.plan().ring_bytes);
    EXPECT_EQ(p.plan.ring_bytes, r.store().ring_bytes());
    EXPECT_EQ(p.plan.pin_bytes, r.plan().pin_bytes);
    EXPECT_EQ(p.cut, r.store().stats().cut);
    EXPECT_EQ(p.pinned_bytes, budget.used(MemoryClass::kWeightsPinned));
    auto pass = std::move(Pass::create(model, options, budget, pool, &r.source())).value();
    const KvPool kv_pool(pass->kv_layout(), budget);
    Sequence sequence(kv_pool);
    Ignore sink;
    const TokenId id = 7;
    const CancelToken never;
    uint64_t before = 0;
    for (int i = 0; i < 3; ++i) {
      before = streamed_when_quiet(r.store());
      const sluice::Run run{&sequence, {&id, 1}, Role::kRow, sequence.length() + 1, 1};
      ASSERT_TRUE(pass->walk({&run, 1}, sink, never));
    }
    EXPECT_EQ(streamed_when_quiet(r.store()) - before, p.streamed_bytes);
    streamed = streamed || p.streamed_bytes > 0;
    resident = p.streamed_bytes == 0;
  }
  EXPECT_TRUE(streamed);
  EXPECT_TRUE(resident);
}

// Trunk and cells of a mixture lie where the plan says, whatever the cut.
TEST(Predict, CutsOfAMixtureAreThoseOfItsStore) {
  const char* path = "tests/golden/public/qwen3moe-tiny-q4_k/model.gguf";
  const Opened m(path);
  const auto model = Model::load(std::move(check_model(source(path))).value()).value();
  Budget budget(512 * kMiB);
  auto residency = std::move(Residency::create(model, {}, {}, budget)).value();
  const SliceStore& store = residency->store();
  ASSERT_EQ(store.stats().n_slices, m.schedule.slices.size() + m.schedule.experts.size());
  ASSERT_EQ(m.sizes.pin_offsets.size(), store.stats().n_slices + 1);
  for (size_t n = 0; n <= store.stats().n_slices; ++n) {
    EXPECT_EQ(SliceStore::pin_bytes(m.sizes.pin_offsets, n), store.pin_bytes(n));
  }
  for (uint64_t b = 0; b <= m.sizes.pin_bytes() + 4 * kMiB; b += kMiB / 16) {
    EXPECT_EQ(SliceStore::cut_for(m.sizes.pin_offsets, b), store.cut_for(b));
  }
}

class Drop final : public TokenSink {
  bool on_token(const Sampled&) override { return true; }
};

TEST(Predict, AgreesWithTheEngineAtEveryBudget) {
  const Opened m("assets/demo.gguf");
  const auto model =
      Model::load(std::move(check_model(source("assets/demo.gguf"))).value()).value();
  constexpr int64_t kCtx = 128;
  ThreadPool pool(2);
  const PassOptions longest;
  const WalkSizes walks(m.checked->hparams, 2, kCtx, longest.max_tokens, longest.max_outputs);
  const uint64_t page = m.sizes.kv_token_bytes * kernels::kPageTokens;
  const EngineCase c{m.sizes, walks, 7 * kMiB + 4321, page, 16};
  const uint64_t least = smallest_budget(c);
  for (uint64_t b = least; b <= resident_budget(c) + 2 * kMiB; b += kMiB) {
    SCOPED_TRACE(b);
    Budget budget(b);
    const auto base = budget.reserve(c.fixed_bytes + headroom_for(b), MemoryClass::kFixed).value();
    EngineOptions options;
    options.max_seq_len = kCtx;
    auto engine = Engine::create(model, options, budget, pool);
    ASSERT_TRUE(engine) << engine.error().what;
    GenerationRequest r;
    r.prompt = {7, 300, 12, 55};
    r.max_tokens = 16;
    Drop sink;
    const auto stats = engine.value()->generate(r, sink, CancelToken{});
    ASSERT_TRUE(stats) << stats.error().what;
    const Prediction p = predict(c, b, made_up_speeds());
    EXPECT_EQ(budget.used(MemoryClass::kWeightsPinned), p.pinned_bytes);
    EXPECT_EQ(engine.value()->memory().activations,
              p.needs.activation_bytes - m.sizes.row_read_bytes);
    EXPECT_EQ(stats.value().prompt.tokens, 4);
    EXPECT_EQ(stats.value().decode.walks, 15);
    EXPECT_GT(stats.value().decode.seconds, 0);
  }
}

TEST(Predict, BelowTheFloorIsRefusedAndTheFloorWorks) {
  const PassSizes s = made_up(400);
  const Prediction none = predict(s, question(0), made_up_speeds());
  EXPECT_FALSE(none.fits);
  EXPECT_EQ(none.tok_per_s.likely, 0);
  EXPECT_FALSE(predict(s, question(none.floor_bytes - 1), made_up_speeds()).fits);
  const Prediction least = predict(s, question(none.floor_bytes), made_up_speeds());
  EXPECT_TRUE(least.fits);
  EXPECT_GT(least.tok_per_s.likely, 0);
  EXPECT_EQ(least.floor_bytes, none.floor_bytes);
}

TEST(Predict, MoreMemoryDiskOrProcessorIsNeverSlower) {
  const PassSizes s = made_up(400);
  const uint64_t floor = predict(s, question(0), made_up_speeds()).floor_bytes;
  double before = 0;
  uint64_t streamed = UINT64_MAX;
  for (uint64_t b = floor; b < floor + 1200 * kMiB; b += kMiB) {
    const Prediction p = predict(s, question(b), made_up_speeds());
    // Where the ring grows by a slot, the pins give up at most one slice for it.
    EXPECT_GE(p.tok_per_s.likely, before * 0.99) << b;
    EXPECT_LE(p.streamed_bytes, streamed == UINT64_MAX ? streamed : streamed + 2 * kMiB) << b;
    EXPECT_LE(p.tok_per_s.low, p.tok_per_s.likely);
    EXPECT_LE(p.tok_per_s.likely, p.tok_per_s.high);
    EXPECT_LE(p.ttft_s.low, p.ttft_s.likely);
    EXPECT_LE(p.ttft_s.likely, p.ttft_s.high);
    before = std::max(before, p.tok_per_s.likely);
    streamed = std::min(streamed, p.streamed_bytes);
  }
  EXPECT_EQ(streamed, 0u);
  for (const uint64_t b : {floor, floor + 300 * kMiB, floor + 760 * kMiB, floor + 1100 * kMiB}) {
    const Prediction p = predict(s, question(b), made_up_speeds());
    Speeds faster = made_up_speeds();
    faster.disk_bytes_per_s.value *= 1.5;
    EXPECT_GE(predict(s, question(b), faster).tok_per_s.likely, p.tok_per_s.likely);
    EXPECT_LE(predict(s, question(b), faster).ttft_s.likely, p.ttft_s.likely);
    faster = made_up_speeds();
    faster.decode_s.value /= 1.5;
    EXPECT_GE(predict(s, question(b), faster).tok_per_s.likely, p.tok_per_s.likely);
    faster.prompt_token_s.value /= 1.5;
    EXPECT_LE(predict(s, question(b), faster).ttft_s.likely, p.ttft_s.likely);
  }
}

// A MiB less than what holds everything streams a few slices, not a ring full of them.
TEST(Predict, NoCliffWhereOneSliceMoreDoesNotFit) {
  const PassSizes s = made_up(400);
  uint64_t b = predict(s, question(0), made_up_speeds()).floor_bytes;
  while (predict(s, question(b), made_up_speeds()).streamed_bytes > 0) b += kMiB;
  const Prediction all = predict(s, question(b), made_up_speeds());
  const Prediction short_of = predict(s, question(b - kMiB), made_up_speeds());
  EXPECT_EQ(all.pinned_ratio, 1);
  EXPECT_LE(short_of.streamed_bytes, 8 * kMiB);
  EXPECT_GT(short_of.tok_per_s.likely, 0.95 * all.tok_per_s.likely);
  for (uint64_t less = 1; less < 64; ++less) {
    EXPECT_LE(predict(s, question(b - (less + 1) * kMiB), made_up_speeds()).streamed_bytes,
              predict(s, question(b - less * kMiB), made_up_speeds()).streamed_bytes + 6 * kMiB);
  }
}

TEST(Predict, NamesWhatLimits) {
  const PassSizes s = made_up(400);
  const uint64_t floor = predict(s, question(0), made_up_speeds()).floor_bytes;
  EXPECT_EQ(predict(s, question(floor), made_up_speeds()).limited_by, SpeedLimit::kDisk);
  EXPECT_EQ(predict(s, question(floor + 1200 * kMiB), made_up_speeds()).limited_by,
            SpeedLimit::kMemoryBandwidth);
  Speeds slow = made_up_speeds();
  slow.decode_s.value = 0.3;
  EXPECT_EQ(predict(s, question(floor + 1200 * kMiB), slow).limited_by, SpeedLimit::kCompute);
  slow.memory_bytes_per_s = 0;
  slow.decode_s.value = 0.001;
  EXPECT_EQ(predict(s, question(floor + 1200 * kMiB), slow).limited_by, SpeedLimit::kCompute);
}

TEST(Predict, ATokenReadsOnlyTheExpertsItAsksForAndAPromptMostOfThem) {
  const PassSizes s = made_up(100, 1600);
  const uint64_t floor = predict(s, question(0), made_up_speeds()).floor_bytes;
  const Prediction p = predict(s, question(floor + 240 * kMiB), made_up_speeds());
  ASSERT_EQ(p.cut > 100, true);
  EXPECT_LT(p.streamed_bytes, s.expert_bytes / 15);
  EXPECT_GT(p.ttft_s.likely, 2.0);  // two walks over nearly 3 GiB of experts
}

TEST(Predict, OverlapHidesTheShorterAndIsUndone) {
  EXPECT_NEAR(overlapped_s(1.0, 0.1), 1.0, 0.001);
  EXPECT_NEAR(overlapped_s(0.1, 1.0), 1.0, 0.001);
  EXPECT_GT(overlapped_s(1.0, 1.0), 1.1);
  EXPECT_LT(overlapped_s(1.0, 1.0), 1.25);
  EXPECT_EQ(overlapped_s(0, 0), 0);
  for (const double read : {0.5, 1.0, 1.5, 4.0})
    EXPECT_NEAR(read_s_of(overlapped_s(read, 1.0), 1.0), read, 1e-9);
  EXPECT_EQ(read_s_of(0.5, 1.0), 0);
}

TEST(Predict, RunsTeachWhatTheyWereLimitedBy) {
  Speeds learned;
  WalkCost prompt;
  WalkCost decode{
      .walks = 10, .tokens = 10, .seconds = 4.0, .stall_s = 3.0, .streamed_bytes = 8'000'000'000};
  learn(learned, prompt, decode);
  EXPECT_NEAR(learned.disk_bytes_per_s.value, 2.0e9, 0.05e9);
  EXPECT_EQ(learned.decode_s.value, 0);
  decode = {.walks = 10, .tokens = 10, .seconds = 0.5, .stall_s = 0, .streamed_bytes = 0};
  learn(learned, prompt, decode);
  EXPECT_NEAR(learned.decode_s.value, 0.05, 1e-9);
  decode.seconds = 1.0;
  learn(learned, prompt, decode);
  EXPECT_GT(learned.decode_s.value, 0.05);
  EXPECT_LT(learned.decode_s.value, 0.1);
  EXPECT_GT(learned.decode_s.spread, 0.15);
  for (int i = 0; i < 40; ++i) learn(learned, prompt, decode);
  EXPECT_NEAR(learned.decode_s.value, 0.1, 1e-4);
  EXPECT_NEAR(learned.decode_s.spread, 0.05, 1e-4);
  prompt = {.walks = 2, .tokens = 500, .seconds = 6.0, .stall_s = 1.0};
  learn(learned, prompt, {});
  EXPECT_NEAR(learned.prompt_token_s.value, 0.01, 1e-9);
  const Speeds before = learned;
  learn(learned,
        {.walks = 1, .tokens = 4, .seconds = 1},
        {.walks = 2, .seconds = 9});  // too short to tell
  EXPECT_EQ(learned.prompt_token_s.value, before.prompt_token_s.value);
  EXPECT_EQ(learned.decode_s.value, before.decode_s.value);
  const Speeds both = best_of(learned, made_up_speeds());
  EXPECT_EQ(both.decode_s.value, learned.decode_s.value);
  EXPECT_EQ(both.memory_bytes_per_s, made_up_speeds().memory_bytes_per_s);
  EXPECT_EQ(best_of({}, made_up_speeds()).decode_s.value, made_up_speeds().decode_s.value);
}

TEST(Predict, LadderGoesFromTheFloorToAllResident) {
  const Opened m("assets/demo.gguf");
  const WalkSizes walks(m.checked->hparams, 2, 256, 256, 8);
  const EngineCase c{m.sizes, walks, 20 * kMiB, 2 * kMiB, 64};
  const uint64_t least = smallest_budget(c);
  EXPECT_TRUE(predict(c, least, made_up_speeds()).fits);
  EXPECT_FALSE(predict(c, least - kMiB, made_up_speeds()).fits);
  const uint64_t all = resident_budget(c);
  EXPECT_EQ(predict(c, all, made_up_speeds()).streamed_bytes, 0u);
  const auto ladder = budget_ladder(c, 7);
  EXPECT_LE(ladder.size(), 7u);
  EXPECT_EQ(ladder.front(), least);
  EXPECT_EQ(ladder.back(), std::max(least, all));
  EXPECT_TRUE(std::is_sorted(ladder.begin(), ladder.end()));
}

TEST(Probe, MeasuresDiskAndProcessorsInTheTimeItWasGiven) {
  for (const char* path :
       {"assets/demo.gguf", "tests/golden/public/qwen3moe-tiny-q4_k/model.gguf"}) {
    const Opened m(path);
    std::vector<const File*> files;
    for (const GgufPart& part : m.checked->file.parts()) files.push_back(&part.file);
    Budget budget(256 * kMiB);
    const auto disk = probe_disk(
        files, *m.layout.slices, m.schedule, {}, budget, {.seconds = 0.1, .bytes = 64 * kMiB});
    ASSERT_TRUE(disk) << disk.error().what;
    EXPECT_GT(disk.value().bytes_per_s.value, 1e6);
    EXPECT_LE(disk.value().bytes, 80 * kMiB);
    EXPECT_GE(disk.value().bytes_per_s.spread, 0.1);
    const auto compute = probe_compute(m.checked->hparams, m.layout, 2, budget, 0.1);
    ASSERT_TRUE(compute) << compute.error().what;
    EXPECT_GT(compute.value().decode_s.value, 0);
    EXPECT_LT(compute.value().decode_s.value, 10);
    EXPECT_GT(compute.value().prompt_token_s.value, 0);
    EXPECT_GT(compute.value().memory_bytes_per_s, 1e8);
    EXPECT_EQ(budget.used(), 0u);
  }
}

TEST(Probe, WithoutMemoryIsAnErrorAndWithLittleASmallerProbe) {
  const Opened m("assets/demo.gguf");
  Budget none(1 * kMiB);
  EXPECT_EQ(probe_compute(m.checked->hparams, m.layout, 2, none, 0.05).error().code,
            "budget_exceeded");
  Budget little(32 * kMiB);
  EXPECT_TRUE(probe_compute(m.checked->hparams, m.layout, 2, little, 0.05));
}

TEST(Probe, TheUsualShapeStaysUnlessAnotherIsClearlyFaster) {
  const ReadShape usual;
  const auto chosen = [&](std::vector<ShapeRate> rates) { return choose_shape(usual, rates); };
  const auto at = [&](int depth, double rate) {
    return ShapeRate{{depth, usual.request_bytes}, rate};
  };
  EXPECT_EQ(chosen({}), usual);
  EXPECT_EQ(chosen({at(4, 1e9), at(1, 1e9), at(2, 1.05e9), at(8, 1.09e9)}), usual);
  EXPECT_EQ(chosen({at(4, 1e9), at(1, 0.4e9), at(2, 0.7e9), at(8, 1.5e9)}).depth, 8);
  EXPECT_EQ(chosen({at(4, 1e9), at(1, 1.6e9), at(2, 1.3e9), at(8, 0.5e9)}).depth, 1);
  EXPECT_EQ(chosen({at(1, 1e9), at(2, 2e9)}).depth, 2);  // no memory for more
  const ReadShape small{4, usual.request_bytes / 4};
  EXPECT_EQ(chosen({at(4, 1e9), {{4, usual.request_bytes / 2}, 1.05e9}, {small, 1.3e9}}), small);
}

TEST(Probe, AShapeIsFoundOnceForADeviceAndIsWithinItsBounds) {
  const auto model =
      Model::load(std::move(check_model(source("assets/demo.gguf"))).value()).value();
  Budget budget(64 * kMiB);
  ReadBook book;
  IoOptions io;
  io.n_threads = 0;
  io.shapes = &book;
  const uint64_t device = model->files().front().identity().value().dev;
  EXPECT_FALSE(book.find(device));
  { ASSERT_TRUE(Residency::create(model, io, {}, budget)); }
  ASSERT_TRUE(book.find(device));
  EXPECT_GE(book.find(device)->depth, ReadShape::kLeastDepth);
  EXPECT_LE(book.find(device)->depth, ReadShape::kMostDepth);
  EXPECT_GE(book.find(device)->request_bytes, ReadShape::kLeastRequest);
  EXPECT_LE(book.find(device)->request_bytes, ReadShape::kMostRequest);
  const ReadShape other{7, ReadShape::kLeastRequest};
  book.keep(device, other);
  const auto again = Residency::create(model, io, {}, budget);
  ASSERT_TRUE(again);
  EXPECT_EQ(book.find(device), other);
}

TEST(Probe, AReadThatFailsIsAnError) {
  const Opened m("assets/demo.gguf");
  std::vector<const File*> files;
  for (const GgufPart& part : m.checked->file.parts()) files.push_back(&part.file);
  Budget budget;
  IoFault fault = std::move(IoFault::parse("read:3+:EIO")).value();
  IoOptions io;
  io.fault = &fault;
  const auto disk = probe_disk(files, *m.layout.slices, m.schedule, io, budget, {.seconds = 0.2});
  ASSERT_FALSE(disk);
  EXPECT_EQ(disk.error().code, "io.read");
}

}  // namespace
}  // namespace sluice
