// SPDX-License-Identifier: Apache-2.0
// What a staged run does: parts that are off stay as they are, ramps, biases, rates, corpora in shares, watches, and a
// resume that changes no bit wherever it lies. Fields of stages are in stage_test.cc.
#include "hydra/train/curriculum.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "hydra/train/row_mix.h"
#include "hydra/train/testing_run.h"
#include "hydra/train/trainer.h"
#include "hydra/train/validation.h"

namespace hydra::train {
namespace {

using testing::AllTensors;
using testing::ErrorText;
using testing::ExpectSameRun;
using testing::SameBits;
using testing::TinyConfig;
using testing::TinyCorpus;

// Four stages of three steps: all that a stage can change changes.
constexpr const char* kStages = R"(
[[stage]]
name = "backbone"
share = 0.25
seq_len = 32
parts = ["ssm", "moe"]
router = { mode = "round_robin" }
[[stage]]
name = "attention"
share = 0.25
seq_len = 64
parts = ["ssm", "moe", "sga"]
path_scale.sga = [0.0, 1.0]
landmarks_from = 0.5
router = { temperature = [2.0, 1.0], balance = 0.02 }
data = [{ path = "more", share = 0.4 }, { path = "main", share = 0.6 }]
[[stage]]
name = "memories"
share = 0.25
seq_len = 64
bias = { workspace = [-4.0, -1.0], pkm = [-4.0, -2.0] }
lr = { scale = 0.5, moe = 0.0, pkm_table = 8.0 }
watch = [{ metric = "workspace.slot_use", above = 2 }, { metric = "off.pkm", above = -100 }]
[[stage]]
name = "joint"
share = 0.25
seq_len = 64
)";

TrainerOptions Staged(const std::string& folder, const std::vector<std::string>& settings = {},
                      const std::string& stages = kStages) {
  TrainerOptions options = testing::Options(folder);
  std::vector<std::string> all = {"optim.steps=12",     "optim.batch_rows=2",   "optim.seq_len=64",   "optim.accum=2",
                                  "optim.lr=1e-2",      "optim.warmup_steps=3", "optim.seed=5",       "log.every=5",
                                  "log.peak_flops=1e9", "checkpoint.every=2",   "checkpoint.keep=20", "eval.every=4",
                                  "eval.tokens=512",    "eval.part_tokens=256", "guard.sigma=0",      "data.dir=main"};
  all.insert(all.end(), settings.begin(), settings.end());
  options.run = ParseRunConfig(stages, "test", all);
  ResolveCurriculum(options.model, &options.run);
  options.mixed.emplace("more", TinyCorpus(9, 10));
  return options;
}

TEST(Curriculum, ResumedAnywhereItEqualsAnUninterruptedRunBitwise) {
  TempDir whole_dir;
  Trainer whole(Staged(whole_dir / "run"));
  ASSERT_TRUE(whole.Run().finished);
  for (const int64_t at : {2, 3, 4, 6, 8, 9}) {  // inside stages and on their borders
    SCOPED_TRACE(StrCat("checkpoint of step ", at));
    TempDir parts_dir;
    const TrainerOptions options = Staged(parts_dir / "run");
    {
      Trainer first(options);
      EXPECT_FALSE(first.Run(at).finished);
    }
    Trainer second(options);
    EXPECT_EQ(second.step(), at);
    torch::manual_seed(999);
    EXPECT_TRUE(second.Run().finished);
    ExpectSameRun(whole, second, whole_dir / "run", parts_dir / "run");
    if (::testing::Test::HasFailure()) return;
  }
}

bool IsOf(Component component, std::initializer_list<Component> list) {
  return std::find(list.begin(), list.end(), component) != list.end();
}

TEST(Curriculum, WhatIsOffStaysAsItIs) {
  TempDir dir;
  TrainerOptions options = Staged(dir / "run");
  options.model.gate_controller = true;
  Trainer trainer(options);
  const auto copy = [&] {
    std::vector<torch::Tensor> tensors;
    for (const auto& [spec, tensor] : trainer.model().Tensors()) tensors.push_back(tensor.detach().clone());
    return tensors;
  };
  const auto expect = [&](const std::vector<torch::Tensor>& before, std::initializer_list<Component> off) {
    size_t i = 0;
    for (const auto& [spec, tensor] : trainer.model().Tensors()) {
      if (IsOf(spec->component, off)) {
        EXPECT_TRUE(SameBits(tensor, before[i])) << spec->name;
      }
      ++i;
    }
  };
  const auto start = copy();
  trainer.Run(3);
  expect(start, {Component::kAttention, Component::kWorkspace, Component::kPkmSite, Component::kPkmTable});
  const torch::Tensor gates = trainer.model().at(TensorRole::kPathGates, 1);
  EXPECT_EQ(gates[1].item<float>(), static_cast<float>(TinyConfig().path_gates_init[1]));
  EXPECT_NE(gates[0].item<float>(), static_cast<float>(TinyConfig().path_gates_init[0]));
  EXPECT_EQ(trainer.model().at(TensorRole::kControllerBias, 1)[1].item<float>(), 0);
  for (const auto& [name, tensor] : trainer.OptimiserState()) {
    if (name.find(".attn.") != std::string::npos && name.ends_with(".step")) {
      EXPECT_EQ(tensor.item<float>(), 0) << name;
    }
  }
  // Routers learn nothing while chunks go round.
  const auto tensors = trainer.model().Tensors();
  for (size_t i = 0; i < start.size(); ++i) {
    const auto& [spec, tensor] = tensors[i];
    if (spec->role == TensorRole::kRouterFirst || spec->role == TensorRole::kRouterPrev) {
      EXPECT_TRUE(SameBits(tensor, start[i])) << spec->name;
    }
  }
  const auto second = copy();
  trainer.Run(6);
  expect(second, {Component::kWorkspace, Component::kPkmSite, Component::kPkmTable});
  EXPECT_NE(gates[1].item<float>(), static_cast<float>(TinyConfig().path_gates_init[1]));
  const auto third = copy();
  trainer.Run(9);
  expect(third, {Component::kMoe});  // lr.moe = 0
}

TEST(Curriculum, ScheduledBiasesAreSetAndThenLearned) {
  TempDir dir;
  Trainer trainer(Staged(dir / "run"));
  const torch::Tensor workspace = trainer.model().at(TensorRole::kWsControllerBias, 1);
  const torch::Tensor pkm = trainer.model().at(TensorRole::kPkmGateBias, 2);
  for (int i = 0; i < 3; ++i) {
    trainer.Run(7 + i);
    EXPECT_FLOAT_EQ(workspace[0].item<float>(), static_cast<float>(-4 + 3 * (i + 1) / 3.0));
    EXPECT_FLOAT_EQ(pkm[0].item<float>(), static_cast<float>(-4 + 2 * (i + 1) / 3.0));
  }
  EXPECT_NE(workspace[1].item<float>(), 0);  // the write gate is learned
  trainer.Run(12);
  EXPECT_NE(workspace[0].item<float>(), -1);
}

TEST(Curriculum, SwitchesFollowTheStep) {
  const TrainerOptions options = Staged("");
  const Curriculum curriculum(options.run, options.model);
  EXPECT_EQ(curriculum.total_steps(), 12);
  EXPECT_EQ(curriculum.ForwardAt(0).router_mode, RouterMode::kRoundRobin);
  EXPECT_EQ(curriculum.ForwardAt(0).controls.path_scale, (std::array<double, 3>{1, 0, 1}));
  EXPECT_FALSE(curriculum.ForwardAt(0).workspace);
  const nn::ForwardOptions attention = curriculum.ForwardAt(3);
  EXPECT_NEAR(attention.controls.path_scale[1], 1 / 3.0, 1e-12);
  EXPECT_NEAR(*attention.controls.router_temperature, 2 - 1 / 3.0, 1e-12);
  EXPECT_EQ(attention.router_coefs[nn::TermIndex(nn::RouterTerm::kBalance)], 0.02);
  EXPECT_FALSE(attention.controls.landmarks);
  EXPECT_TRUE(curriculum.ForwardAt(4).controls.landmarks);
  EXPECT_EQ(curriculum.ForwardAt(5).controls.path_scale[1], 1);
  EXPECT_EQ(curriculum.ForwardAt(11).controls, Controls());
  EXPECT_EQ(curriculum.LrScaleAt(7), 0.5);
  EXPECT_EQ(curriculum.SeqLenAt(0), 32);
  EXPECT_EQ(curriculum.RowsAt(0), 4);
  EXPECT_TRUE(curriculum.EndsStage(3));
  EXPECT_FALSE(curriculum.EndsStage(4));
  EXPECT_EQ(curriculum.StageLine(1), "stage 2 of 4, attention: steps 4 to 6, 2 rows of 64 tokens, ssm sga moe");
}

TEST(Curriculum, TheBalanceCoefficientWeighsItsLoss) {
  const nn::Model model(TinyConfig());
  const nn::Batch batch = nn::Batch::OneDocumentPerRow(torch::randint(0, 64, {2, 64}, torch::kInt64), 8);
  nn::Batch with_targets = batch;
  with_targets.targets = batch.ids.clone();
  nn::ForwardOptions none, some;
  none.router_coefs[nn::TermIndex(nn::RouterTerm::kBalance)] = 0;
  some.router_coefs[nn::TermIndex(nn::RouterTerm::kBalance)] = 0.5;
  const nn::LossOut a = model.Loss(with_targets, none), b = model.Loss(with_targets, some);
  EXPECT_NEAR((b.total - a.total).item<double>(), 0.5 * a.router[nn::RouterTerm::kBalance].item<double>(), 1e-5);
}

TEST(Curriculum, WatchesWarnOrEndTheRun) {
  TempDir dir;
  std::vector<std::string> warnings;
  TrainerOptions options = Staged(dir / "run");
  options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  EXPECT_TRUE(Trainer(options).Run().finished);
  ASSERT_EQ(warnings.size(), 1U) << warnings.back();
  EXPECT_EQ(warnings[0].find("stage 3, memories: workspace/slot_use = "), 0U) << warnings[0];
  TempDir other;
  options = Staged(other / "run");
  options.run.stages[2].watches[0].stop = true;
  {
    Trainer trainer(options);
    const std::string error = ErrorText([&] { trainer.Run(); });
    EXPECT_NE(error.find("must be above 2: the run ends here, as the watch asks; checkpoint: "), std::string::npos)
        << error;
    EXPECT_EQ(trainer.step(), 9);
  }
  Trainer again(options);  // goes on with the next stage
  EXPECT_EQ(again.step(), 9);
  EXPECT_TRUE(again.Run().finished);
}

TEST(Curriculum, EveryPartsWorthIsLogged) {
  TempDir dir;
  TrainerOptions options = Staged(dir / "run");
  Trainer trainer(options);
  trainer.Run();
  const std::vector<MetricsRow> rows = ReadMetrics(dir / "run/val.jsonl");
  EXPECT_TRUE(rows.front().values.contains("off/ssm"));
  EXPECT_FALSE(rows.front().values.contains("off/sga"));  // of step 3, where it is off
  const auto& last = rows.back().values;
  for (const char* part : {"ssm", "sga", "moe", "workspace", "pkm", "landmarks"})
    EXPECT_TRUE(last.contains(StrCat("off/", part))) << part;
  EXPECT_TRUE(last.contains("landmark/age/1"));
  EXPECT_LE(last.at("ssm/half_life_p10/0"), last.at("ssm/half_life/0"));
  EXPECT_LE(last.at("ssm/half_life/0"), last.at("ssm/half_life_p90/0"));
  ValidationOptions how{.seq_len = 64, .rows = 2, .max_tokens = 256};
  const double with = Validate(trainer.model(), *options.val, options.token_bytes, how).bits_per_byte();
  how.forward.workspace = false;
  const double without = Validate(trainer.model(), *options.val, options.token_bytes, how).bits_per_byte();
  EXPECT_NEAR(last.at("off/workspace"), without - with, 1e-12);
}

// ---- Corpora in shares ----

TEST(RowMix, OneCorpusIsItsPacker) {
  const Corpus corpus = TinyCorpus(3);
  RowMix mix({{"a", corpus}}, {.chunk_len = 8, .seed = 4});
  RowPacker packer(corpus, {.chunk_len = 8, .seed = 4});
  for (int i = 0; i < 20; ++i) {
    const auto want = packer.Next(64), got = mix.Next(64).pieces;
    ASSERT_EQ(got.size(), want.size());
    for (size_t j = 0; j < got.size(); ++j) EXPECT_EQ(got[j].piece, want[j].piece);
  }
  EXPECT_EQ(ToJson(mix.position()), ToJson(packer.position()));
}

TEST(RowMix, RowsKeepToTheShares) {
  RowMix mix({{"a", TinyCorpus(3)}, {"b", TinyCorpus(4)}, {"c", TinyCorpus(5)}}, {.chunk_len = 8, .seed = 4});
  mix.Begin({{"c", 0.5}, {"a", 0.3}, {"b", 0.2}});
  std::vector<int64_t> rows(3);
  for (int i = 1; i <= 100; ++i) {
    const Corpus* corpus = mix.Next(64).corpus;
    for (size_t j = 0; j < 3; ++j) rows[j] += corpus == &mix.packers()[j].corpus();
    EXPECT_NEAR(static_cast<double>(rows[2]), 0.5 * i, 1.01);
    EXPECT_NEAR(static_cast<double>(rows[1]), 0.2 * i, 1.01);
  }
  EXPECT_EQ(rows, (std::vector<int64_t>{30, 20, 50}));
  EXPECT_THROW(mix.Begin({{"d", 1}}), Error);
}

TEST(RowMix, APositionGoesOn) {
  const auto make = [] {
    RowMix mix({{"a", TinyCorpus(3)}, {"b", TinyCorpus(4)}}, {.chunk_len = 8, .seed = 4});
    mix.Begin({{"a", 0.35}, {"b", 0.65}});
    return mix;
  };
  RowMix whole = make(), resumed = make();
  for (int i = 0; i < 13; ++i) (void)whole.Next(64);
  resumed.set_position(PositionFromJson(ToJson(whole.position()), "test", resumed));
  resumed.GoOn({{"a", 0.35}, {"b", 0.65}});
  for (int i = 0; i < 30; ++i) {
    const PackedRow a = whole.Next(64), b = resumed.Next(64);
    ASSERT_EQ(a.corpus == &whole.packers()[0].corpus(), b.corpus == &resumed.packers()[0].corpus());
    ASSERT_EQ(a.pieces.size(), b.pieces.size());
    EXPECT_EQ(a.pieces[0].piece, b.pieces[0].piece);
  }
  Json bad = ToJson(whole.position());
  bad["given"] = {1};
  EXPECT_NE(
      ErrorText([&] { (void)PositionFromJson(bad, "state.json: loader", resumed); }).find("state.json: loader.given"),
      std::string::npos);
}

}  // namespace
}  // namespace hydra::train
