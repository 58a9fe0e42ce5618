#include "scheduler/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>
#include <sstream>

#include "scheduler/philox.h"
#include "scheduler/sampler_math.h"
#include "tests/support/safetensors.h"

namespace sluice {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(size_t n, uint32_t seed, float spread = 3.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> out(n);
  for (float& x : out) x = normal(rng);
  return out;
}

std::vector<float> distribution(const SamplingParams& p,
                                const std::vector<float>& logits,
                                const TokenCounts& counts = {}) {
  auto r = Sampler(p).distribution(logits, counts);
  EXPECT_TRUE(r) << (r ? "" : r.error().what);
  return r ? r.value() : std::vector<float>(logits.size());
}

TokenId pick(const SamplingParams& p,
             const std::vector<float>& logits,
             uint64_t position = 0,
             const TokenCounts& counts = {}) {
  auto r = Sampler(p).sample(logits, counts, position, 0, false);
  EXPECT_TRUE(r);
  return r ? r.value().id : -1;
}

std::vector<TokenId> kept(const std::vector<float>& p) {
  std::vector<TokenId> ids;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0) ids.push_back(static_cast<TokenId>(i));
  }
  return ids;
}

// The case's own order and semantics, step by step in long double with a full sort: slow, and
// nothing shared with the sampler but the definition.
std::vector<double> reference(const SamplingParams& p,
                              const std::vector<float>& logits,
                              const TokenCounts& counts) {
  using Real = long double;
  const size_t n = logits.size();
  std::vector<Real> l(logits.begin(), logits.end());
  for (auto [id, b] : p.logit_bias) l[static_cast<size_t>(id)] += static_cast<Real>(b);
  for (auto [id, count] : counts.entries()) {
    Real& x = l[static_cast<size_t>(id)];
    x = x < 0 ? x * static_cast<Real>(p.repetition_penalty)
              : x / static_cast<Real>(p.repetition_penalty);
    x -= static_cast<Real>(count) * static_cast<Real>(p.frequency_penalty) +
         static_cast<Real>(p.presence_penalty);
  }
  for (Real& x : l) x /= static_cast<Real>(p.temperature);
  auto softmax = [&] {
    const Real most = *std::max_element(l.begin(), l.end());
    std::vector<Real> q(n);
    Real sum = 0;
    for (size_t i = 0; i < n; ++i) sum += q[i] = std::exp(l[i] - most);
    for (Real& x : q) x /= sum;
    return q;
  };
  const Real gone = -std::numeric_limits<Real>::infinity();
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < n) {
    std::vector<Real> sorted = l;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const Real kth = sorted[static_cast<size_t>(p.top_k) - 1];
    for (Real& x : l) x = x < kth ? gone : x;
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  if (p.top_p < 1) {
    const auto q = softmax();
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return l[a] > l[b]; });
    Real tail = 0;
    for (size_t i = n - 1; i > 0; --i) {
      tail += q[order[i]];
      if (tail > 1 - static_cast<Real>(p.top_p)) break;
      l[order[i]] = gone;
    }
  }
  if (p.min_p > 0) {
    const auto q = softmax();
    const Real most = *std::max_element(q.begin(), q.end());
    for (size_t i = 0; i < n; ++i) l[i] = q[i] < static_cast<Real>(p.min_p) * most ? gone : l[i];
  }
  if (p.typical_p < 1) {
    const auto q = softmax();
    Real entropy = 0;
    for (const Real x : q) entropy -= x > 0 ? x * std::log(x) : 0;
    std::vector<Real> distance(n);
    for (size_t i = 0; i < n; ++i)
      distance[i] = q[i] > 0 ? std::abs(-std::log(q[i]) - entropy) : -gone;
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(
        order.begin(), order.end(), [&](size_t a, size_t b) { return distance[a] < distance[b]; });
    Real mass = 0;
    size_t i = 0;
    for (; i + 1 < n; ++i) {
      mass += q[order[i]];
      if (mass >= static_cast<Real>(p.typical_p)) break;
    }
    const Real cut = distance[order[i]];
    for (size_t j = 0; j < n; ++j) l[j] = distance[j] > cut ? gone : l[j];
  }
  const auto q = softmax();
  return {q.begin(), q.end()};
}

double worst_difference(const std::vector<float>& a, const std::vector<double>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

// ---- Philox ----

TEST(Philox, MatchesThePublishedVectors) {
  // Random123's kat_vectors, "philox4x32 10".
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t f = 0xffffffff;
  EXPECT_EQ(philox4x32_10({f, f, f, f}, {f, f}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, DrawDependsOnSeedChoiceAndPositionOnly) {
  for (const uint64_t seed : {0ull, 1ull, 1ull << 32, ~0ull}) {
    for (const uint64_t position : {0ull, 1ull, 1ull << 32}) {
      const double u = philox_uniform(seed, 3, position);
      EXPECT_EQ(u, philox_uniform(seed, 3, position));
      EXPECT_NE(u, philox_uniform(seed, 4, position));
      EXPECT_NE(u, philox_uniform(seed ^ 1, 3, position));
      EXPECT_NE(u, philox_uniform(seed ^ (1ull << 40), 3, position));
      EXPECT_NE(u, philox_uniform(seed, 3, position ^ 1));
      EXPECT_NE(u, philox_uniform(seed, 3, position ^ (1ull << 40)));
      EXPECT_GE(u, 0.0);
      EXPECT_LT(u, 1.0);
    }
  }
}

TEST(Philox, UniformsFillTheirBinsEvenly) {
  // 64 bins, 2^17 draws: chi-square with 63 degrees of freedom, mean 63, variance 126. The bound is
  // the mean plus eight standard deviations; Chernoff for chi-square puts the chance of passing it
  // below 1e-10.
  constexpr int kBins = 64;
  constexpr int kDraws = 1 << 17;
  std::vector<int> bins(kBins);
  for (int i = 0; i < kDraws; ++i) {
    ++bins[static_cast<size_t>(philox_uniform(42, 0, static_cast<uint64_t>(i)) * kBins)];
  }
  const double expected = static_cast<double>(kDraws) / kBins;
  double chi2 = 0;
  for (const int b : bins) chi2 += (b - expected) * (b - expected) / expected;
  EXPECT_LT(chi2, 63 + 8 * std::sqrt(126.0));
  EXPECT_GT(chi2, 63 - 5.5 * std::sqrt(126.0));  // nor suspiciously even
}

// ---- exp ----

TEST(SamplerMath, ExpIsWithinTwoUlp) {
  std::vector<double> x{
      0.0, 1e-300, 1e-17, 0.34657359, 0.34657360, 1.0, 64.0, 700.0, 707.999, 708.0};
  std::mt19937_64 rng(7);
  std::uniform_real_distribution<double> uniform(0.0, 708.0);
  for (int i = 0; i < 100000; ++i) x.push_back(i % 2 == 0 ? uniform(rng) : uniform(rng) / 100);
  std::vector<double> w(x.size());
  exp_of_negative(x, w.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const long double exact = std::exp(-static_cast<long double>(x[i]));
    EXPECT_LE(std::abs(static_cast<long double>(w[i]) - exact), 2 * 0x1p-52L * exact)
        << "exp(-" << x[i] << ")";
  }
  EXPECT_EQ(w[0], 1.0);
}

TEST(SamplerMath, FarBelowIsZeroAndNeverNaN) {
  const std::vector<double> x{
      708.0000001, 1000, 1e76, 1e308, std::numeric_limits<double>::infinity()};
  std::vector<double> w(x.size(), kNaN);
  exp_of_negative(x, w.data());
  for (const double v : w) EXPECT_EQ(v, 0.0);
}

TEST(SamplerMath, EveryTailLengthGivesTheSameBits) {
  std::vector<double> x(67);
  std::mt19937_64 rng(8);
  for (double& v : x) v = std::uniform_real_distribution<double>(0.0, 50.0)(rng);
  std::vector<double> one(x.size());
  for (size_t i = 0; i < x.size(); ++i) exp_of_negative({&x[i], 1}, &one[i]);
  for (size_t n = 0; n <= x.size(); ++n) {
    std::vector<double> w(n);
    exp_of_negative({x.data(), n}, w.data());
    EXPECT_TRUE(std::equal(w.begin(), w.end(), one.begin())) << n;
  }
}

// ---- distributions ----

SamplingParams params_from(const boost::json::object& o) {
  SamplingParams p;
  for (const auto& [key, value] : o) {
    const auto v = value.to_number<double>();
    const auto f = static_cast<float>(v);
    if (key == "temperature")
      p.temperature = f;
    else if (key == "top_k")
      p.top_k = static_cast<int32_t>(v);
    else if (key == "top_p")
      p.top_p = f;
    else if (key == "min_p")
      p.min_p = f;
    else if (key == "typical_p")
      p.typical_p = f;
    else if (key == "repetition_penalty")
      p.repetition_penalty = f;
    else if (key == "presence_penalty")
      p.presence_penalty = f;
    else if (key == "frequency_penalty")
      p.frequency_penalty = f;
    else
      ADD_FAILURE() << "unknown parameter " << key;
  }
  return p;
}

TEST(Sampler, MatchesTheGoldenDistributions) {
  const std::string dir = SLUICE_SOURCE_DIR "/tests/golden/public/sampling/";
  const auto tensors = test::read_safetensors(dir + "golden.safetensors");
  std::stringstream text;
  text << std::ifstream(dir + "case.json").rdbuf();
  const auto doc = boost::json::parse(text.str()).as_object();
  const auto tolerance = doc.at("tolerance_abs").to_number<double>();
  TokenCounts counts;
  for (const int32_t id : tensors.at("history").ints()) counts.add(id);
  int checked = 0;
  for (const auto& entry : doc.at("cases").as_array()) {
    const auto& c = entry.as_object();
    const auto& o = c.at("params").as_object();
    // Ties are ours to break there: the case says so.
    if (c.at("ties").as_bool() && (o.contains("top_p") || o.contains("typical_p"))) continue;
    const auto logits = tensors.at("logits." + std::string(c.at("logits").as_string())).floats();
    const auto expected = tensors.at(std::string(c.at("probs").as_string())).floats();
    const auto p = distribution(params_from(o), logits, counts);
    const double worst = worst_difference(p, {expected.begin(), expected.end()});
    EXPECT_LE(worst, tolerance) << boost::json::serialize(c);
    ++checked;
  }
  EXPECT_GT(checked, 200);
}

// Random shapes and parameters, above and below the size from which the cuts go by bins.
TEST(Sampler, EqualsTheSlowReferenceOnRandomShapes) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  auto chance = [&](double p) { return std::uniform_real_distribution<double>(0, 1)(rng) < p; };
  auto real = [&](float a, float b) { return std::uniform_real_distribution<float>(a, b)(rng); };
  for (int round = 0; round < 150; ++round) {
    const size_t n = std::uniform_int_distribution<size_t>(1, round % 3 == 0 ? 6000 : 600)(rng);
    const auto logits = random_logits(n, static_cast<uint32_t>(rng()), std::exp(real(-5.0f, 4.0f)));
    TokenCounts counts;
    for (int i = 0; i < 30; ++i)
      counts.add(std::uniform_int_distribution<TokenId>(0, static_cast<TokenId>(n) - 1)(rng));
    SamplingParams p;
    if (chance(0.7)) p.temperature = std::exp(real(-2.0f, 2.0f));
    if (chance(0.4))
      p.top_k = std::uniform_int_distribution<int32_t>(1, static_cast<int32_t>(n) + 2)(rng);
    if (chance(0.5)) p.top_p = real(0.001f, 1.0f);
    if (chance(0.3)) p.min_p = real(0.0f, 0.3f);
    if (chance(0.4)) p.typical_p = real(0.001f, 1.0f);
    if (chance(0.3)) p.repetition_penalty = real(0.5f, 2.0f);
    if (chance(0.3)) p.presence_penalty = real(-2.0f, 2.0f);
    if (chance(0.3)) p.frequency_penalty = real(-2.0f, 2.0f);
    if (chance(0.3))
      p.logit_bias = {{0, real(-100.0f, 100.0f)}, {static_cast<TokenId>(n) - 1, real(-1.0f, 1.0f)}};
    const auto got = distribution(p, logits, counts);
    EXPECT_LT(worst_difference(got, reference(p, logits, counts)), 1e-6)
        << "round " << round << " n=" << n << " t=" << p.temperature << " k=" << p.top_k
        << " top_p=" << p.top_p << " min_p=" << p.min_p << " typical=" << p.typical_p;
    EXPECT_NEAR(std::accumulate(got.begin(), got.end(), 0.0), 1.0, 1e-5);
  }
}

TEST(Sampler, TopKKeepsEveryTieWithTheKth) {
  SamplingParams p;
  const std::vector<float> logits{1, 5, 3, 3, 7, 3, 2};
  p.top_k = 3;
  EXPECT_EQ(kept(distribution(p, logits)), (std::vector<TokenId>{1, 2, 3, 4, 5}));
  p.top_k = 2;
  EXPECT_EQ(kept(distribution(p, logits)), (std::vector<TokenId>{1, 4}));
  p.top_k = 100;
  EXPECT_EQ(kept(distribution(p, logits)).size(), logits.size());
}

TEST(Sampler, TopKSurvivesAscendingAndDescendingInput) {
  // The one-pass selection refills its buffer most often on ascending logits.
  for (const size_t n : {700u, 20000u}) {
    std::vector<float> up(n);
    for (size_t i = 0; i < n; ++i) up[i] = static_cast<float>(i) * 1e-3f;
    const std::vector<float> down(up.rbegin(), up.rend());
    for (const int32_t k : {1, 40, 513, 699}) {
      SamplingParams p;
      p.top_k = k;
      const auto a = kept(distribution(p, up));
      ASSERT_EQ(a.size(), static_cast<size_t>(k));
      EXPECT_EQ(a.front(), static_cast<TokenId>(n) - k);
      const auto b = kept(distribution(p, down));
      ASSERT_EQ(b.size(), static_cast<size_t>(k));
      EXPECT_EQ(b.back(), k - 1);
    }
  }
}

TEST(Sampler, TopPKeepsTheTopTokenAndAmongEqualsTheLowerId) {
  SamplingParams p;
  p.top_p = 1e-6f;
  EXPECT_EQ(kept(distribution(p, {0, 0, 1, 1})), (std::vector<TokenId>{2}));
  p.top_p = 0.5f;
  EXPECT_EQ(kept(distribution(p, {0, 0, 0, 0})), (std::vector<TokenId>{0, 1}));
  // The same with so many equals that the cut goes by bins: half of the mass is exactly half of
  // them.
  const auto ids = kept(distribution(p, std::vector<float>(4096, 2.5f)));
  ASSERT_EQ(ids.size(), 2048u);
  EXPECT_EQ(ids.back(), 2047);
}

TEST(Sampler, MinPOfOneKeepsOnlyTheMaximum) {
  SamplingParams p;
  p.min_p = 1.0f;
  EXPECT_EQ(kept(distribution(p, {1, 3, 2, 3})), (std::vector<TokenId>{1, 3}));
}

TEST(Sampler, LogitBiasComesBeforePenalties) {
  SamplingParams p;
  p.temperature = 0;
  p.repetition_penalty = 2.0f;
  p.logit_bias = {{1, 3.0f}};
  TokenCounts counts;
  counts.add(1);
  // Token 1: (-1 + 3) / 2 = 1 loses against 1.5. After the penalty it would be -1 * 2 + 3 = 1; so
  // tell them apart below.
  EXPECT_EQ(pick(p, {1.5f, -1.0f}, 0, counts), 0);
  p.temperature = 1;
  p.logit_bias = {{1, 4.0f}};  // (-1 + 4) / 2 = 1.5, against -2 + 4 = 2
  EXPECT_NEAR(static_cast<double>(distribution(p, {1.5f, -1.0f}, counts)[1]), 0.5, 1e-7);
}

TEST(Sampler, PenaltiesCountEveryOccurrence) {
  SamplingParams p;
  p.frequency_penalty = 0.5f;
  p.presence_penalty = 0.25f;
  TokenCounts counts;
  for (int i = 0; i < 3; ++i) counts.add(0);
  const auto q = distribution(p, {1.75f, 0.0f}, counts);  // 1.75 - 3 * 0.5 - 0.25 = 0
  EXPECT_NEAR(static_cast<double>(q[0]), 0.5, 1e-7);
}

TEST(Sampler, TokenCountsGrowWithTheIds) {
  TokenCounts counts;
  for (const TokenId id : {5, 151935, 5, 0, 5, -1}) counts.add(id);
  ASSERT_EQ(counts.entries().size(), 3u);
  EXPECT_EQ(counts.entries()[0], (std::pair<TokenId, uint32_t>{5, 3}));
  EXPECT_EQ(counts.entries()[1], (std::pair<TokenId, uint32_t>{151935, 1}));
  EXPECT_EQ(counts.entries()[2], (std::pair<TokenId, uint32_t>{0, 1}));
}

TEST(Sampler, TokensSeenOutsideTheVocabularyAreIgnored) {
  SamplingParams p;
  p.presence_penalty = 2;
  TokenCounts counts;
  counts.add(1000);
  EXPECT_EQ(distribution(p, {0, 0}, counts), (std::vector<float>{0.5f, 0.5f}));
}

// ---- greedy ----

TEST(Sampler, GreedyTakesTheLowestIdAmongEquals) {
  SamplingParams p;
  p.temperature = 0;
  EXPECT_EQ(pick(p, {1, 3, 2, 3}), 1);
  EXPECT_EQ(pick(p, {-0.0f, 0.0f}), 0);
  p.logit_bias = {{3, 0.0f}};  // the other path: shaped logits
  EXPECT_EQ(pick(p, {1, 3, 2, 3}), 1);
  EXPECT_EQ(distribution(p, {1, 3, 2, 3}), (std::vector<float>{0, 1, 0, 0}));
}

TEST(Sampler, GreedyComesAfterBiasAndPenalties) {
  SamplingParams p;
  p.temperature = 0;
  p.presence_penalty = 1.5f;
  TokenCounts counts;
  counts.add(1);
  EXPECT_EQ(pick(p, {2, 3, 1}, 0, counts), 0);
  p.logit_bias = {{2, 100.0f}};
  EXPECT_EQ(pick(p, {2, 3, 1}, 0, counts), 2);
}

TEST(Sampler, GreedyIgnoresSeedAndFilters) {
  const auto logits = random_logits(1000, 5);
  SamplingParams p;
  p.temperature = 0;
  const TokenId best =
      static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  for (uint64_t seed = 0; seed < 20; ++seed) {
    p.seed = seed;
    p.top_p = 0.5f;
    p.typical_p = 0.2f;
    EXPECT_EQ(pick(p, logits, seed), best);
  }
}

TEST(Sampler, TinyTemperatureIsGreedyAndStaysFinite) {
  const auto logits = random_logits(5000, 6, 1e30f);
  SamplingParams p;
  p.temperature = std::numeric_limits<float>::denorm_min();
  const auto q = distribution(p, logits);
  const auto best =
      static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  EXPECT_EQ(q[best], 1.0f);
  EXPECT_EQ(kept(q).size(), 1u);
}

// ---- NaN and infinities ----

std::vector<SamplingParams> many_params() {
  std::vector<SamplingParams> all(7);
  all[1].temperature = 0;
  all[2].top_k = 2;
  all[3].top_p = 0.9f;
  all[4].min_p = 0.05f;
  all[5].typical_p = 0.8f;
  all[6].repetition_penalty = 1.3f;
  all[6].temperature = 0;
  return all;
}

TEST(Sampler, NaNAndMinusInfinityAreNeverPicked) {
  TokenCounts counts;
  for (const TokenId id : {0, 1, 2}) counts.add(id);
  for (const SamplingParams& base : many_params()) {
    SamplingParams p = base;
    for (p.seed = 0; p.seed < 50; ++p.seed) {
      EXPECT_EQ(pick(p, {kNaN, -kInf, -5.0f, -kInf, -kNaN}, p.seed, counts), 2);
    }
  }
}

TEST(Sampler, NothingFiniteIsAnError) {
  for (const SamplingParams& p : many_params()) {
    for (const std::vector<float>& logits :
         {std::vector<float>{kNaN, kNaN}, {-kInf, kNaN, -kInf}, {-kInf}, {}}) {
      const auto r = Sampler(p).sample(logits, {}, 0, 0, false);
      ASSERT_FALSE(r);
      EXPECT_EQ(r.error().code, "numeric.nan");
      EXPECT_FALSE(Sampler(p).distribution(logits, {}));
    }
  }
}

TEST(Sampler, PlusInfinityTakesAllTheMass) {
  for (const SamplingParams& p : many_params()) {
    const auto q = distribution(p, {1.0f, kInf, kNaN, 3.0f});
    EXPECT_EQ(q, (std::vector<float>{0, 1, 0, 0}));
  }
  EXPECT_EQ(distribution({}, {kInf, 0.0f, kInf}), (std::vector<float>{0.5f, 0, 0.5f}));
}

TEST(Sampler, HugeLogitsDoNotOverflow) {
  const float most = std::numeric_limits<float>::max();
  TokenCounts counts;
  counts.add(0);
  for (SamplingParams p : many_params()) {
    p.logit_bias = {{0, 100.0f}};
    const auto q = distribution(p, {most, -most, most / 2}, counts);
    EXPECT_NEAR(std::accumulate(q.begin(), q.end(), 0.0), 1.0, 1e-6);
  }
}

// ---- draws ----

TEST(Sampler, SameSeedChoiceAndPositionGiveTheSameToken) {
  // Nearly flat, no token above 1 %: two streams agree in fewer than 10 of 100 draws.
  const auto logits = random_logits(2000, 9, 0.3f);
  SamplingParams p;
  p.top_p = 0.95f;
  p.temperature = 0.9f;
  p.seed = 1234567890123ull;
  int differ_choice = 0;
  int differ_seed = 0;
  Sampler used(p);  // a sampler with a past draws like a fresh one
  for (uint64_t position = 0; position < 100; ++position) {
    const TokenId id = pick(p, logits, position);
    EXPECT_EQ(used.sample(logits, {}, position, 0, false).value().id, id);
    SamplingParams other = p;
    other.choice = 1;
    differ_choice += pick(other, logits, position) != id ? 1 : 0;
    other = p;
    ++other.seed;
    differ_seed += pick(other, logits, position) != id ? 1 : 0;
  }
  EXPECT_GT(differ_choice, 90);
  EXPECT_GT(differ_seed, 90);
}

TEST(Sampler, DrawsFollowTheDistribution) {
  // Chi-square of 40,000 draws over the survivors with fixed seeds; df = survivors - 1. The bound
  // is mean plus eight standard deviations (Chernoff: chance below 1e-9 for df >= 5). Cells expect
  // at least 5 draws, or are pooled.
  struct Setting {
    float temperature, top_p, min_p, typical_p;
    int32_t top_k;
  };
  const auto logits = random_logits(300, 10, 1.5f);
  constexpr int kDraws = 40000;
  for (const Setting& s : {Setting{1, 1, 0, 1, 0},
                           {0.7f, 0.9f, 0, 1, 0},
                           {1.3f, 1, 0.05f, 1, 50},
                           {1, 1, 0, 0.7f, 0}}) {
    SamplingParams p;
    p.temperature = s.temperature;
    p.top_p = s.top_p;
    p.min_p = s.min_p;
    p.typical_p = s.typical_p;
    p.top_k = s.top_k;
    p.seed = 99;
    const auto q = distribution(p, logits);
    std::vector<int> seen(q.size());
    Sampler sampler(p);
    for (int i = 0; i < kDraws; ++i) {
      const auto id = sampler.sample(logits, {}, static_cast<uint64_t>(i), 0, false).value().id;
      ++seen[static_cast<size_t>(id)];
    }
    double chi2 = 0;
    double pool_expected = 0;
    int pool_seen = 0;
    int cells = 0;
    auto cell = [&](int n, double expected) {
      chi2 += (n - expected) * (n - expected) / expected;
      ++cells;
    };
    for (size_t i = 0; i < q.size(); ++i) {
      const double expected = static_cast<double>(q[i]) * kDraws;
      if (q[i] == 0) {
        EXPECT_EQ(seen[i], 0) << "drew token " << i << " of probability 0";
      } else if (expected >= 5) {
        cell(seen[i], expected);
      } else {
        pool_expected += expected;
        pool_seen += seen[i];
      }
    }
    if (pool_expected >= 5) cell(pool_seen, pool_expected);
    const double df = cells - 1;
    ASSERT_GE(df, 5);
    EXPECT_LT(chi2, df + 8 * std::sqrt(2 * df));
  }
}

TEST(Sampler, EveryTokenOfAUniformPairIsDrawnAtEveryIdPosition) {
  // First and last id included: an off-by-one in the walk would lose one of them.
  for (const TokenId a : {0, 1, 4094}) {
    std::vector<float> logits(4096, -kInf);
    logits[static_cast<size_t>(a)] = 1;
    logits[4095] = 1;
    int first = 0;
    for (uint64_t i = 0; i < 1000; ++i) {
      const TokenId id = pick({}, logits, i);
      ASSERT_TRUE(id == a || id == 4095);
      first += id == a ? 1 : 0;
    }
    // Binomial(1000, 1/2): Hoeffding puts the chance of being 150 away below 2 * exp(-45).
    EXPECT_NEAR(first, 500, 150);
  }
}

// ---- log-probabilities ----

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  const auto logits = random_logits(500, 11);
  long double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<long double>(l));
  SamplingParams p;
  p.temperature = 0.3f;
  p.top_k = 2;
  p.logit_bias = {{7, 5.0f}};
  const auto r = Sampler(p).sample(logits, {}, 3, 5, true);
  ASSERT_TRUE(r);
  const Sampled& s = r.value();
  auto expected = [&](TokenId id) {
    return static_cast<double>(static_cast<long double>(logits[static_cast<size_t>(id)]) -
                               std::log(sum));
  };
  EXPECT_NEAR(static_cast<double>(s.logprob), expected(s.id), 1e-5);
  ASSERT_EQ(s.top.size(), 5u);
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(s.top[i].first, order[i]);
    EXPECT_NEAR(static_cast<double>(s.top[i].second), expected(order[i]), 1e-5);
  }
  EXPECT_TRUE(Sampler(p).sample(logits, {}, 3, 0, true).value().top.empty());
}

// ---- validate ----

TEST(SamplingParams, DefaultsAndEdgesAreValid) {
  EXPECT_TRUE(validate({}, 100));
  SamplingParams p;
  p.temperature = 0;
  p.min_p = 1;
  p.top_p = std::numeric_limits<float>::denorm_min();
  p.repetition_penalty = 100;
  p.presence_penalty = -2;
  p.frequency_penalty = 2;
  p.top_k = std::numeric_limits<int32_t>::max();
  p.logit_bias.assign(kMaxLogitBias, {99, -100.0f});
  EXPECT_TRUE(validate(p, 100));
}

TEST(SamplingParams, EachRangeIsCheckedAndNamed) {
  struct Bad {
    const char* field;
    SamplingParams p;
  };
  std::vector<Bad> all;
  auto add =
      [&](const char* field, float SamplingParams::*member, std::initializer_list<float> values) {
        for (const float v : values) {
          all.push_back({field, {}});
          all.back().p.*member = v;
        }
      };
  add("temperature", &SamplingParams::temperature, {-0.1f, 100.1f, kNaN, kInf});
  add("top_p", &SamplingParams::top_p, {0.0f, -1.0f, 1.01f, kNaN});
  add("min_p", &SamplingParams::min_p, {-0.01f, 1.01f, kNaN});
  add("typical_p", &SamplingParams::typical_p, {0.0f, 1.01f, kNaN});
  add("repetition_penalty", &SamplingParams::repetition_penalty, {0.0f, -1.0f, 100.5f, kNaN});
  add("presence_penalty", &SamplingParams::presence_penalty, {-2.01f, 2.01f, kNaN});
  add("frequency_penalty", &SamplingParams::frequency_penalty, {-2.01f, 2.01f, kNaN});
  all.push_back({"top_k", {}});
  all.back().p.top_k = -1;
  for (const std::pair<TokenId, float>& bias :
       {std::pair<TokenId, float>{-1, 1.0f}, {100, 1.0f}, {5, 100.5f}, {5, -100.5f}, {5, kNaN}}) {
    all.push_back({"logit_bias", {}});
    all.back().p.logit_bias = {{0, 1.0f}, bias};
  }
  all.push_back({"logit_bias", {}});
  all.back().p.logit_bias.assign(kMaxLogitBias + 1, {1, 1.0f});
  for (const Bad& bad : all) {
    const auto r = validate(bad.p, 100);
    ASSERT_FALSE(r) << bad.field;
    EXPECT_EQ(r.error().code, "invalid_request");
    EXPECT_EQ(r.error().field, bad.field);
    EXPECT_NE(r.error().what.find(bad.field), std::string::npos) << r.error().what;
    EXPECT_EQ(r.error().what.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace sluice
