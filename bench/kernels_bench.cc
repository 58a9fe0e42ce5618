// Speed of the matrix kernels, alone: for each weight type, kernel variant and shape, decode (1
// token; GB/s of weights beside what this machine reads from memory) and prefill (GOPS: two
// operations per weight and token).
//
//   kernels_bench [--benchmark_filter=REGEX]   rows: matmul/TYPE/VARIANT/ROWSxCOLS/tokens:T/threads:N,
//   and matmul_prompt/... where a variant has a prompt definition
//
// SLUICE_BENCH_THREADS=N: threads of the pool (default: all usable).
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "scheduler/thread_pool.h"
#include "storage/anonymous_memory.h"

namespace sluice {
namespace {

using kernels::KernelTable;
using kernels::Role;
using kernels::WeightType;

constexpr uint64_t kColdBytes =
    192u << 20;  // walked through in turn: more than a last-level cache holds

ThreadPool& pool() {
  static ThreadPool p([] {
    const char* n = std::getenv("SLUICE_BENCH_THREADS");
    return n != nullptr ? std::atoi(n) : 0;
  }());
  return p;
}

AnonymousMemory memory(uint64_t bytes) {
  auto m = AnonymousMemory::create(bytes, "benchmark", /*huge=*/true);
  if (!m) {
    fmt::print(stderr, "kernels_bench: {}\n", m.error().what);
    std::exit(1);
  }
  return std::move(m).value();
}

// Random bits that are small, finite and not subnormal as halves, floats or doubles: values like that cost more.
void fill_weights(std::byte* w, uint64_t bytes) {
  std::mt19937_64 random(1);
  for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
    const uint64_t v = (random() & 0x3bff3bff3bff3bffu) | 0x0800080008000800u;
    std::memcpy(w + i, &v, 8);
  }
}

// What all threads together read when they do nothing else.
void read_memory(benchmark::State& state) {
  AnonymousMemory m = memory(kColdBytes);
  std::memset(m.data(), 1, kColdBytes);
  std::vector<uint64_t> sums(static_cast<size_t>(pool().n_threads()) * 8);
  for (auto _ : state) {
    kernels::parallel_for(pool(),
                          static_cast<int64_t>(kColdBytes),
                          1 << 20,
                          [&](int64_t begin, int64_t end, int thread) {
                            uint64_t s[8] = {};
                            for (int64_t i = begin; i + 64 <= end; i += 64) {
                              for (int j = 0; j < 8; ++j) {
                                uint64_t v;
                                std::memcpy(&v, m.data() + i + 8 * j, 8);
                                s[j] += v;
                              }
                            }
                            for (const uint64_t v : s) sums[static_cast<size_t>(thread) * 8] += v;
                          });
    benchmark::DoNotOptimize(sums.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kColdBytes));
}

struct Shape {
  int64_t rows, cols;
};

void matmul(benchmark::State& state,
            const KernelTable* table,
            WeightType type,
            Role role,
            Shape shape,
            int64_t n_tokens) {
  const auto w_stride =
      static_cast<int64_t>(kernels::row_bytes(type, static_cast<uint64_t>(shape.cols)));
  const int64_t w_bytes = w_stride * shape.rows;
  const int64_t n_matrices =
      n_tokens < 32 ? std::max<int64_t>(1, static_cast<int64_t>(kColdBytes) / w_bytes) : 1;
  AnonymousMemory w = memory(static_cast<uint64_t>(w_bytes * n_matrices));
  fill_weights(w.data(), static_cast<uint64_t>(w_bytes * n_matrices));
  const auto [format, multiply] = table->product(type, role);
  const auto x_stride =
      static_cast<int64_t>(kernels::act_bytes(format, static_cast<uint64_t>(shape.cols)));
  const KernelTable::MatmulFn matmul = multiply;
  std::vector<float> x(static_cast<size_t>(shape.cols)),
      act(static_cast<size_t>(x_stride * n_tokens / 4));
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (float& v : x) v = normal(random);
    table->quantize[static_cast<int>(format)](x.data(), act.data() + t * x_stride / 4, shape.cols);
  }
  std::vector<float> y(static_cast<size_t>(shape.rows * n_tokens));
  int64_t turn = 0;
  for (auto _ : state) {
    const std::byte* matrix = w.data() + turn++ % n_matrices * w_bytes;
    kernels::parallel_for(pool(), shape.rows, 16, [&](int64_t begin, int64_t end, int) {
      matmul(matrix + begin * w_stride,
             w_stride,
             end - begin,
             shape.cols,
             act.data(),
             x_stride,
             n_tokens,
             y.data() + begin,
             shape.rows);
    });
    benchmark::DoNotOptimize(y.data());
  }
  const auto n = static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * w_bytes);
  state.counters["GOPS"] =
      benchmark::Counter(2e-9 * n * static_cast<double>(shape.rows * shape.cols * n_tokens),
                         benchmark::Counter::kIsRate);
}

void add_rows_of(const KernelTable* table, WeightType type, Role role) {
  for (const Shape shape : {Shape{8960, 1536}, Shape{1536, 8960}}) {
    for (const int64_t n_tokens : {1, 2, 4, 8, 16, 32, 512}) {
      benchmark::RegisterBenchmark(fmt::format("{}/{}/{}/{}x{}/tokens:{}/threads:{}",
                                               role == Role::kPrompt ? "matmul_prompt" : "matmul",
                                               kernels::info(type).name,
                                               table->name,
                                               shape.rows,
                                               shape.cols,
                                               n_tokens,
                                               pool().n_threads())
                                       .c_str(),
                                   matmul,
                                   table,
                                   type,
                                   role,
                                   shape,
                                   n_tokens)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

// Each function once, under the first table that has it.
void add_rows() {
  benchmark::RegisterBenchmark(fmt::format("read_memory/threads:{}", pool().n_threads()).c_str(),
                               read_memory)
      ->UseRealTime();
  for (int i = 0; i < kernels::kNWeightTypes; ++i) {
    const auto type = static_cast<WeightType>(i);
    KernelTable::MatmulFn row = nullptr, prompt = nullptr;
    for (int v = 0; kernels::kernel_name(v) != nullptr; ++v) {
      const KernelTable* table = kernels::kernels_by_name(kernels::kernel_name(v));
      if (table->matmul[i] != row) add_rows_of(table, type, Role::kRow);
      if (table->matmul_prompt[i] != prompt) add_rows_of(table, type, Role::kPrompt);
      row = table->matmul[i];
      prompt = table->matmul_prompt[i];
    }
  }
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  sluice::add_rows();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
