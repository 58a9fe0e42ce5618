// Result<T>: a value or an Error. Ordinary failures (over budget, truncated file, client gone) travel
// in it; exceptions are not thrown by our own code. SLUICE_TRY unwraps or returns the error.
#pragma once

#include <boost/outcome/basic_result.hpp>
#include <boost/outcome/policy/terminate.hpp>
#include <boost/outcome/try.hpp>
#include <cstdint>
#include <string>
#include <utility>

namespace sluice {

// `code` is stable and documented (INTERFACE, HTTP codes; "gguf.*" for model files); `what` is one line
// for a person; `hint` says what to try. The last three locate an error in a model file.
struct Error {
  static constexpr uint64_t kNoOffset = UINT64_MAX;

  std::string code;
  std::string what;
  std::string hint{};
  std::string file{};
  std::string field{};
  uint64_t offset = kNoOffset;
};

template <class T>
using Result = BOOST_OUTCOME_V2_NAMESPACE::
    basic_result<T, Error, BOOST_OUTCOME_V2_NAMESPACE::policy::terminate>;

inline auto success() { return BOOST_OUTCOME_V2_NAMESPACE::success(); }

// Error from errno, with the path or call it belongs to: "open /a/b: No such file or directory".
Error errno_error(const std::string& code, const std::string& what, int errnum);

}  // namespace sluice

#define SLUICE_TRY(...) BOOST_OUTCOME_TRY(__VA_ARGS__)
