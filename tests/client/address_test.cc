#include "client/address.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace sluice {
namespace {

TEST(Address, AcceptsTheFormsOfTheContract) {
  EXPECT_EQ(parse_address("unix:///run/x/s.sock").value().path, "/run/x/s.sock");
  EXPECT_EQ(parse_address("/run/x/s.sock").value().path, "/run/x/s.sock");
  const Address tcp = parse_address("http://127.0.0.1:11434").value();
  EXPECT_TRUE(tcp.path.empty());
  EXPECT_EQ(tcp.port, 11434);
  EXPECT_EQ(tcp.text(), "http://127.0.0.1:11434");
  EXPECT_EQ(parse_address("http://localhost:80/").value().host, "127.0.0.1");
  EXPECT_EQ(parse_address("http://[::1]:80").value().text(), "http://[::1]:80");
}

TEST(Address, RefusesOtherMachinesAndNonsense) {
  for (const char* text : {"http://example.org:80",
                           "http://10.0.0.1:80",
                           "http://127.0.0.1",
                           "http://127.0.0.1:0",
                           "http://127.0.0.1:65536",
                           "http://127.0.0.1:8o",
                           "tcp://x",
                           "unix://rel/path",
                           "rel.sock",
                           "fd://"}) {
    EXPECT_FALSE(parse_address(text)) << text;
  }
}

TEST(Address, NamesTheLengthOfAPathThatIsTooLong) {
  EXPECT_TRUE(parse_address("/" + std::string(106, 'a')));
  const auto too_long = parse_address("/" + std::string(107, 'a'));
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code, "invalid_socket_path");
  EXPECT_NE(too_long.error().what.find("108 bytes"), std::string::npos) << too_long.error().what;
  EXPECT_FALSE(too_long.error().hint.empty());
}

TEST(Address, FlagBeatsVariableBeatsXdg) {
  ::setenv("XDG_RUNTIME_DIR", "/xdg", 1);
  auto list = find_addresses("/a", "/b").value();
  EXPECT_TRUE(list.named);
  ASSERT_EQ(list.candidates.size(), 1u);
  EXPECT_EQ(list.candidates[0].path, "/a");
  EXPECT_EQ(find_addresses("", "/b").value().candidates[0].path, "/b");
  list = find_addresses("", "").value();
  EXPECT_FALSE(list.named);
  ASSERT_EQ(list.candidates.size(), 2u);
  EXPECT_EQ(list.candidates[0].path, "/xdg/sluice/sluice.sock");
  EXPECT_EQ(list.candidates[1].path, "/run/sluice/sluice.sock");
}

}  // namespace
}  // namespace sluice
