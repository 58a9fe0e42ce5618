#include "scheduler/probe.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <iterator>
#include <mutex>
#include <optional>
#include <vector>

#include "kernels/transformer/block.h"
#include "scheduler/thread_pool.h"
#include "storage/anonymous_memory.h"
#include "storage/slice_store.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;
using kernels::MatrixRef;
using kernels::RowSlice;

// However steady a probe looks, half a second does not speak for the minutes after it: of 30
// probes, each followed by a run on a busy machine, four in five were within 12 %.
constexpr double kLeastSpread = 0.12;
constexpr uint64_t kAlignment = 4096;  // of IoQueue's memory and file ranges

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The median, and how far the middle 80 % lie from it.
Estimate estimate_of(std::vector<double> xs) {
  if (xs.empty()) return {};
  std::sort(xs.begin(), xs.end());
  const auto at = [&](double q) {
    return xs[static_cast<size_t>(q * static_cast<double>(xs.size() - 1) + 0.5)];
  };
  const double median = at(0.5);
  const double spread = median > 0 ? (at(0.9) - at(0.1)) / 2 / median : 0;
  return {median, std::max(kLeastSpread, spread)};
}

// The same for what follows each other quickly: of the means of a few stretches, since it is sums
// that are predicted. Their median, so that a moment in which others had the processors does not
// count for all.
Estimate estimate_of_stretches(const std::vector<double>& xs) {
  constexpr size_t kStretches = 7;
  const size_t each = std::max<size_t>(1, xs.size() / kStretches);
  std::vector<double> means;
  for (size_t first = 0; first + each <= xs.size(); first += each) {
    double sum = 0;
    for (size_t i = first; i < first + each; ++i) sum += xs[i];
    means.push_back(sum / static_cast<double>(each));
  }
  return estimate_of(std::move(means));
}

// ---- disk

// Reads on their way, and what has arrived.
struct Reads {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<size_t> free;      // places for a slice; guarded by mutex
  uint64_t bytes = 0;            // arrived; guarded by mutex
  std::optional<Error> failure;  // guarded by mutex
  struct Place {
    std::byte* memory = nullptr;
    uint32_t part = 0;  // what is read into it
    uint64_t file_offset = 0, n_bytes = 0;
  };
  std::vector<Place> places;
  IoQueue* queue = nullptr;
  uint64_t checksum = 0;  // keeps the hashing; guarded by mutex

  static void on_read(void* ctx, uint64_t tag, const Error* error) {
    auto& r = *static_cast<Reads*>(ctx);
    const auto place = static_cast<size_t>(tag);
    const Place& p = r.places[place];
    const std::byte* mapping = r.queue->mapping(p.part);
    const std::byte* data = mapping != nullptr ? mapping + p.file_offset : p.memory;
    const uint64_t hash = error == nullptr ? XXH3_64bits(data, p.n_bytes) : 0;
    if (mapping != nullptr) r.queue->drop_now(p.part, p.file_offset, p.n_bytes);
    {
      const std::lock_guard lock(r.mutex);
      if (error != nullptr && !r.failure) r.failure = *error;
      r.checksum ^= hash;
      r.bytes += p.n_bytes;
      r.free.push_back(place);
    }
    r.changed.notify_one();
  }
};

}  // namespace

Result<DiskProbe> probe_disk(std::span<const File* const> files,
                             const SliceIndex& index,
                             const Schedule& schedule,
                             const IoOptions& io,
                             Budget& budget,
                             const ProbeLimits& limits) {
  constexpr double kWindow_s = 0.04;
  DiskProbe probe;
  if (schedule.slices.empty()) return probe;
  const uint64_t slot_bytes = SliceStore::slot_bytes_of(index);
  const size_t depth =
      static_cast<size_t>(io.n_threads > 0 ? io.n_threads : ReadShape::kMostDepth) + 2;
  SLUICE_TRY(const Reservation reserved, budget.reserve(depth * slot_bytes, MemoryClass::kRing));
  SLUICE_TRY(const AnonymousMemory memory,
             AnonymousMemory::create(depth * slot_bytes, "a disk probe", /*huge=*/true));
  Reads reads;
  for (size_t i = 0; i < depth; ++i) {
    reads.free.push_back(i);
    reads.places.push_back({.memory = memory.data() + i * slot_bytes});
  }
  IoOptions from_disk = io;
  from_disk.page_cache = false;
  SLUICE_TRY(const auto queue, IoQueue::create(files, from_disk, &Reads::on_read, &reads));
  reads.queue = queue.get();
  probe.mode = queue->mode();
  std::vector<double> rates;
  const auto start = Clock::now();
  auto window_start = start;
  uint64_t window_bytes = 0;
  uint64_t submitted = 0;
  size_t next = limits.first;
  std::unique_lock lock(reads.mutex);
  for (;;) {
    const bool over =
        submitted >= limits.bytes || seconds_since(start) >= limits.seconds || reads.failure;
    if (over && reads.free.size() == depth) break;
    if (const double s = seconds_since(window_start); s >= kWindow_s) {
      rates.push_back(static_cast<double>(reads.bytes - window_bytes) / s);
      window_bytes = reads.bytes;
      window_start = Clock::now();
    }
    if (over || reads.free.empty()) {
      reads.changed.wait(lock);
      continue;
    }
    const size_t place = reads.free.back();
    reads.free.pop_back();
    const Slice& s = index[schedule.slices[next++ % schedule.slices.size()]];
    const uint64_t offset = s.file_offset / kAlignment * kAlignment;
    const uint64_t needed = s.file_offset + s.n_bytes - offset;
    const uint64_t n_bytes = (needed + kAlignment - 1) / kAlignment * kAlignment;
    reads.places[place].part = s.part;
    reads.places[place].file_offset = offset;
    reads.places[place].n_bytes = n_bytes;
    submitted += n_bytes;
    lock.unlock();
    queue->submit({.part = s.part,
                   .file_offset = offset,
                   .n_bytes = n_bytes,
                   .needed = needed,
                   .dst = queue->mapping(s.part) != nullptr ? nullptr : reads.places[place].memory,
                   .tag = place});
    lock.lock();
  }
  if (reads.failure) return *reads.failure;
  probe.bytes = reads.bytes;
  probe.seconds = seconds_since(start);
  // Over before the first window was.
  if (rates.empty()) rates.push_back(static_cast<double>(probe.bytes) / probe.seconds);
  probe.bytes_per_s = {static_cast<double>(probe.bytes) / probe.seconds,
                       estimate_of(std::move(rates)).spread};
  return probe;
}

ReadShape choose_shape(const ReadShape& usual, std::span<const ShapeRate> rates) {
  constexpr double kClearly = 1.1;  // a few MiB are a short look
  ShapeRate chosen{usual, 0};
  for (const ShapeRate& r : rates) {
    if (r.shape == usual) chosen = r;
  }
  const double before = chosen.bytes_per_s;
  for (const ShapeRate& r : rates) {
    if (r.bytes_per_s > kClearly * before && r.bytes_per_s > chosen.bytes_per_s) chosen = r;
  }
  return chosen.shape;
}

Result<ReadShape> probe_read_shape(std::span<const File* const> files,
                                   const SliceIndex& index,
                                   const Schedule& schedule,
                                   const IoOptions& io,
                                   Budget& budget) {
  ProbeLimits limits{.seconds = 0.035, .bytes = 8u << 20};
  std::vector<ShapeRate> rates;
  const auto look = [&](const ReadShape& shape) -> Result<void> {
    // A look is not worth anybody's pins.
    const uint64_t memory =
        static_cast<uint64_t>(shape.depth + 2) * SliceStore::slot_bytes_of(index);
    if (budget.available() < memory) return success();
    IoOptions fixed = io;
    fixed.n_threads = shape.depth;
    fixed.request_bytes = shape.request_bytes;
    SLUICE_TRY(const DiskProbe probe, probe_disk(files, index, schedule, fixed, budget, limits));
    rates.push_back({shape, probe.bytes_per_s.value});
    // Other slices each time: what lies below us may remember those that were just read.
    limits.first += schedule.slices.size() / 4;
    return success();
  };
  const ReadShape usual;
  for (const int depth : {4, 1, 2, 8}) {
    SLUICE_TRY(look({depth, usual.request_bytes}));
  }
  const ReadShape deep = choose_shape(usual, rates);
  for (const uint64_t n : {usual.request_bytes / 2, usual.request_bytes / 4}) {
    SLUICE_TRY(look({deep.depth, n}));
  }
  return choose_shape(deep, rates);
}

namespace {

// ---- compute

// Made-up weights: every visit gets the next stretch of one buffer, so that they come from memory
// and not from a cache as long as the buffer is larger than that.
class MadeUpWeights final : public kernels::MatrixSource {
 public:
  MadeUpWeights(const ModelLayout& layout, const AnonymousMemory& buffer)
      : layout_(layout), buffer_(buffer) {}

  bool visit(const MatrixRef* refs, int n_refs, VisitFn fn, void* ctx) noexcept override {
    slices_.clear();
    for (int m = 0; m < n_refs; ++m) {
      const auto range = layout_.slices->of(static_cast<uint32_t>(refs[m].tensor), refs[m].expert);
      for (uint32_t i = 0; i < range.count; ++i) {
        const Slice& s = (*layout_.slices)[range.first + i];
        if (at_ + s.n_bytes > buffer_.size()) at_ = 0;
        slices_.push_back({buffer_.data() + at_,
                           static_cast<int64_t>(s.row0),
                           static_cast<int64_t>(s.n_rows),
                           m});
        at_ += (s.n_bytes + 63) / 64 * 64;
        bytes_ += s.n_bytes;
      }
    }
    fn(ctx, slices_.data(), static_cast<int>(slices_.size()));
    return true;
  }
  bool prepare_rows(const MatrixRef&, const int32_t*, int64_t) noexcept override { return true; }
  const void* row(const MatrixRef&, int64_t) noexcept override { return buffer_.data(); }

  uint64_t bytes() const { return bytes_; }  // handed over so far

 private:
  const ModelLayout& layout_;
  const AnonymousMemory& buffer_;
  std::vector<RowSlice> slices_;
  uint64_t at_ = 0;
  uint64_t bytes_ = 0;
};

// Everything that a block needs to be computed, but for its weights.
class Bench {
 public:
  static constexpr int64_t kPosition = 256;  // tokens that a query looks back on

  static Result<std::unique_ptr<Bench>> create(const kernels::HParams& hp,
                                               const ModelLayout& layout,
                                               int n_threads,
                                               Budget& budget,
                                               uint64_t buffer_bytes,
                                               int64_t walk_tokens) {
    std::unique_ptr<Bench> b(new Bench(hp, layout, n_threads));
    const kernels::WorkspaceShape shape{walk_tokens, kPosition + walk_tokens, 1, n_threads};
    const uint64_t workspace = kernels::workspace_bytes(hp, shape);
    const auto page = static_cast<uint64_t>(b->kv_.page_bytes());
    SLUICE_TRY(b->reserved_,
               budget.reserve(buffer_bytes + workspace + page, MemoryClass::kActivations));
    SLUICE_TRY(b->buffer_, AnonymousMemory::create(buffer_bytes, "a compute probe", /*huge=*/true));
    SLUICE_TRY(b->workspace_, AnonymousMemory::create(workspace, "a compute probe"));
    SLUICE_TRY(b->page_, AnonymousMemory::create(page, "a compute probe"));
    // Ordinary numbers in every type: f16 0.22, f32 4e-8, no NaN and nothing denormal.
    std::memset(b->buffer_.data(), 0x33, b->buffer_.size());
    std::memset(b->workspace_.data(), 0x33, b->workspace_.size());
    std::memset(b->page_.data(), 0x33, b->page_.size());
    b->ws_ = kernels::make_workspace(hp, shape, b->workspace_.data());
    b->ones_.assign(static_cast<size_t>(std::max(hp.dim, hp.head_dim)), 1.0f);
    // Every page of the conversation is the same one: its size is what matters.
    b->table_.assign(static_cast<size_t>((kPosition + walk_tokens) / kernels::kPageTokens + 1),
                     b->page_.data());
    for (int64_t t = 0; t < walk_tokens; ++t) {
      b->positions_.push_back(kPosition + t);
      b->pages_.push_back(b->table_.data());
    }
    b->source_.emplace(layout, b->buffer_);
    return b;
  }

  // Seconds and bytes of one block for n tokens.
  struct Timed {
    double seconds = 0;
    double bytes = 0;
  };
  Timed block(size_t i, int64_t n, kernels::Role role) {
    kernels::BlockWeights w = layout_.blocks[i];
    w.attn_norm = w.ffn_norm = ones_.data();
    roles_.assign(static_cast<size_t>(n), role);
    const kernels::WalkTokens tokens{n, positions_.data(), pages_.data(), roles_.data()};
    return timed([&](kernels::WalkContext& c) {
      kernels::run_block(c, w, static_cast<int64_t>(i), tokens);
    });
  }
  Timed head() {
    return timed(
        [&](kernels::WalkContext& c) { kernels::run_head(c, ones_.data(), layout_.head, 1); });
  }

  // The better of a few readings of the whole buffer by all threads, as the kernels read: asked for
  // 12 KiB ahead.
  double memory_bytes_per_s() {
    const auto* words = reinterpret_cast<const uint64_t*>(buffer_.data());
    const auto n = static_cast<int64_t>(buffer_.size() / sizeof(uint64_t));
    constexpr int64_t kAhead = (12 << 10) / sizeof(uint64_t);
    double best = 0;
    for (int round = 0; round < 3; ++round) {
      const auto start = Clock::now();
      kernels::parallel_for(pool_, n, 4096, [&](int64_t begin, int64_t end, int) {
        uint64_t sum[8] = {};
        for (int64_t i = begin; i + 8 <= end; i += 8) {
          __builtin_prefetch(words + i + kAhead, 0, 2);
          for (int k = 0; k < 8; ++k) sum[k] += words[i + k];
        }
        for (const uint64_t s : sum) sink_.fetch_xor(s, std::memory_order_relaxed);
      });
      best = std::max(best, static_cast<double>(buffer_.size()) / seconds_since(start));
    }
    return best;
  }

 private:
  Bench(const kernels::HParams& hp, const ModelLayout& layout, int n_threads)
      : hp_(hp),
        layout_(layout),
        kv_(kernels::KvLayout::of(hp, kernels::KvType::kF16)),
        pool_(n_threads) {}

  template <class F>
  Timed timed(F&& f) {
    kernels::WalkContext c{.hp = hp_,
                           .table = kernels::kernels(),
                           .parallel = pool_,
                           .source = *source_,
                           .ws = ws_,
                           .kv = kv_};
    const uint64_t before = source_->bytes();
    const auto start = Clock::now();
    f(c);
    return {seconds_since(start), static_cast<double>(source_->bytes() - before)};
  }

  const kernels::HParams& hp_;
  const ModelLayout& layout_;
  const kernels::KvLayout kv_;
  ThreadPool pool_;
  Reservation reserved_;
  AnonymousMemory buffer_, workspace_, page_;
  kernels::Workspace ws_;
  std::vector<float> ones_;
  std::vector<std::byte*> table_;
  std::vector<int64_t> positions_;
  std::vector<std::byte* const*> pages_;
  std::vector<kernels::Role> roles_;
  std::optional<MadeUpWeights> source_;
  std::atomic<uint64_t> sink_{0};
};

// The k-th of n blocks to try, far from those before it: a model's blocks differ in their types.
size_t spread_block(size_t k, size_t n) {
  constexpr double kGolden = 0.6180339887498949;
  const double x = static_cast<double>(k) * kGolden;
  return std::min(n - 1, static_cast<size_t>((x - std::floor(x)) * static_cast<double>(n)));
}

}  // namespace

Result<ComputeProbe> probe_compute(const kernels::HParams& hp,
                                   const ModelLayout& layout,
                                   int n_threads,
                                   Budget& budget,
                                   double seconds) {
  // As far above what a last-level cache keeps of it as there is memory for: with 64 MiB a tenth came
  // from the cache and promised too much.
  struct Size {
    uint64_t buffer;
    int64_t walk;
  };
  constexpr Size kSizes[] = {{256u << 20, 64}, {64u << 20, 64}, {8u << 20, 16}};
  const uint64_t slot = SliceStore::slot_bytes_of(*layout.slices);
  auto made = Bench::create(hp, layout, n_threads, budget, std::max(kSizes[0].buffer, slot), kSizes[0].walk);
  int64_t walk = kSizes[0].walk;
  for (size_t i = 1; i < std::size(kSizes) && !made; ++i) {
    walk = kSizes[i].walk;
    made = Bench::create(hp, layout, n_threads, budget, std::max(kSizes[i].buffer, slot), walk);
  }
  SLUICE_TRY(const auto bench, std::move(made));
  const size_t n_blocks = layout.blocks.size();
  // Runs blocks until the time is up, at least one; returns seconds per byte of each.
  const auto decode_steps = [&](double until_s) {
    std::vector<double> per_byte;
    (void)bench->block(0, 1, kernels::Role::kRow);  // warm-up
    const auto start = Clock::now();
    for (size_t k = 0; k == 0 || seconds_since(start) < until_s; ++k) {
      const auto timed = bench->block(spread_block(k, n_blocks), 1, kernels::Role::kRow);
      per_byte.push_back(timed.seconds / std::max(timed.bytes, 1.0));
    }
    return estimate_of_stretches(per_byte);
  };
  // One token asks for so much of every block: all of it but for the experts that sleep.
  const auto bytes_of = [&](const MatrixRef& ref, bool stack) {
    if (!ref.present()) return 0.0;
    const auto range = layout.slices->of(static_cast<uint32_t>(ref.tensor), stack ? 0 : -1);
    double sum = 0;
    for (uint32_t i = 0; i < range.count; ++i)
      sum += static_cast<double>((*layout.slices)[range.first + i].n_bytes);
    return sum * (stack ? static_cast<double>(hp.n_experts_active) : 1);
  };
  double block_bytes = 0;
  for (const kernels::BlockWeights& w : layout.blocks) {
    for (const auto* r : {&w.wq, &w.wk, &w.wv, &w.wo, &w.router, &w.w1, &w.w3, &w.w2})
      block_bytes += bytes_of(*r, false);
    for (const auto* r : {&w.w1_exps, &w.w3_exps, &w.w2_exps}) block_bytes += bytes_of(*r, true);
  }
  ComputeProbe out;
  out.memory_bytes_per_s = bench->memory_bytes_per_s();
  const Estimate decode = decode_steps(seconds * 0.45);
  const auto head_start = Clock::now();
  std::vector<double> heads;
  while (heads.empty() || (heads.size() < 5 && seconds_since(head_start) < seconds * 0.1))
    heads.push_back(bench->head().seconds);
  out.decode_s = {decode.value * block_bytes + estimate_of(heads).value, decode.spread};
  // Many tokens of a mixture ask for nearly all experts: seconds per block are what carries over,
  // not bytes.
  std::vector<double> prompt;
  (void)bench->block(0, walk, kernels::Role::kPrompt);
  const auto start = Clock::now();
  for (size_t k = 0; k == 0 || seconds_since(start) < seconds * 0.35; ++k) {
    prompt.push_back(
        bench->block(spread_block(k, n_blocks), walk, kernels::Role::kPrompt).seconds);
  }
  const Estimate per_block = estimate_of_stretches(prompt);
  out.prompt_token_s = {per_block.value * static_cast<double>(n_blocks) / static_cast<double>(walk),
                        per_block.spread};
  return out;
}

}  // namespace sluice
