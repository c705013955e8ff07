// SPDX-License-Identifier: Apache-2.0
// How activations enter products (--act): what auto becomes, and what rounding to bf16 changes. Int8 blocks are seen in
// other tests of the runtime.
#include <algorithm>
#include <cmath>

#include "hydra/kernels/target.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;
using testing::RandomSource;

Model Of(const testing::Case& c, WeightType type, Activations act) {
  return BuildModel(RandomSource(c.config, 91, type), {.ctx_size = 256, .kv_dtype = KvDtype::kF32, .act = act});
}

TEST(Activations, AutoFollowsTheWeights) {
  const testing::Case c = testing::Cases()[3];
  const Activations bf16 = kernels::HasBf16Dots() ? Activations::kBF16 : Activations::kF32;
  EXPECT_EQ(Of(c, WeightType::kQ8_0, Activations::kAuto).options().act, Activations::kQ8);
  EXPECT_EQ(Of(c, WeightType::kBF16, Activations::kAuto).options().act, bf16);
  EXPECT_EQ(Of(c, WeightType::kF16, Activations::kAuto).options().act, Activations::kF32);
  EXPECT_EQ(Of(c, WeightType::kF32, Activations::kAuto).options().act, Activations::kF32);
  EXPECT_EQ(Of(c, WeightType::kF32, Activations::kBF16).options().act, bf16);  // on request, where it can be had
  EXPECT_EQ(Of(c, WeightType::kBF16, Activations::kF32).options().act, Activations::kF32);
}

// A prompt is rounded, a step is not; the difference is that of 8 bits.
TEST(Activations, Bf16RoundsPromptsAlone) {
  ThreadPool pool(2);
  for (const testing::Case& c : testing::Cases())
    for (const WeightType type : {WeightType::kBF16, WeightType::kF16}) {
      SCOPED_TRACE(c.name + " " + std::string(Info(type).name));
      const Model exact = Of(c, type, Activations::kF32), rounded = Of(c, type, Activations::kBF16);
      const auto ids = RandomIds(64, c.config.vocab_size, 92);
      const auto logits = [&](const Model& model, std::vector<int64_t> pieces) {
        SequenceState state(model);
        return LogitsInPieces(model, state, ids, pieces, pool);
      };
      ExpectSameBits(logits(rounded, {1}), logits(exact, {1}));
      const auto want = logits(exact, {64}), got = logits(rounded, {64});
      double error = 0, norm = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
      }
      EXPECT_LT(std::sqrt(error / norm), 0.03);
      EXPECT_EQ(error > 0, kernels::HasBf16Dots());
    }
}

}  // namespace
}  // namespace hydra
