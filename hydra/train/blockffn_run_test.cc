// SPDX-License-Identifier: Apache-2.0
// Whole runs of models with BlockFFN's layers: they go on bit for bit, their sparsity is in the log, and the terms of
// the loss do what they are for. Not here: the terms (nn/blockffn_test.cc), their weights (factor_scheduler_test.cc).
#include <gtest/gtest.h>

#include "hydra/base/testing.h"
#include "hydra/train/testing_run.h"

namespace hydra::train {
namespace {

using testing::ExpectSameRun;
using testing::Options;

// Two layers of the family, with latent attention where asked; `keys` change it.
ModelConfig TinyFamily(bool latent, const std::string& keys = "{}") {
  ModelConfig model = latent ? BlockFfnSmall() : BlockFfnNano();
  model.vocab_size = 64;
  model.d_model = 32;
  model.dtype = DType::kF32;
  model.layers.resize(2);
  model.attention.n_heads = 2;
  model.attention.n_kv_heads = latent ? 2 : 1;
  model.attention.head_dim = 16;
  if (latent) model.attention.latent = {.q_rank = 24, .kv_rank = 16, .d_nope = 8, .d_rope = 8, .d_value = 16};
  model.moe.n_experts = 8;
  model.moe.d_expert = 16;
  return OverrideConfig(model, keys, "tiny");
}

// A schedule short enough for the chunk loss's weight to move within twelve steps.
TrainerOptions ShortRun(const std::string& folder, const ModelConfig& model, std::vector<std::string> settings = {}) {
  for (const char* setting : {"blockffn.cs_start=4", "blockffn.cs_adjust=2", "optim.schedule=\"wsd_exp\"",
                              "optim.half_life=3", "optim.decay_share=0.5"})
    settings.emplace_back(setting);
  TrainerOptions options = Options(folder, settings);
  options.model = model;
  return options;
}

TEST(BlockFfnRun, ResumedItEqualsAnUninterruptedOneBitwise) {
  const std::pair<const char*, ModelConfig> cases[] = {
      {"grouped queries", TinyFamily(false)},
      {"latent attention", TinyFamily(true)},
      {"ReMoE", TinyFamily(false, R"({"expert_routing": "relu_plain", "num_experts_per_tok": 2})")},
      {"top-k", TinyFamily(false, R"({"expert_routing": "top_k", "num_experts_per_tok": 2})")},
      {"in Hydra blocks",
       OverrideConfig(testing::TinyConfig(), R"({"moe_kind": "blockffn", "expert_size": 16})", "x")}};
  for (const auto& [name, model] : cases) {
    SCOPED_TRACE(name);
    TempDir whole_dir, parts_dir;
    Trainer whole(ShortRun(whole_dir / "run", model));
    ASSERT_TRUE(whole.Run().finished);
    const TrainerOptions options = ShortRun(parts_dir / "run", model);
    {
      Trainer first(options);
      EXPECT_FALSE(first.Run(8).finished);
    }
    Trainer second(options);
    EXPECT_EQ(second.step(), 6);
    torch::manual_seed(999);
    EXPECT_TRUE(second.Run().finished);
    ExpectSameRun(whole, second, whole_dir / "run", parts_dir / "run");
  }
}

TEST(BlockFfnRun, TheLogHasTheSparsityAndTheWeights) {
  TempDir dir;
  ASSERT_TRUE(Trainer(ShortRun(dir / "run", TinyFamily(false))).Run().finished);
  const auto val = ReadMetrics(dir / "run/val.jsonl");
  ASSERT_FALSE(val.empty());
  for (const char* name : {"tls", "reuse", "cls_1", "cls_8", "tls/0", "tls/1", "cls_8/1"}) {
    const auto at = val.back().values.find(StrCat("blockffn/", name));
    ASSERT_NE(at, val.back().values.end()) << name;
    EXPECT_GE(at->second, 0) << name;
    EXPECT_LT(at->second, 1) << name;
  }
  EXPECT_DOUBLE_EQ(val.back().values.at("blockffn/cls_1"), val.back().values.at("blockffn/tls"));
  const auto train = ReadMetrics(dir / "run/train.jsonl");
  EXPECT_GT(train.back().values.at("blockffn/cs_lambda"), 0);
  EXPECT_GT(train.back().values.at("blockffn/al_loss"), 0);
  EXPECT_GT(train.back().values.at("blockffn/cs_loss"), 0);
}

// What each term is for: with the chunk loss fewer experts serve a chunk, and a token.
TEST(BlockFfnRun, TheChunkLossMakesItSparser) {
  double sparsity[2];
  for (const bool with : {false, true}) {
    TempDir dir;
    const std::string weight = with ? "blockffn.cs_weight=0.5" : "blockffn.cs_weight=0";
    ASSERT_TRUE(Trainer(ShortRun(dir / "run", TinyFamily(false),
                                 {"optim.steps=60", "eval.every=60", "blockffn.al_weight=0", weight}))
                    .Run()
                    .finished);
    sparsity[with ? 1 : 0] = ReadMetrics(dir / "run/val.jsonl").back().values.at("blockffn/cls_8");
  }
  EXPECT_GT(sparsity[1], sparsity[0] + 0.1) << "chunk sparsity without and with the loss";
}

}  // namespace
}  // namespace hydra::train
