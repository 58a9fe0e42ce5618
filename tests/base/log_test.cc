#include "base/log.h"

#include <gtest/gtest.h>

#include <vector>

namespace sluice {
namespace {

TEST(LogTap, HearsInfoAndAboveCutToItsMaximum) {
  ASSERT_TRUE(init_log("debug"));
  std::vector<std::string> heard;
  set_log_tap([&](const char* level, std::string line) {
    heard.push_back(std::string(level) + " " + line);
  });
  spdlog::debug("nobody's news");
  spdlog::info("one key={}", 1);
  spdlog::error("{}", std::string(kMostTappedBytes, 'x'));
  spdlog::error("{}", std::string(kMostTappedBytes + 1, 'y'));
  set_log_tap(nullptr);
  spdlog::error("after");
  ASSERT_EQ(heard.size(), 3u);
  EXPECT_EQ(heard[0], "info one key=1");
  EXPECT_EQ(heard[1], "error " + std::string(kMostTappedBytes, 'x'));
  EXPECT_EQ(heard[2], "error " + std::string(kMostTappedBytes, 'y'));
  init_log("info");
}

}  // namespace
}  // namespace sluice
