#include "client/address.h"

#include <fmt/format.h>

#include <charconv>

#include "base/runtime_paths.h"
#include "base/text_escape.h"

namespace sluice {
namespace {

Error bad_host(const std::string& text, const char* why) {
  return Error{"invalid_host",
               fmt::format("host '{}' {}; allowed: unix:///PATH, /PATH, http://127.0.0.1:PORT",
                           escape_text(text),
                           why),
               "sluice -H unix:///run/user/1000/sluice/sluice.sock status"};
}

Result<Address> parse_tcp(const std::string& text, std::string rest) {
  if (!rest.empty() && rest.back() == '/') rest.pop_back();
  const size_t colon = rest.rfind(':');
  if (colon == std::string::npos) return bad_host(text, "has no port");
  Address address;
  address.host = rest.substr(0, colon);
  if (address.host == "localhost") address.host = "127.0.0.1";
  if (address.host == "[::1]") address.host = "::1";
  if (address.host != "127.0.0.1" && address.host != "::1") {
    return bad_host(text, "is not this machine; reach another one through a tunnel");
  }
  const char* const begin = rest.data() + colon + 1;
  const char* const end = rest.data() + rest.size();
  const auto [stop, ec] = std::from_chars(begin, end, address.port);
  if (ec != std::errc{} || stop != end || address.port == 0)
    return bad_host(text, "has a bad port");
  return address;
}

}  // namespace

std::string Address::text() const {
  if (!path.empty()) return path;
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("http://{}:{}", v6 ? "[" + host + "]" : host, port);
}

Result<Address> parse_address(const std::string& text) {
  Address address;
  if (text.starts_with("http://")) return parse_tcp(text, text.substr(7));
  if (text.starts_with("unix:")) {
    address.path = text.substr(text.starts_with("unix://") ? 7 : 5);
  } else if (text.starts_with("/")) {
    address.path = text;
  } else {
    return bad_host(text, "is not understood");
  }
  if (!address.path.starts_with("/")) return bad_host(text, "holds no absolute path");
  SLUICE_TRY(check_socket_path(address.path));
  return address;
}

Result<AddressList> find_addresses(const std::string& host_flag, const std::string& host_variable) {
  AddressList list;
  const std::string& named = host_flag.empty() ? host_variable : host_flag;
  if (!named.empty()) {
    SLUICE_TRY(auto address, parse_address(named));
    list.candidates.push_back(std::move(address));
    list.named = true;
    return list;
  }
  Address own;
  own.path = default_socket_path();
  SLUICE_TRY(check_socket_path(own.path));
  Address system;
  system.path = kSystemSocket;
  list.candidates = {own, system};
  return list;
}

}  // namespace sluice
