// The documents of POST /sluice/v1/plan, and what is kept of measurements.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <fstream>

#include "daemon/measurements.h"
#include "daemon/protocol/plan.h"

namespace sluice {
namespace {

namespace json = boost::json;

Result<PlanRequest> request(const std::string& text) {
  return plan_request_from_json(json::parse(text), 1000u << 20);
}

TEST(PlanProtocol, BudgetsAreNumbersOrTexts) {
  const auto r = request(
      R"({"model":"m","budgets":[1048576,"512M","1.5G","40%",2e9],"ctx":512,"kv_type":"f16","prompt_tokens":64})");
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_EQ(r.value().budgets,
            (std::vector<uint64_t>{1u << 20, 512u << 20, 1536u << 20, 400u << 20, 2000000000}));
  EXPECT_EQ(r.value().ctx, 512);
  EXPECT_EQ(r.value().prompt_tokens, 64);
  EXPECT_FALSE(r.value().measure_disk);
  EXPECT_TRUE(request("{}").value().budgets.empty());
}

TEST(PlanProtocol, BadInputIsOneErrorThatNamesTheField) {
  const struct {
    const char* text;
    const char* field;
  } cases[] = {
      {R"({"budgets":["lots"]})", "budgets"},
      {R"({"budgets":[0]})", "budgets"},
      {R"({"budgets":["0"]})", "budgets"},
      {R"({"budgets":[-1]})", "budgets"},
      {R"({"budgets":["-1"]})", "budgets"},
      {R"({"budgets":[1e30]})", "budgets"},
      {R"({"budgets":["1e30"]})", "budgets"},
      {R"({"budgets":[1.5]})", "budgets"},
      {R"({"budgets":[true]})", "budgets[0]"},
      {R"({"budgets":[null]})", "budgets[0]"},
      {R"({"budgets":"1G"})", "budgets"},
      {R"({"budgets":["101%"]})", "budgets"},
      {R"({"ctx":0})", "ctx"},
      {R"({"ctx":"many"})", "ctx"},
      {R"({"kv_type":"q4_0"})", "kv_type"},
      {R"({"kv_type":7})", "kv_type"},
      {R"({"model":3})", "model"},
      {R"({"measure_disk":"yes"})", "measure_disk"},
      {R"({"prompt_tokens":-3})", "prompt_tokens"},
      {R"({"model":"a\u0000b"})", "model"},
      {R"([])", "body"},
  };
  for (const auto& c : cases) {
    const auto r = request(c.text);
    ASSERT_FALSE(r) << c.text;
    EXPECT_EQ(r.error().code, "invalid_request") << c.text;
    EXPECT_EQ(r.error().field, c.field) << c.text;
    EXPECT_FALSE(r.error().what.empty());
  }
  EXPECT_EQ(request(R"({"budget":["1G"]})").error().code, "unsupported_parameter");
  std::string many = R"({"budgets":[1)";
  for (size_t i = 1; i < kMostPlanBudgets; ++i) many += ",1";
  EXPECT_TRUE(request(many + "]}"));
  EXPECT_EQ(request(many + ",1]}").error().field, "budgets");
}

TEST(PlanProtocol, ADocumentComesBackAsItWasSent) {
  PlanDoc d;
  d.model = "m";
  d.blocks = 28;
  d.disk_bytes_per_s = {1.9e9, 0.1, "probe", 5};
  d.floor = {354, 224, 32, 30, 68, 13};
  d.limit_bytes = 12;
  PlanRowDoc row;
  row.budget_bytes = 100;
  d.rows.push_back(row);
  row.fits = true;
  row.pinned_bytes = 42;
  row.tok_per_s = {1, 2, 3};
  row.limited_by = "disk";
  d.rows.push_back(row);
  const json::object sent = to_json(d);
  EXPECT_EQ(sent.at("schema"), "sluice.plan.v1");
  EXPECT_TRUE(sent.at("rows").at(0).at("tok_per_s").is_null());
  const auto got = plan_from_json(json::value(sent));
  ASSERT_TRUE(got) << got.error().what;
  EXPECT_EQ(to_json(got.value()), sent);
  EXPECT_EQ(plan_from_json(json::value("text")).error().code, "protocol");
  EXPECT_EQ(plan_from_json(json::parse(R"({"rows":[{"fits":"yes"}]})")).error().code, "protocol");
}

TEST(PlanProtocol, AFieldOfAnotherTypeIsNamedWithTheWayToIt) {
  const auto said = [](const char* text) {
    const auto got = plan_from_json(json::parse(text));
    return got ? std::string() : got.error().what;
  };
  const auto names = [&](const char* text, const char* field) {
    const std::string what = said(text);
    return what.find(std::string("\"") + field + "\"") != std::string::npos ? "" : what + "?";
  };
  EXPECT_EQ(names(R"({"rows":[{},{"tok_per_s":{"low":"1"}}]})", "rows[1].tok_per_s.low"), "");
  EXPECT_EQ(names(R"({"rows":[7]})", "rows[0]"), "");
  EXPECT_EQ(names(R"({"rows":{}})", "rows"), "");
  EXPECT_EQ(
      names(R"({"inputs":{"disk_bytes_per_s":{"age_ms":1.5}}})", "inputs.disk_bytes_per_s.age_ms"),
      "");
  EXPECT_EQ(names(R"({"floor":1,"model":2})", "model"), "") << "the first that is read";
  EXPECT_EQ(said(R"({"floor":null,"rows":null,"inputs":{"runs":null}})"), "");
}

struct Folder {
  Folder() {
    char name[] = "/tmp/sluice-measurements-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() {
    ::unlink((path + "/measurements.json").c_str());
    ::unlink((path + "/measurements.json.tmp").c_str());
    ::rmdir(path.c_str());
  }
  std::string path;
};

TEST(Measurements, OutliveTheProcess) {
  const Folder folder;
  {
    Measurements m(folder.path);
    EXPECT_EQ(m.find("a").disk_at_ms, 0);
    m.set_disk("a", {1.5e9, 0.2});
    m.set_compute("a", {{}, {0.03, 0.1}, {0.007, 0.1}, 3e10}, "2 avx2");
    m.set_tokenizer("a", 6'000'000);
  }
  const Measurements m(folder.path);
  const ModelMeasurements a = m.find("a");
  EXPECT_EQ(a.probed.disk_bytes_per_s.value, 1.5e9);
  EXPECT_EQ(a.probed.disk_bytes_per_s.spread, 0.2);
  EXPECT_EQ(a.probed.decode_s.value, 0.03);
  EXPECT_EQ(a.probed.memory_bytes_per_s, 3e10);
  EXPECT_EQ(a.compute_by, "2 avx2");
  EXPECT_EQ(a.tokenizer_bytes, 6'000'000u);
  EXPECT_GT(a.disk_at_ms, 0);
  EXPECT_EQ(m.find("b").disk_at_ms, 0);
}

TEST(Measurements, DriversAreThoseOfTheHostAndOutliveTheProcess) {
  using kernels::DriverWidths;
  using kernels::WeightType;
  const Folder folder;
  {
    Measurements m(folder.path);
    EXPECT_EQ(m.drivers(WeightType::kQ4_K), std::nullopt);
    m.set_drivers(WeightType::kQ4_K, {2, 24});
    m.set_drivers(WeightType::kQ6_K, {-1, -1});
  }
  const Measurements m(folder.path);
  EXPECT_EQ(m.drivers(WeightType::kQ4_K), (DriverWidths{2, 24}));
  EXPECT_EQ(m.drivers(WeightType::kQ6_K), (DriverWidths{-1, -1}));
  EXPECT_EQ(m.drivers(WeightType::kQ5_K), std::nullopt);
}

TEST(Measurements, ShapesOfReadsOutliveTheProcess) {
  const Folder folder;
  {
    Measurements m(folder.path);
    m.read_shapes.keep(0x800, {2, 1u << 20});
  }
  EXPECT_EQ(Measurements(folder.path).read_shapes.find(0x800), (ReadShape{2, 1u << 20}));
  std::ofstream(folder.path + "/measurements.json")
      << R"({"models":{},"reads":{"x":{"depth":2,"request_bytes":1e6},)"
      << R"("12zz":{"depth":2,"request_bytes":1e6},"1":7,"2":{"depth":-1,"request_bytes":1e6},)"
      << R"("3":{"depth":1e9,"request_bytes":1},"4":{"depth":3,"request_bytes":1e12}}})";
  const auto kept = Measurements(folder.path).read_shapes.all();
  EXPECT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept.at(4), (ReadShape{3, ReadShape::kMostRequest}));
}

// Of other processors no more than 16 are kept, and this one's always; what is no width is the
// default.
TEST(Measurements, DriversOfOtherHostsAreNotThisOnesAndAreBounded) {
  using kernels::WeightType;
  const Folder folder;
  {
    std::ofstream out(folder.path + "/measurements.json");
    out << R"({"models":{},"drivers":{)";
    for (int i = 0; i < 40; ++i)
      out << (i > 0 ? "," : "") << R"("host )" << i << R"(":{"Q4_K":{"row_tokens":2}})";
    out << "}}";
  }
  {
    Measurements m(folder.path);
    EXPECT_EQ(m.drivers(WeightType::kQ4_K), std::nullopt);
    m.set_drivers(WeightType::kQ4_K, {4, 16});
  }
  EXPECT_EQ(Measurements(folder.path).drivers(WeightType::kQ4_K),
            (kernels::DriverWidths{4, 16}));
  std::ifstream in(folder.path + "/measurements.json");
  const std::string kept((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(kept.find("host 39"), std::string::npos);

  std::ofstream(folder.path + "/measurements.json")
      << R"({"models":{},"drivers":{")" << driver_signature()
      << R"(":{"Q4_K":{"row_tokens":"x","tile_tokens":1e9},"Q5_K":7,"Q6_K":{"row_tokens":999}}}})";
  const Measurements odd(folder.path);
  EXPECT_EQ(odd.drivers(WeightType::kQ4_K), (kernels::DriverWidths{-1, -1}));
  EXPECT_EQ(odd.drivers(WeightType::kQ5_K), std::nullopt);
  EXPECT_LE(odd.drivers(WeightType::kQ6_K)->row_tokens, kernels::kMostTileTokens);
}

TEST(Measurements, ABrokenFileIsIgnoredAndReplaced) {
  for (
      const char* text :
      {"",
       "{",
       "[]",
       "{\"models\":7}",
       "{\"models\":{\"a\":7}}",
       "\x01\x02",
       R"({"models":{"a":{"probed":{"disk_bytes_per_s":{"value":-4,"spread":"x"},"decode_s":7}}}})"}) {
    const Folder folder;
    std::ofstream(folder.path + "/measurements.json") << text;
    {
      Measurements m(folder.path);
      EXPECT_EQ(m.find("a").probed.disk_bytes_per_s.value, 0) << text;
      m.set_disk("a", {2e9, 0.1});
    }
    EXPECT_EQ(Measurements(folder.path).find("a").probed.disk_bytes_per_s.value, 2e9) << text;
  }
}

TEST(Measurements, AnotherProcessorForgetsWhatComputingTook) {
  Measurements m("");
  m.set_disk("a", {1e9, 0.1});
  m.set_compute("a", {{}, {0.03, 0.1}, {0.007, 0.1}, 3e10}, "2 avx2");
  m.set_compute("a", {{}, {0.06, 0.1}, {0.014, 0.1}, 3e10}, "1 scalar");
  EXPECT_EQ(m.find("a").probed.decode_s.value, 0.06);
  EXPECT_EQ(m.find("a").compute_by, "1 scalar");
  EXPECT_EQ(m.find("a").probed.disk_bytes_per_s.value, 1e9);
}

TEST(Measurements, KeepsABoundedNumberOfModels) {
  Measurements m("");
  for (int i = 0; i < 300; ++i) m.set_disk(std::to_string(i), {1e9, 0.1});
  int kept = 0;
  for (int i = 0; i < 300; ++i) kept += m.find(std::to_string(i)).disk_at_ms > 0 ? 1 : 0;
  EXPECT_EQ(kept, 256);
}

}  // namespace
}  // namespace sluice
