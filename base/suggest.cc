#include "base/suggest.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace sluice {
namespace {

constexpr size_t kMaxWord = 64;

size_t edit_distance(std::string_view a, std::string_view b) {
  using Row = std::array<size_t, kMaxWord + 1>;
  Row before{};
  Row previous{};
  Row current{};
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + change});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) current[j] = std::min(current[j], before[j - 2] + 1);
    }
    before = previous;
    previous = current;
  }
  return previous[b.size()];
}

}  // namespace

std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.empty() || word.size() > kMaxWord) return "";
  const size_t allowed = std::max<size_t>(1, word.size() / 3);
  size_t best = allowed + 1;
  std::string found;
  std::string prefixed;
  size_t n_prefixed = 0;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kMaxWord) continue;
    const size_t distance = edit_distance(word, candidate);
    if (distance < best) {
      best = distance;
      found = candidate;
    }
    if (word.size() >= 3 && candidate.starts_with(word)) {
      prefixed = candidate;
      ++n_prefixed;
    }
  }
  if (found.empty() && n_prefixed == 1) return prefixed;
  return found;
}

}  // namespace sluice
