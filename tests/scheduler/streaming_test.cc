// The budget moves bytes, never the text: streamed passes against all-resident ones, bit for bit.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "scheduler/mapped_source.h"
#include "scheduler/pass.h"
#include "scheduler/streamed_source.h"
#include "storage/pin_order.h"
#include "tests/support/golden_model.h"

namespace sluice {
namespace {

using PassRun = Run;  // testing::Test has a Run of its own

class Rows final : public LogitsSink {
 public:
  std::vector<float> all;
  void on_logits(size_t, int64_t, std::span<const float> logits) override {
    all.insert(all.end(), logits.begin(), logits.end());
  }
};

PassOptions pass_options() {
  PassOptions o;
  o.max_tokens = 16;
  o.max_seq_len = 256;
  o.max_outputs = 4;
  return o;
}

// A prompt in chunks (the first without outputs), then single tokens.
std::vector<float> generate(Pass& pass, const KvPool& kv, std::span<const TokenId> ids) {
  Sequence s(kv);
  Rows rows;
  const CancelToken never;
  for (size_t i = 0; i < ids.size();) {
    const size_t n = i < 32 ? 16 : 1;
    const PassRun run{&s,
                      ids.subspan(i, n),
                      Role::kPrompt,
                      static_cast<int64_t>(ids.size()),
                      i < 16 ? 0 : PassRun::kAllOutputs};
    const auto walked = pass.walk({&run, 1}, rows, never);
    EXPECT_TRUE(walked) << (walked ? "" : walked.error().what);
    i += n;
  }
  return rows.all;
}

struct Streamed {
  Schedule schedule;
  Budget budget;
  std::unique_ptr<SliceStore> store;
  std::unique_ptr<StreamedSource> source;
  std::unique_ptr<Pass> pass;
  std::unique_ptr<KvPool> kv;

  Streamed(const std::shared_ptr<const Model>& model,
           ThreadPool& pool,
           IoMode mode,
           uint64_t ring_bytes,
           uint64_t limit = Budget::kUnlimited)
      : schedule(make_schedule(*model)), budget(limit) {
    std::vector<const File*> files;
    for (const File& f : model->files()) files.push_back(&f);
    SliceStoreOptions o;
    o.io.mode = mode;
    o.io.n_threads = 3;
    o.ring_bytes = ring_bytes;
    o.experts = schedule.experts;
    store = std::move(SliceStore::create(files,
                                         model->slices(),
                                         schedule.slices,
                                         make_pin_order(schedule.slices),
                                         o,
                                         budget))
                .value();
    source = std::make_unique<StreamedSource>(*model, schedule, *store);
    pass = std::move(Pass::create(model, pass_options(), budget, pool, source.get())).value();
    kv = std::make_unique<KvPool>(pass->kv_layout(), budget);
  }
};

std::vector<TokenId> random_ids(size_t n, int64_t vocab, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<TokenId> ids(n);
  for (auto& id : ids) id = static_cast<TokenId>(rng() % static_cast<uint64_t>(vocab));
  return ids;
}

void expect_same_bits(const std::vector<float>& a,
                      const std::vector<float>& b,
                      const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << what;
}

class StreamingOnModels : public testing::TestWithParam<std::string> {};

TEST_P(StreamingOnModels, EveryCutRingAndModeGivesTheSameBits) {
  auto model = test::load_golden_model(GetParam());
  ASSERT_TRUE(model);
  ThreadPool pool(2);
  Budget budget;
  auto resident = std::move(Pass::create(model, pass_options(), budget, pool)).value();
  const KvPool kv(resident->kv_layout(), budget);
  const auto ids = random_ids(34, model->hparams().vocab_size, 4);
  const auto want = generate(*resident, kv, ids);
  for (const IoMode mode : {IoMode::kDirect, IoMode::kBuffered, IoMode::kVirtual, IoMode::kMmap}) {
    for (const uint64_t ring : {uint64_t{1}, uint64_t{1} << 20}) {
      Streamed s(model, pool, mode, ring);
      const size_t n = s.store->stats().n_slices;
      for (const size_t cut : {size_t{0}, n / 3, n - 1, n, size_t{1}}) {
        ASSERT_TRUE(s.store->set_cut(cut));
        expect_same_bits(want, generate(*s.pass, *s.kv, ids), "cut " + std::to_string(cut));
        const MemoryClass pins =
            mode == IoMode::kMmap ? MemoryClass::kWeightsMapped : MemoryClass::kWeightsPinned;
        EXPECT_EQ(s.budget.used(pins), s.store->pin_bytes(cut));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Golden,
                         StreamingOnModels,
                         testing::Values("qwen2-tiny-f32",
                                         "qwen2-tiny-untied-q4_k_m",
                                         "qwen3moe-tiny",
                                         "qwen3moe-tiny-q4_k",
                                         "llama-tiny-q8_0"),
                         [](const auto& param) {
                           std::string name = param.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(Streaming, FlappingBudgetChangesNoBitAndKeepsTheLedger) {
  for (const char* name : {"qwen2-tiny-f32", "qwen3moe-tiny"}) {
    auto model = test::load_golden_model(name);
    ASSERT_TRUE(model);
    ThreadPool pool(2);
    Budget budget;
    auto resident = std::move(Pass::create(model, pass_options(), budget, pool)).value();
    const KvPool kv(resident->kv_layout(), budget);
    const auto ids = random_ids(60, model->hparams().vocab_size, 8);
    const auto want = generate(*resident, kv, ids);
    for (const IoMode mode : {IoMode::kVirtual, IoMode::kMmap}) {
      Streamed s(model, pool, mode, 1);
      const MemoryClass pins =
          mode == IoMode::kMmap ? MemoryClass::kWeightsMapped : MemoryClass::kWeightsPinned;
      const size_t n = s.store->stats().n_slices;
      std::atomic<bool> stop{false};
      const uint32_t seed = std::random_device{}();
      std::thread flapper([&] {
        std::mt19937 rng(seed);
        while (!stop) {
          const size_t cut = rng() % (n + 1);
          ASSERT_TRUE(s.store->set_cut(cut));
          ASSERT_EQ(s.budget.used(pins), s.store->pin_bytes(cut));
        }
      });
      for (int i = 0; i < 5; ++i) {
        expect_same_bits(want,
                         generate(*s.pass, *s.kv, ids),
                         std::string(name) + ", seed " + std::to_string(seed));
      }
      stop = true;
      flapper.join();
    }
  }
}

// The trunk is pinned, half of the experts have a cell: a token that comes again chooses the same
// ones and reads nothing.
TEST(Streaming, ATokenThatComesAgainFindsItsExperts) {
  auto model = test::load_golden_model("qwen3moe-tiny-q4_k");
  ASSERT_TRUE(model);
  ThreadPool pool(2);
  Streamed s(model, pool, IoMode::kDirect, 1);
  const size_t n_cells = s.schedule.experts.size() / 2;
  ASSERT_GE(n_cells / model->blocks().size(),
            static_cast<size_t>(model->hparams().n_experts_active));
  ASSERT_TRUE(s.store->set_cut(s.schedule.slices.size() + n_cells));
  const TokenId id = 17;
  std::vector<float> first;
  uint64_t streamed = 0;
  uint64_t hits = 0;
  for (int i = 0; i < 4; ++i) {
    Sequence sequence(*s.kv);
    Rows rows;
    const PassRun run{&sequence, {&id, 1}, Role::kRow, 1, 1};
    ASSERT_TRUE(s.pass->walk({&run, 1}, rows, CancelToken{}));
    if (i == 0) {
      first = rows.all;
      streamed = s.store->stats().streamed_bytes;
      EXPECT_GT(streamed, 0u);
      hits = s.store->block_stats().front().hit_bytes;
    }
    expect_same_bits(first, rows.all, "walk " + std::to_string(i));
  }
  EXPECT_EQ(s.store->stats().streamed_bytes, streamed);
  EXPECT_GT(s.store->block_stats().front().hit_bytes, hits);
}

TEST(Streaming, CancelledWalkDoesNotStopTheNext) {
  auto model = test::load_golden_model("qwen2-tiny-f32");
  ASSERT_TRUE(model);
  ThreadPool pool(2);
  Streamed s(model, pool, IoMode::kVirtual, 1);
  const auto ids = random_ids(40, model->hparams().vocab_size, 2);
  const auto want = generate(*s.pass, *s.kv, ids);
  for (int i = 0; i < 8; ++i) {
    Sequence sequence(*s.kv);
    Rows rows;
    CancelToken cancel;
    std::thread canceller([&] { cancel.cancel(); });
    const PassRun run{&sequence, std::span(ids).first(16), Role::kPrompt, 40, 1};
    (void)s.pass->walk({&run, 1}, rows, cancel);
    canceller.join();
    expect_same_bits(want, generate(*s.pass, *s.kv, ids), "after a cancelled walk");
  }
}

TEST(PinOrder, EveryPrefixIsSpreadEvenly) {
  for (const size_t n : {1u, 2u, 7u, 100u, 513u}) {
    std::vector<SliceId> schedule(n);
    for (size_t i = 0; i < n; ++i) schedule[i] = static_cast<SliceId>(i);
    const auto order = make_pin_order(schedule);
    ASSERT_EQ(order.size(), n);
    std::vector<bool> pinned(n, false);
    for (size_t k = 0; k < n; ++k) {
      ASSERT_FALSE(pinned[order[k]]);
      pinned[order[k]] = true;
      // No stretch of the schedule lacks more than a few of the pins that its share would be.
      size_t seen = 0;
      for (size_t i = 0; i < n; ++i) {
        seen += pinned[i] ? 1 : 0;
        const double share =
            static_cast<double>(k + 1) * static_cast<double>(i + 1) / static_cast<double>(n);
        ASSERT_NEAR(static_cast<double>(seen), share, 2 + std::log2(static_cast<double>(n) + 1));
      }
    }
  }
}

}  // namespace
}  // namespace sluice
