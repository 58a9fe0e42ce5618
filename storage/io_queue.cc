#include "storage/io_queue.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/check.h"
#include "storage/mapped_file.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxIoThreads = 64;
constexpr uint64_t kDefaultAlignment = 4096;
constexpr int kReadRetries = 1;          // a second try before a request is told
constexpr int kMostPassedOver =
    8;  // before one of the last goes first: an eighth of the disk at most
constexpr int kMaxInterruptions = 100;   // EINTR and EAGAIN in one read

// Offset and memory alignment that direct reads of this file want.
uint64_t direct_alignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx sx {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN) != 0 &&
      sx.stx_dio_offset_align != 0) {
    return std::max<uint64_t>({512, sx.stx_dio_offset_align, sx.stx_dio_mem_align});
  }
#endif
  (void)fd;
  return kDefaultAlignment;
}

// What of a file the page cache holds: a system call that asks without reading (Linux 6.5).
#ifndef SYS_cachestat
constexpr long SYS_cachestat = 451;
#endif
struct CachestatRange {
  uint64_t offset, n_bytes;
};
struct Cachestat {
  uint64_t cached, dirty, writeback, evicted, recently_evicted;  // pages
};

// All of [offset, offset + n_bytes) is in the page cache. False too where the kernel does not tell.
bool in_page_cache(int fd, uint64_t offset, uint64_t n_bytes) {
  static const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  CachestatRange range{offset, n_bytes};
  Cachestat found{};
  if (::syscall(SYS_cachestat, fd, &range, &found, 0) != 0) return false;
  return found.cached >= (offset + n_bytes - 1) / page - offset / page + 1;
}

// Hands out the right to have read n bytes at a fixed rate.
class Pacer {
 public:
  explicit Pacer(double bytes_per_s) : bytes_per_s_(bytes_per_s) {}
  void pass(uint64_t n) {
    if (bytes_per_s_ <= 0) return;
    Clock::time_point until;
    {
      const std::lock_guard lock(mutex_);
      const auto cost = std::chrono::duration_cast<Clock::duration>(
          std::chrono::duration<double>(static_cast<double>(n) / bytes_per_s_));
      free_at_ = std::max(free_at_, Clock::now()) + cost;
      until = free_at_;
    }
    std::this_thread::sleep_until(until);
  }

 private:
  const double bytes_per_s_;
  std::mutex mutex_;
  Clock::time_point free_at_;
};

// A pool of threads that block in pread.
class ThreadedIoQueue final : public IoQueue {
 public:
  // `cached`: the files once more, without O_DIRECT; empty: the page cache is passed by.
  ThreadedIoQueue(std::vector<File> files,
                  std::vector<File> cached,
                  std::vector<MappedFile> mappings,
                  const IoOptions& o,
                  IoMode mode,
                  uint64_t alignment,
                  uint64_t device,
                  Done done,
                  void* ctx)
      : files_(std::move(files)),
        cached_(std::move(cached)),
        mappings_(std::move(mappings)),
        mode_(mode),
        alignment_(alignment),
        done_(done),
        ctx_(ctx),
        fault_(o.fault != nullptr ? *o.fault : IoFault::of_process()),
        pacer_(o.virtual_bytes_per_s),
        share_(o.share != nullptr ? *o.share : own_share_) {
    int n = std::clamp(o.n_threads, 1, kMaxIoThreads);
    depth_ = n;
    request_bytes_ = std::max(o.request_bytes / alignment * alignment, alignment);
    if (o.n_threads == 0) {
      shapes_ = o.shapes;
      device_ = device;
      control_.emplace(o.shapes == nullptr ? ReadShape{}
                                           : o.shapes->find(device).value_or(ReadShape{}));
      take(control_->shape());
      n = ReadShape::kMostDepth;
    }
    for (int i = 0; i < n; ++i) threads_.emplace_back([this] { work(); });
  }

  ~ThreadedIoQueue() override {
    halt();
    if (shapes_ != nullptr) shapes_->keep(device_, control_->home());
    for (uint32_t part = 0; part < mappings_.size(); ++part) drop_now(part, 0, mappings_[part].size());
  }

  void stop() override { halt(); }

  void submit(const ReadRequest& r) override {
    SLUICE_DCHECK(r.file_offset % alignment_ == 0 && r.n_bytes % alignment_ == 0);
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return;
      (r.demand ? demand_ : r.last ? last_ : ahead_).push_back(r);
    }
    ready_.notify_one();
  }

  uint64_t alignment() const override { return alignment_; }
  IoMode mode() const override { return mode_; }
  int depth() const override { return depth_.load(std::memory_order_relaxed); }
  IoStats stats() const override {
    const std::lock_guard lock(mutex_);
    IoStats s = stats_;
    s.busy_s = busy_s();
    return s;
  }
  const std::byte* mapping(uint32_t part) const override { return mappings_.empty() ? nullptr : mappings_[part].data(); }
  void drop_now(uint32_t part, uint64_t file_offset, uint64_t n_bytes) override {
    const MappedFile& m = mappings_[part];
    if (file_offset >= m.size()) return;
    n_bytes = std::min(n_bytes, m.size() - file_offset);
    m.drop(file_offset, n_bytes);
    // Out of the page cache too, where nobody else has it mapped. The kernel keeps pages that are only partly in the range.
    const uint64_t end = file_offset + n_bytes == m.size() ? 0 : n_bytes;      // 0: to the end of the file
    ::posix_fadvise(files_[part].fd(), static_cast<off_t>(file_offset), static_cast<off_t>(end), POSIX_FADV_DONTNEED);
  }
  bool cut_off() const override {
    return std::any_of(mappings_.begin(), mappings_.end(), [](const MappedFile& m) { return m.cut_off(); });
  }

 private:
  void halt() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      demand_.clear();
      ahead_.clear();
      last_.clear();
    }
    ready_.notify_all();
    for (auto& t : threads_) t.join();
    threads_.clear();
  }

  static double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

  // All below but read_all and what it calls: mutex_ held.
  double busy_s() const {
    return stats_.busy_s + (in_flight_ > 0 ? seconds_since(busy_since_) : 0.0);
  }

  void take(const ReadShape& shape) {
    depth_.store(shape.depth, std::memory_order_relaxed);
    request_bytes_.store(shape.request_bytes, std::memory_order_relaxed);
  }

  // Nothing waits for a turn to drop pages.
  bool drops_pages() const { return !demand_.empty() && demand_.front().drop; }
  bool has_turn() const { return in_flight_ < depth_.load(std::memory_order_relaxed); }
  // Whether a thread may find something to take on.
  bool something_to_do() const {
    return drops_pages() ||
           (has_turn() && (!demand_.empty() || !ahead_.empty() || !last_.empty()));
  }

  // Where the next request is to be taken from; null: nowhere now.
  std::deque<ReadRequest>* choose() {
    if (drops_pages()) return &demand_;
    if (!has_turn()) return nullptr;
    const bool others = !demand_.empty() || !ahead_.empty();
    const bool its_turn = !others || passed_over_ >= kMostPassedOver;
    if (!last_.empty() && its_turn && share_.begin(Clock::now())) {
      passed_over_ = 0;
      return &last_;
    }
    if (!others) return nullptr;
    passed_over_ = last_.empty() ? 0 : passed_over_ + 1;
    return !demand_.empty() ? &demand_ : &ahead_;
  }

  // Until there is something to do; what the share holds back has one thread that looks at the clock.
  void wait_for_more(std::unique_lock<std::mutex>& lock) {
    if (!something_to_do()) return ready_.wait(lock);
    if (watching_share_) return ready_.wait(lock);
    watching_share_ = true;
    ready_.wait_until(lock, share_.ask_again(Clock::now()));
    watching_share_ = false;
  }

  // A read has ended: tells the control what came in since it was told last.
  void correct_shape() {
    constexpr double kSample_s = 0.01;
    if (!control_) return;
    const double busy = busy_s() - told_busy_s_;
    if (busy < kSample_s) return;
    const int before = depth();
    take(control_->add(stats_.bytes - told_bytes_, busy));
    told_busy_s_ += busy;
    told_bytes_ = stats_.bytes;
    if (depth() > before) ready_.notify_all();
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (stop_) return;
      auto* const queue = choose();
      if (queue == nullptr) {
        wait_for_more(lock);
        continue;
      }
      const ReadRequest r = queue->front();
      queue->pop_front();
      if (something_to_do()) ready_.notify_one();
      if (r.drop) {
        lock.unlock();
        drop_now(r.part, r.file_offset, r.n_bytes);
        done_(ctx_, r.tag, nullptr);
        lock.lock();
        continue;
      }
      const Clock::time_point began = Clock::now();
      if (!cached_.empty()) {
        lock.unlock();
        const bool copied = copy_from_cache(r);
        if (copied && r.last) share_.end(began, Clock::now());
        lock.lock();
        if (copied) {
          ++stats_.reads;
          stats_.cached_bytes += r.n_bytes;
          lock.unlock();
          done_(ctx_, r.tag, nullptr);
          lock.lock();
          continue;
        }
      }
      if (in_flight_++ == 0) busy_since_ = Clock::now();
      lock.unlock();
      Result<void> read = read_all(r);
      for (int retry = 0; !read && retry < kReadRetries; ++retry) {
        lock.lock();
        ++stats_.retries;
        lock.unlock();
        read = read_all(r);
      }
      if (r.last) share_.end(began, Clock::now());
      lock.lock();
      if (--in_flight_ == 0) stats_.busy_s += seconds_since(busy_since_);
      ++stats_.reads;
      stats_.bytes += read ? r.n_bytes : 0;
      stats_.failures += read ? 0u : 1u;
      correct_shape();
      // What comes next is read while this one is looked at by its owner.
      if (something_to_do()) ready_.notify_one();
      lock.unlock();
      done_(ctx_, r.tag, read ? nullptr : &read.error());
      lock.lock();
    }
  }

  // Nothing is read from the disk for it, and nothing is added to the page cache.
  bool copy_from_cache(const ReadRequest& r) const {
    const int fd = cached_[r.part].fd();
    if (!in_page_cache(fd, r.file_offset, r.needed)) return false;
    for (uint64_t got = 0; got < r.needed;) {
      const iovec to{r.dst + got, r.needed - got};
      const int64_t n =
          ::preadv2(fd, &to, 1, static_cast<off_t>(r.file_offset + got), RWF_NOWAIT);
      if (n <= 0) return false;
      got += static_cast<uint64_t>(n);
    }
    return true;
  }

  Result<void> populate(const ReadRequest& r) {
    const IoFault::Due due = fault_.next();
    Error e;
    if (due.error != 0 && due.error != EINTR && due.error != EAGAIN) {
      e = errno_error("io.read", fmt::format("read of {} bytes", r.n_bytes), due.error);
      e.offset = r.file_offset;
      return e;
    }
    const MappedFile& m = mappings_[r.part];
    // Populating behind the end would tell nothing: the last page is there, its rest reads as zero.
    SLUICE_TRY(const FileIdentity now, files_[r.part].identity());
    const uint64_t end = due.eof ? r.file_offset : now.size;
    if (end < r.file_offset + r.needed) {
      e = Error{"io.read", fmt::format("the file ends at {}, {} more bytes were expected", end, r.file_offset + r.needed - end)};
      e.offset = end;
      return e;
    }
    SLUICE_TRY(m.populate(r.file_offset, r.needed));
    if (r.dst != nullptr) {
      std::memcpy(r.dst, m.data() + r.file_offset, r.needed);
      drop_now(r.part, r.file_offset, r.needed);
    }
    return success();
  }

  Result<void> read_all(const ReadRequest& r) {
    if (mode_ == IoMode::kMmap) return populate(r);
    const int fd = files_[r.part].fd();
    uint64_t got = 0;
    int interruptions = 0;
    while (got < r.needed) {
      const uint64_t most = std::min(r.n_bytes - got, request_bytes_.load(std::memory_order_relaxed));
      const int64_t n = fault_.pread(fd, r.dst + got, most, r.file_offset + got);
      if (n < 0 && (errno == EINTR || errno == EAGAIN) && ++interruptions <= kMaxInterruptions) continue;
      if (n < 0 && errno == EINVAL && mode_ == IoMode::kDirect && leave_direct(fd)) continue;
      if (n < 0) {
        Error e = errno_error("io.read", fmt::format("read of {} bytes", r.n_bytes), errno);
        e.offset = r.file_offset + got;
        return e;
      }
      const uint64_t reached = got + static_cast<uint64_t>(n);
      // A short direct read must go on at an aligned place; one that gets no further has met the end of the file.
      const uint64_t next = mode_ == IoMode::kDirect && reached < r.needed ? reached / alignment_ * alignment_ : reached;
      if (next <= got) {
        Error e{"io.read", fmt::format("the file ends at {}, {} more bytes were expected", r.file_offset + reached, r.needed - reached)};
        e.offset = r.file_offset + reached;
        return e;
      }
      got = next;
    }
    if (mode_ == IoMode::kBuffered) {
      ::posix_fadvise(fd, static_cast<off_t>(r.file_offset), static_cast<off_t>(r.n_bytes), POSIX_FADV_DONTNEED);
    }
    if (mode_ == IoMode::kVirtual) pacer_.pass(r.n_bytes);
    return success();
  }

  // Some file systems take O_DIRECT at open and refuse it at read: go on through the page cache.
  static bool leave_direct(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DIRECT) != 0 && ::fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
  }

  std::vector<File> files_;
  std::vector<File> cached_;
  std::vector<MappedFile> mappings_;           // kMmap
  const IoMode mode_;
  const uint64_t alignment_;
  const Done done_;
  void* const ctx_;
  IoFault& fault_;
  Pacer pacer_;
  FillShare own_share_;
  FillShare& share_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<ReadRequest> demand_, ahead_, last_;  // bounded by what the owner has memory for
  int passed_over_ = 0;                            // reads begun while one of last_ waited
  bool watching_share_ = false;
  bool stop_ = false;
  int in_flight_ = 0;
  Clock::time_point busy_since_;
  IoStats stats_;
  std::optional<ReadControl> control_;  // none: the shape stays as it was set
  std::atomic<int> depth_{1};           // written with mutex_ held, as the next
  std::atomic<uint64_t> request_bytes_{ReadShape::kMostRequest};
  ReadBook* shapes_ = nullptr;
  uint64_t device_ = 0;
  uint64_t told_bytes_ = 0;
  double told_busy_s_ = 0;
  std::vector<std::thread> threads_;
};

// The same inode through its descriptor: a path may lead to another file by now.
Result<File> reopen(const File& file, int flags) {
  const std::string path = fmt::format("/proc/self/fd/{}", file.fd());
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  if (fd < 0) return errno_error("io.open", "open the model for reading", errno);
  return File(fd);
}

}  // namespace

const char* io_mode_name(IoMode m) {
  static const char* const kNames[] = {"direct", "buffered", "virtual", "mmap"};
  return kNames[static_cast<size_t>(m)];
}

Result<IoMode> io_mode_from_name(const std::string& name) {
  if (name == "auto" || name == "direct") return IoMode::kDirect;
  if (name == "buffered") return IoMode::kBuffered;
  if (name == "mmap") return IoMode::kMmap;
  return Error{"invalid_request", "io \"" + name + "\" is not known; allowed: auto, direct, buffered, mmap"};
}

Result<std::unique_ptr<IoQueue>> IoQueue::create(std::span<const File* const> files, const IoOptions& o, Done done, void* ctx) {
  IoMode mode = o.mode;
  uint64_t alignment = kDefaultAlignment;
  std::vector<File> opened, cached;
  std::vector<MappedFile> mappings;
  uint64_t device = 0;  // that of the first part stands for all
  if (!files.empty()) {
    SLUICE_TRY(const FileIdentity first, files.front()->identity());
    device = first.dev;
  }
  if (mode == IoMode::kDirect) {
    for (const File* f : files) {
      auto file = reopen(*f, O_DIRECT);
      if (!file) {
        mode = IoMode::kBuffered;      // tmpfs, some network and overlay file systems
        opened.clear();
        break;
      }
      alignment = std::max(alignment, direct_alignment(file.value().fd()));
      opened.push_back(std::move(file).value());
    }
  }
  // Faults on purpose are those of reads.
  if (mode == IoMode::kDirect && o.page_cache && (o.fault != nullptr ? *o.fault : IoFault::of_process()).empty()) {
    for (const File* f : files) {
      SLUICE_TRY(File file, reopen(*f, 0));
      cached.push_back(std::move(file));
    }
  }
  if (mode != IoMode::kDirect) {
    for (const File* f : files) {
      SLUICE_TRY(File file, reopen(*f, 0));
      ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_RANDOM);     // our own read-ahead is enough
      if (mode == IoMode::kMmap) {
        SLUICE_TRY(const FileIdentity identity, file.identity());
        SLUICE_TRY(MappedFile mapped, MappedFile::map(file, identity.size));
        mapped.advise_random();
        mappings.push_back(std::move(mapped));
      }
      opened.push_back(std::move(file));
    }
  }
  return std::unique_ptr<IoQueue>(new ThreadedIoQueue(
      std::move(opened), std::move(cached), std::move(mappings), o, mode, alignment, device, done, ctx));
}

}  // namespace sluice
