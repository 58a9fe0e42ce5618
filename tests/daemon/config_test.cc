#include "daemon/config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "daemon/options.h"

namespace sluice {
namespace {

std::string error_of(const Result<void>& result) { return result ? "" : result.error().what; }

std::string toml_error(const std::string& text) {
  Config config;
  return error_of(config.merge_text(text, "f.toml"));
}

class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/sluice-config-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(path_ + "/" + name).parent_path());
    std::ofstream(path_ + "/" + name) << text;
    return path_ + "/" + name;
  }

 private:
  std::string path_;
};

TEST(Config, ReadsTheDocumentedFile) {
  Config config;
  const auto merged = config.merge_text(R"(
listen   = { unix = "auto", tcp = "" }
budget   = { ram = "auto", gpu = "0", reserve = "256M", swap = "forbid" }
stream   = { io = "auto", io_threads = 4, ring = "auto" }
kv       = { type = "f16", session_disk = "2G", compress = "zstd:3" }
queue    = { max = 32, per_user = 8, parallel = 1, wait = "10m" }
pressure = { react = true, some = 10, full = 5, recover = "30s" }
http     = { body_limit = "16M", heartbeat = "5s", early_headers = "5s", pad_json = "15s", write_timeout = "60s" }
log      = { level = "info", target = "auto", prompts = false }
metrics  = { textfile = "" }
daemon   = { idle_exit = "15m", drain = "30s" }
[models]
keep_alive = "5m"
idle_trim = "1m"
paths = ["~/models"]
[models."qwen2.5:7b"]
ctx = 4096
pin = ["embed", "output"]
temperature = 0.7
)",
                                        "f.toml");
  EXPECT_EQ(error_of(merged), "");
  EXPECT_EQ(config.integer("queue.max"), 32);
  EXPECT_EQ(config.size("http.body_limit"), 16u << 20);
  EXPECT_EQ(config.duration_ms("daemon.drain"), 30'000);
  EXPECT_EQ(config.list("models.paths"), std::vector<std::string>{"~/models"});
  EXPECT_EQ(config.models().at("qwen2.5:7b").at("ctx").value, "4096");
  EXPECT_EQ(config.models().at("qwen2.5:7b").at("pin").value, "embed, output");
}

TEST(Config, BuiltInLimitsAreTheReliableOnes) {
  const Config config;
  EXPECT_EQ(config.size("http.body_limit"), 8u << 20);
  EXPECT_EQ(config.duration_ms("daemon.drain"), 10'000);
  EXPECT_TRUE(config.is_auto("budget.ram"));
}

TEST(Config, ErrorsNameLineAndColumn) {
  EXPECT_EQ(toml_error("[queue]\n  maxx = 3\n").substr(0, 25), "f.toml:2:3: unknown key '");
  EXPECT_EQ(toml_error("queue = { max = \"x\" }").substr(0, 12), "f.toml:1:11:");
  EXPECT_EQ(toml_error("\n\n[quue]\nmax = 1\n").substr(0, 11), "f.toml:3:2:");
  EXPECT_EQ(toml_error("[log]\nlevel = \"loud\"\n").substr(0, 11), "f.toml:2:1:");
  EXPECT_EQ(toml_error("[models.\"m\"]\nctxx = 1\n").substr(0, 11), "f.toml:2:1:");
  EXPECT_EQ(toml_error("a = \n").substr(0, 9), "f.toml:1:");
  EXPECT_EQ(toml_error("queue = 3").substr(0, 11), "f.toml:1:1:");
}

TEST(Config, UnknownKeysAreSuggested) {
  Config config;
  const auto set = config.merge_text("[queue]\nper_usr = 1\n", "f.toml");
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code, "invalid_config");
  EXPECT_NE(set.error().hint.find("queue.per_user"), std::string::npos) << set.error().hint;
}

TEST(Config, TypesAreChecked) {
  for (const char* text : {"queue.max = 0",
                           "queue.max = 5000",
                           "queue.max = 1.5",
                           "queue.max = true",
                           "queue.max = [1]",
                           "pressure.react = 1",
                           "pressure.some = 101",
                           "http.body_limit = \"lots\"",
                           "http.body_limit = -1",
                           "http.body_limit = \"-1\"",
                           "budget.ram = \"0\"",
                           "budget.ram = \"101%\"",
                           "budget.ram = \"1e30\"",
                           "daemon.drain = \"soon\"",
                           "models.paths = \"x\"",
                           "models.paths = [1]",
                           "stream.io = \"mmapp\"",
                           "log.level = 3",
                           "kv.compress = \"zip\"",
                           "models.m.temperature = \"hot\"",
                           "models.m.temperature = inf",
                           "models.m.ctx = 0",
                           "listen.unix = 3"}) {
    EXPECT_NE(toml_error(text), "") << text;
  }
  for (const char* text : {"queue.max = 1",
                           "queue.max = 4096",
                           "http.body_limit = 1048576",
                           "budget.ram = \"40%\"",
                           "daemon.drain = 5",
                           "daemon.drain = 1.5",
                           "daemon.idle_exit = \"auto\"",
                           "daemon.threads = \"auto\"",
                           "daemon.threads = 3"}) {
    EXPECT_EQ(toml_error(text), "") << text;
  }
}

TEST(Config, NumbersInFilesMeanBytesAndSeconds) {
  Config config;
  ASSERT_TRUE(
      config.merge_text("http.body_limit = 4096\ndaemon.drain = 2\nhttp.heartbeat = 1.5", "f"));
  EXPECT_EQ(config.size("http.body_limit"), 4096u);
  EXPECT_EQ(config.duration_ms("daemon.drain"), 2000);
  EXPECT_EQ(config.duration_ms("http.heartbeat"), 1500);
}

TEST(Config, LaterSourcesWinAndSayWhoTheyAre) {
  const TempDir dir;
  const std::string file =
      dir.write("c.toml", "[queue]\nmax = 10\nper_user = 2\n[log]\nlevel = \"warn\"\n");
  dir.write("c.toml.d/20-b.toml", "queue.max = 30\n");
  dir.write("c.toml.d/10-a.toml", "queue.max = 20\nkv.type = \"q8_0\"\n");
  const char* const environment[] = {
      "SLUICED_LOG_LEVEL=debug", "SLUICED_IO=mmap", "OTHER=1", nullptr};
  auto config = load_config(file, true, environment);
  ASSERT_TRUE(config) << config.error().what;
  EXPECT_EQ(config.value().get("queue.max").value, "30");
  EXPECT_EQ(config.value().get("queue.max").origin, file + ".d/20-b.toml:1:7");
  EXPECT_EQ(config.value().get("queue.per_user").origin, file + ":3:1");
  EXPECT_EQ(config.value().get("kv.type").value, "q8_0");
  EXPECT_EQ(config.value().get("log.level").origin, "env SLUICED_LOG_LEVEL");
  EXPECT_EQ(config.value().get("stream.io").value, "mmap");
  EXPECT_EQ(config.value().get("queue.wait").origin, "built-in");
  ASSERT_TRUE(config.value().set_assignment("log.level=error"));
  EXPECT_EQ(config.value().get("log.level").value, "error");
  EXPECT_EQ(config.value().get("log.level").origin, "flag --set");
}

TEST(Config, UnknownVariablesAreErrors) {
  Config config;
  const char* const environment[] = {"SLUICED_BUDGT=2G", nullptr};
  const auto merged = config.merge_environment(environment);
  ASSERT_FALSE(merged);
  EXPECT_NE(merged.error().hint.find("SLUICED_BUDGET"), std::string::npos) << merged.error().hint;
}

TEST(Config, AssignmentsReachModelsWithDotsInTheirNames) {
  Config config;
  ASSERT_TRUE(config.set_assignment("models.\"qwen2.5:7b\".ctx=2048"));
  ASSERT_TRUE(config.set_assignment("models.qwen2.5:7b.temperature=0.5"));
  EXPECT_EQ(config.models().at("qwen2.5:7b").at("ctx").value, "2048");
  EXPECT_EQ(config.models().at("qwen2.5:7b").at("temperature").value, "0.5");
  for (const char* text :
       {"queue", "=1", "queue.max", "queue.max=", "queue.maxx=1", "models.x.nope=1"}) {
    EXPECT_FALSE(config.set_assignment(text)) << text;
  }
}

TEST(Config, WhatItPrintsReadsBackTheSame) {
  Config config;
  ASSERT_TRUE(
      config.merge_text("queue.max = 7\nmodels.paths = [\"/a b\", \"~/c\"]\nmodels.\"x\\\"y\".ctx "
                        "= 9\nlog.prompts = true",
                        "f"));
  for (const bool origins : {false, true}) {
    Config again;
    EXPECT_EQ(error_of(again.merge_text(config.toml(origins), "printed")), "");
    EXPECT_EQ(again.toml(false), config.toml(false));
  }
}

TEST(Config, TheExampleIsValidAndHoldsEveryKey) {
  Config config;
  const std::string example = Config::example();
  EXPECT_EQ(error_of(config.merge_text(example, "example")), "");
  for (const KeySpec& spec : Config::keys()) {
    const std::string key = std::string(spec.name).substr(std::string(spec.name).find('.') + 1);
    EXPECT_NE(example.find("# " + key + " = "), std::string::npos) << spec.name;
  }
}

TEST(Config, MissingEndlessAndOddFilesAreHandled) {
  const TempDir dir;
  Config config;
  EXPECT_TRUE(config.merge_file("/nonexistent/x.toml", false));
  EXPECT_FALSE(config.merge_file("/nonexistent/x.toml", true));
  EXPECT_TRUE(config.merge_file("/dev/null", true));
  EXPECT_FALSE(config.merge_file("/dev/zero", true));
  EXPECT_FALSE(config.merge_file("/tmp", true));
  const std::string fifo = dir.write("x", "") + ".fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_TRUE(config.merge_file(fifo, true));  // does not block: an empty file
}

TEST(RamBudget, IsAShareASizeOrALoweredSize) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  EXPECT_EQ(ram_budget("auto", 10 * kGiB).value().bytes, 6 * kGiB);
  EXPECT_EQ(ram_budget("40%", 10 * kGiB).value().bytes, 4 * kGiB);
  EXPECT_EQ(ram_budget("512M", 10 * kGiB).value().bytes, kGiB / 2);
  EXPECT_FALSE(ram_budget("10G", 10 * kGiB).value().lowered);
  EXPECT_TRUE(ram_budget("11G", 10 * kGiB).value().lowered);
  EXPECT_EQ(ram_budget("11G", 10 * kGiB).value().bytes, 10 * kGiB);
  for (const char* text : {"0", "0M", "-1", "1e30", "lots", "", "nan", "101%", "2X"}) {
    const auto budget = ram_budget(text, 10 * kGiB);
    ASSERT_FALSE(budget) << text;
    EXPECT_EQ(budget.error().code, "invalid_config") << text;
  }
}

}  // namespace
}  // namespace sluice
