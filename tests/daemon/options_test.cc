#include "daemon/options.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace sluice {
namespace {

const char* const kNoEnvironment[] = {nullptr};

Result<DaemonCommand> parse(std::vector<const char*> words) {
  ::setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
  words.insert(words.begin(), "sluiced");
  return parse_daemon_command(static_cast<int>(words.size()), words.data(), kNoEnvironment);
}

TEST(Options, NothingMeansRun) {
  EXPECT_EQ(parse({}).value().verb, DaemonVerb::kRun);
  EXPECT_EQ(parse({"run"}).value().verb, DaemonVerb::kRun);
  EXPECT_EQ(parse({"run", "--budget", "2G"}).value().config.get("budget.ram").value, "2G");
  EXPECT_EQ(parse({"--budget", "2G", "run"}).value().config.get("budget.ram").origin,
            "flag --budget");
}

TEST(Options, FlagsBeatEverything) {
  ::setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
  const char* const environment[] = {"SLUICED_THREADS=2", nullptr};
  const char* const words[] = {"sluiced", "--threads", "3"};
  EXPECT_EQ(parse_daemon_command(3, words, environment).value().config.integer("daemon.threads"),
            3);
  EXPECT_EQ(parse_daemon_command(1, words, environment).value().config.integer("daemon.threads"),
            2);
}

TEST(Options, ModelsKeepTheNameThatFollowsThem) {
  const auto command =
      parse({"--model", "a.gguf", "--model", "b.gguf", "--name", "bee", "--model", "c.gguf"});
  ASSERT_TRUE(command) << command.error().what;
  const auto& models = command.value().models;
  ASSERT_EQ(models.size(), 3u);
  EXPECT_EQ(models[0].path, "a.gguf");
  EXPECT_EQ(models[0].name, "");
  EXPECT_EQ(models[1].name, "bee");
  EXPECT_EQ(models[2].name, "");
  EXPECT_FALSE(parse({"--name", "x"}));
  EXPECT_FALSE(parse({"--model", "a", "--name", "x", "--name", "y"}));
}

TEST(Options, ListensWhereItIsTold) {
  EXPECT_EQ(parse({"--listen", "unix:///a/b.sock"}).value().config.get("listen.unix").value,
            "/a/b.sock");
  EXPECT_EQ(parse({"--listen", "/a/b.sock"}).value().config.get("listen.unix").value, "/a/b.sock");
  EXPECT_TRUE(parse({"--listen", "fd://"}).value().activated);
  EXPECT_EQ(parse({"--listen", "tcp://127.0.0.1:1"}).value().config.get("listen.tcp").value,
            "127.0.0.1:1");
  EXPECT_FALSE(parse({"--listen", "/a", "--listen", "/b"}));
  EXPECT_FALSE(parse({"--listen", "rel"}));
  EXPECT_FALSE(parse({"--listen", "https://x"}));
  const std::string long_path = "unix:///" + std::string(200, 'a');
  EXPECT_EQ(parse({"--listen", long_path.c_str()}).error().code, "invalid_socket_path");
}

TEST(Options, UnknownFlagsAndVerbsAreSuggested) {
  auto e = parse({"--budgt", "2G"}).error();
  EXPECT_EQ(e.code, "usage");
  EXPECT_NE(e.what.find("--budgt"), std::string::npos);
  EXPECT_NE(e.hint.find("--budget"), std::string::npos);
  e = parse({"chekc", "x.gguf"}).error();
  EXPECT_NE(e.hint.find("check"), std::string::npos) << e.hint;
  EXPECT_FALSE(parse({"--budget"}));
  EXPECT_FALSE(parse({"config"}));
  EXPECT_FALSE(parse({"check"}));
}

TEST(Options, BadValuesNameTheirFlag) {
  for (const auto& [flag, value] :
       std::vector<std::pair<const char*, const char*>>{{"--budget", "lots"},
                                                        {"--budget", "0"},
                                                        {"--budget", "-1"},
                                                        {"--budget", "1e30"},
                                                        {"--threads", "0"},
                                                        {"--threads", "x"},
                                                        {"--io", "magic"},
                                                        {"--log-level", "loud"},
                                                        {"--idle-exit", "later"},
                                                        {"--set", "queue.max=0"}}) {
    const auto command = parse({flag, value});
    ASSERT_FALSE(command) << flag << " " << value;
    EXPECT_EQ(command.error().code, "invalid_config");
    EXPECT_NE(command.error().what.find(std::string("flag ") + flag), std::string::npos)
        << command.error().what;
  }
}

TEST(Options, ConfigVerbsKeepTheirFlags) {
  const auto show = parse({"config", "show", "--origin", "--json"}).value();
  EXPECT_EQ(show.verb, DaemonVerb::kConfigShow);
  EXPECT_TRUE(show.origins);
  EXPECT_TRUE(show.json);
  EXPECT_EQ(parse({"config", "check", "f.toml"}).value().file, "f.toml");
  EXPECT_EQ(parse({"config", "path", "--config", "/x.toml"}).value().config_path, "/x.toml");
  EXPECT_EQ(parse({"check", "m.gguf", "--json"}).value().verb, DaemonVerb::kCheck);
}

TEST(Options, ANamedFileMustExist) {
  EXPECT_FALSE(parse({"--config", "/nonexistent/x.toml"}));
  EXPECT_TRUE(parse({"--config", "/dev/null"}));
}

}  // namespace
}  // namespace sluice
