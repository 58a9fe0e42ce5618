#include "daemon/model_registry.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "daemon/model_store.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

const std::string kModel = SLUICE_SOURCE_DIR "/assets/demo.gguf";

class ModelRegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "registryXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    file_ = dir_ + "/My Model.gguf";
    fs::copy_file(kModel, file_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  ModelRegistry registry(uint64_t budget_bytes = Budget::kUnlimited) {
    // A budget outlives what is charged to it; a test may have two registries at once.
    return ModelRegistry({dir_, 0, 1000, {}}, budgets_.emplace_back(budget_bytes), pool_);
  }

  std::string dir_, file_;
  std::deque<Budget> budgets_;
  ThreadPool pool_{1};
};

TEST_F(ModelRegistryTest, ListOutlivesTheProcess) {
  {
    ModelRegistry r = registry();
    const auto added = r.add(file_, "", true);
    ASSERT_TRUE(added) << added.error().what;
    EXPECT_TRUE(added.value().created);
    EXPECT_EQ(added.value().entry->name, "my-model");
    EXPECT_FALSE(r.add(file_, "", true).value().created);
    ASSERT_TRUE(r.add(file_, "second/name:q4", true));
    ASSERT_TRUE(r.add(file_, "given-by-flag", false));
  }
  ModelRegistry r = registry();
  r.restore();
  ASSERT_EQ(r.list().size(), 2u) << "models of the command line are not kept";
  const auto entry = r.find("second/name:q4");
  ASSERT_TRUE(entry);
  EXPECT_GT(entry.value()->facts.parameters, 0);
  EXPECT_TRUE(r.text(entry.value()));
  ASSERT_TRUE(r.remove("my-model", false));
  ModelRegistry again = registry();
  again.restore();
  EXPECT_EQ(again.list().size(), 1u);
}

TEST_F(ModelRegistryTest, NamesAreTakenOnceAndPathsAreChecked) {
  ModelRegistry r = registry();
  ASSERT_TRUE(r.add(file_, "a", true));
  EXPECT_EQ(r.add(kModel, "a", true).error().code, "name_taken");
  for (const char* name : {"../x", "-rf", ".hidden", "/etc", "a b", "a\n", "x\x80"}) {
    EXPECT_EQ(r.add(file_, name, true).error().code, "invalid_request") << name;
  }
  EXPECT_EQ(r.add(file_, std::string(129, 'x'), true).error().code, "invalid_request");
  EXPECT_TRUE(r.add(file_, std::string(128, 'x'), true));
  EXPECT_EQ(r.add("relative.gguf", "b", true).error().code, "invalid_request");
  EXPECT_FALSE(r.add(dir_, "b", true));
  EXPECT_FALSE(r.add("/dev/zero", "b", true));
  const std::string fifo = dir_ + "/fifo.gguf";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_FALSE(r.add(fifo, "b", true)) << "and does not block";
}

TEST_F(ModelRegistryTest, UnknownNamesGetTheNearest) {
  ModelRegistry r = registry();
  EXPECT_EQ(r.find("").error().code, "model_not_found");
  ASSERT_TRUE(r.add(file_, "qwen2.5:7b", true));
  EXPECT_TRUE(r.find("")) << "the only one needs no name";
  EXPECT_NE(r.find("qwen2.5:8b").error().hint.find("qwen2.5:7b"), std::string::npos);
  ASSERT_TRUE(r.add(file_, "other", true));
  EXPECT_EQ(r.find("").error().code, "invalid_request");
  const auto other = r.find("other").value();
  ASSERT_TRUE(r.acquire(other, std::nullopt));
  r.release(other, -1, true);
  EXPECT_EQ(r.find("").value()->name, "other") << "the only one loaded";
}

TEST_F(ModelRegistryTest, AChangedFileIsAnErrorUntilAddedAnew) {
  ModelRegistry r = registry();
  const auto entry = r.add(file_, "m", true).value().entry;
  fs::last_write_time(file_, fs::last_write_time(file_) - std::chrono::hours(1));
  EXPECT_EQ(r.text(entry).error().code, "model_changed");
  EXPECT_EQ(r.acquire(entry, std::nullopt).error().code, "model_changed");
  EXPECT_TRUE(r.doc(*entry).load_error.has_value());
  const auto anew = r.add(file_, "m", true);
  ASSERT_TRUE(anew);
  EXPECT_FALSE(anew.value().created);
  EXPECT_TRUE(r.text(anew.value().entry));
  fs::remove(file_);
  EXPECT_FALSE(r.acquire(r.find("m").value(), std::nullopt));
}

TEST_F(ModelRegistryTest, UnloadsWhenDueAndNotBefore) {
  ModelRegistry r = registry();
  const auto entry = r.add(file_, "m", true).value().entry;
  const auto loaded = [&] { return r.doc(*entry).loaded; };
  ASSERT_TRUE(r.acquire(entry, std::nullopt));
  EXPECT_FALSE(r.tend_idle(ModelRegistry::Clock::now() + std::chrono::hours(1))) << "in use";
  EXPECT_TRUE(loaded());
  r.release(entry, 5000, true);
  const auto next = r.tend_idle(ModelRegistry::Clock::now() + std::chrono::seconds(4));
  EXPECT_TRUE(loaded());
  ASSERT_TRUE(next);
  EXPECT_FALSE(r.tend_idle(*next));
  EXPECT_FALSE(loaded());
  EXPECT_EQ(budgets_.back().used(), 0u) << "everything went with it";

  ASSERT_TRUE(r.acquire(entry, std::nullopt));
  r.release(entry, -1, true);
  EXPECT_FALSE(r.tend_idle(ModelRegistry::Clock::now() + std::chrono::hours(10000)));
  EXPECT_TRUE(loaded()) << "negative: for ever";
  ASSERT_TRUE(r.acquire(entry, std::nullopt));
  r.release(entry, 0, true);
  EXPECT_FALSE(loaded()) << "0: at once";
}

TEST_F(ModelRegistryTest, AModelThatAParkedJobWillNeedStays) {
  ModelRegistry r = registry(96u << 20);
  const auto a = r.add(file_, "a", false).value().entry;
  const auto b = r.add(file_, "b", false).value().entry;
  const auto far = ModelRegistry::Clock::now() + std::chrono::hours(10000);
  const auto loaded = [&](const auto& e) { return r.doc(*e).loaded; };
  EngineMemory needs;
  {
    auto held = r.acquire(a, std::nullopt);
    ASSERT_TRUE(held) << held.error().what;
    needs = held.value()->engine->memory();
  }
  needs.kv = 3u << 20;
  needs.kv_to_come = 1u << 20;
  r.park(a, needs);
  // Others come and go at once.
  ASSERT_TRUE(r.acquire(a, std::nullopt));
  r.release(a, 0, true);
  r.tend_idle(far);
  EXPECT_TRUE(loaded(a));
  ModelHoldings h = r.holdings().at(0);
  EXPECT_FALSE(h.running);
  EXPECT_TRUE(h.parked);
  EXPECT_EQ(h.engine.kv + h.engine.kv_to_come, 4u << 20);
  // Others' room is made of what nobody waits for, then of it; what it takes again is known.
  ASSERT_TRUE(r.acquire(b, std::nullopt));
  r.release(b, -1, true);
  Budget& budget = budgets_.back();
  const uint64_t one = h.engine.ring + h.engine.activations;
  ASSERT_TRUE(budget.set_limit(one + (one / 2)));
  EXPECT_TRUE(loaded(a));
  EXPECT_FALSE(loaded(b)) << "although it was used last";
  ASSERT_TRUE(budget.set_limit(one / 2));
  EXPECT_FALSE(loaded(a));
  h = r.holdings().at(0);
  EXPECT_EQ(h.to_load.kv, 4u << 20);
  EXPECT_EQ(h.to_load.ring + h.to_load.activations, one);
  ASSERT_TRUE(budget.set_limit(96u << 20));
  // What was begun goes on also where nothing new is loaded.
  r.refuse_loads(true);
  const auto refused = r.acquire(b, std::nullopt);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "memory_pressure");
  ASSERT_TRUE(r.acquire_parked(a, std::nullopt));
  EXPECT_FALSE(r.holdings().at(0).parked);
  r.park(a, needs);
  r.drop_parked(a, 0);
  EXPECT_TRUE(loaded(a)) << "not on the thread that cancels";
  r.tend_idle(ModelRegistry::Clock::now());
  EXPECT_FALSE(loaded(a));
}

TEST_F(ModelRegistryTest, IdleModelsMakeRoom) {
  // Measured, not guessed: the smallest budget that one model runs in. Two need a ring and
  // activations each.
  const auto loads = [&](uint64_t limit) {
    ModelRegistry r = registry(limit);
    const auto entry = r.add(file_, "a", false).value().entry;
    const bool ok = r.text(entry) && r.acquire(entry, std::nullopt);
    if (ok) r.release(entry, 0, true);
    return ok;
  };
  uint64_t low = 1 << 20, high = 512 << 20;
  ASSERT_TRUE(loads(high));
  while (high - low > 64 << 10) {
    const uint64_t middle = (low + high) / 2;
    (loads(middle) ? high : low) = middle;
  }
  const uint64_t limit = high + (256 << 10);
  ModelRegistry r = registry(limit);
  const auto a = r.add(file_, "a", false).value().entry;
  const auto b = r.add(file_, "b", false).value().entry;
  auto first = r.acquire(a, std::nullopt);
  ASSERT_TRUE(first) << first.error().what;
  // What is in use stays: there is no room for b now.
  const auto refused = r.acquire(b, std::nullopt);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "model_does_not_fit");
  EXPECT_TRUE(r.doc(*a).loaded);
  r.release(a, -1, true);
  // Idle it makes room, although it was to be kept for ever.
  EXPECT_TRUE(r.doc(*a).loaded);
  first.value().reset();
  const auto second = r.acquire(b, std::nullopt);
  ASSERT_TRUE(second) << second.error().what;
  EXPECT_FALSE(r.doc(*a).loaded);
  EXPECT_LE(budgets_.back().used(), limit);
}

TEST_F(ModelRegistryTest, TheHeadersCopyIsInTheLedgerWhileItIsRead) {
  uint64_t header = 0;
  {
    ModelRegistry r = registry();
    const auto added = r.add(file_, "m", false);
    ASSERT_TRUE(added) << added.error().what;
    const auto entry = added.value().entry;
    EXPECT_EQ(budgets_.back().used(), 0u);
    ASSERT_TRUE(r.text(entry));
    EXPECT_EQ(budgets_.back().used(), r.holdings()[0].tables) << "what is left is the tokenizer";
    r.unload(entry);
    EXPECT_EQ(budgets_.back().used(), 0u);
    header = check_model(file_).value()->file.header_bytes();
  }
  ASSERT_GT(header, 4096u);
  // A budget of one byte less cannot even read it; a request to register says so.
  ModelRegistry small = registry(header - 1);
  const auto code = [](const auto& result) {
    return result ? std::string("done") : result.error().code;
  };
  EXPECT_EQ(code(small.add(file_, "m", true)), "budget_exceeded");
  const auto entry = small.add(file_, "m", false);
  ASSERT_TRUE(entry) << "given at the start it is there, for a larger budget";
  EXPECT_EQ(code(small.text(entry.value().entry)), "budget_exceeded");
  EXPECT_EQ(code(small.acquire(entry.value().entry, std::nullopt)), "model_does_not_fit");
  EXPECT_EQ(budgets_.back().used(), 0u);
  fs::rename(file_, file_ + ".away");
  EXPECT_EQ(code(small.text(entry.value().entry)), "budget_exceeded") << "before it is opened";
  fs::rename(file_ + ".away", file_);
  ModelRegistry enough = registry(header);
  EXPECT_TRUE(enough.add(file_, "n", true));
}

TEST_F(ModelRegistryTest, ADamagedListIsPutAside) {
  { std::ofstream(dir_ + "/models.json") << "{\"models\":[{\"name\":\"../../etc\"}]}"; }
  ModelRegistry r = registry();
  r.restore();
  EXPECT_TRUE(r.list().empty());
  EXPECT_TRUE(fs::exists(dir_ + "/models.json.damaged"));
  EXPECT_TRUE(r.add(file_, "m", true)) << "and life goes on";
}

TEST_F(ModelRegistryTest, AListThatCannotBeWrittenIsAnErrorAndChangesNothing) {
  ModelRegistry r = registry();
  ASSERT_TRUE(r.add(file_, "m", true));
  // A folder in the place of the temporary file: also root cannot write over it.
  fs::create_directory(dir_ + "/models.json.tmp");
  EXPECT_EQ(r.add(file_, "n", true).error().code, "io_error");
  EXPECT_EQ(r.list().size(), 1u);
  EXPECT_EQ(r.remove("m", false).error().code, "io_error");
  EXPECT_EQ(r.list().size(), 1u);
}

TEST(DefaultModelName, ComesFromTheFile) {
  EXPECT_EQ(default_model_name("/a/Qwen2.5-7B-Q4_K_M.gguf"), "qwen2.5-7b-q4_k_m");
  EXPECT_EQ(default_model_name("/a/Big-00001-of-00003.gguf"), "big");
  EXPECT_EQ(default_model_name("/a/.gguf"), "model");
  EXPECT_TRUE(valid_model_name(default_model_name("/a/\xff \n..weird..name.gguf")))
      << default_model_name("/a/\xff \n..weird..name.gguf");
  EXPECT_TRUE(valid_model_name(default_model_name("/a/" + std::string(300, 'x') + ".gguf")));
}

}  // namespace
}  // namespace sluice
