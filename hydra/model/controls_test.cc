// SPDX-License-Identifier: Apache-2.0
// Controls that a model has no part for are refused by name, and so are numbers that f32 cannot hold. Not here: what
// controls do (runtime), their text form (tests/commands/run_flags_test.py).
#include "hydra/model/controls.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

struct Named {
  const char* name;
  Controls controls;
};

// Every control, away from its default.
std::vector<Named> Each() {
  return {{"path_scale", {.path_scale = {1, 0, 1}}},
          {"workspace_read", {.workspace_read = 0}},
          {"pkm_read", {.pkm_read = 0.5}},
          {"landmarks", {.landmarks = false}},
          {"router_temperature", {.router_temperature = 2}},
          {"moe_top_k", {.moe_top_k = 1}},
          {"force_experts", {.force_experts = {1}}},
          {"ban_experts", {.ban_experts = {0}}},
          {"expert_bias", {.expert_bias = std::vector<double>(8, 0.5)}},
          {"pins", {.pins = {3, 17}}}};
}

void ExpectControlRefused(const Controls& controls, const ModelConfig& config,
                          std::initializer_list<std::string_view> parts) {
  ExpectError([&] { controls.Validate(config); }, ErrorCode::kUsage, parts);
}

TEST(Controls, AModelThatHasEveryPartTakesEach) {
  const ModelConfig config = HydraNano();
  Controls().Validate(config);
  for (const Named& one : Each()) {
    EXPECT_EQ(WhyControlIsIgnored(one.name, config), "") << one.name;
    one.controls.Validate(config);
  }
}

TEST(Controls, ModelsWithoutPartsRefuseEachByName) {
  for (const ModelConfig& config : {TransformerNano(), MambaNano()}) {
    Controls().Validate(config);
    for (const Named& one : Each()) {
      SCOPED_TRACE(one.name);
      EXPECT_NE(WhyControlIsIgnored(one.name, config), "");
      ExpectControlRefused(one.controls, config, {StrCat("--control ", one.name, "="), "this model"});
    }
  }
}

TEST(Controls, APartThatIsMissingIsRefused) {
  const auto without = [](const std::function<void(LayerConfig&)>& take) {
    ModelConfig config = HydraNano();
    for (LayerConfig& layer : config.layers) take(layer);
    return config;
  };
  const ModelConfig no_experts = without([](LayerConfig& l) { l.ffn = FfnKind::kNone; });
  ExpectControlRefused({.path_scale = {1, 1, 0}}, no_experts, {"path_scale", "no path moe"});
  Controls{.path_scale = {1, 0, 1}}.Validate(no_experts);
  ExpectControlRefused({.force_experts = {1}}, no_experts, {"force_experts=1", "no chunk-routed experts"});
  const ModelConfig no_attention = without([](LayerConfig& l) { l.attention = AttentionKind::kNone; });
  ExpectControlRefused({.path_scale = {1, 2, 1}}, no_attention, {"path_scale=2", "no path sga"});
  ExpectControlRefused({.landmarks = false}, no_attention, {"landmarks=off", "no landmarks"});
  ExpectControlRefused({.path_scale = {0, 1, 1}}, without([](LayerConfig& l) { l.ssm = false; }), {"no path ssm"});
  ExpectControlRefused({.workspace_read = 0}, without([](LayerConfig& l) { l.workspace = false; }), {"no workspace"});
  ExpectControlRefused({.pkm_read = 0}, without([](LayerConfig& l) { l.pkm = false; }), {"no product-key memory"});
  ModelConfig window = HydraNano();
  window.attention.landmark_budget = 0;
  ExpectControlRefused({.landmarks = false}, window, {"no landmarks"});
}

TEST(Controls, ExpertsInTurnRefuseWhatTheyWouldIgnore) {
  ModelConfig config = HydraNano();
  config.moe.mode = RouterMode::kRoundRobin;
  Controls{.moe_top_k = 1}.Validate(config);
  for (const char* name : {"router_temperature", "force_experts", "ban_experts", "expert_bias"})
    for (const Named& one : Each())
      if (std::string_view(one.name) == name) ExpectControlRefused(one.controls, config, {name, "round_robin"});
}

TEST(Controls, NumbersAreThoseOfF32) {
  const ModelConfig config = HydraNano();
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity(), 1e-50, 1e39}) {
    SCOPED_TRACE(bad);
    ExpectControlRefused({.path_scale = {1, bad, 1}}, config, {"path_scale"});
    ExpectControlRefused({.workspace_read = bad}, config, {"workspace_read"});
    ExpectControlRefused({.pkm_read = bad}, config, {"pkm_read"});
    ExpectControlRefused({.router_temperature = bad}, config, {"router_temperature"});
    std::vector<double> bias(8, 0.0);
    bias[3] = bad;
    ExpectControlRefused({.expert_bias = bias}, config, {"expert_bias"});
  }
  ExpectControlRefused({.router_temperature = 1e-30}, config,
                       {"router_temperature", "or more"});  // its inverse overflows
  ExpectControlRefused({.router_temperature = -1}, config, {"router_temperature"});
  ExpectControlRefused({.pkm_read = -1}, config, {"pkm_read", "0 or more"});
}

TEST(Controls, TheJsonFormComesBackEqual) {
  for (const Named& one : Each()) EXPECT_EQ(ParseControlsJson(ControlsJson(one.controls), "x"), one.controls);
  ExpectError([] { (void)ParseControlsJson("[]", "x"); }, ErrorCode::kFormat, {"x", "object"});
  Controls layered{.moe_top_k = 1};
  layered.layers[2].ban_experts = {{1, 2}};
  layered.layers[2].router_temperature = 0.5;
  layered.layers[4].path_scale = {{1, 0, 1}};
  EXPECT_EQ(ParseControlsJson(ControlsJson(layered), "x"), layered);
  for (const auto& [text, part] : {std::pair(R"({"pinz": [1]})", "unknown control pinz"),
                                   {R"({"layers": [1]})", "x: layers"},
                                   {R"({"layers": {"2": {"landmarks": false}}})", "layers.2"}})
    ExpectError([text = text] { (void)ParseControlsJson(text, "x"); }, ErrorCode::kFormat, {part});
  ExpectError([] { (void)ParseControlsJson(R"({"layers": {"two": {}}})", "x"); }, ErrorCode::kUsage, {"x: layers.two"});
  ExpectError([] { (void)ParseControlsJson(R"({"layers": {"2": {"moe_top_k": "a"}}})", "x"); }, ErrorCode::kConfig,
              {"x: layers.2: moe_top_k"});
}

TEST(Controls, ADomainBansTheExpertsOutsideOfItsSet) {
  ModelConfig config = HydraNano();
  EXPECT_NE(WhyControlIsIgnored("domain", config), "");
  config.moe.domains = {{.name = "law", .experts = {0, 3}}, {.name = "code", .experts = {1, 2, 4, 5, 6, 7}}};
  EXPECT_EQ(WhyControlIsIgnored("domain", config), "");
  EXPECT_EQ(ExpertsOutside(config.moe, "law"), (std::vector<int64_t>{1, 2, 4, 5, 6, 7}));
  EXPECT_EQ(ExpertsOutside(config.moe, "code"), (std::vector<int64_t>{0, 3}));
  ExpectError([&] { (void)ExpertsOutside(config.moe, "lav"); }, ErrorCode::kUsage,
              {"domain=lav", "law,code", "did you mean law"});
}

TEST(Controls, ALayersOwnStandInThePlaceOfThoseOfAll) {
  Controls c{.pkm_read = 0.5, .moe_top_k = 1, .ban_experts = {7}};
  c.layers[1].ban_experts = {{1, 2}};
  c.layers[3].moe_top_k = 3;
  EXPECT_EQ(c.Of(0), (Controls{.pkm_read = 0.5, .moe_top_k = 1, .ban_experts = {7}}));
  EXPECT_EQ(c.Of(1), (Controls{.pkm_read = 0.5, .moe_top_k = 1, .ban_experts = {1, 2}}));
  EXPECT_EQ(c.Of(3), (Controls{.pkm_read = 0.5, .moe_top_k = 3, .ban_experts = {7}}));
}

TEST(Controls, ALayersOwnAreHeldToThatLayer) {
  const ModelConfig config = HydraNano();
  const auto refused = [&](int64_t layer, const LayerControls& own, std::initializer_list<std::string_view> parts) {
    Controls c;
    c.layers[layer] = own;
    ExpectControlRefused(c, config, parts);
  };
  int with = -1, without = -1;
  for (int i = 0; i < config.n_layers(); ++i)
    (config.layers[static_cast<size_t>(i)].ffn == FfnKind::kChunkMoe ? with : without) = i;
  ASSERT_GE(with, 0);
  ASSERT_GE(without, 0);
  Controls fine;
  fine.layers[with].ban_experts = {{1, 2}};
  fine.Validate(config);
  refused(without, {.ban_experts = {{1}}},
          {StrCat("--control ban_experts@", without, "=1"), "no chunk-routed experts"});
  refused(with, {.ban_experts = {{99}}}, {StrCat("ban_experts@", with, "=99"), "0 to 7"});
  refused(99, {.moe_top_k = 1}, {"moe_top_k@99=1", "layers are 0 to 5"});
  refused(with, {.moe_top_k = 9}, {StrCat("moe_top_k@", with, "=9")});
  fine.force_experts = {1};  // of all layers: banned in one
  ExpectControlRefused(fine, config, {StrCat("force_experts@", with, "=1"), "is banned"});
}

TEST(Controls, PinsArePositionsThatFitThePool) {
  ModelConfig config = HydraNano();
  config.attention.landmark_budget = 3;
  Controls{.pins = {0, 5, 9}}.Validate(config);
  ExpectControlRefused({.pins = {0, 5, 9, 11}}, config, {"pins=4 positions", "3 landmarks"});
  ExpectControlRefused({.pins = {5, 0}}, config, {"pins=5,0", "ascending"});
  ExpectControlRefused({.pins = {-1}}, config, {"pins=-1"});
  ExpectControlRefused({.landmarks = false, .pins = {1}}, config, {"pins=1", "landmarks are off"});
}

}  // namespace
}  // namespace hydra
