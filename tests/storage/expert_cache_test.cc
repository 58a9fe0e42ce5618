// Experts in cells: who gets one and who goes, and the store that reads them, against real files.
#include "storage/expert_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <thread>

#include "storage/pin_order.h"
#include "storage/slice_store.h"

namespace sluice {
namespace {

constexpr uint32_t kGroups = 2;
constexpr uint32_t kExperts = 8;  // of each group

// Per group one dense matrix and three stacks of experts, rows and offsets no multiples of
// anything.
struct Shape {
  uint64_t file_bytes = 0;
  std::vector<SlicedTensor> tensors;
  std::vector<SliceId> dense;
  std::vector<ExpertSlices> experts;
  SliceIndex index;

  Shape() : tensors(make(file_bytes)), index(tensors) {
    for (uint32_t g = 0; g < kGroups; ++g) {
      const auto range = index.of(g * 4);
      for (uint32_t i = 0; i < range.count; ++i) dense.push_back(range.first + i);
      for (uint32_t e = 0; e < kExperts; ++e) {
        ExpertSlices x{g, {}};
        for (uint32_t t = 1; t < 4; ++t) {
          const auto of = index.of(g * 4 + t, static_cast<int32_t>(e));
          for (uint32_t i = 0; i < of.count; ++i) x.slices.push_back(of.first + i);
        }
        experts.push_back(std::move(x));
      }
    }
  }
  static std::vector<SlicedTensor> make(uint64_t& at) {
    std::vector<SlicedTensor> out;
    at = 77;
    const auto add = [&](uint64_t rows, uint64_t row_bytes, uint32_t n, bool stack) {
      out.push_back({rows, row_bytes, n, stack, 0, at});
      at += rows * row_bytes * n + 333;
    };
    for (uint32_t g = 0; g < kGroups; ++g) {
      add(350, 13000, 1, false);
      add(40, 3000, kExperts, true);
      add(40, 3000, kExperts, true);
      add(700 + 100 * g, 4100, kExperts, true);  // two slices; larger in the second group
    }
    return out;
  }
};

uint32_t expert(uint32_t group, uint32_t e) { return group * kExperts + e; }
bool always(uint32_t) { return true; }

TEST(ExpertCache, CellsComeOneForEachBlockInTurnAndHoldTheLargest) {
  const Shape s;
  const auto cells = ExpertCache::cells_of(s.index, s.experts);
  ASSERT_EQ(cells.size(), s.experts.size());
  for (uint32_t c = 0; c < cells.size(); ++c) {
    EXPECT_EQ(cells[c].group, c % kGroups);
    EXPECT_EQ(cells[c].n_bytes % kSliceAlignment, 0u);
  }
  for (const ExpertSlices& x : s.experts) {
    uint64_t n_bytes = 0;
    for (const SliceId id : x.slices) n_bytes += read_range_of(s.index[id]).n_bytes;
    EXPECT_LE(n_bytes, cells[x.group].n_bytes);
    EXPECT_GE(n_bytes + x.slices.size() * kSliceAlignment, cells[x.group].n_bytes);
  }
}

TEST(ExpertCache, TheOneUsedLongestAgoGoesAndOtherBlocksKeepTheirs) {
  const Shape s;
  ExpertCache cache(s.index, s.experts);
  cache.allow(3 * kGroups);
  for (uint32_t g = 0; g < kGroups; ++g) {
    for (uint32_t e = 0; e < 3; ++e) {
      const auto given = cache.give(expert(g, e), always);
      ASSERT_TRUE(given);
      EXPECT_EQ(given->evicted, ExpertCache::kNone);
      EXPECT_EQ(cache.cell(given->cell).group, g);
      cache.touch(expert(g, e));
    }
  }
  cache.touch(expert(0, 0));
  EXPECT_EQ(cache.give(expert(0, 5), always)->evicted, expert(0, 1));
  cache.touch(expert(0, 5));
  EXPECT_EQ(cache.give(expert(0, 6), always)->evicted, expert(0, 2));
  EXPECT_EQ(cache.cell_of(expert(0, 2)), ExpertCache::kNone);
  for (uint32_t e = 0; e < 3; ++e) EXPECT_NE(cache.cell_of(expert(1, e)), ExpertCache::kNone);
}

TEST(ExpertCache, WhoMayNotGoStaysAndCellsBehindTheCutAreGivenToNobody) {
  const Shape s;
  ExpertCache cache(s.index, s.experts);
  EXPECT_FALSE(cache.give(expert(0, 0), always));
  cache.allow(2 * kGroups);
  ASSERT_TRUE(cache.give(expert(0, 0), always));
  ASSERT_TRUE(cache.give(expert(0, 1), always));
  EXPECT_FALSE(cache.give(expert(0, 2), [](uint32_t) { return false; }));
  EXPECT_EQ(cache.give(expert(0, 2), [](uint32_t x) { return x != 0; })->evicted, 1u);
  cache.take_back(expert(0, 2));
  EXPECT_EQ(cache.give(expert(0, 3), always)->evicted, ExpertCache::kNone);
  cache.allow(1);
  EXPECT_EQ(cache.give(expert(0, 4), always)->evicted, 0u);
  EXPECT_FALSE(cache.give(expert(1, 0), always));
}

// What predictions assume (scheduler/predict).
TEST(ExpertCache, EvenChoiceHitsInCellsOfExpertsCases) {
  const Shape s;
  std::mt19937 rng(7);
  for (const uint32_t n_cells : {2u, 3u, 5u, 7u}) {
    ExpertCache cache(s.index, s.experts);
    cache.allow(n_cells * kGroups);
    int hits = 0;
    constexpr int kTokens = 4000;
    for (int token = 0; token < kTokens; ++token) {
      uint32_t ids[kExperts];
      std::iota(std::begin(ids), std::end(ids), 0u);
      std::shuffle(std::begin(ids), std::end(ids), rng);
      const std::span<const uint32_t> chosen(ids, 2);
      const auto may_go = [&](uint32_t x) {
        return std::find(chosen.begin(), chosen.end(), x) == chosen.end();
      };
      for (const uint32_t x : chosen) hits += cache.cell_of(x) != ExpertCache::kNone ? 1 : 0;
      for (const uint32_t x : chosen) {
        if (cache.cell_of(x) == ExpertCache::kNone) (void)cache.give(x, may_go);
        cache.touch(x);
      }
    }
    EXPECT_NEAR(hits / (2.0 * kTokens), n_cells / static_cast<double>(kExperts), 0.03) << n_cells;
  }
}

class ExpertStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() /
            ("expert_store_" + std::to_string(::getpid()) + "_" +
             testing::UnitTest::GetInstance()->current_test_info()->name());
    content_.resize(shape_.file_bytes);
    std::mt19937_64 rng(6);
    for (size_t i = 0; i + 8 <= content_.size(); i += 8) {
      const uint64_t r = rng();
      std::memcpy(&content_[i], &r, 8);
    }
    std::ofstream out(path_, std::ios::binary);
    out.write(reinterpret_cast<const char*>(content_.data()),
              static_cast<std::streamsize>(content_.size()));
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove(path_);
  }

  void open(IoMode mode = IoMode::kDirect, const std::string& faults = "", uint64_t ring = 1) {
    store_.reset();
    fault_.emplace(std::move(IoFault::parse(faults)).value());
    file_ = std::move(File::open_regular(path_)).value();
    const File* files[] = {&file_};
    SliceStoreOptions o;
    o.io.mode = mode;
    o.io.fault = &*fault_;
    o.ring_bytes = ring;
    o.experts = shape_.experts;
    store_ =
        std::move(SliceStore::create(
                      files, shape_.index, shape_.dense, make_pin_order(shape_.dense), o, budget_))
            .value();
  }
  // Everything dense and `n` cells of each group.
  size_t cut(uint32_t n) const { return shape_.dense.size() + n * kGroups; }

  Result<void> visit(std::span<const SliceId> wanted) {
    std::vector<bool> done(wanted.size(), false);
    std::vector<SliceStore::Held> held;
    for (size_t left = wanted.size(); left > 0; left -= held.size()) {
      SLUICE_TRY(store_->hold_ready(wanted, done, held));
      for (const auto& h : held) {
        const Slice& s = shape_.index[h.id];
        EXPECT_EQ(std::memcmp(h.data, &content_[s.file_offset], s.n_bytes), 0) << "slice " << h.id;
      }
      store_->release(held);
    }
    return success();
  }

  // A pass as the maths makes it, with the same experts in every group: a block's dense slices,
  // then gates and ups, then downs.
  Result<void> token(std::span<const uint32_t> chosen, bool announce = true) {
    store_->begin_pass(shape_.dense.size());
    for (uint32_t g = 0; g < kGroups; ++g) {
      const auto dense =
          std::span(shape_.dense)
              .subspan(g * shape_.dense.size() / kGroups, shape_.dense.size() / kGroups);
      SLUICE_TRY(visit(dense));
      store_->advance(dense.size());
      std::vector<SliceId> gate_up;
      std::vector<SliceId> down;
      for (const uint32_t e : chosen) {
        const auto& slices = shape_.experts[expert(g, e)].slices;
        gate_up.insert(gate_up.end(), slices.begin(), slices.begin() + 2);
        down.insert(down.end(), slices.begin() + 2, slices.end());
      }
      std::vector<SliceId> all = gate_up;
      all.insert(all.end(), down.begin(), down.end());
      if (announce) store_->announce(all);
      SLUICE_TRY(visit(gate_up));
      SLUICE_TRY(visit(down));
    }
    return success();
  }
  Result<void> token(std::initializer_list<uint32_t> chosen) {
    return token(std::span(chosen.begin(), chosen.size()));
  }

  SliceBlockStats counted() const { return store_->block_stats().front(); }
  uint64_t bytes_of(uint32_t e) const {  // in both groups
    uint64_t sum = 0;
    for (uint32_t g = 0; g < kGroups; ++g) {
      for (const SliceId id : shape_.experts[expert(g, e)].slices) sum += shape_.index[id].n_bytes;
    }
    return sum;
  }

  Shape shape_;
  std::filesystem::path path_;
  std::vector<std::byte> content_;
  File file_;
  std::optional<IoFault> fault_;
  Budget budget_;
  std::unique_ptr<SliceStore> store_;
};

TEST_F(ExpertStoreTest, EveryByteAtEveryCutInEveryModeAndNeverMoreThanIsCharged) {
  std::mt19937 rng(3);
  for (const IoMode mode : {IoMode::kDirect, IoMode::kBuffered, IoMode::kMmap}) {
    open(mode);
    const MemoryClass pins =
        mode == IoMode::kMmap ? MemoryClass::kWeightsMapped : MemoryClass::kWeightsPinned;
    const size_t most = store_->stats().n_slices;
    ASSERT_EQ(most, shape_.dense.size() + shape_.experts.size());
    for (const size_t at :
         {size_t{0}, cut(0), cut(1), cut(3) + 1, most, cut(2), size_t{1}, cut(4)}) {
      ASSERT_TRUE(store_->set_cut(at));
      for (int i = 0; i < 6; ++i) {
        std::vector<uint32_t> chosen(kExperts);
        std::iota(chosen.begin(), chosen.end(), 0u);
        std::shuffle(chosen.begin(), chosen.end(), rng);
        chosen.resize(i == 5 ? kExperts : 3);
        ASSERT_TRUE(token(chosen, i != 4));
        EXPECT_EQ(budget_.used(pins), store_->pin_bytes(at));
        EXPECT_LE(store_->stats().pinned_bytes, store_->pin_bytes(at));
      }
    }
  }
}

TEST_F(ExpertStoreTest, WhatATokenAsksForAgainIsThere) {
  open();
  ASSERT_TRUE(store_->set_cut(cut(4)));
  ASSERT_TRUE(token({1, 5, 6}));
  const SliceBlockStats first = counted();
  EXPECT_EQ(first.miss_bytes, bytes_of(1) + bytes_of(5) + bytes_of(6));
  const uint64_t reads = store_->stats().io.reads;
  ASSERT_TRUE(token({6, 1, 5}));
  EXPECT_EQ(store_->stats().io.reads, reads);
  EXPECT_EQ(counted().miss_bytes, first.miss_bytes);
  EXPECT_GT(counted().hit_bytes, first.hit_bytes);
}

TEST_F(ExpertStoreTest, TheOneUsedLongestAgoMakesRoom) {
  open();
  ASSERT_TRUE(store_->set_cut(cut(3)));
  ASSERT_TRUE(token({0}));
  ASSERT_TRUE(token({1}));
  ASSERT_TRUE(token({2}));
  ASSERT_TRUE(token({0}));
  EXPECT_EQ(counted().evicted_bytes, 0u);
  ASSERT_TRUE(token({3}));
  EXPECT_EQ(counted().evicted_bytes, bytes_of(1));
  const uint64_t missed = counted().miss_bytes;
  ASSERT_TRUE(token({0, 2, 3}));
  EXPECT_EQ(counted().miss_bytes, missed);
  ASSERT_TRUE(token({1}));
  EXPECT_EQ(counted().miss_bytes, missed + bytes_of(1));
}

// A prompt asks for every expert: those in cells stay, the others pass through the ring, once each.
TEST_F(ExpertStoreTest, AskingForAllReadsEachOnceAndThrowsNoneOut) {
  open();
  ASSERT_TRUE(store_->set_cut(cut(3)));
  ASSERT_TRUE(token({0, 1, 2}));
  uint64_t all = 0;
  for (uint32_t e = 0; e < kExperts; ++e) all += bytes_of(e);
  for (int i = 0; i < 3; ++i) {
    const uint64_t missed = counted().miss_bytes;
    ASSERT_TRUE(token({0, 1, 2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(counted().miss_bytes - missed, all - bytes_of(0) - bytes_of(1) - bytes_of(2));
  }
  EXPECT_EQ(counted().evicted_bytes, 0u);
}

TEST_F(ExpertStoreTest, FreeCellsFillWhileNoPassRunsAndGoToWhoeverIsAskedFor) {
  for (const IoMode mode : {IoMode::kDirect, IoMode::kMmap}) {
    open(mode);
    ASSERT_TRUE(store_->set_cut(cut(3)));
    store_->fill_ahead();
    uint64_t want = bytes_of(0) + bytes_of(1) + bytes_of(2);
    for (const SliceId id : shape_.dense) want += shape_.index[id].n_bytes;
    for (int i = 0; i < 10000 && store_->stats().pinned_bytes < want; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_EQ(store_->stats().pinned_bytes, want);
    EXPECT_EQ(store_->stats().streamed_bytes, 0u);
    const uint64_t reads = store_->stats().io.reads;
    ASSERT_TRUE(token({0, 1, 2}));
    EXPECT_EQ(store_->stats().io.reads, reads);
    EXPECT_EQ(counted().miss_bytes, 0u);
    ASSERT_TRUE(token({6}));
    EXPECT_EQ(counted().evicted_bytes, bytes_of(0));
  }
}

// A pass that ends early leaves nothing behind that keeps others from being read.
TEST_F(ExpertStoreTest, WhatNobodyComesForMakesRoom) {
  open();
  store_->begin_pass(shape_.dense.size());
  std::vector<SliceId> all;
  for (uint32_t e = 0; e < kExperts; ++e) {
    const auto& slices = shape_.experts[expert(0, e)].slices;
    all.insert(all.end(), slices.begin(), slices.end());
  }
  store_->announce(all);
  while (counted().loading_bytes > 0) std::this_thread::yield();
  store_->fill_ahead();
  ASSERT_TRUE(store_->set_cut(cut(0)));
  uint64_t dense = 0;
  for (const SliceId id : shape_.dense) dense += shape_.index[id].n_bytes;
  ASSERT_GT(dense, store_->ring_bytes());      // what the ring holds of the next pass is not read again
  const auto here = [&] { return store_->stats().pinned_bytes + store_->ring_bytes() >= dense; };
  for (int i = 0; i < 10000 && !here(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(here());
}

TEST_F(ExpertStoreTest, WhatIsAnnouncedIsReadTogether) {
  open(IoMode::kDirect, "read:*:300ms");
  ASSERT_TRUE(store_->set_cut(shape_.dense.size() + shape_.experts.size()));
  store_->begin_pass(0);  // nothing is read ahead
  std::vector<SliceId> all;
  for (uint32_t e = 0; e < 4; ++e) {
    const auto& slices = shape_.experts[expert(0, e)].slices;
    all.insert(all.end(), slices.begin(), slices.end());
  }
  store_->announce(all);
  uint64_t first = 0;
  for (size_t i = 0; i < 4; ++i) first += shape_.index[all[i]].n_bytes;
  EXPECT_GE(counted().loading_bytes, first);
}

TEST_F(ExpertStoreTest, ACellThatIsHeldLeavesWhenItIsLetGo) {
  for (const IoMode mode : {IoMode::kDirect, IoMode::kMmap}) {
    open(mode);
    ASSERT_TRUE(store_->set_cut(cut(kExperts)));
    store_->begin_pass(shape_.dense.size());
    const auto& slices = shape_.experts[expert(1, 2)].slices;
    store_->announce(slices);
    std::vector<bool> done(1, false);
    std::vector<SliceStore::Held> held;
    ASSERT_TRUE(store_->hold_ready({slices.data(), 1}, done, held));
    std::atomic<bool> moved{false};
    std::thread shrink([&] {
      EXPECT_TRUE(store_->set_cut(0));
      moved = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_FALSE(moved);
    const Slice& s = shape_.index[slices[0]];
    EXPECT_EQ(std::memcmp(held[0].data, &content_[s.file_offset], s.n_bytes), 0);
    store_->release(held);
    shrink.join();
    EXPECT_EQ(store_->stats().pinned_bytes, 0u);
    EXPECT_EQ(budget_.used(MemoryClass::kWeightsPinned), 0u);
    EXPECT_EQ(budget_.used(MemoryClass::kWeightsMapped), 0u);
    ASSERT_TRUE(token({2, 3}));
  }
}

TEST_F(ExpertStoreTest, EachReadMayFailAndTheNextTokenIsWhole) {
  for (const IoMode mode : {IoMode::kDirect, IoMode::kMmap}) {
    for (uint64_t n = 1; n <= 12; ++n) {
      open(mode, "read:" + std::to_string(n) + ":EIO,read:" + std::to_string(n + 1) + ":EIO");
      ASSERT_TRUE(store_->set_cut(cut(2)));
      for (int i = 0; i < 3; ++i) (void)token({1, 2, 3});
      ASSERT_TRUE(token({1, 2, 3})) << n;
    }
    open(mode, "read:9+:EIO");
    const auto failed = token({1, 2, 3, 4});
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, "io.read");
  }
}

TEST_F(ExpertStoreTest, AFlappingCutChangesNoByteAndKeepsTheLedger) {
  for (const IoMode mode : {IoMode::kBuffered, IoMode::kMmap}) {
    open(mode);
    const MemoryClass pins =
        mode == IoMode::kMmap ? MemoryClass::kWeightsMapped : MemoryClass::kWeightsPinned;
    const size_t most = store_->stats().n_slices;
    const uint32_t seed = std::random_device{}();
    SCOPED_TRACE(seed);
    std::atomic<bool> stop{false};
    std::thread flapper([&] {
      std::mt19937 rng(seed);
      while (!stop) {
        const size_t at = rng() % (most + 1);
        ASSERT_TRUE(store_->set_cut(at));
        ASSERT_EQ(budget_.used(pins), store_->pin_bytes(at));
        ASSERT_LE(store_->stats().pinned_bytes, store_->pin_bytes(at));
      }
    });
    std::mt19937 rng(seed + 1);
    for (int i = 0; i < 60; ++i) {
      std::vector<uint32_t> chosen(kExperts);
      std::iota(chosen.begin(), chosen.end(), 0u);
      std::shuffle(chosen.begin(), chosen.end(), rng);
      chosen.resize(1 + rng() % 4);
      EXPECT_TRUE(token(chosen));
    }
    stop = true;
    flapper.join();
  }
}

}  // namespace
}  // namespace sluice
