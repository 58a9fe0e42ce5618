// Finds stop strings in text that comes in pieces: what could still become one is held back, what
// cannot is given out, and the text ends before the first that is complete.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class StopMatcher {
 public:
  // Empty strings are ignored.
  explicit StopMatcher(std::vector<std::string> stops);

  // Text that is now certain to come before any stop string. After matched() nothing more comes.
  std::string push(std::string_view piece);
  // At the end of the generation: what was held back.
  std::string flush();
  bool matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;  // shorter than the longest stop string
  bool matched_ = false;
};

}  // namespace sluice
