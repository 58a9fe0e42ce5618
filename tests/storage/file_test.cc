#include "storage/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "storage/gguf_reader.h"
#include "storage/mapped_file.h"
#include "tests/storage/gguf_doc.h"

namespace sluice {
namespace {

using test::TempDir;
using test::write_file;

TEST(File, OnlyRegularFilesAreOpened) {
  TempDir dir;
  ASSERT_EQ(::mkfifo(dir.file("fifo").c_str(), 0600), 0);
  ASSERT_EQ(::symlink(dir.file("loop").c_str(), dir.file("loop").c_str()), 0);
  const std::pair<std::string, const char*> cases[] = {
      {dir.path(), "io.not_regular"},
      {dir.file("fifo"), "io.not_regular"},
      {"/dev/null", "io.not_regular"},
      {dir.file("loop"), "io.open"},
      {dir.file("absent"), "io.open"},
      {"", "io.open"},
      {std::string("/etc/passwd\0x", 13), "io.open"}};
  for (const auto& [path, code] : cases) {
    const auto start = std::chrono::steady_clock::now();
    const auto file = File::open_regular(path);
    ASSERT_FALSE(file) << path;
    EXPECT_EQ(file.error().code, code) << path;
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1))
        << "a FIFO must not block";
    EXPECT_FALSE(GgufFile::open(path));
  }
}

TEST(File, SymbolicLinksAreFollowed) {
  TempDir dir;
  write_file(dir.file("real"), "content");
  ASSERT_EQ(::symlink(dir.file("real").c_str(), dir.file("link").c_str()), 0);
  const auto file = File::open_regular(dir.file("link"));
  ASSERT_TRUE(file);
  std::string got(7, '\0');
  ASSERT_TRUE(file.value().pread_exact(got.data(), 7, 0));
  EXPECT_EQ(got, "content");
}

TEST(File, ReadingPastTheEndSaysWhereItIs) {
  TempDir dir;
  write_file(dir.file("f"), std::string(100, 'x'));
  const File file = std::move(File::open_regular(dir.file("f"))).value();
  char buffer[64];
  EXPECT_TRUE(file.pread_exact(buffer, 64, 36));
  const auto read = file.pread_exact(buffer, 64, 37);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, "io.read");
  EXPECT_EQ(read.error().offset, 100u);
  EXPECT_NE(read.error().what.find("file ends at 100"), std::string::npos);
  EXPECT_FALSE(file.pread_exact(buffer, 1, UINT64_MAX));
  EXPECT_TRUE(file.pread_exact(buffer, 0, 100));
}

TEST(File, MovedDescriptorHasOneOwner) {
  TempDir dir;
  write_file(dir.file("f"), "x");
  File a = std::move(File::open_regular(dir.file("f"))).value();
  const int fd = a.fd();
  {
    File b = std::move(a);
    EXPECT_FALSE(a);
    EXPECT_EQ(b.fd(), fd);
  }
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

TEST(File, IdentityChangesWithTheContent) {
  TempDir dir;
  write_file(dir.file("f"), "one");
  const File file = std::move(File::open_regular(dir.file("f"))).value();
  const FileIdentity before = file.identity().value();
  EXPECT_EQ(before, file.identity().value());
  EXPECT_EQ(before.size, 3u);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  write_file(dir.file("f"), "two");
  EXPECT_FALSE(before == file.identity().value());
}

TEST(MappedFile, ShowsTheFileBehindTheDescriptor) {
  TempDir dir;
  write_file(dir.file("f"), "checked");
  const File file = std::move(File::open_regular(dir.file("f"))).value();
  write_file(dir.file("g"), "another");
  std::filesystem::rename(dir.file("g"), dir.file("f"));
  const auto mapped = MappedFile::map(file, 7);
  ASSERT_TRUE(mapped) << mapped.error().what;
  EXPECT_EQ(mapped.value().size(), 7u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped.value().data()), 7), "checked");
}

TEST(MappedFile, EmptyAndImpossibleSizes) {
  TempDir dir;
  write_file(dir.file("f"), "");
  const File file = std::move(File::open_regular(dir.file("f"))).value();
  const auto empty = MappedFile::map(file, 0);
  ASSERT_TRUE(empty);
  EXPECT_EQ(empty.value().size(), 0u);
  EXPECT_TRUE(empty.value().populate(0, 0));
  EXPECT_EQ(MappedFile::map(file, UINT64_MAX).error().code, "io.map");
  EXPECT_EQ(MappedFile::map(File(), 4096).error().code, "io.map");
}

TEST(MappedFile, PopulatingATruncatedFileIsAnErrorNotASignal) {
  TempDir dir;
  write_file(dir.file("f"), std::string(1 << 20, 'x'));
  const File file = std::move(File::open_regular(dir.file("f"))).value();
  const auto mapped = MappedFile::map(file, 1 << 20);
  ASSERT_TRUE(mapped);
  EXPECT_TRUE(mapped.value().populate(0, 1 << 20));
  EXPECT_TRUE(mapped.value().populate(5000, 1));
  EXPECT_EQ(mapped.value().populate(1 << 20, 1).error().code, "io.read");
  EXPECT_EQ(mapped.value().populate(1, UINT64_MAX).error().code, "io.read");
  ASSERT_EQ(::truncate(dir.file("f").c_str(), 4096), 0);
  EXPECT_TRUE(mapped.value().populate(0, 4096));
  const auto gone = mapped.value().populate(512 << 10, 4096);
  if (gone) GTEST_SKIP() << "this kernel has no MADV_POPULATE_READ (Linux 5.14)";
  EXPECT_EQ(gone.error().code, "io.read");
  EXPECT_EQ(gone.error().offset, uint64_t{512 << 10});
}

}  // namespace
}  // namespace sluice
