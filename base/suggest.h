// "did you mean": the candidate nearest to a mistyped word.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Edit distance with transpositions, at most a third of the word (and at least one) away; a unique
// prefix of three letters counts too. Empty when nothing is near. Words longer than 64 bytes are
// never matched.
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace sluice
