#include "client/http_reader.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

struct Read {
  HttpReader reader;
  std::string body;
  std::string error;  // code
};

Read read_in_pieces(std::string_view bytes, size_t piece) {
  Read r;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    auto fed = r.reader.feed(bytes.substr(at, piece), r.body);
    if (!fed) {
      r.error = fed.error().code;
      return r;
    }
  }
  auto ended = r.reader.finish();
  if (!ended) r.error = ended.error().code;
  return r;
}

Read read_all(std::string_view bytes) { return read_in_pieces(bytes, bytes.size()); }

const std::string kChunked =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    "5;ext=1\r\nhello\r\nA\r\n, world\r\n!\r\n1\r\n.\r\n0\r\nTrailer: x\r\n\r\n";

TEST(HttpReader, ReadsTheSameInPiecesOfEverySize) {
  for (size_t piece = 1; piece <= kChunked.size(); ++piece) {
    const Read r = read_in_pieces(kChunked, piece);
    EXPECT_EQ(r.error, "") << piece;
    EXPECT_EQ(r.body, "hello, world\r\n!.") << piece;
    EXPECT_TRUE(r.reader.done()) << piece;
    EXPECT_TRUE(r.reader.head().is_event_stream());
  }
}

TEST(HttpReader, ReadsFixedAndUnboundedBodies) {
  const Read fixed = read_all("HTTP/1.1 404 Not Found\r\ncontent-LENGTH:  4 \r\n\r\nbody");
  EXPECT_EQ(fixed.error, "");
  EXPECT_EQ(fixed.body, "body");
  EXPECT_EQ(fixed.reader.head().status, 404);
  EXPECT_TRUE(fixed.reader.done());
  EXPECT_EQ(read_all("HTTP/1.1 200 OK\r\n\r\ntill the end").body, "till the end");
  EXPECT_TRUE(read_all("HTTP/1.1 204 No Content\r\n\r\n").reader.done());
}

TEST(HttpReader, SkipsInterimAnswersButNotForEver) {
  const std::string interim = "HTTP/1.1 100 Continue\r\n\r\n";
  const std::string real = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  EXPECT_EQ(read_all(interim + real).body, "ok");
  std::string many;
  for (int i = 0; i < HttpReader::kMaxInterim; ++i) many += interim;
  EXPECT_EQ(read_all(many + real).body, "ok");
  EXPECT_EQ(read_all(many + interim + real).error, "protocol");
  EXPECT_EQ(read_all("HTTP/1.1 101 Switching Protocols\r\n\r\n").error, "protocol");
}

TEST(HttpReader, EveryCutOfAnAnswerIsAnErrorNotAShortBody) {
  for (size_t n = 1; n < kChunked.size(); ++n) {
    const Read r = read_all(std::string_view(kChunked).substr(0, n));
    EXPECT_EQ(r.error, "connection_lost") << n;
  }
}

TEST(HttpReader, RefusesWhatIsNotHttp) {
  for (const char* text : {
           "GARBAGE\r\n\r\n",
           "HTTP/2 200 OK\r\n\r\n",
           "HTTP/1.1 99 Low\r\n\r\n",
           "HTTP/1.1 600 High\r\n\r\n",
           "HTTP/1.1 abc\r\n\r\n",
           "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
           "HTTP/1.1 200 OK\r\n: empty\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
       }) {
    EXPECT_EQ(read_all(text).error, "protocol") << text;
  }
}

std::string head_with(size_t n_headers) {
  std::string text = "HTTP/1.1 200 OK\r\n";
  for (size_t i = 0; i < n_headers; ++i) text += fmt::format("h{}: x\r\n", i);
  return text + "\r\n";
}

TEST(HttpReader, HoldsItsLimitsExactly) {
  EXPECT_EQ(read_all(head_with(HttpReader::kMaxHeaders)).error, "");
  EXPECT_EQ(read_all(head_with(HttpReader::kMaxHeaders + 1)).error, "protocol");

  const std::string fixed = "HTTP/1.1 200 OK\r\nlong: \r\n\r\n";
  auto head_of = [&](size_t bytes) {
    return "HTTP/1.1 200 OK\r\nlong: " + std::string(bytes - fixed.size(), 'x') + "\r\n\r\n";
  };
  EXPECT_EQ(read_all(head_of(HttpReader::kMaxHeadBytes)).error, "");
  EXPECT_EQ(read_all(head_of(HttpReader::kMaxHeadBytes + 1)).error, "protocol");

  const std::string chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  auto chunk_line = [&](size_t bytes) {
    return chunked + "0;" + std::string(bytes - 4, 'x') + "\r\n\r\n";
  };
  EXPECT_EQ(read_all(chunk_line(HttpReader::kMaxChunkLine)).error, "");
  EXPECT_EQ(read_all(chunk_line(HttpReader::kMaxChunkLine + 1)).error, "protocol");

  std::string trailers = chunked + "0\r\n";
  while (trailers.size() < chunked.size() + HttpReader::kMaxTrailerBytes + 200)
    trailers += "a: " + std::string(90, 'b') + "\r\n";
  EXPECT_EQ(read_all(trailers + "\r\n").error, "protocol");
}

TEST(HttpReader, AnEndlessHeadIsRefusedBeforeItIsKept) {
  HttpReader reader;
  std::string body;
  const std::string piece(1024, 'x');
  size_t fed = 0;
  while (reader.feed(piece, body)) {
    fed += piece.size();
    ASSERT_LE(fed, HttpReader::kMaxHeadBytes);
  }
  EXPECT_FALSE(reader.has_head());
}

}  // namespace
}  // namespace sluice
