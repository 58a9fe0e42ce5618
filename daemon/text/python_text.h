// Python's str methods and number formats on valid UTF-8, as chat templates expect them. Pure
// functions; results that are parts of the input are views into it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

std::string_view strip_left(std::string_view s);
std::string_view strip_right(std::string_view s);
// Without `chars` (code points) instead of white space.
std::string_view strip_left(std::string_view s, std::string_view chars);
std::string_view strip_right(std::string_view s, std::string_view chars);

std::string to_upper(std::string_view s);
std::string to_lower(std::string_view s);
std::string capitalize(std::string_view s);
// str.title: every run of letters starts upper case.
std::string title_case(std::string_view s);

// str.split() on runs of white space; at most `max_splits` cuts (negative: all).
std::vector<std::string_view> split_space(std::string_view s, int64_t max_splits);
std::vector<std::string_view> rsplit_space(std::string_view s, int64_t max_splits);
// str.split(separator); the separator is not empty.
std::vector<std::string_view> split(std::string_view s,
                                    std::string_view separator,
                                    int64_t max_splits);
std::vector<std::string_view> rsplit(std::string_view s,
                                     std::string_view separator,
                                     int64_t max_splits);
std::vector<std::string_view> split_lines(std::string_view s, bool keep_ends);

// Letters of a kind; all code points, and at least one.
bool is_alpha(std::string_view s);
bool is_digit(std::string_view s);
bool is_alnum(std::string_view s);
bool is_space(std::string_view s);
// At least one cased letter and none of the other case.
bool is_upper(std::string_view s);
bool is_lower(std::string_view s);

// repr(float): 1.0, 0.1, 1e+16, inf, nan.
std::string format_float(double value);
// Which quote repr(str) uses.
char python_quote(std::string_view s);
// Appends the inside of repr(str), or of json.dumps(str, ensure_ascii=...): escaped, without the
// quotes.
void append_python_escaped(std::string& out, std::string_view s, char quote);
void append_json_escaped(std::string& out, std::string_view s, bool ensure_ascii);

// int("  42 ") and float(" 1e3 "); nullopt where Python raises ValueError. Integers beyond 64 bits
// are nullopt too.
std::optional<int64_t> parse_int(std::string_view s, int base);
std::optional<double> parse_float(std::string_view s);

}  // namespace sluice
