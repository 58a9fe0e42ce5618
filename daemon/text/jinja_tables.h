// The names of filters and tests: resolved while parsing, called by index while rendering.
#pragma once

#include <cstdint>
#include <string_view>

namespace sluice::jinja {

inline constexpr uint32_t kUnknownName = UINT32_MAX;

// kUnknownName if there is no such filter or test.
uint32_t filter_index(std::string_view name);
uint32_t test_index(std::string_view name);

}  // namespace sluice::jinja
