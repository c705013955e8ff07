// SPDX-License-Identifier: Apache-2.0
// Controls of one sequence change no other sequence of its batch. Not here: what each does (golden_test.cc), which are
// refused (model/controls_test.cc).
#include "hydra/base/testing.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::LogitsInPieces;
using testing::RandomIds;

// One sequence for each control, and one without any.
std::vector<Controls> Mixed() {
  return {{.path_scale = {1, 0, 1}}, {},
          {.path_scale = {0, 1, 1}}, {.path_scale = {1, 1, 0}},
          {.path_scale = {2, 0, 0}}, {.workspace_read = 0, .pkm_read = 0},
          {.landmarks = false},      {.moe_top_k = 3},
          {.force_experts = {5, 1}}, {.router_temperature = 0.5, .ban_experts = {0, 2}}};
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
