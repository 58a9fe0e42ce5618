#include <gtest/gtest.h>

#include <chrono>
#include <fstream>

#include "tests/storage/gguf_doc.h"

namespace sluice {
namespace {

using test::GgufDoc;
using test::MemoryFile;
using test::raw;
using test::raw_string;
using test::TempDir;
using test::write_file;

// Every value type, two tensors.
GgufDoc small_doc() {
  GgufDoc doc;
  doc.set("t.u8", GgufValueType::kU8, raw<uint8_t>(200));
  doc.set("t.i8", GgufValueType::kI8, raw<int8_t>(-5));
  doc.set("t.u16", GgufValueType::kU16, raw<uint16_t>(60000));
  doc.set("t.i16", GgufValueType::kI16, raw<int16_t>(-2));
  doc.set("t.u32", GgufValueType::kU32, raw<uint32_t>(4000000000u));
  doc.set("t.i32", GgufValueType::kI32, raw<int32_t>(7));
  doc.set("t.u64", GgufValueType::kU64, raw<uint64_t>(UINT64_MAX));
  doc.set("t.i64", GgufValueType::kI64, raw<int64_t>(INT64_MIN));
  doc.set_f32("t.f32", 1.5f);
  doc.set("t.f64", GgufValueType::kF64, raw(0.1));
  doc.set_bool("t.bool", true);
  doc.set_string("t.string", "gr\xc3\xbc\xc3\x9f dich");
  doc.set_strings("t.strings", {"a", "", "ccc"});
  doc.set_array<int16_t>("t.i16s", GgufValueType::kI16, {-1, 2, 300});
  doc.set_array<double>("t.f64s", GgufValueType::kF64, {0.5, -2});
  doc.tensors.push_back(
      {.name = "first.weight", .dims = {4, 3}, .type = 0, .data = std::string(48, 'f')});
  doc.tensors.push_back(
      {.name = "second", .dims = {32, 2}, .type = 8, .data = std::string(68, 's')});
  return doc;
}

Error refused(const std::string& path) {
  auto file = GgufFile::open(path);
  if (file) {
    ADD_FAILURE() << "accepted";
    return {};
  }
  return file.error();
}
Error refused(const GgufDoc& doc) {
  TempDir dir;
  return refused(doc.write(dir.file("m.gguf")));
}
void expect_accepted(const GgufDoc& doc) {
  TempDir dir;
  auto file = GgufFile::open(doc.write(dir.file("m.gguf")));
  EXPECT_TRUE(file) << error_line(file.error());
}

TEST(GgufReader, EveryValueTypeComesBackAsWritten) {
  TempDir dir;
  for (const uint32_t version : {2u, 3u}) {
    GgufDoc doc = small_doc();
    doc.version = version;
    const auto opened = GgufFile::open(doc.write(dir.file("m.gguf")));
    ASSERT_TRUE(opened) << error_line(opened.error());
    const GgufFile& f = opened.value();
    EXPECT_EQ(f.version(), version);
    EXPECT_EQ(f.uint("t.u8"), 200u);
    EXPECT_EQ(f.uint("t.i8"), std::nullopt);
    EXPECT_EQ(f.uint("t.u16"), 60000u);
    EXPECT_EQ(f.uint("t.i16"), std::nullopt);
    EXPECT_EQ(f.uint("t.u32"), 4000000000u);
    EXPECT_EQ(f.uint("t.i32"), 7u);
    EXPECT_EQ(f.uint("t.u64"), UINT64_MAX);
    EXPECT_EQ(f.uint("t.i64"), std::nullopt);
    EXPECT_EQ(f.uint("t.bool"), std::nullopt);
    EXPECT_EQ(f.uint("t.f32"), std::nullopt);
    EXPECT_EQ(f.real("t.f32"), 1.5);
    EXPECT_EQ(f.real("t.f64"), 0.1);
    EXPECT_EQ(f.real("t.u8"), std::nullopt);
    EXPECT_EQ(f.boolean("t.bool"), true);
    EXPECT_EQ(f.boolean("t.u8"), std::nullopt);
    EXPECT_EQ(f.string("t.string"), "gr\xc3\xbc\xc3\x9f dich");
    EXPECT_EQ(f.string("absent"), std::nullopt);
    GgufStringArray strings = GgufFile::array_strings(*f.find("t.strings"));
    EXPECT_EQ(strings.next(), "a");
    EXPECT_EQ(strings.next(), "");
    EXPECT_EQ(strings.next(), "ccc");
    EXPECT_EQ(strings.next(), std::nullopt);
    EXPECT_EQ(static_cast<int64_t>(GgufFile::array_uint(*f.find("t.i16s"), 0)), -1);
    EXPECT_EQ(GgufFile::array_uint(*f.find("t.i16s"), 2), 300u);
    EXPECT_EQ(GgufFile::array_real(*f.find("t.f64s"), 1), -2.0);
    EXPECT_TRUE(f.warnings().empty());

    const GgufTensor* t = f.find_tensor("second");
    ASSERT_NE(t, nullptr);
    EXPECT_EQ(t->n_bytes, 68u);
    EXPECT_EQ(t->dims[0], 32u);
    EXPECT_EQ(t->dims[1], 2u);
    EXPECT_EQ(t->dims[2], 1u);
    std::string data(68, '\0');
    ASSERT_TRUE(f.parts()[0].file.pread_exact(data.data(), 68, t->file_offset));
    EXPECT_EQ(data, std::string(68, 's'));
    EXPECT_EQ(f.find_tensor("third"), nullptr);
  }
}

// The prefix of a valid file is never valid, and the refusal says where the file ended.
TEST(GgufReader, EveryPrefixIsRefusedWithAnOffset) {
  MemoryFile file;
  const GgufDoc doc = small_doc();
  const std::string bytes = doc.bytes();
  const std::string path = file.path();
  const size_t end =
      doc.header().size() + 64 + 68;  // the padding behind the last tensor may be missing
  for (size_t n = 0; n < end; ++n) {
    file.assign(bytes.substr(0, n));
    const Error e = refused(path);
    ASSERT_NE(e.offset, Error::kNoOffset) << n << ": " << error_line(e);
    ASSERT_LE(e.offset, std::max<size_t>(n, 24)) << n << ": " << error_line(e);
    ASSERT_EQ(e.file, path);
    ASSERT_TRUE(e.what.find("file size " + std::to_string(n)) != std::string::npos || n < 24)
        << error_line(e);
  }
  file.assign(bytes.substr(0, end));
  EXPECT_TRUE(GgufFile::open(path));
}

// No crash, no hang, no uncontrolled memory, whatever the bytes; AddressSanitizer builds make this
// strict.
TEST(GgufReader, RandomDamageGivesAnAnswer) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 rng(seed);
  MemoryFile memory;
  const std::string good = small_doc().bytes();
  static constexpr uint64_t kBoundaries[] = {0,
                                             1,
                                             0x7f,
                                             0x80,
                                             0xff,
                                             0xffff,
                                             0x7fffffff,
                                             0x80000000,
                                             0xffffffff,
                                             INT64_MAX,
                                             1ull << 63,
                                             UINT64_MAX,
                                             UINT64_MAX - 31};
  for (int round = 0; round < 10000; ++round) {
    std::string bad = good;
    for (uint64_t i = rng() % 4 + 1; i > 0; --i) {
      const size_t at = rng() % (bad.size() - 8);
      switch (rng() % 4) {
        case 0:
          bad[at] = static_cast<char>(bad[at] ^ (1 << (rng() % 8)));
          break;
        case 1: {
          const uint64_t v = kBoundaries[rng() % std::size(kBoundaries)];
          std::memcpy(bad.data() + at, &v, 1u << (rng() % 4));
          break;
        }
        case 2:
          bad.erase(at, rng() % 16);
          break;
        default:
          bad.insert(at, bad.substr(at, rng() % 16));
          break;
      }
      if (bad.size() < 16) bad.resize(16);
    }
    memory.assign(bad);
    const auto file = GgufFile::open(memory.path());
    if (file) continue;
    ASSERT_NE(file.error().offset, Error::kNoOffset) << error_line(file.error());
    ASSERT_FALSE(file.error().field.empty()) << error_line(file.error());
    ASSERT_TRUE(file.error().code.starts_with("gguf.")) << error_line(file.error());
  }
}

TEST(GgufReader, OtherFormatsAreCalledByName) {
  TempDir dir;
  const std::string model = small_doc().bytes();
  const std::pair<std::string, const char*> cases[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "git-lfs pointer"},
      {"<!DOCTYPE html><html><body>404</body></html>", "HTML"},
      {"<HTML><body>404</body></html>          ", "HTML"},
      {std::string("\x1f\x8b\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 25), "gzip"},
      {"PK\x03\x04" + model, "zip"},
      {"FUGG" + model.substr(4), "other byte order"},
      {raw<uint64_t>(60) + "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
       "safetensors"},
      {"GGML" + model.substr(4), "older than GGUF"},
  };
  for (const auto& [bytes, name] : cases) {
    write_file(dir.file("m"), bytes);
    const Error e = refused(dir.file("m"));
    EXPECT_EQ(e.offset, 0u);
    EXPECT_EQ(e.field, "magic");
    EXPECT_NE(e.what.find(name), std::string::npos) << e.what;
  }
  GgufDoc swapped = small_doc();
  swapped.version = 0x03000000;
  const Error e = refused(swapped);
  EXPECT_EQ(e.offset, 4u);
  EXPECT_NE(e.what.find("other byte order"), std::string::npos);
  for (const uint32_t version : {0u, 1u, 4u, 0xffffffffu}) {
    GgufDoc doc = small_doc();
    doc.version = version;
    EXPECT_EQ(refused(doc).code, "gguf.version");
  }
}

TEST(GgufReader, CountsAreComparedWithTheBytesLeft) {
  TempDir dir;
  const std::string good = small_doc().bytes();
  for (const auto& [at, field] : {std::pair{8, "n_tensors"}, std::pair{16, "n_kv"}}) {
    for (const uint64_t claim : {UINT64_MAX,
                                 uint64_t{1} << 63,
                                 uint64_t{1} << 32,
                                 uint64_t{65537},
                                 uint64_t{good.size()}}) {
      std::string bad = good;
      std::memcpy(bad.data() + at, &claim, 8);
      write_file(dir.file("m"), bad);
      const Error e = refused(dir.file("m"));
      EXPECT_EQ(e.offset, static_cast<uint64_t>(at));
      EXPECT_EQ(e.field, field);
      EXPECT_NE(e.what.find(std::to_string(claim)), std::string::npos);
      EXPECT_NE(e.what.find("bytes left"), std::string::npos);
    }
  }
}

TEST(GgufReader, KeyAndNameLengthLimits) {
  for (const size_t n : {65534u, 65535u}) {
    expect_accepted(small_doc().set_u32(std::string(n, 'k'), 1));
  }
  EXPECT_EQ(refused(small_doc().set_u32(std::string(65536, 'k'), 1)).code, "gguf.key");
  EXPECT_EQ(refused(small_doc().set_u32("", 1)).code, "gguf.key");
  EXPECT_EQ(refused(small_doc().set_u32("new\nline", 1)).code, "gguf.key");
  EXPECT_EQ(refused(small_doc().set_u32(std::string("a\0b", 3), 1)).code, "gguf.key");
  for (const size_t n : {1u, 62u, 63u}) {
    GgufDoc doc = small_doc();
    doc.tensors[0].name = std::string(n, 'n');
    expect_accepted(doc);
  }
  for (const std::string& name :
       {std::string(64, 'n'), std::string(), std::string("a\x1b[2J"), std::string("\xff")}) {
    GgufDoc doc = small_doc();
    doc.tensors[0].name = name;
    const Error e = refused(doc);
    EXPECT_EQ(e.code, "gguf.tensor_name");
    EXPECT_TRUE(e.field.starts_with("name of tensor 0")) << e.field;
    EXPECT_EQ(e.what.find('\x1b'), std::string::npos);
  }
}

TEST(GgufReader, StringLimit) {
  constexpr size_t kLimit = 16u << 20;
  for (const size_t n : {kLimit - 1, kLimit}) {
    expect_accepted(small_doc().set_string("t.long", std::string(n, 'x')));
    expect_accepted(small_doc().set_strings("t.long", {"a", std::string(n, 'x')}));
  }
  Error e = refused(small_doc().set_string("t.long", std::string(kLimit + 1, 'x')));
  EXPECT_EQ(e.code, "gguf.string");
  EXPECT_TRUE(e.field.starts_with("t.long")) << e.field;
  e = refused(small_doc().set_strings("t.long", {"a", std::string(kLimit + 1, 'x')}));
  EXPECT_EQ(e.code, "gguf.string");
  EXPECT_TRUE(e.field.starts_with("t.long[1]")) << e.field;
}

TEST(GgufReader, HeaderLimit) {
  const uint64_t most = GgufLimits::kHeaderBytes;
  GgufDoc doc;
  const auto fill = [&](uint64_t n) {
    return doc.set(
        "t.bulk", GgufValueType::kArray, raw(GgufValueType::kU8) + raw(n) + std::string(n, 'x'));
  };
  const uint64_t rest = 24 + 8 + 6 + 4 + 4 + 8;
  fill(most - rest - 1);
  expect_accepted(doc);
  fill(most - rest);
  expect_accepted(doc);
  fill(most - rest + 1);
  EXPECT_EQ(refused(doc).code, "gguf.header_size");
}

TEST(GgufReader, AlignmentLimits) {
  for (const uint64_t alignment : {8u, 16u, 64u, 4096u, 65536u}) {
    GgufDoc doc = small_doc();
    doc.alignment = alignment;
    expect_accepted(doc.set_u32("general.alignment", static_cast<uint32_t>(alignment)));
  }
  for (const uint32_t alignment :
       {0u, 1u, 4u, 7u, 9u, 24u, 65535u, 65537u, 131072u, 0x80000000u, 0xffffffffu}) {
    EXPECT_EQ(refused(small_doc().set_u32("general.alignment", alignment)).code, "gguf.alignment")
        << alignment;
  }
  EXPECT_EQ(
      refused(small_doc().set("general.alignment", GgufValueType::kU64, raw<uint64_t>(32))).code,
      "gguf.alignment");
  // Announced, but not kept.
  const Error e = refused(small_doc().set_u32("general.alignment", 4096));
  EXPECT_EQ(e.code, "gguf.offset_align");
}

TEST(GgufReader, KeyCountLimitAndSpeed) {
  for (const size_t n : {65535u, 65536u, 65537u}) {
    GgufDoc doc;
    for (size_t i = 0; i < n; ++i)
      doc.keys.push_back({"x." + std::to_string(i), GgufValueType::kU8, raw<uint8_t>(0)});
    TempDir dir;
    doc.write(dir.file("m"));
    const auto start = std::chrono::steady_clock::now();
    const auto file = GgufFile::open(dir.file("m"));
    const auto ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    ASSERT_EQ(static_cast<bool>(file), n <= 65536);
    if (!file) {
      EXPECT_EQ(file.error().code, "gguf.count");
    }
    // 200 ms is the promise; sanitizers and a busy machine get ten times that, a quadratic check
    // would take minutes.
    EXPECT_LT(ms, 2000);
    if (file) {
      for (size_t i = 0; i < n; i += 997)
        ASSERT_NE(file.value().find("x." + std::to_string(i)), nullptr);
      EXPECT_EQ(file.value().find("x.65537"), nullptr);
    }
  }
}

TEST(GgufReader, TensorCountLimitAndSpeed) {
  for (const size_t n : {65535u, 65536u, 65537u}) {
    GgufDoc doc;
    doc.alignment = 8;
    doc.set_u32("general.alignment", 8);
    for (size_t i = 0; i < n; ++i)
      doc.tensors.push_back(
          {.name = "x." + std::to_string(i), .dims = {1}, .type = 24, .data = "b"});
    TempDir dir;
    doc.write(dir.file("m"));
    const auto start = std::chrono::steady_clock::now();
    const auto file = GgufFile::open(dir.file("m"));
    const auto ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    ASSERT_EQ(static_cast<bool>(file), n <= 65536);
    if (!file) {
      EXPECT_EQ(file.error().code, "gguf.count");
    }
    EXPECT_LT(ms, 2000);
    if (file) {
      for (size_t i = 0; i < n; i += 997)
        ASSERT_NE(file.value().find_tensor("x." + std::to_string(i)), nullptr);
    }
  }
}

TEST(GgufReader, DuplicatesNameBothOffsets) {
  GgufDoc doc = small_doc();
  doc.keys.push_back(doc.keys[3]);
  Error e = refused(doc);
  EXPECT_EQ(e.code, "gguf.duplicate_key");
  EXPECT_NE(e.what.find("t.i16"), std::string::npos);
  TempDir dir;
  const auto file = GgufFile::open(small_doc().write(dir.file("m")));
  const uint64_t first = file.value().values()[3].key_offset;
  EXPECT_NE(e.what.find("first at offset " + std::to_string(first)), std::string::npos) << e.what;
  EXPECT_GT(e.offset, file.value().values().back().key_offset);

  doc = small_doc();
  doc.tensors[1].name = doc.tensors[0].name;
  e = refused(doc);
  EXPECT_EQ(e.code, "gguf.duplicate_tensor");
  EXPECT_EQ(e.field, "name of tensor 1");
  EXPECT_NE(e.what.find("first at offset " + std::to_string(file.value().tensors()[0].info_offset)),
            std::string::npos)
      << e.what;
}

TEST(GgufReader, BoolsAreZeroOrOne) {
  for (const uint8_t v : {uint8_t{0}, uint8_t{1}})
    expect_accepted(small_doc().set("t.bool", GgufValueType::kBool, raw(v)));
  for (const uint8_t v : {uint8_t{2}, uint8_t{255}})
    EXPECT_EQ(refused(small_doc().set("t.bool", GgufValueType::kBool, raw(v))).code, "gguf.bool");
  expect_accepted(small_doc().set_array<uint8_t>("t.bools", GgufValueType::kBool, {0, 1, 1}));
  EXPECT_EQ(
      refused(small_doc().set_array<uint8_t>("t.bools", GgufValueType::kBool, {0, 1, 2})).code,
      "gguf.bool");
}

TEST(GgufReader, ArraysOfArraysAndUnknownTypesAreRefused) {
  const std::string inner = raw(GgufValueType::kU8) + raw<uint64_t>(0);
  EXPECT_EQ(refused(small_doc().set("x",
                                    GgufValueType::kArray,
                                    raw(GgufValueType::kArray) + raw<uint64_t>(1) + inner))
                .code,
            "gguf.array");
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += raw(GgufValueType::kArray) + raw<uint64_t>(1);
  EXPECT_EQ(refused(small_doc().set("x", GgufValueType::kArray, deep + inner)).code, "gguf.array");
  for (const uint32_t type : {13u, 14u, 255u, 0xffffffffu}) {
    EXPECT_EQ(
        refused(small_doc().set("x", static_cast<GgufValueType>(type), raw<uint64_t>(0))).code,
        "gguf.value_type");
    EXPECT_EQ(
        refused(small_doc().set("x", GgufValueType::kArray, raw(type) + raw<uint64_t>(0))).code,
        "gguf.array");
  }
  for (const uint64_t count : {UINT64_MAX, uint64_t{1} << 61, uint64_t{1} << 32}) {
    for (const auto type : {GgufValueType::kString, GgufValueType::kF64, GgufValueType::kU8}) {
      const Error e = refused(small_doc().set("x", GgufValueType::kArray, raw(type) + raw(count)));
      EXPECT_EQ(e.code, "gguf.array");
      EXPECT_NE(e.what.find(std::to_string(count)), std::string::npos);
    }
  }
}

TEST(GgufReader, DimensionsAreCheckedInSixtyFourBits) {
  const auto with_dims = [](std::vector<uint64_t> dims, uint32_t type) {
    GgufDoc doc = small_doc();
    doc.tensors[0].dims = std::move(dims);
    doc.tensors[0].type = type;
    return refused(doc);
  };
  const uint64_t huge = uint64_t{1} << 32;
  for (const auto& dims : std::vector<std::vector<uint64_t>>{{0},
                                                             {4, 0},
                                                             {uint64_t{1} << 63},
                                                             {UINT64_MAX, 2},
                                                             {huge, huge},
                                                             {uint64_t{1} << 62, 4},
                                                             {65536, 65536, 65536, 65536},
                                                             {1, 2, 3, 4, 5},
                                                             {}}) {
    EXPECT_EQ(with_dims(dims, 24).code, "gguf.dims");
  }
  EXPECT_EQ(with_dims({uint64_t{1} << 61}, 28).code, "gguf.dims");  // 2^64 bytes
  EXPECT_EQ(with_dims({31, 2}, 8).code, "gguf.dims");               // not a multiple of the group
  EXPECT_EQ(with_dims({4, 1000000}, 0).code, "gguf.offset_range");
  for (const uint32_t type : {4u, 5u, 31u, 33u, 36u, 38u, 41u, 255u, 0xffffffffu}) {
    const Error e = with_dims({32}, type);
    EXPECT_EQ(e.code, "gguf.tensor_type");
    EXPECT_EQ(e.field, "type of first.weight");
  }
}

TEST(GgufReader, OffsetsStayInsideAndApart) {
  const auto with_offset = [](uint64_t offset) {
    GgufDoc doc = small_doc();
    doc.tensors[1].offset = offset;
    return refused(doc);
  };
  EXPECT_EQ(with_offset(33).code, "gguf.offset_align");
  EXPECT_EQ(with_offset(0).code, "gguf.offset_overlap");
  EXPECT_EQ(with_offset(32).code, "gguf.offset_overlap");  // first.weight has 48 bytes
  for (const uint64_t offset :
       {uint64_t{128}, uint64_t{1} << 32, uint64_t{1} << 63, UINT64_MAX - 31}) {
    const Error e = with_offset(offset);
    EXPECT_EQ(e.code, "gguf.offset_range");
    EXPECT_EQ(e.field, "offset of second");
  }
}

TEST(GgufReader, GapsOrderAndTailAreServedWithAWarning) {
  TempDir dir;
  GgufDoc doc = small_doc();
  doc.tensors[0].data += std::string(64, '\0');
  auto file = GgufFile::open(doc.write(dir.file("gap")));
  ASSERT_TRUE(file) << error_line(file.error());
  ASSERT_EQ(file.value().warnings().size(), 1u);
  EXPECT_NE(file.value().warnings()[0].find("64 unused bytes"), std::string::npos)
      << file.value().warnings()[0];

  write_file(dir.file("tail"), small_doc().bytes() + std::string(1000, 'x'));
  file = GgufFile::open(dir.file("tail"));
  ASSERT_TRUE(file);
  ASSERT_EQ(file.value().warnings().size(), 1u);
  EXPECT_NE(file.value().warnings()[0].find("1000 bytes after"), std::string::npos)
      << file.value().warnings()[0];

  doc = small_doc();  // the second tensor's data first
  std::swap(doc.tensors[0].data, doc.tensors[1].data);
  doc.tensors[0].offset = 96;
  doc.tensors[1].offset = 0;
  file = GgufFile::open(doc.write(dir.file("order")));
  ASSERT_TRUE(file) << error_line(file.error());
  EXPECT_TRUE(file.value().warnings().empty());
}

TEST(GgufReader, HeaderHashFollowsTheHeaderOnly) {
  TempDir dir;
  GgufDoc doc = small_doc();
  const uint64_t hash = GgufFile::open(doc.write(dir.file("m"))).value().header_hash();
  doc.tensors[0].data[0] = 'F';
  EXPECT_EQ(GgufFile::open(doc.write(dir.file("m"))).value().header_hash(), hash);
  doc.set_u32("t.u32", 1);
  EXPECT_NE(GgufFile::open(doc.write(dir.file("m"))).value().header_hash(), hash);
}

TEST(GgufReader, ErrorLineIsOneEscapedLine) {
  TempDir dir;
  const std::string path = dir.file("odd\n\x1b[2Jname");
  GgufDoc doc = small_doc();
  doc.set_u32("x\n[error] forged", 1).write(path);
  const Error e = refused(path);
  const std::string line = error_line(e);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_TRUE(line.starts_with("sluice: " + dir.path())) << line;
  EXPECT_TRUE(line.ends_with(": offset " + std::to_string(e.offset) + ": " + e.field + ": " +
                             e.what + " [gguf.key]"))
      << line;
  EXPECT_TRUE(e.what.starts_with("found ") && e.what.find(", allowed ") != std::string::npos)
      << line;
}

// RELIABILITY 4 (a): no product of a file's numbers without a check.
TEST(GgufReader, SourceHasNoRawProductOfDims) {
  const auto is_raw_product = [](std::string line) {
    std::erase(line, ' ');
    if (line.find("n_elements*") != std::string::npos || line.find("*dims[") != std::string::npos)
      return true;
    for (size_t at = line.find("dims["); at != std::string::npos; at = line.find("dims[", at + 1)) {
      const size_t end = line.find(']', at);
      if (end != std::string::npos && end + 1 < line.size() && line[end + 1] == '*') return true;
      const size_t before = line.find_last_not_of("abcdefghijklmnopqrstuvwxyz_.->0123456789", at);
      if (before != std::string::npos && line[before] == '*') return true;
      if (before != std::string::npos && before > 0 && line.substr(before - 1, 2) == "*=")
        return true;
    }
    return false;
  };
  ASSERT_TRUE(is_raw_product("n = t.dims[0] * 4;") && is_raw_product("x = rows * t->dims[1]") &&
              is_raw_product("n *= t.dims[i];"));
  ASSERT_FALSE(is_raw_product("checked_mul(n, t.dims[d], n)"));
  for (const char* name : {"/storage/gguf_parser.cc",
                           "/storage/gguf_reader.cc",
                           "/scheduler/model_loader.cc",
                           "/scheduler/tensor_validate.cc",
                           "/scheduler/hparams_validate.cc"}) {
    std::ifstream in(std::string(SLUICE_SOURCE_DIR) + name);
    ASSERT_TRUE(in) << name;
    std::string line;
    for (int n = 1; std::getline(in, line); ++n) {
      EXPECT_FALSE(is_raw_product(line)) << name << ":" << n << ": " << line;
    }
  }
}

// A model cut into parts, as gguf-split does it: part 1 has the keys, every part its own header and
// data.
std::vector<std::string> write_split(const GgufDoc& doc,
                                     const std::string& stem,
                                     uint16_t n_parts,
                                     size_t in_first) {
  std::vector<std::string> paths;
  size_t next = 0;
  for (uint16_t i = 0; i < n_parts; ++i) {
    GgufDoc part;
    if (i == 0) part.keys = doc.keys;
    part.set("split.no", GgufValueType::kU16, raw<uint16_t>(i));
    part.set("split.count", GgufValueType::kU16, raw<uint16_t>(n_parts));
    part.set("split.tensors.count",
             GgufValueType::kI32,
             raw<int32_t>(static_cast<int32_t>(doc.tensors.size())));
    const size_t end = i == 0 ? in_first : i + 1 == n_parts ? doc.tensors.size() : next + 1;
    for (; next < end; ++next) part.tensors.push_back(doc.tensors[next]);
    char tail[32];
    std::snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", i + 1, n_parts);
    paths.push_back(part.write(stem + tail));
  }
  return paths;
}

GgufDoc five_tensors() {
  GgufDoc doc = small_doc();
  doc.tensors.clear();
  for (char c = 'a'; c < 'f'; ++c) {
    doc.tensors.push_back({.name = std::string("tensor.") + c,
                           .dims = {8, 2},
                           .type = 0,
                           .data = std::string(64, c)});
  }
  return doc;
}

TEST(GgufSplit, PartsAreFoundFromTheFirst) {
  for (const size_t in_first : {0u, 1u, 3u}) {
    TempDir dir;
    const auto paths = write_split(five_tensors(), dir.file("model"), 3, in_first);
    const auto opened = GgufFile::open(paths[0]);
    ASSERT_TRUE(opened) << error_line(opened.error());
    const GgufFile& file = opened.value();
    EXPECT_EQ(file.parts().size(), 3u);
    ASSERT_EQ(file.tensors().size(), 5u);
    EXPECT_EQ(file.uint("t.u8"), 200u);
    for (char c = 'a'; c < 'f'; ++c) {
      const GgufTensor* t = file.find_tensor(std::string("tensor.") + c);
      ASSERT_NE(t, nullptr);
      std::string data(64, '\0');
      ASSERT_TRUE(file.parts()[t->part].file.pread_exact(data.data(), data.size(), t->file_offset));
      EXPECT_EQ(data, std::string(64, c));
    }
  }
}

TEST(GgufSplit, AnotherPartNamesTheFirst) {
  TempDir dir;
  const auto paths = write_split(five_tensors(), dir.file("model"), 3, 1);
  const Error e = refused(paths[1]);
  EXPECT_EQ(e.code, "gguf.split");
  EXPECT_EQ(e.field, "split.no");
  EXPECT_NE(e.what.find("model-00001-of-00003.gguf"), std::string::npos) << e.what;
  EXPECT_NE(e.offset, Error::kNoOffset);
}

TEST(GgufSplit, MissingRenamedAndMixedPartsAreRefused) {
  {
    TempDir dir;
    const auto paths = write_split(five_tensors(), dir.file("model"), 3, 1);
    std::filesystem::remove(paths[2]);
    const Error e = refused(paths[0]);
    EXPECT_EQ(e.code, "io.open");
    EXPECT_EQ(e.file, paths[2]);
  }
  {
    TempDir dir;
    const auto paths = write_split(five_tensors(), dir.file("model"), 3, 1);
    std::filesystem::rename(paths[0], dir.file("model.gguf"));
    const Error e = refused(dir.file("model.gguf"));
    EXPECT_EQ(e.code, "gguf.split");
    EXPECT_EQ(e.field, "split.count");
  }
  {
    TempDir dir;
    const auto paths = write_split(five_tensors(), dir.file("model"), 3, 1);
    std::filesystem::copy_file(
        paths[1], paths[2], std::filesystem::copy_options::overwrite_existing);
    const Error e = refused(paths[0]);
    EXPECT_EQ(e.code, "gguf.split");
    EXPECT_EQ(e.file, paths[2]);
  }
  {
    TempDir dir;  // the same tensor in two parts
    GgufDoc doc = five_tensors();
    doc.tensors[4].name = "tensor.a";
    const auto paths = write_split(doc, dir.file("model"), 3, 1);
    const Error e = refused(paths[0]);
    EXPECT_EQ(e.code, "gguf.duplicate_tensor");
    EXPECT_EQ(e.file, paths[2]);
  }
}

TEST(GgufSplit, AnnouncedTensorsMustBeThere) {
  TempDir dir;
  const auto paths = write_split(five_tensors(), dir.file("model"), 2, 1);
  // Part 1 again, with another total.
  GgufDoc first;
  first.keys = five_tensors().keys;
  first.set("split.no", GgufValueType::kU16, raw<uint16_t>(0));
  first.set("split.count", GgufValueType::kU16, raw<uint16_t>(2));
  first.set("split.tensors.count", GgufValueType::kI32, raw<int32_t>(6));
  first.tensors = {five_tensors().tensors[0]};
  first.write(paths[0]);
  const Error e = refused(paths[0]);
  EXPECT_EQ(e.code, "gguf.split");
  EXPECT_EQ(e.field, "split.tensors.count");
}

}  // namespace
}  // namespace sluice
