// The client against servers that do what no daemon should: answers are given by a thread in this
// process.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "client/connection.h"
#include "client/daemon_link.h"
#include "client/interrupt.h"
#include "client/report.h"

namespace sluice {
namespace {

enum class After { kClose, kRepeat, kHold, kDrip };

// Accepts connections until it goes; each gets `answer`, then is closed, gets it for ever, or is
// held open. kDrip: gets it byte by byte, a millisecond apart.
class FakeDaemon {
 public:
  explicit FakeDaemon(std::string answer, After after = After::kClose)
      : answer_(std::move(answer)), after_(after) {
    path_ = testing::TempDir() + "fake" + std::to_string(::getpid()) + ".sock";
    ::unlink(path_.c_str());
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(fd_, 8), 0);
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeDaemon() {
    ::shutdown(fd_, SHUT_RDWR);
    thread_.join();
    ::close(fd_);
    ::unlink(path_.c_str());
  }
  Globals globals() const {
    Globals g;
    g.host = path_;
    return g;
  }

 private:
  void serve() {
    for (int client = 0; (client = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      char buffer[4096];
      const bool asked = ::recv(client, buffer, sizeof(buffer), 0) > 0;
      if (after_ == After::kDrip) {
        for (size_t i = 0; asked && i < answer_.size(); ++i) {
          if (::send(client, &answer_[i], 1, MSG_NOSIGNAL) != 1) break;
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        ::close(client);
        continue;
      }
      while (asked && ::send(client, answer_.data(), answer_.size(), MSG_NOSIGNAL) > 0 &&
             after_ == After::kRepeat) {
      }
      if (after_ == After::kHold) ::recv(client, buffer, sizeof(buffer), 0);
      ::close(client);
    }
  }
  std::string answer_;
  After after_;
  std::string path_;
  int fd_ = -1;
  std::thread thread_;
};

std::string with_length(const std::string& head, const std::string& body) {
  return head + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

Failure call_fails(const FakeDaemon& daemon, int64_t timeout_ms = 5000) {
  auto link = DaemonLink::find(daemon.globals(), DaemonLink::Start::kNever);
  EXPECT_TRUE(link);
  auto answer = link.value().call("GET", "/sluice/v1/status", std::nullopt, timeout_ms);
  EXPECT_FALSE(answer);
  return answer ? Failure(Error{}) : answer.error();
}

TEST(DaemonLink, ReadsAnAnswer) {
  FakeDaemon daemon(with_length("HTTP/1.1 200 OK", "{\"a\":1}"));
  auto link = DaemonLink::find(daemon.globals(), DaemonLink::Start::kNever);
  ASSERT_TRUE(link);
  auto answer = link.value().call("GET", "/x");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().at("a").as_int64(), 1);
}

TEST(DaemonLink, KeepsTheDaemonsErrorCode) {
  FakeDaemon daemon(with_length(
      "HTTP/1.1 404 Not Found\r\nRetry-After: 7",
      R"({"error":{"message":"no","type":"t","param":null,"code":"model_not_found","hint":"h","request_id":"r"}})"));
  const Failure failure = call_fails(daemon);
  EXPECT_EQ(failure.error.code, "model_not_found");
  EXPECT_EQ(failure.error.hint, "h");
  EXPECT_EQ(failure.status, 404);
  EXPECT_EQ(failure.retry_after_s, 7);
  EXPECT_EQ(exit_code_for(failure), 5);
}

TEST(DaemonLink, HostileAnswersAreErrors) {
  install_interrupts();
  EXPECT_EQ(call_fails(FakeDaemon("HTTP/1.1 200 OK\r\nx: y\r\n", After::kRepeat)).error.code,
            "protocol");  // endless headers
  EXPECT_EQ(call_fails(FakeDaemon("\r\n", After::kRepeat)).error.code, "protocol");
  EXPECT_EQ(call_fails(FakeDaemon("")).error.code, "connection_lost");
  EXPECT_EQ(call_fails(FakeDaemon(with_length("HTTP/1.1 200 OK", "not json"))).error.code,
            "protocol");
  EXPECT_EQ(
      call_fails(FakeDaemon(with_length("HTTP/1.1 200 OK", std::string(1000, '[')))).error.code,
      "protocol");
  EXPECT_EQ(
      call_fails(FakeDaemon("HTTP/1.1 200 OK\r\n\r\n" + std::string(65536, ' '), After::kRepeat))
          .error.code,
      "protocol");  // no end
}

TEST(DaemonLink, ASilentDaemonTimesOut) {
  EXPECT_EQ(
      call_fails(FakeDaemon("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"), 200).error.code,
      "connection_lost");
  EXPECT_EQ(call_fails(
                FakeDaemon("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", After::kHold), 200)
                .error.code,
            "timed_out");
  EXPECT_EQ(call_fails(FakeDaemon("HTTP/1.1 200", After::kHold), 200).error.code, "timed_out");
}

TEST(DaemonLink, TimeoutsNeverWrapNorTurnIntoForEver) {
  EXPECT_EQ(deadline_after(kForever, 1000), kForever);
  EXPECT_EQ(deadline_after(0, 1000), 1000);
  EXPECT_EQ(deadline_after(5, 1000), 1005);
  EXPECT_EQ(deadline_after(INT64_MAX - 1000, 1000), INT64_MAX);
  EXPECT_EQ(deadline_after(INT64_MAX - 999, 1000), kForever);
  EXPECT_EQ(time_left(kForever, 1000), kForever);
  EXPECT_EQ(time_left(1005, 1000), 5);
  EXPECT_EQ(time_left(1000, 1000), 0);
  EXPECT_EQ(time_left(1000, 1001), 0) << "one millisecond late is not for ever";
  EXPECT_EQ(time_left(1000, 9000), 0);
}

// The head comes in many pieces, and waiting for it has no end.
TEST(DaemonLink, ASlowHeadIsWaitedForForEver) {
  install_interrupts();
  FakeDaemon daemon(with_length("HTTP/1.1 200 OK\r\nX-Padding: " + std::string(200, 'x'), "{\"a\":1}"),
                    After::kDrip);
  auto link = DaemonLink::find(daemon.globals(), DaemonLink::Start::kNever);
  ASSERT_TRUE(link);
  auto answer = link.value().call("GET", "/x", std::nullopt, kForever);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().at("a").as_int64(), 1);
}

TEST(DaemonLink, NobodyThereIsExitCodeThree) {
  Globals globals;
  globals.host = testing::TempDir() + "nobody.sock";
  auto link = DaemonLink::find(globals, DaemonLink::Start::kIfNeeded);  // named: never started
  ASSERT_FALSE(link);
  EXPECT_EQ(exit_code_for(link.error()), 3);
  EXPECT_NE(link.error().error.what.find(globals.host), std::string::npos);
  EXPECT_NE(link.error().error.what.find("no such file"), std::string::npos);
}

TEST(DaemonLink, PercentEncodesModelNames) {
  EXPECT_EQ(model_route("org/a:q4 x", "/load"), "/sluice/v1/models/org%2Fa%3Aq4%20x/load");
  EXPECT_EQ(percent_encode("\xC3\xA9?"), "%C3%A9%3F");
}

}  // namespace
}  // namespace sluice
