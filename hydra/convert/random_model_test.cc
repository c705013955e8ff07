// SPDX-License-Identifier: Apache-2.0
// Random models run, and what loading them copies is known before.
#include "hydra/convert/random_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "hydra/model/config.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/testing.h"

namespace hydra::random_model_test {  // tests share units
namespace {

using namespace hydra::testing;

TEST(RandomWeights, RunAndHaveTheWantedTypes) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBF16, WeightType::kQ8_0, WeightType::kQ4_K}) {
    const WeightSource source = RandomWeights(HydraNano(), {.type = type, .seed = 3});
    const TensorTable table(source.config);
    const StoredTensor embedding = source.tensor(*table.Find(TensorRole::kEmbedding));
    const bool whole = HydraNano().d_model % Info(type).block == 0;
    EXPECT_EQ(embedding.type, whole ? type : WeightType::kQ8_0);
    EXPECT_EQ(source.tensor(*table.Find(TensorRole::kFinalNorm)).type, WeightType::kF32);
    const Model model = BuildModel(source);
    SequenceState state(model);
    ThreadPool pool(1);
    ForwardScratch scratch;
    const auto logits = model.Prefill(state, RandomIds(40, HydraNano().vocab_size, 1), pool, scratch);
    EXPECT_TRUE(std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }));
    EXPECT_NE(*std::max_element(logits.begin(), logits.end()), *std::min_element(logits.begin(), logits.end()));
  }
}

TEST(PackedCopyBytes, AreWhatLoadingMakes) {
  ModelConfig odd = SmallBlockFfn(false);  // down matrices whose blocks would cross
  odd.moe.d_expert = 48;
  for (const ModelConfig& config :
       {HydraNano(), TransformerNano(), MambaNano(), SmallBlockFfn(false), SmallBlockFfn(true), odd})
    for (const WeightType type :
         {WeightType::kF32, WeightType::kBF16, WeightType::kQ8_0, WeightType::kQ4_1, WeightType::kQ4_K}) {
      const WeightSource source = RandomWeights(config, {.type = type});
      EXPECT_EQ(PackedCopyBytes(source), BuildModel(source).weights().packed_bytes)
          << FamilyName(config.family) << Info(type).name;
    }
}

}  // namespace
}  // namespace hydra::random_model_test
