// SPDX-License-Identifier: Apache-2.0
// Plans: spans by hand, densities by counting, files there and back, each kind of bad file, other models refused.
#include "hydra/model/attention_plan.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

// Two layers, 6 heads, 3 KV heads.
ModelConfig Llama() {
  ModelConfig c = TransformerNano();
  c.attention.n_heads = 6;
  c.attention.n_kv_heads = 3;
  c.layers.resize(2);
  return c;
}

AttentionPlan Plan() {
  AttentionPlan plan = AttentionPlan::Dense(Llama());
  plan.name = "a";
  plan.layers[0].rules = {{-64, 0.25}, {0, 0.5}, {512, 0}};
  plan.layers[1].rules = {{0, 1}, {-1024, 1}, {100.5, 0.125}};
  plan.bounds[1024] = 0.5;
  plan.density[1024] = plan.Density(1024);
  plan.SetNote("solver", R"({"name": "greedy"})");
  plan.SetNote("comment", R"(["kept", 1])");
  return plan;
}

TEST(AttentionPlan, SpansAreRoundedUpToBlocksAndHeldBetweenTwoBlocksAndTheText) {
  const LayerPlan with_sinks{.n_sinks = 64}, none{.n_sinks = 0};
  struct Row {
    double alpha, beta;
    int64_t n, span;
  };
  for (const Row& row :
       {Row{0, 1, 1024, 1024}, Row{0, 1, 1000, 1024}, Row{0, 1, 1, 128}, Row{0, 0.5, 1024, 512}, Row{0, 0.5, 1000, 512},
        Row{0, 0.5, 1026, 576}, Row{-4096, 1, 1024, 128}, Row{128.9, 0, 1024, 128}, Row{129, 0, 1024, 192},
        Row{1e9, 0, 1024, 1024}, Row{-1e9, 0, 1024, 128}, Row{0, 0.125, 8192, 1024}, Row{512, 0.125, 8192, 1536},
        Row{-1024, 1, 6144, 5120}}) {
    EXPECT_EQ(SpanOf({row.alpha, row.beta}, with_sinks, 64, row.n), row.span)
        << row.alpha << " + " << row.beta << " * " << row.n;
  }
  EXPECT_EQ(SpanOf({0, 0}, none, 64, 1024), 64);
  EXPECT_EQ(SpanOf({0, 0}, {.n_sinks = 0, .window = 48}, 64, 1024), 48);
  EXPECT_EQ(SpanOf({0, 1}, {.n_sinks = 0, .window = 256}, 64, 4096), 256);
  EXPECT_EQ(SpanOf({0, 0}, {.n_sinks = 0, .window = 256, .least_window = 100}, 64, 4096), 128);
}

TEST(AttentionPlan, DensitiesAreWhatCountingGives) {
  AttentionPlan plan = Plan();
  const int64_t n = 1024;
  double kept = 0, pairs = 0;
  int64_t rows = 0;
  for (int layer = 0; layer < 2; ++layer)
    for (int64_t h = 0; h < 3; ++h) {
      const int64_t span = plan.Span(layer, h, n), window = span - 64;
      rows += span;
      int64_t seen = 0;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j <= i; ++j) seen += j < 64 || i - j < window ? 1 : 0;
      pairs += static_cast<double>(seen) / (static_cast<double>(n) * (n + 1) / 2) / 6;
      kept += static_cast<double>(span) / n / 6;
    }
  EXPECT_NEAR(plan.Density(n), kept, 1e-12);
  EXPECT_NEAR(plan.PairDensity(n), pairs, 1e-12);
  EXPECT_EQ(plan.KvRows(n), rows);
  EXPECT_EQ(plan.n_units(), 6);
  EXPECT_DOUBLE_EQ(AttentionPlan::Dense(Llama()).Density(777), 1);
  EXPECT_DOUBLE_EQ(AttentionPlan::Dense(Llama()).PairDensity(777), 1);
}

TEST(AttentionPlan, QueryHeadsOfAGroupShareTheWidestRing) {
  AttentionPlan plan = AttentionPlan::Dense(Llama());
  plan.unit = PlanUnit::kHead;
  for (LayerPlan& layer : plan.layers) {
    layer.rules.assign(6, {0, 0.25});
    layer.rules[3] = {0, 0.5};
  }
  EXPECT_EQ(plan.HeadSpan(0, 2, 1024), 256);
  EXPECT_EQ(plan.HeadSpan(0, 3, 1024), 512);
  EXPECT_EQ(plan.Span(0, 0, 1024), 256);
  EXPECT_EQ(plan.Span(0, 1, 1024), 512);
  EXPECT_NEAR(plan.HeadDensity(1024), 0.25 + 0.25 / 6, 1e-12);
  EXPECT_NEAR(plan.Density(1024), 1.0 / 3, 1e-12);
}

TEST(AttentionPlan, FillingsAreRingsOfTheSpan) {
  const AttentionPlan plan = Plan();
  const KvPlan fillings = plan.Fillings(1024);
  for (int layer = 0; layer < 2; ++layer)
    for (int64_t h = 0; h < 3; ++h) {
      const auto filling = fillings(layer, h);
      EXPECT_EQ(filling->Rows(4096), plan.Span(layer, h, 1024));
      EXPECT_EQ(filling->sinks(), 64);
      EXPECT_EQ(filling->window(), plan.Span(layer, h, 1024) - 64);
    }
}

TEST(AttentionPlan, AHydraModelHasUnitsWhereItHasAttention) {
  const ModelConfig c = HydraNano();
  const AttentionPlan plan = AttentionPlan::Dense(c);
  const KvPlan fillings = plan.Fillings(4096);
  for (int i = 0; i < static_cast<int>(c.n_layers()); ++i) {
    const bool attention = c.layers[static_cast<size_t>(i)].attention != AttentionKind::kNone;
    EXPECT_EQ(plan.Span(i, 0, 4096), attention ? c.attention.window : 0);
    EXPECT_EQ(fillings(i, 0) != nullptr, attention);
    if (attention) EXPECT_EQ(plan.layers[static_cast<size_t>(i)].least_window, c.chunk_len);
  }
  ModelConfig latent = BlockFfnNano();
  latent.layers[1].attention = AttentionKind::kLatent;
  ExpectError([&] { (void)AttentionPlan::Dense(latent); }, ErrorCode::kConfig, {"layers.", "latent"});
}

TEST(AttentionPlan, ComesBackFromItsFile) {
  const TempDir dir;
  const std::string path = dir / "plan.json";
  for (const bool hydra : {false, true}) {
    const ModelConfig config = hydra ? HydraNano() : Llama();
    AttentionPlan plan = hydra ? AttentionPlan::Dense(config) : Plan();
    if (hydra) plan.layers[2].rules[0] = {64, 0.125};
    plan.Save(path);
    const AttentionPlan read = AttentionPlan::Load(path, config);
    EXPECT_EQ(read.layers, plan.layers);
    EXPECT_EQ(read.Text(), plan.Text());
    EXPECT_EQ(read.RulesSha256(), plan.RulesSha256());
    EXPECT_EQ(AttentionPlan::Load(path).Text(), plan.Text());
  }
  Plan().Save(path);
  EXPECT_EQ(AttentionPlan::Load(path).Note("comment"), R"(["kept",1])");
  EXPECT_EQ(AttentionPlan::Load(path).Note("validation"), "");
  AttentionPlan other = Plan();
  other.layers[1].rules[2].alpha += 1;
  EXPECT_NE(other.RulesSha256(), Plan().RulesSha256());
  other = Plan();
  other.name = "b";
  EXPECT_EQ(other.RulesSha256(), Plan().RulesSha256());
}

TEST(AttentionPlan, BadFilesAreRefusedByFieldLayerAndHead) {
  const TempDir dir;
  const std::string path = dir / "plan.json";
  const auto refused = [&](const char* name, const std::function<void(Json&)>& damage, const std::string& field,
                           std::vector<std::string> found) {
    Json json = Json::parse(Plan().Text());
    damage(json);
    WriteFileAtomic(path, json.dump());
    ExpectBadFile({.format = "plans", .name = name, .file = path, .field = field, .found = std::move(found)},
                  [&] { (void)AttentionPlan::Load(path); });
  };
  refused("bad-version", [](Json& j) { j["format"] = "hydralm-plan/9"; }, "format",
          {"hydralm-plan/9", "hydralm-plan/1"});
  refused("", [](Json& j) { j.erase("betas"); }, "betas", {"missing"});
  refused("", [](Json& j) { j["alphas"][1][2] = "NaN"; }, "alphas, layer 1, head 2", {"NaN", "number"});
  refused("", [](Json& j) { j["betas"][0][1] = 1.5; }, "betas, layer 0, head 1", {"1.5", "0 to 1"});
  refused("beta-nan", [](Json& j) { j["betas"][1][0] = "NaN"; }, "betas, layer 1, head 0", {"NaN", "0 to 1"});
  refused("alpha-huge", [](Json& j) { j["alphas"][0][1] = 1e12; }, "alphas, layer 0, head 1", {"from -1e+09 to 1e+09"});
  refused("units-miscounted", [](Json& j) { j["alphas"][1].erase(2); }, "alphas, layer 1",
          {"2 heads", "3 KV heads or 6"});
  refused("", [](Json& j) { j["betas"][1] = Json::array(); }, "betas, layer 1", {"0 heads", "alphas has, 3"});
  refused("layers-miscounted", [](Json& j) { j["alphas"].erase(1); }, "alphas", {"1 layers", "n_layers = 2"});
  refused("", [](Json& j) { j["n_sinks"] = 32; }, "n_sinks", {"32", "0 or block_size = 64"});
  refused("", [](Json& j) { j["n_sinks"] = {64, -1}; }, "n_sinks, layer 1", {"-1"});
  refused("", [](Json& j) { j["n_sinks"] = {64}; }, "n_sinks", {"1 layers"});
  refused("", [](Json& j) { j["windows"] = {0, 100}; }, "n_sinks, layer 1", {"64", "0 where"});
  refused("", [](Json& j) { j["least_windows"] = {1, 0}; }, "least_windows, layer 0", {"at most the window, 0"});
  refused("", [](Json& j) { j["unit"] = "row"; }, "unit", {"row", "kv-head, head or layer"});
  refused("", [](Json& j) { j["model"]["n_kv_heads"] = 4; }, "model.n_heads", {"6", "multiple of n_kv_heads = 4"});
  refused("", [](Json& j) { j["model"]["n_heads"] = 0; }, "model.n_heads", {"0", "from 1"});
  refused("", [](Json& j) { j["model"]["n_heads"] = 6.5; }, "model.n_heads", {"6.5", "whole number"});
  refused("", [](Json& j) { j["model"]["config_sha256"] = "abc"; }, "model.config_sha256", {"abc", "64"});
  refused("", [](Json& j) { j["bounds"]["1k"] = 1; }, "bounds.1k", {"a length in tokens"});
  refused("", [](Json& j) { j["density"]["1024"] = "x"; }, "density.1024", {"x", "a number"});
  refused("", [](Json& j) { j["solver"] = 1; }, "solver", {"1", "an object"});
  refused("", [](Json& j) { j.erase("format"); }, "format", {"missing", "bare form", "-m"});
  WriteFileAtomic(path, std::string_view("[1]"));
  ExpectError([&] { (void)AttentionPlan::Load(path); }, ErrorCode::kFormat, {path, "must be a JSON object"});
}

TEST(AttentionPlan, TheBareFormTakesTheModelsShapes) {
  const TempDir dir;
  const std::string path = dir / "bare.json";
  const auto load = [&](const std::string& alphas, const std::string& betas) {
    WriteFileAtomic(path, R"({"alphas": )" + alphas + R"(, "betas": )" + betas + "}");
    return AttentionPlan::Load(path, Llama());
  };
  const AttentionPlan kv = load("[[0, 64, -64], [1, 2, 3]]", "[[1, 0, 0.5], [0, 0, 0]]");
  EXPECT_EQ(kv.unit, PlanUnit::kKvHead);
  EXPECT_EQ(kv.layers[0].n_sinks, 64);
  EXPECT_EQ(kv.Span(0, 2, 1024), 448);
  const AttentionPlan heads = load("[[0,0,0,0,0,0],[0,0,0,0,0,0]]", "[[1,0,0,0,0,0.5],[0,0,0,0,0,0]]");
  EXPECT_EQ(heads.unit, PlanUnit::kHead);
  EXPECT_EQ(heads.Span(0, 0, 1024), 1024);
  EXPECT_EQ(heads.Span(0, 1, 1024), 128);
  EXPECT_EQ(heads.Span(0, 2, 1024), 512);
  ExpectError([&] { (void)load("[[0, 0], [0, 0]]", "[[0, 0], [0, 0]]"); }, ErrorCode::kFormat,
              {"layer 0: 2 heads", "3 KV heads or 6 heads"});
  ExpectError([&] { (void)load("[[0, 0, 0]]", "[[0, 0, 0]]"); }, ErrorCode::kFormat, {"1 layers", "n_layers = 2"});
  ExpectError([&] { (void)load("[[0,0,0],[]]", "[[0,0,0],[]]"); }, ErrorCode::kUsage, {"layer 1: rules = 0"});
}

TEST(AttentionPlan, OtherModelsAreRefusedWithTheReason) {
  const AttentionPlan plan = Plan();
  const auto refused = [&](const std::function<void(ModelConfig&)>& change,
                           std::initializer_list<std::string_view> parts) {
    ModelConfig c = Llama();
    change(c);
    ExpectError([&] { plan.Check(c, "p.json"); }, ErrorCode::kUsage, parts);
  };
  plan.Check(Llama(), "p.json");
  refused([](ModelConfig& c) { c.layers.resize(1); }, {"p.json: made for another model", "n_layers = 2", "has 1"});
  refused([](ModelConfig& c) { c.attention.n_kv_heads = 6; }, {"n_kv_heads = 3, this one has 6"});
  refused([](ModelConfig& c) { c.attention.rope_theta = 5e5; }, {"rope_theta = \"10000\", this one has \"500000\""});
  refused([](ModelConfig& c) { c.d_ff += 64; }, {"intermediate_size = "});
  ExpectBadFile({.format = "plans",
                 .name = "other-model",
                 .file = "p.json",
                 .field = "made for another model",
                 .found = {"n_layers = 2"},
                 .code = ErrorCode::kUsage},
                [&] { plan.Check(TransformerNano(), "p.json"); });
  // What files of one model say differently.
  ModelConfig same = Llama();
  same.dtype = DType::kF16;
  same.vocab_size += 64;
  same.norm_eps = static_cast<float>(same.norm_eps);
  same.attention.rope_theta = static_cast<float>(same.attention.rope_theta);
  same.max_position_embeddings *= 2;
  plan.Check(same, "p.json");
  EXPECT_EQ(plan.WeightsWarning(std::string(64, 'a'), "p.json"), "");
  AttentionPlan known = plan;
  known.model.weights_sha256 = std::string(64, 'b');
  EXPECT_EQ(known.WeightsWarning(std::string(64, 'b'), "p.json"), "");
  EXPECT_NE(known.WeightsWarning(std::string(64, 'a'), "p.json").find("other weights"), std::string::npos);
}

TEST(AttentionPlan, LengthsAreRoundedUpAndHeldToTheContext) {
  EXPECT_EQ(PlanLength(1000, 64, 8192), 1024);
  EXPECT_EQ(PlanLength(1024, 64, 8192), 1024);
  EXPECT_EQ(PlanLength(1025, 1024, 8192), 2048);
  EXPECT_EQ(PlanLength(9000, 64, 8192), 8192);
  EXPECT_EQ(PlanLength(0, 64, 8192), 64);
}

}  // namespace
}  // namespace hydra
