// The store against real files: every byte as the file has it, faults of the disk, memory given back.
#include "storage/slice_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "base/process_memory.h"
#include "storage/pin_order.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

// A file of three matrices whose rows and offsets are no multiples of anything, and a store over it.
class SliceStoreTest : public testing::Test {
 protected:
  static constexpr uint64_t kRowBytes[3] = {13000, 4097, 90000};
  static constexpr uint64_t kRows[3] = {700, 1500, 130};

  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / ("slice_store_" + std::to_string(::getpid()) + "_" +
                                                      testing::UnitTest::GetInstance()->current_test_info()->name());
    std::vector<SlicedTensor> tensors;
    uint64_t at = 77;
    for (int i = 0; i < 3; ++i) {
      tensors.push_back({kRows[i], kRowBytes[i], 1, false, 0, at});
      at += kRows[i] * kRowBytes[i] + 333;
    }
    content_.resize(at);
    std::mt19937_64 rng(5);
    for (size_t i = 0; i + 8 <= content_.size(); i += 8) {
      const uint64_t r = rng();
      std::memcpy(&content_[i], &r, 8);
    }
    write_file();
    index_ = std::make_unique<SliceIndex>(tensors);
    for (SliceId id = 0; id < index_->slices().size(); ++id) schedule_.push_back(id);
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove(path_);
  }

  void write_file() {
    std::ofstream out(path_, std::ios::binary);
    out.write(reinterpret_cast<const char*>(content_.data()), static_cast<std::streamsize>(content_.size()));
  }

  void open(const std::string& faults = "",
            uint64_t ring = 8u << 20,
            IoMode mode = IoMode::kDirect,
            ReadBook* shapes = nullptr) {
    store_.reset();      // what it has found goes into its book
    fault_.emplace(std::move(IoFault::parse(faults)).value());
    file_ = std::move(File::open_regular(path_)).value();
    const File* files[] = {&file_};
    SliceStoreOptions o;
    o.io.mode = mode;
    o.io.fault = &*fault_;
    o.io.shapes = shapes;
    if (shapes != nullptr) o.io.n_threads = 0;
    o.ring_bytes = ring;
    store_ = std::move(SliceStore::create(
                           files, *index_, schedule_, make_pin_order(schedule_), o, budget_))
                 .value();
  }

  int file_fd() {
    if (file_.fd() < 0) file_ = File::open_regular(path_).value();
    return file_.fd();
  }
  uint64_t device() const { return File::open_regular(path_).value().identity().value().dev; }

  // One pass over everything, three slices asked for at a time; checks every byte.
  Result<void> pass() {
    store_->begin_pass(schedule_.size(), [this] { return cancelled_.load(); });
    std::vector<SliceStore::Held> held;
    for (size_t i = 0; i < schedule_.size(); i += 3) {
      const auto wanted = std::span(schedule_).subspan(i, std::min<size_t>(3, schedule_.size() - i));
      std::vector<bool> done(wanted.size(), false);
      for (size_t left = wanted.size(); left > 0; left -= held.size()) {
        SLUICE_TRY(store_->hold_ready(wanted, done, held));
        for (const auto& h : held) {
          const Slice& s = (*index_)[h.id];
          EXPECT_EQ(std::memcmp(h.data, &content_[s.file_offset], s.n_bytes), 0) << "slice " << h.id;
        }
        store_->release(held);
      }
      store_->advance(wanted.size());
    }
    return success();
  }

  // All of the first n of the pin order are here within 10 s, but for what the ring may hold.
  bool filled(size_t n, uint64_t in_ring = 0) {
    uint64_t want = 0;
    const auto order = make_pin_order(schedule_);
    for (const SliceId id : std::span(order).first(n)) want += (*index_)[id].n_bytes;
    const auto enough = [&] { return store_->stats().pinned_bytes + in_ring >= want; };
    for (int i = 0; i < 10000 && !enough(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return enough();
  }

  std::filesystem::path path_;
  std::vector<std::byte> content_;
  std::unique_ptr<SliceIndex> index_;
  std::vector<SliceId> schedule_;
  File file_;
  std::optional<IoFault> fault_;
  Budget budget_;
  std::unique_ptr<SliceStore> store_;
  std::atomic<bool> cancelled_{false};
};

TEST_F(SliceStoreTest, EveryByteAtEveryCut) {
  for (const IoMode mode : {IoMode::kDirect, IoMode::kBuffered, IoMode::kMmap}) {
    open("", 1, mode);
    for (const size_t cut : {size_t{0}, schedule_.size() / 2, schedule_.size(), size_t{3}}) {
      ASSERT_TRUE(store_->set_cut(cut));
      for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass());
    }
  }
}

TEST_F(SliceStoreTest, AShapeThatIsFoundReadsTheSameBytesAndIsRemembered) {
  for (const IoMode mode : {IoMode::kDirect, IoMode::kBuffered, IoMode::kMmap}) {
    for (uint64_t n = ReadShape::kLeastRequest; n <= ReadShape::kMostRequest; n *= 2) {
      ReadBook book;
      book.keep(device(), {3, n});
      open("", 4u << 20, mode, &book);
      for (int i = 0; i < 5; ++i) ASSERT_TRUE(pass());
      book.keep(device(), {1, 0});
      store_.reset();
      EXPECT_EQ(book.find(device()), (ReadShape{3, n}));
    }
  }
}

// A read of 2 MiB in eight parts, each of which may be interrupted, cut short or fail once.
TEST_F(SliceStoreTest, PartsOfASliceMayBeShortOrFailOnce) {
  for (const char* fault : {"read:2:EINTR,read:3:short,read:6:short", "read:3:EIO", "read:9:EAGAIN,read:12:EIO"}) {
    ReadBook book;
    book.keep(device(), {2, ReadShape::kLeastRequest});
    open(fault, 4u << 20, IoMode::kDirect, &book);
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(pass()) << fault;
    EXPECT_EQ(store_->stats().io.failures, 0u);
    store_.reset();
  }
  ReadBook book;
  book.keep(device(), {2, ReadShape::kLeastRequest});
  open("read:9+:eof", 4u << 20, IoMode::kDirect, &book);
  EXPECT_FALSE(pass());
  store_.reset();
}

TEST_F(SliceStoreTest, InterruptionsAndShortReadsChangeNothing) {
  open("read:2:EINTR,read:3:EAGAIN,read:5:short,read:6:short,read:9:EIO");
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass());
  EXPECT_EQ(store_->stats().io.retries, 1u);
  EXPECT_EQ(store_->stats().io.failures, 0u);
}

TEST_F(SliceStoreTest, EachReadMayFailOnceOrForEver) {
  open();
  ASSERT_TRUE(pass());
  for (uint64_t n = 1; n <= schedule_.size(); ++n) {      // those after belong to the next pass
    open("read:" + std::to_string(n) + ":EIO");      // the retry helps
    ASSERT_TRUE(pass()) << n;
    open("read:" + std::to_string(n) + "+:EIO");
    const auto failed = pass();
    ASSERT_FALSE(failed) << n;
    EXPECT_EQ(failed.error().code, "io.read");
    EXPECT_NE(failed.error().what.find("Input/output error"), std::string::npos);
    EXPECT_NE(failed.error().offset, Error::kNoOffset);
    open("read:" + std::to_string(n) + "+:eof");
    ASSERT_FALSE(pass()) << n;
  }
}

TEST_F(SliceStoreTest, WorksAgainAfterTheDiskWasRepaired) {
  open("read:4:EIO,read:5:EIO,read:6:EIO,read:7:EIO");
  int failures = 0;
  for (int i = 0; i < 6; ++i) failures += pass() ? 0 : 1;
  EXPECT_GE(failures, 1);
  ASSERT_TRUE(pass());
}

TEST_F(SliceStoreTest, InterruptedForEverEndsInAnError) {
  open("read:*:EINTR");
  const auto failed = pass();
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().what.find("Interrupted"), std::string::npos);
}

TEST_F(SliceStoreTest, AChangedByteIsFoundWhenItIsReadAgain) {
  open("", 1);
  ASSERT_TRUE(pass());
  content_[content_.size() / 2] ^= std::byte{0x10};
  {
    std::fstream f(path_, std::ios::binary | std::ios::in | std::ios::out);
    f.seekp(static_cast<std::streamoff>(content_.size() / 2));
    f.write(reinterpret_cast<const char*>(&content_[content_.size() / 2]), 1);
  }
  ::sync();
  auto changed = pass();
  for (int i = 0; i < 3 && changed; ++i) changed = pass();      // the ring may hold a slice that was read ahead
  ASSERT_FALSE(changed);
  EXPECT_EQ(changed.error().code, "io.changed");
}

TEST_F(SliceStoreTest, AFlippedBitOfTheDiskIsFound) {
  open("", 1);
  ASSERT_TRUE(pass());
  const uint64_t n = store_->stats().io.reads;
  open("read:" + std::to_string(n + 3) + ":flip", 1);
  (void)pass();
  auto flipped = pass();
  ASSERT_FALSE(flipped);
  EXPECT_EQ(flipped.error().code, "io.changed");
}

TEST_F(SliceStoreTest, TruncatedFileIsAnErrorThatSaysSo) {
  open("", 1);
  ASSERT_TRUE(pass());
  ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(content_.size() / 2)), 0);
  auto cut_off = pass();
  if (cut_off) cut_off = pass();
  ASSERT_FALSE(cut_off);
  EXPECT_EQ(cut_off.error().code, "io.read");
  EXPECT_NE(cut_off.error().what.find("ends at"), std::string::npos);
}

TEST_F(SliceStoreTest, ACancelledConsumerDoesNotWaitForAStalledDisk) {
  open("read:3+:3s");
  std::thread canceller([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    cancelled_ = true;
  });
  const auto start = Clock::now();
  const auto stopped = pass();
  const auto took = Clock::now() - start;
  canceller.join();
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, "cancelled");
  EXPECT_LT(took, std::chrono::milliseconds(1300));
}

TEST_F(SliceStoreTest, AShrinkGivesTheMemoryBack) {
  open("", 1);
  ASSERT_TRUE(pass());      // the ring is touched: what is read ahead after the shrink takes nothing new
  ASSERT_TRUE(store_->set_cut(schedule_.size()));
  ASSERT_TRUE(pass());
  const uint64_t full = process_resident_bytes();
  const uint64_t pinned = store_->stats().pinned_bytes;
  ASSERT_GT(pinned, 20u << 20);
  ASSERT_TRUE(store_->set_cut(0));
  EXPECT_EQ(store_->stats().pinned_bytes, 0u);
  EXPECT_EQ(budget_.used(MemoryClass::kWeightsPinned), 0u);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(process_resident_bytes() + pinned * 9 / 10, full);
#else
  (void)full;
#endif
}

TEST_F(SliceStoreTest, MappedPagesComeAndGo) {
  open("", 1, IoMode::kMmap);
  const uint64_t before = process_resident_bytes();
  ASSERT_TRUE(store_->set_cut(schedule_.size()));
  ASSERT_TRUE(pass());
  EXPECT_EQ(budget_.used(MemoryClass::kWeightsMapped), store_->pin_bytes(schedule_.size()));
  EXPECT_GT(process_resident_bytes(), before + (20u << 20));
  ASSERT_TRUE(store_->set_cut(0));
  EXPECT_EQ(budget_.used(MemoryClass::kWeightsMapped), 0u);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const uint64_t most = UINT64_MAX;      // the sanitizer's shadow of what was read stays
#else
  const uint64_t most = before + 2 * store_->ring_bytes();
#endif
  EXPECT_LT(process_resident_bytes(), most);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass());
  EXPECT_LT(process_resident_bytes(), most);
}

TEST_F(SliceStoreTest, MappedFileCutOffIsAnErrorAndNoSignal) {
  open("", 1, IoMode::kMmap);
  ASSERT_TRUE(store_->set_cut(schedule_.size()));
  ASSERT_TRUE(pass());
  EXPECT_FALSE(store_->cut_off());
  ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(content_.size() / 2)), 0);
  // The second half is pinned: the pages are gone from under the mapping, and reading them gives zeros and a note.
  store_->begin_pass(schedule_.size());
  std::vector<bool> done(1, false);
  std::vector<SliceStore::Held> held;
  ASSERT_TRUE(store_->hold_ready({&schedule_.back(), 1}, done, held));
  ASSERT_EQ(held.size(), 1u);
  const auto* byte = static_cast<const volatile unsigned char*>(static_cast<const volatile void*>(held[0].data + (*index_)[held[0].id].n_bytes / 2));
  EXPECT_EQ(static_cast<int>(*byte), 0);
  EXPECT_TRUE(store_->cut_off());
  store_->release(held);
  // What has to be read again says so itself.
  open("", 1, IoMode::kMmap);
  const auto failed = pass();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, "io.read");
}

TEST_F(SliceStoreTest, MappedReadsFailLikeOthers) {
  for (uint64_t n = 1; n <= schedule_.size(); ++n) {
    open("read:" + std::to_string(n) + ":EIO", 1, IoMode::kMmap);
    ASSERT_TRUE(pass()) << n;
    open("read:" + std::to_string(n) + "+:EIO", 1, IoMode::kMmap);
    const auto failed = pass();
    ASSERT_FALSE(failed) << n;
    EXPECT_EQ(failed.error().code, "io.read");
  }
}

TEST_F(SliceStoreTest, CutForIsTheLargestThatFits) {
  open();
  for (size_t n = 0; n <= schedule_.size(); ++n) {
    const size_t m = store_->cut_for(store_->pin_bytes(n));
    EXPECT_GE(m, n);
    EXPECT_EQ(store_->pin_bytes(m), store_->pin_bytes(n));
    if (store_->pin_bytes(n) > 0) {
      EXPECT_LT(store_->pin_bytes(store_->cut_for(store_->pin_bytes(n) - 1)), store_->pin_bytes(n));
    }
  }
}

TEST_F(SliceStoreTest, PinsFillWhileNoPassRuns) {
  for (const IoMode mode : {IoMode::kDirect, IoMode::kMmap}) {
    open("", 1, mode);
    const size_t n = schedule_.size() / 2;
    ASSERT_TRUE(store_->set_cut(n));
    store_->fill_ahead();
    EXPECT_TRUE(filled(n));
    ASSERT_TRUE(pass());
    ASSERT_TRUE(store_->set_cut(n + 6));  // goes on after the cut has grown
    EXPECT_TRUE(filled(n + 6, store_->ring_bytes()));
    ASSERT_TRUE(pass());
  }
}

TEST_F(SliceStoreTest, BesideAPassPinsFillOneAtATime) {
  open("read:*:10ms", 1);
  const auto order = make_pin_order(schedule_);
  // Slice 2 is the first that is not pinned: the ring holds 0 and 1, and reading ahead ends there.
  const auto n = static_cast<size_t>(std::find(order.begin(), order.end(), 2u) - order.begin());
  uint64_t largest = 0;
  uint64_t want = 0;
  for (const SliceId id : std::span(order).first(n)) {
    largest = std::max(largest, (*index_)[id].n_bytes);
    want += id > 1 ? (*index_)[id].n_bytes : 0;
  }
  ASSERT_GT(want, largest);
  store_->fill_ahead();
  store_->begin_pass(schedule_.size());
  while (store_->block_stats().front().loading_bytes > 0) std::this_thread::yield();
  ASSERT_TRUE(store_->set_cut(n));
  uint64_t most = 0;
  for (int i = 0; i < 10000 && store_->stats().pinned_bytes < want; ++i) {
    most = std::max(most, store_->block_stats().front().loading_bytes);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(store_->stats().pinned_bytes, want);
  EXPECT_GT(most, 0u);
  EXPECT_LE(most, largest);
}

TEST_F(SliceStoreTest, AReadThatNobodyWaitedForFailsNobody) {
  const auto rest = [this] {
    while (store_->block_stats().front().loading_bytes > 0) std::this_thread::yield();
  };
  const auto order = make_pin_order(schedule_);
  const auto n = static_cast<size_t>(std::find(order.begin(), order.end(), 2u) - order.begin());
  open("", 1);
  store_->begin_pass(schedule_.size());
  rest();
  const uint64_t ahead = store_->stats().io.reads;
  // The next read is the first that fills; it fails twice, then for good.
  open("read:" + std::to_string(ahead + 1) + ":EIO,read:" + std::to_string(ahead + 2) + ":EIO", 1);
  store_->fill_ahead();
  store_->begin_pass(schedule_.size());
  rest();
  ASSERT_TRUE(store_->set_cut(n));
  for (int i = 0; i < 10000 && store_->stats().io.failures == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_EQ(store_->stats().io.failures, 1u);
  const SliceId wanted[] = {2};      // neither here nor on its way
  std::vector<bool> done(1, false);
  std::vector<SliceStore::Held> held;
  const auto demanded = [this] {
    return store_->block_stats().front().loads[static_cast<size_t>(LoadReason::kDemand)];
  };
  EXPECT_EQ(demanded().n, 0u);
  ASSERT_TRUE(store_->hold_ready(wanted, done, held));
  EXPECT_EQ(demanded().n, 1u);
  store_->release(held);
}

TEST(IoFault, RefusesWhatItDoesNotKnow) {
  for (const char* bad : {"read", "read:1", "write:1:EIO", "read:0:EIO", "read:x:EIO", "read:1:EFOO", "read:1:-5s", "read:1:2h,", ",", "read::EIO"}) {
    const auto parsed = IoFault::parse(bad);
    EXPECT_FALSE(parsed) << bad;
    if (!parsed) {
      EXPECT_EQ(parsed.error().code, "invalid_config");
    }
  }
  EXPECT_TRUE(IoFault::parse(""));
  EXPECT_TRUE(IoFault::parse("read:*:50ms,read:3+:short,read:7:EIO"));
}

// Pins of one model fill while another answers: at a known rate of the disk, half of it at most, and
// all of it afterwards.
TEST_F(SliceStoreTest, FillsWithHalfOfTheDiskBesideAnothersPass) {
  constexpr double kRate = 40e6;
  FillShare share;
  const File* files[] = {&file_};
  file_ = File::open_regular(path_).value();
  const auto make = [&](Budget& budget) {
    SliceStoreOptions o;
    o.io.mode = IoMode::kVirtual;
    o.io.virtual_bytes_per_s = kRate;
    o.io.share = &share;
    return SliceStore::create(files, *index_, schedule_, make_pin_order(schedule_), o, budget).value();
  };
  Budget other_budget;
  const auto other = make(other_budget);
  store_ = make(budget_);
  other->begin_pass(0);
  EXPECT_TRUE(share.busy());
  const auto began = Clock::now();
  ASSERT_TRUE(store_->set_cut(schedule_.size()));
  store_->fill_ahead();
  // A few slices, however long a loaded machine takes; without a limit they take half of the time.
  uint64_t bytes = 0;
  for (int i = 0; i < 10000 && bytes < 4 * store_->slot_bytes(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    bytes = store_->stats().io.bytes;
  }
  const double elapsed = std::chrono::duration<double>(Clock::now() - began).count();
  EXPECT_GT(bytes, 0u);
  EXPECT_LE(static_cast<double>(bytes), kRate * elapsed / 2 + static_cast<double>(store_->slot_bytes()));
  other->fill_ahead();
  EXPECT_FALSE(share.busy());
  EXPECT_TRUE(filled(schedule_.size()));
  store_.reset();
}

// What the page cache holds is not read again from the disk; what it does not hold is not brought there.
TEST_F(SliceStoreTest, CopiesWhatThePageCacheHolds) {
  const auto open_with_cache = [&] {
    store_.reset();
    file_ = File::open_regular(path_).value();
    const File* files[] = {&file_};
    SliceStoreOptions o;
    o.io.page_cache = true;
    store_ = SliceStore::create(files, *index_, schedule_, make_pin_order(schedule_), o, budget_).value();
  };
  ASSERT_EQ(::fsync(file_fd()), 0);
  open_with_cache();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass());
  const IoStats warm = store_->stats().io;
  if (store_->io_mode() != IoMode::kDirect || warm.cached_bytes == 0)
    GTEST_SKIP() << "this kernel does not tell what its page cache holds, or has no direct reads here";
  EXPECT_LT(warm.bytes, warm.cached_bytes);
  ASSERT_EQ(::posix_fadvise(file_fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  open_with_cache();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass());
  const IoStats cold = store_->stats().io;
  EXPECT_EQ(cold.cached_bytes, 0u);
  EXPECT_GT(cold.bytes, 0u);
  store_.reset();
}

}  // namespace
}  // namespace sluice
