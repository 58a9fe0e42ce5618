#include "daemon/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace sluice {
namespace {

struct Outcome {
  std::string text;
  bool matched = false;
};

// Feeds `text` in the pieces that `cuts` marks (bit i: a cut after byte i).
Outcome feed(const std::string& text, const std::vector<std::string>& stops, uint64_t cuts) {
  StopMatcher matcher(stops);
  Outcome out;
  std::string piece;
  for (size_t i = 0; i < text.size() && !matcher.matched(); ++i) {
    piece += text[i];
    if ((cuts >> i & 1) != 0 || i + 1 == text.size()) {
      out.text += matcher.push(piece);
      piece.clear();
    }
  }
  out.matched = matcher.matched();
  if (!out.matched) out.text += matcher.flush();
  return out;
}

// The definition: as if the text came byte by byte, it ends before the first stop string that is
// complete.
Outcome by_definition(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t start = std::string::npos;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        start = std::min(start, end - stop.size());
      }
    }
    if (start != std::string::npos) return {text.substr(0, start), true};
  }
  return {text, false};
}

TEST(StopMatcher, FindsAStopStringAtEverySplit) {
  const std::string text = "one STOP two";
  for (uint64_t cuts = 0; cuts < uint64_t{1} << text.size(); ++cuts) {
    const Outcome got = feed(text, {"STOP"}, cuts);
    ASSERT_TRUE(got.matched) << cuts;
    ASSERT_EQ(got.text, "one ") << cuts;
  }
}

TEST(StopMatcher, GivesBackWhatOnlyLookedLikeAStop) {
  const std::string text = "aab aaab STO";
  for (uint64_t cuts = 0; cuts < uint64_t{1} << text.size(); ++cuts) {
    const Outcome got = feed(text, {"STOP", "aaaab"}, cuts);
    ASSERT_FALSE(got.matched) << cuts;
    ASSERT_EQ(got.text, text) << cuts;
  }
}

TEST(StopMatcher, HoldsBackNoMoreThanItMust) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("hello ST"), "hello ");
  EXPECT_EQ(matcher.push("x"), "STx");
}

TEST(StopMatcher, FollowsItsDefinitionOnRandomTexts) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const auto word = [&](size_t most) {
    std::string s(1 + random() % most, 'a');
    for (char& c : s) c = static_cast<char>('a' + random() % 2);
    return s;
  };
  for (int round = 0; round < 3000; ++round) {
    const std::string text = word(24);
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(word(5));
    const Outcome want = by_definition(text, stops);
    const Outcome got = feed(text, stops, random());
    ASSERT_EQ(got.matched, want.matched) << text;
    ASSERT_EQ(got.text, want.text) << text;
  }
}

TEST(StopMatcher, EmptyStopStringsNeverMatch) {
  const Outcome got = feed("abc", {""}, ~uint64_t{0});
  EXPECT_FALSE(got.matched);
  EXPECT_EQ(got.text, "abc");
}

}  // namespace
}  // namespace sluice
