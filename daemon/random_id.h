// Identifiers nobody can guess.
#pragma once

#include <string>

namespace sluice {

// 128 random bits as 32 hexadecimal digits.
std::string random_id();

}  // namespace sluice
