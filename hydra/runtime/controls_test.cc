// SPDX-License-Identifier: Apache-2.0
// Controls of one sequence change no other sequence of its batch, those of a layer no other layer, and pins stay. Not
// here: what each does (golden_test.cc), which are refused (model/controls_test.cc).
#include <algorithm>

#include "hydra/base/testing.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::LogitsInPieces;
using testing::RandomIds;

// Controls of single layers: one without its experts, others that choose differently.
Controls Layered() {
  Controls c{.moe_top_k = 1};
  c.layers[0] = {.moe_top_k = 3};
  c.layers[2] = {.path_scale = {{1, 1, 0}}};
  c.layers[3] = {.workspace_read = 0.5};
  c.layers[4] = {.ban_experts = {{1, 2}}};
  return c;
}

// One sequence for each control, and one without any.
std::vector<Controls> Mixed() {
  return {Layered(),
          {.pins = {2, 9, 20}},
          {.path_scale = {1, 0, 1}},
          {},
          {.path_scale = {0, 1, 1}},
          {.path_scale = {1, 1, 0}},
          {.path_scale = {2, 0, 0}},
          {.workspace_read = 0, .pkm_read = 0},
          {.landmarks = false},
          {.moe_top_k = 3},
          {.force_experts = {5, 1}},
          {.router_temperature = 0.5, .ban_experts = {0, 2}}};
}

// Steps only: a step has the same bits in any batch.
TEST(ControlsOfABatch, AreEachSequencesOwn) {
  for (const SsmKind kind : {SsmKind::kMamba2, SsmKind::kDiagonal}) {
    ModelConfig config = HydraNano();
    config.vocab_size = 128;
    config.attention.landmark_budget = 6;
    config.ssm.kind = kind;
    const Model model = testing::BuildModel(testing::RandomSource(config, 5));
    const std::vector<Controls> all = Mixed();
    constexpr size_t kSteps = 36;  // more than a chunk
    ThreadPool pool(2);
    std::vector<std::vector<int32_t>> ids;
    std::vector<std::vector<float>> alone;
    std::vector<SequenceState> states;
    for (size_t i = 0; i < all.size(); ++i) {
      ids.push_back(RandomIds(kSteps, config.vocab_size, 40 + i));
      SequenceState state(model, all[i]);
      alone.push_back(LogitsInPieces(model, state, ids[i], {1}, pool));
      states.emplace_back(model, all[i]);
    }
    ForwardScratch scratch;
    const auto V = static_cast<size_t>(config.vocab_size);
    for (size_t step = 0; step < kSteps; ++step) {
      std::vector<Segment> segments;
      for (size_t i = 0; i < all.size(); ++i) segments.push_back({&states[i], std::span(ids[i]).subspan(step, 1)});
      const auto logits = model.Forward(segments, pool, scratch);
      for (size_t i = 0; i < all.size(); ++i)
        ASSERT_EQ(std::memcmp(logits.data() + i * V, alone[i].data() + step * V, V * sizeof(float)), 0)
            << "sequence " << i << ", step " << step;
    }
  }
}

// The pinned positions are in the pool from the end of their chunk on, whatever their scores, and others are not.
TEST(Pins, StayInThePool) {
  ModelConfig config = HydraNano();
  config.vocab_size = 128;
  config.attention.landmark_budget = 6;
  const Model model = testing::BuildModel(testing::RandomSource(config, 7));
  ThreadPool pool(2);
  const auto ids = RandomIds(400, config.vocab_size, 8);
  const Controls controls{.pins = {3, 4, 100, 310}};
  const auto positions = [&](SequenceState& state) {
    std::vector<std::vector<int32_t>> all;
    for (int layer = 0; layer < config.n_layers(); ++layer) {
      const BlockOffsets& at = state.layout().blocks[static_cast<size_t>(layer)];
      if (at.pools.empty()) continue;
      const int32_t* pos = state.At<int32_t>(at.pool_pos);
      all.emplace_back(pos, pos + state.pool_size(layer));
      std::ranges::sort(all.back());
    }
    return all;
  };
  SequenceState pinned(model, controls), free(model), steps(model, controls);
  (void)LogitsInPieces(model, pinned, ids, {133}, pool);
  (void)LogitsInPieces(model, free, ids, {133}, pool);
  (void)LogitsInPieces(model, steps, ids, {1}, pool);
  const auto with = positions(pinned), without = positions(free);
  ASSERT_FALSE(with.empty());
  EXPECT_EQ(with, positions(steps));
  for (size_t i = 0; i < with.size(); ++i) {
    EXPECT_EQ(with[i].size(), 6U);
    for (const int64_t pin : controls.pins)
      EXPECT_NE(std::ranges::find(with[i], static_cast<int32_t>(pin)), with[i].end()) << pin;
  }
  EXPECT_NE(with, without);  // or the test shows nothing
  // A pin whose chunk is read comes too late; one that is held may stay.
  ExpectError([&] { pinned.SetControls({.pins = {3, 4, 5, 100, 310}}); }, ErrorCode::kUsage, {"pins=5"});
  pinned.SetControls({.pins = {3, 100, 310, 405}});
}

TEST(ControlsOfALayer, ChangeThatLayerAlone) {
  ModelConfig config = HydraNano();
  config.vocab_size = 128;
  const Model model = testing::BuildModel(testing::RandomSource(config, 9));
  ThreadPool pool(1);
  const auto ids = RandomIds(40, config.vocab_size, 10);
  const auto logits = [&](const Controls& controls) {
    SequenceState state(model, controls);
    return LogitsInPieces(model, state, ids, {40}, pool);
  };
  Controls each;  // the same in every layer that has experts is the same for all
  for (int64_t i = 0; i < config.n_layers(); ++i)
    if (config.layers[static_cast<size_t>(i)].ffn == FfnKind::kChunkMoe) each.layers[i] = {.ban_experts = {{0, 3}}};
  testing::ExpectSameBits(logits(each), logits({.ban_experts = {0, 3}}));
  Controls one = each;
  one.layers.erase(std::prev(one.layers.end()));
  EXPECT_NE(logits(one), logits(each));
  EXPECT_NE(logits(one), logits({}));
}

TEST(ControlsOfABatch, ADenseModelTakesNone) {
  ModelConfig config = TransformerNano();
  config.layers.resize(2);
  const Model model = testing::BuildModel(testing::RandomSource(config, 6));
  ExpectError([&] { SequenceState state(model, {.path_scale = {1, 0, 1}}); }, ErrorCode::kUsage, {"path_scale=1,0,1"});
  SequenceState state(model);
  ExpectError([&] { state.SetControls({.landmarks = false}); }, ErrorCode::kUsage, {"landmarks=off"});
}

}  // namespace
}  // namespace hydra
