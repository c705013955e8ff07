// SPDX-License-Identifier: Apache-2.0
// Profiles: curves by hand, files there and back, each kind of bad file.
#include "hydra/model/influence_profile.h"

#include <cmath>
#include <functional>

#include "hydra/base/testing.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"

namespace hydra {
namespace {

// Two layers of 6 heads in 3 groups; one length of 4 blocks, two even items and an odd one.
InfluenceProfile SmallProfile() {
  ModelConfig c = TransformerNano();
  c.attention.n_heads = 6;
  c.attention.n_kv_heads = 3;
  c.layers.resize(2);
  InfluenceProfile profile;
  profile.dense = AttentionPlan::Dense(c);
  profile.items_sha256 = std::string(64, 'e');
  InfluenceProfile::Length length = profile.Empty(250);
  length.items = {2, 1};
  length.ids = {"a", "b", "c"};
  length.losses = {1, 2, 3};
  length.guarded = 4;
  for (size_t i = 0; i < length.f.size(); ++i) {
    const auto m = static_cast<double>(i % 4);
    length.f[i] = 1 + m;
    length.jabs[i] = m == 3 ? 0 : 3 - m + 0.01 * static_cast<double>(i / 4);
    length.jsgn[i] = -length.jabs[i];
  }
  profile.lengths[250] = length;
  return profile;
}

TEST(InfluenceProfile, CurvesAreMeansOverItemsAndSumsOverHeads) {
  const InfluenceProfile profile = SmallProfile();
  const auto& jabs = profile.lengths.at(250).jabs;
  const auto at = [&](int64_t half, int64_t head, int64_t m) {
    return jabs[static_cast<size_t>(profile.At(half, 1, head, 250) + m)];
  };
  for (int64_t m = 0; m < 4; ++m) {
    const auto i = static_cast<size_t>(m);
    EXPECT_DOUBLE_EQ(profile.Curve(Estimator::kJabs, 250, 1, 4)[i], (at(0, 4, m) + at(1, 4, m)) / 3);
    EXPECT_DOUBLE_EQ(profile.Curve(Estimator::kJabs, 250, 1, 4, ProfileHalf::kEven)[i], at(0, 4, m) / 2);
    EXPECT_DOUBLE_EQ(profile.Curve(Estimator::kJabs, 250, 1, 4, ProfileHalf::kOdd)[i], at(1, 4, m));
    EXPECT_NEAR(profile.UnitCurve(Estimator::kJabs, 250, 1, 2)[i],
                (at(0, 4, m) + at(1, 4, m) + at(0, 5, m) + at(1, 5, m)) / 3, 1e-15);
    EXPECT_DOUBLE_EQ(profile.Curve(Estimator::kJsgn, 250, 1, 4)[i], -profile.Curve(Estimator::kJabs, 250, 1, 4)[i]);
  }
  EXPECT_EQ(profile.Curve(Estimator::kJabs, 250, 1, 4)[4], 0);
  // Bins 1, 2, 3, 4 in each half, three items: what is masked from m on.
  EXPECT_EQ(profile.Curve(Estimator::kF, 250, 0, 0), (std::vector<double>{20.0 / 3, 18.0 / 3, 14.0 / 3, 8.0 / 3, 0}));
  EXPECT_NEAR(profile.HalfCorrelation(Estimator::kJabs, 250), 1, 0.2);
}

TEST(InfluenceProfile, AWholeWindowCostsNothing) {
  ModelConfig c = HydraNano();
  c.attention.window = 100;
  InfluenceProfile profile;
  profile.dense = AttentionPlan::Dense(c);
  InfluenceProfile::Length length = profile.Empty(256);
  length.items = {1, 1};
  std::fill(length.jabs.begin(), length.jabs.end(), 1.0);
  profile.lengths[256] = length;
  EXPECT_EQ(profile.Curve(Estimator::kJabs, 256, 2, 0), (std::vector<double>{1, 1, 0, 0, 0}));
  profile.lengths[256].items = {1, 0};  // nothing to compare with
  EXPECT_TRUE(std::isnan(profile.HalfCorrelation(Estimator::kJabs, 256)));
}

TEST(InfluenceProfile, ComesBackFromItsFile) {
  const TempDir dir;
  InfluenceProfile profile = SmallProfile();
  profile.lengths[64] = profile.Empty(64);
  profile.Save(dir / "profile.safetensors");
  const InfluenceProfile read = InfluenceProfile::Load(dir / "profile.safetensors");
  EXPECT_EQ(read.dense.Text(), profile.dense.Text());
  EXPECT_EQ(read.items_sha256, profile.items_sha256);
  ASSERT_EQ(read.lengths.size(), 2U);
  for (const auto& [N, want] : profile.lengths) {
    const InfluenceProfile::Length& got = read.lengths.at(N);
    EXPECT_EQ(got.items, want.items);
    EXPECT_EQ(got.f, want.f);
    EXPECT_EQ(got.jabs, want.jabs);
    EXPECT_EQ(got.jsgn, want.jsgn);
    EXPECT_EQ(got.losses, want.losses);
    EXPECT_EQ(got.ids, want.ids);
    EXPECT_EQ(got.guarded, want.guarded);
  }
}

TEST(InfluenceProfile, BadFilesAreRefusedByField) {
  const TempDir dir;
  const std::string good = dir / "good.safetensors", path = dir / "bad.safetensors";
  SmallProfile().Save(good);
  const auto refused = [&](const std::function<void(SafeTensorsMetadata&, std::vector<TensorView>&)>& damage,
                           std::initializer_list<std::string_view> parts, ErrorCode code = ErrorCode::kFormat) {
    const SafeTensors file = SafeTensors::Open(good);
    SafeTensorsMetadata metadata = file.metadata();
    std::vector<TensorView> tensors = file.tensors();
    damage(metadata, tensors);
    WriteSafeTensors(path, tensors, metadata);
    ExpectError([&] { (void)InfluenceProfile::Load(path); }, code, parts);
  };
  const auto lengths = [](SafeTensorsMetadata& m, const std::function<void(Json&)>& change) {
    Json json = Json::parse(m["lengths"]);
    change(json);
    m["lengths"] = json.dump();
  };
  refused([](auto& m, auto&) { m["format"] = "pt"; }, {path, "format = \"pt\"", "hydralm-profile/1"});
  refused([](auto& m, auto&) { m.erase("items_sha256"); }, {path, "items_sha256 is missing"});
  refused([](auto& m, auto&) { m["model"] = "{}"; }, {path, "__metadata__.model", "format is missing"});
  refused([&](auto& m, auto&) { lengths(m, [](Json& j) { j["1k"] = 1; }); }, {path, "lengths.1k", "a length"});
  refused([&](auto& m, auto&) { lengths(m, [](Json& j) {
                                  j["250"]["items"] = {3, 0};
                                }); },
          {path, "lengths.250.items = [3,0]", "3 items"});
  refused([&](auto& m, auto&) { lengths(m, [](Json& j) { j["250"].erase("losses"); }); }, {"losses is missing"});
  refused([](auto&, auto& t) { t.pop_back(); }, {path, "influence.250."}, ErrorCode::kTensor);
  refused([](auto&, auto& t) { t[0].shape = {2, 2, 3, 8}; }, {path, "influence.250.", "must be F64 [2, 2, 6, 4]"});
  const std::vector<double> nan(96, std::nan(""));
  refused([&](auto&, auto& t) { t[0].data = reinterpret_cast<const std::byte*>(nan.data()); },
          {path, "influence.250.", "not finite"});
}

TEST(InfluenceProfile, EstimatorsHaveNames) {
  for (const Estimator e : {Estimator::kJabs, Estimator::kJsgn, Estimator::kF})
    EXPECT_EQ(ParseEstimator(EstimatorName(e), "--estimator"), e);
  ExpectError([] { (void)ParseEstimator("abs", "--estimator"); }, ErrorCode::kUsage, {"--estimator abs", "jabs"});
}

}  // namespace
}  // namespace hydra
