#include "daemon/http_parse.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace sluice {
namespace {

const HttpLimits kLimits;

Result<std::optional<size_t>> scan_all(const std::string& text) {
  return HeadScanner(kLimits).scan(text);
}

Result<ParsedHead> parse(const std::string& text) {
  auto end = scan_all(text);
  if (!end) return std::move(end).error();
  if (!end.value()) return Error{"incomplete", ""};
  return parse_head(std::string_view(text).substr(0, *end.value()), kLimits);
}

std::string code_of(const std::string& text) {
  const auto parsed = parse(text);
  return parsed ? "" : parsed.error().code;
}

std::string request(const std::string& headers, const std::string& line = "POST /x HTTP/1.1") {
  return line + "\r\nHost: h\r\n" + headers + "\r\n";
}

TEST(HeadScanner, FindsTheEndWhereverTheBytesAreCut) {
  const std::string text = "GET /a?b=c HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\nBODY";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    HeadScanner scanner(kLimits);
    auto first = scanner.scan(std::string_view(text).substr(0, cut));
    ASSERT_TRUE(first) << cut;
    auto end = first.value() ? first : scanner.scan(text);
    ASSERT_TRUE(end && end.value()) << cut;
    EXPECT_EQ(*end.value(), text.size() - 4) << cut;
  }
}

TEST(HeadScanner, RequestLineLimitIsExact) {
  const std::string tail = " HTTP/1.1";
  for (const int over : {-1, 0, 1}) {
    const size_t n = kLimits.request_line_bytes + static_cast<size_t>(over) - 4 - tail.size();
    const std::string line = "GET " + ("/" + std::string(n - 1, 'a')) + tail;
    ASSERT_EQ(line.size(), kLimits.request_line_bytes + static_cast<size_t>(over));
    EXPECT_EQ(code_of(request("", line)), over > 0 ? "uri_too_long" : "") << over;
  }
}

TEST(HeadScanner, HeaderBytesLimitIsExact) {
  const size_t host = std::string("Host: h\r\n").size();
  for (const int over : {-1, 0, 1}) {
    const size_t total = kLimits.header_bytes + static_cast<size_t>(over);
    const std::string header = "A: " + std::string(total - host - 5, 'x') + "\r\n";
    ASSERT_EQ(host + header.size(), total);
    EXPECT_EQ(code_of(request(header)), over > 0 ? "headers_too_large" : "") << over;
  }
}

TEST(HeadScanner, HeaderCountLimitIsExact) {
  for (const int over : {-1, 0, 1}) {
    std::string headers;
    for (size_t i = 0; i < kLimits.header_count + static_cast<size_t>(over) - 1; ++i)
      headers += "A: b\r\n";
    EXPECT_EQ(code_of(request(headers)), over > 0 ? "headers_too_large" : "") << over;
  }
}

TEST(HeadScanner, StopsAtTheFirstImpossibleByte) {
  // Refused from what has come, without waiting for a line's end.
  EXPECT_FALSE(scan_all("\x16\x03\x01"));
  EXPECT_FALSE(
      scan_all("GET /\r"
               "x"));
  EXPECT_FALSE(scan_all("GET / HTTP/1.1\n"));
  EXPECT_FALSE(scan_all(std::string("GET /\0", 6)));
  EXPECT_FALSE(scan_all(std::string(kLimits.request_line_bytes + 1, 'A')));
  EXPECT_FALSE(scan_all("\r\n\r\n\r\n"));
}

TEST(ParseHead, RefusesWhatTwoReadersCouldReadDifferently) {
  for (const char* headers : {"Content-Length: 2\r\nContent-Length: 2\r\n",
                              "Content-Length: 2, 2\r\n",
                              "Content-Length: +2\r\n",
                              "Content-Length: 0x2\r\n",
                              "Content-Length:\r\n",
                              "Content-Length: -1\r\n",
                              "Content-Length: 2 2\r\n",
                              "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
                              "Transfer-Encoding: xchunked\r\n",
                              "Transfer-Encoding: chunked, identity\r\n",
                              "Transfer-Encoding: gzip, chunked\r\n",
                              "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
                              "Host: other\r\n",
                              "Content-Length : 0\r\n",
                              "X Y: 1\r\n",
                              "no colon\r\n",
                              ": no name\r\n",
                              " Folded: x\r\n",
                              "A: b\r\n c\r\n"}) {
    EXPECT_EQ(code_of(request(headers)), "invalid_request") << headers;
  }
  EXPECT_EQ(code_of(request("Transfer-Encoding: chunked\r\n", "POST / HTTP/1.0")),
            "invalid_request");
  EXPECT_EQ(code_of("GET / HTTP/1.1\r\n\r\n"), "invalid_request");  // no Host
}

TEST(ParseHead, NamesVersionsAndMethods) {
  EXPECT_EQ(code_of(request("", "GET / HTTP/2.0")), "http_version");
  EXPECT_EQ(code_of(request("", "GET / HTTP/1.2")), "http_version");
  EXPECT_EQ(code_of(request("", "GET / HTTP/1.10")), "invalid_request");
  EXPECT_EQ(code_of(request("", "GET / http/1.1")), "invalid_request");
  EXPECT_EQ(code_of(request("", "GET /")), "invalid_request");
  EXPECT_EQ(code_of(request("", "GET  / HTTP/1.1")), "invalid_request");
  EXPECT_EQ(code_of(request("", "FROB / HTTP/1.1")), "not_supported");
  EXPECT_EQ(code_of(request("", "GET nope HTTP/1.1")), "invalid_request");
  EXPECT_EQ(code_of(request("Expect: magic\r\n")), "expectation_failed");
}

TEST(ParseHead, SplitsTargetAndHeaders) {
  const auto parsed = parse(
      request("X-A:  b c \t\r\nConnection: x, Close\r\n", "GET http://h:1/a%2Fb?q=1#f HTTP/1.1"));
  ASSERT_TRUE(parsed);
  const HttpRequest& r = parsed.value().request;
  EXPECT_EQ(r.path, "/a%2Fb");
  EXPECT_EQ(r.query, "q=1");
  EXPECT_EQ(r.header("x-a"), "b c");
  EXPECT_FALSE(r.keep_alive);
}

TEST(ParseHead, BodyLimitIsExact) {
  for (const int over : {-1, 0, 1}) {
    const auto n = kLimits.body_bytes + static_cast<uint64_t>(over);
    EXPECT_EQ(code_of(request("Content-Length: " + std::to_string(n) + "\r\n")),
              over > 0 ? "body_too_large" : "")
        << over;
  }
  EXPECT_EQ(code_of(request("Content-Length: 4611686018427387904\r\n")), "body_too_large");
  EXPECT_EQ(code_of(request("Content-Length: 99999999999999999999999\r\n")), "body_too_large");
}

TEST(ChunkedReader, ReadsTheSameHoweverTheBytesAreCut) {
  const std::string wire = "5;ext=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nNEXT";
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    ChunkedReader reader(100);
    std::string buffer, body;
    bool done = false;
    for (size_t at = 0; at < wire.size();) {
      const size_t n = std::min<size_t>(1 + random() % 7, wire.size() - at);
      buffer.append(wire, at, n);
      at += n;
      if (done) continue;
      auto fed = reader.feed(buffer, body);
      ASSERT_TRUE(fed) << fed.error().what;
      done = fed.value();
    }
    EXPECT_TRUE(done);
    EXPECT_EQ(body, "hello0123456789");
    EXPECT_EQ(buffer, "NEXT");
  }
}

TEST(ChunkedReader, RefusesBadSizesAndEnds) {
  for (const char* wire : {"-2\r\n",
                           "+2\r\n",
                           "0x2\r\n",
                           "g\r\n",
                           "\r\n",
                           " 2\r\n",
                           "2\n",
                           "fffffffffffffff1\r\n",
                           "ffffffffffffffffff\r\n",
                           "2\r\n{}XX",
                           "2\r\n{}0\r\n",
                           "2\r\n{}\n"}) {
    ChunkedReader reader(1000);
    std::string buffer = wire, body;
    EXPECT_FALSE(reader.feed(buffer, body)) << wire;
  }
  ChunkedReader reader(1000);
  std::string buffer(5000, '2'), body;
  EXPECT_FALSE(reader.feed(buffer, body));
}

TEST(ChunkedReader, LimitIsExactOverAllChunks) {
  for (const int over : {-1, 0, 1}) {
    ChunkedReader reader(20);
    std::string buffer = "a\r\n0123456789\r\n", body;
    ASSERT_TRUE(reader.feed(buffer, body));
    const size_t n = 10 + static_cast<size_t>(over);
    char size[8];
    std::snprintf(size, sizeof size, "%zx\r\n", n);
    buffer = size + std::string(n, 'x') + "\r\n0\r\n\r\n";
    const auto fed = reader.feed(buffer, body);
    EXPECT_EQ(static_cast<bool>(fed), over <= 0) << over;
    if (!fed) {
      EXPECT_EQ(fed.error().code, "body_too_large");
    }
  }
}

TEST(ChunkedReader, EndlessTrailersAreRefused) {
  ChunkedReader reader(20);
  std::string buffer = "0\r\n", body;
  for (int i = 0; i < 1000; ++i) buffer += "X-T: aaaaaaaaaaaaaaaa\r\n";
  EXPECT_FALSE(reader.feed(buffer, body));
}

TEST(PercentDecode, DecodesOnceAndRefusesBrokenEscapes) {
  EXPECT_EQ(percent_decode("org%2Fa:q4%2525").value(), "org/a:q4%25");
  for (const char* bad : {"%", "%4", "%zz", "a%2"}) EXPECT_FALSE(percent_decode(bad)) << bad;
}

}  // namespace
}  // namespace sluice
