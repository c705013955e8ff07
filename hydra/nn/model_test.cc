// SPDX-License-Identifier: Apache-2.0
// Properties of the whole model (specs/hydra.md 13, tests 1, 2, 3, 5, 6, 7): no token sees a later one, another row,
// another document or a pad, and a token at a time gives what a whole row gives.
#include "hydra/nn/model.h"

#include <gtest/gtest.h>

#include "hydra/base/error.h"
#include "hydra/nn/step.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

using testing::Case;
using testing::Cases;
using testing::Difference;
using testing::kTolF64;
using testing::LogitsOf;
using testing::OneThread;
using testing::RandomDocuments;
using testing::RandomIds;
using testing::RandomModel;
using torch::Tensor;

constexpr int64_t kTokens = 123;  // beyond the window (64), landmarks evicted, no multiple of C = 16 or Q = 32

Batch Alone(const ModelConfig& config, const Tensor& ids) { return Batch::OneDocumentPerRow(ids, config.chunk_len); }

// Outputs that no change may reach: their bits. Where experts have lists of tokens, the other tokens decide how long a
// list is, and a product of other height may round otherwise.
void ExpectUntouched(const ModelConfig& config, const Tensor& after, const Tensor& before) {
  if (config.HasFfn(FfnKind::kBlockFfn)) {
    EXPECT_LT(Difference(after, before), 1e-5);
  } else {
    EXPECT_TRUE(torch::equal(after, before)) << Difference(after, before);
  }
}

TEST(Model, AnEarlierOutputKeepsItsBitsWhenALaterTokenChanges) {
  const OneThread one_thread;
  for (const Case& c : Cases())
    for (const uint64_t seed : {1, 2}) {
      Model model = RandomModel(c.config, seed, torch::kFloat32);
      const Tensor ids = RandomIds(1, kTokens, c.config.vocab_size, seed);
      const Tensor before = LogitsOf(model, Alone(c.config, ids));
      for (const int64_t t0 : {1, 15, 16, 17, 66, 122}) {
        SCOPED_TRACE(::testing::Message() << c.name << " seed " << seed << " t0 " << t0);
        Tensor changed = ids.clone();
        changed[0][t0] = (ids[0][t0].item<int64_t>() + 7) % c.config.vocab_size;
        const Tensor after = LogitsOf(model, Alone(c.config, changed));
        ExpectUntouched(c.config, after.narrow(1, 0, t0), before.narrow(1, 0, t0));
        EXPECT_GT(Difference(after.narrow(1, t0, 1), before.narrow(1, t0, 1)), 1e-3);  // else the test sees nothing
      }
    }
}

TEST(Model, APrefixGivesWhatTheLongerRunGives) {
  for (const Case& c : Cases())
    for (const uint64_t seed : {1, 2}) {
      Model model = RandomModel(c.config, seed);
      const Tensor ids = RandomIds(1, kTokens, c.config.vocab_size, seed);
      const Tensor whole = LogitsOf(model, Alone(c.config, ids));
      const int64_t C = c.config.chunk_len, Q = c.config.ssm.scan_chunk, W = c.config.attention.window;
      for (const int64_t n : {int64_t{1}, C - 1, C, C + 1, Q - 1, Q + 1, W + 1, 3 * C + 5}) {
        if (n < 1 || n > kTokens) continue;  // of a control, which has no chunks or no window
        const Tensor part = LogitsOf(model, Alone(c.config, ids.narrow(1, 0, n)));
        EXPECT_LT(Difference(part.narrow(1, 0, n), whole.narrow(1, 0, n)), kTolF64)
            << c.name << " seed " << seed << " length " << n;
      }
    }
}

TEST(Model, ATokenAtATimeGivesWhatAWholeRowGives) {
  uint64_t seed = 0;
  for (const Case& c : Cases()) {
    SCOPED_TRACE(::testing::Message() << c.name << " seed " << ++seed);
    Model model = RandomModel(c.config, seed);
    const Tensor ids = RandomIds(1, kTokens, c.config.vocab_size, seed);
    const Tensor want = LogitsOf(model, Alone(c.config, ids)).select(0, 0).narrow(0, 0, kTokens);
    Stepper stepper(model, {});
    std::vector<Tensor> rows;
    std::vector<Stepper> forks;
    for (int64_t t = 0; t < kTokens; ++t) {
      if (t == 70) forks.push_back(stepper);
      rows.push_back(stepper.Step(ids[0][t].item<int64_t>()));
    }
    EXPECT_LT(Difference(torch::stack(rows), want), kTolF64);
    // A copy taken half way goes on alone, whatever the first did since.
    rows.clear();
    for (int64_t t = 70; t < kTokens; ++t) rows.push_back(forks[0].Step(ids[0][t].item<int64_t>()));
    EXPECT_LT(Difference(torch::stack(rows), want.narrow(0, 70, kTokens - 70)), kTolF64);
  }
}

TEST(Model, StepsObeyTheControlsAsRowsDo) {
  std::vector<std::pair<const char*, ForwardOptions>> controls(10);
  controls[0] = {"path_scale", {.controls = {.path_scale = {0.5, 1.5, 0.7}}}};
  controls[1] = {"no attention", {.controls = {.path_scale = {1, 0, 1}}}};
  controls[2] = {"reads", {.controls = {.workspace_read = 0.5, .pkm_read = 0}}};
  controls[3] = {"no landmarks", {.controls = {.landmarks = false}}};
  controls[4] = {"round robin", {.router_mode = RouterMode::kRoundRobin}};
  controls[5] = {"top 3, tau 2", {.controls = {.router_temperature = 2.0, .moe_top_k = 3}}};
  controls[6] = {"forced", {.controls = {.force_experts = {5, 1}}}};
  controls[7] = {"banned, biased", {.controls = {.ban_experts = {0, 2}, .expert_bias = {0, 0, 0, 3, 0, 0, -3, 0}}}};
  controls[8].first = "of layers";
  controls[8].second.controls.layers = {{0, {.ban_experts = {{0, 2}}}},
                                        {2, {.path_scale = {{1, 0.5, 0}}}},
                                        {3, {.workspace_read = 0.25}},
                                        {4, {.pkm_read = 3, .moe_top_k = 1}}};
  controls[9] = {"pins", {.controls = {.pins = {1, 2, 18, 40}}}};
  const ModelConfig config = testing::NanoWithEviction();
  Model model = RandomModel(config, 3);
  const Tensor ids = RandomIds(1, 100, config.vocab_size, 3);
  const Tensor plain = LogitsOf(model, Alone(config, ids)).select(0, 0).narrow(0, 0, 100);
  for (const auto& [name, options] : controls) {
    const Tensor want = LogitsOf(model, Alone(config, ids), options).select(0, 0).narrow(0, 0, 100);
    EXPECT_GT(Difference(want, plain), 1e-3) << name << " changes nothing";
    Stepper stepper(model, options);
    std::vector<Tensor> rows;
    for (int64_t t = 0; t < 100; ++t) rows.push_back(stepper.Step(ids[0][t].item<int64_t>()));
    EXPECT_LT(Difference(torch::stack(rows), want), kTolF64) << name;
  }
}

TEST(Model, ARowDoesNotKnowItsBatch) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.name);
    Model model = RandomModel(c.config, 4);
    std::vector<Batch> rows;
    for (const uint64_t seed : {1, 2, 3})
      rows.push_back(Batch::Pack(RandomDocuments({40, 17, 90}, c.config.vocab_size, seed), c.config.chunk_len, 192));
    const Tensor together = LogitsOf(model, Batch::Stack(rows));
    const Tensor turned = LogitsOf(model, Batch::Stack({rows[2], rows[0], rows[1]}));
    const Tensor real = (rows[0].seq_idx >= 0).squeeze(0);
    for (int64_t b = 0; b < 3; ++b) {
      const Tensor want = together[b].index({real});
      EXPECT_LT(Difference(turned[(b + 1) % 3].index({real}), want), kTolF64) << "row " << b << " turned";
      const Tensor alone = LogitsOf(model, rows[static_cast<size_t>(b)]);
      EXPECT_LT(Difference(alone[0].index({real}), want), kTolF64) << "row " << b << " alone";
    }
  }
}

TEST(Model, PadsAreNeverRead) {
  const OneThread one_thread;
  for (const Case& c : Cases())
    for (const torch::Dtype dtype : {torch::kFloat32, torch::kFloat64}) {
      Model model = RandomModel(c.config, 5, dtype);
      Batch batch = Batch::Pack(RandomDocuments({19, 33, 3, 16, 70}, c.config.vocab_size, 5), c.config.chunk_len, 208);
      const Tensor real = batch.seq_idx >= 0;
      ASSERT_TRUE((~real).any().item<bool>());
      const Tensor before = LogitsOf(model, batch).index({real});
      batch.ids = torch::where(real, batch.ids, RandomIds(1, 208, c.config.vocab_size, 6));
      SCOPED_TRACE(c.name);
      ExpectUntouched(c.config, LogitsOf(model, batch).index({real}), before);
    }
}

TEST(Model, PackedDocumentsGiveWhatEachGivesAlone) {
  const std::vector<int64_t> lengths = {50, 1, 16, 90, 15, 17};
  for (const Case& c : Cases())
    for (const uint64_t seed : {1, 2}) {
      Model model = RandomModel(c.config, seed);
      const auto documents = RandomDocuments(lengths, c.config.vocab_size, seed);
      const Batch packed = Batch::Pack(documents, c.config.chunk_len, 256);
      const Tensor logits = LogitsOf(model, packed)[0];
      for (size_t d = 0; d < documents.size(); ++d) {
        const Tensor alone =
            LogitsOf(model, Batch::Pack({documents[d]}, c.config.chunk_len))[0].narrow(0, 0, lengths[d]);
        const Tensor mine = logits.index({packed.seq_idx[0] == static_cast<int64_t>(d)});
        EXPECT_LT(Difference(mine, alone), kTolF64) << c.name << " seed " << seed << " document " << d;
      }
    }
}

TEST(Model, AChangeInOneDocumentLeavesTheBitsOfTheOthers) {
  const OneThread one_thread;
  for (const Case& c : Cases())
    for (const uint64_t seed : {1, 2}) {
      Model model = RandomModel(c.config, seed, torch::kFloat32);
      auto documents = RandomDocuments({45, 61, 80}, c.config.vocab_size, seed);
      const Batch batch = Batch::Pack(documents, c.config.chunk_len);
      const Tensor before = LogitsOf(model, batch);
      for (int64_t& id : documents[1]) id = (id + 11) % c.config.vocab_size;
      const Tensor after = LogitsOf(model, Batch::Pack(documents, c.config.chunk_len));
      for (const int64_t d : {0, 2}) {
        const Tensor mine = batch.seq_idx == d;
        SCOPED_TRACE(::testing::Message() << c.name << " seed " << seed << " document " << d);
        ExpectUntouched(c.config, after.index({mine}), before.index({mine}));
      }
      const Tensor changed = batch.seq_idx == 1;
      EXPECT_GT(Difference(after.index({changed}), before.index({changed})), 1e-3);
    }
}

TEST(Model, LossIsTheMeanOfTokenLosses) {
  for (const Case& c : Cases()) {
    Model model = RandomModel(c.config, 6);
    const Batch batch = Batch::Pack(RandomDocuments({45, 61, 1, 80}, c.config.vocab_size, 6), c.config.chunk_len);
    const LossOut loss = model.Loss(batch);
    EXPECT_EQ(loss.n_targets, 44 + 60 + 79);
    const Tensor each = model.TokenLoss(batch);
    EXPECT_NEAR(loss.lm.item<double>(), each.sum().item<double>() / 183, 1e-9) << c.name;
    EXPECT_EQ((each != 0).sum().item<int64_t>(), 183) << c.name;
    const Tensor want = -torch::log_softmax(LogitsOf(model, batch)[0][0], -1)[batch.targets[0][0].item<int64_t>()];
    EXPECT_NEAR(each[0][0].item<double>(), want.item<double>(), 1e-9) << c.name;
    if (c.config.HasFfn(FfnKind::kChunkMoe)) {
      const double total = loss.lm.item<double>() +
                           c.config.moe.aux_loss_coef * loss.router[RouterTerm::kBalance].item<double>() +
                           c.config.moe.z_loss_coef * loss.router[RouterTerm::kZ].item<double>();
      EXPECT_NEAR(loss.total.item<double>(), total, 1e-12) << c.name;
    }
  }
}

// Where nothing but the SSM remembers, what follows a reset is a document of its own.
TEST(Model, AnSsmThatIsResetForgetsWhatWasBefore) {
  for (const SsmKind kind : {SsmKind::kMamba2, SsmKind::kDiagonal})
    for (const auto& [dtype, tolerance] :
         {std::pair{torch::kFloat64, kTolF64}, std::pair{torch::kFloat32, testing::kTolF32}}) {
      ModelConfig config = testing::Tiny();
      config.layers.assign(2, LayerConfig{});
      config.ssm.kind = kind;
      Model model = RandomModel(config, 3, dtype);
      const Tensor ids = RandomIds(1, 64, config.vocab_size, 3);
      const Batch batch = Alone(config, ids);
      for (const int64_t t0 : {5, 37, 40}) {
        ForwardOptions options;
        options.ssm_resets = torch::zeros({1, 64}, torch::kBool);
        options.ssm_resets[0][t0] = true;
        const Tensor got = LogitsOf(model, batch, options), whole = LogitsOf(model, batch);
        const Tensor rest = LogitsOf(model, Alone(config, ids.narrow(1, t0, 64 - t0))).narrow(1, 0, 64 - t0);
        EXPECT_LT(Difference(got.narrow(1, 0, t0), whole.narrow(1, 0, t0)), tolerance) << t0;
        EXPECT_LT(Difference(got.narrow(1, t0, 64 - t0), rest), tolerance) << t0;
        EXPECT_GT(Difference(whole.narrow(1, t0, 64 - t0), rest), 1e-3) << t0;
      }
    }
}

TEST(Model, ADensePathIsThatOfASingleExpert) {
  ModelConfig routed = testing::Tiny();
  routed.moe.n_experts = routed.moe.top_k = 1;
  ModelConfig dense = routed;
  dense.d_ff = routed.moe.d_expert;
  for (LayerConfig& layer : dense.layers)
    if (layer.ffn == FfnKind::kChunkMoe) layer.ffn = FfnKind::kDense;
  dense.Validate("test");
  Model a = RandomModel(routed, 4), b(dense, ModelOptions{.dtype = torch::kFloat64});
  const torch::NoGradGuard no_grad;
  for (const auto& [spec, tensor] : b.Tensors()) {
    const Tensor experts = spec->role == TensorRole::kFfnGate || spec->role == TensorRole::kFfnUp
                               ? a.at(TensorRole::kExpertGateUp, spec->layer)[0]
                               : Tensor();
    if (spec->role == TensorRole::kFfnGate) {
      tensor.copy_(experts.narrow(0, 0, dense.d_ff));
    } else if (spec->role == TensorRole::kFfnUp) {
      tensor.copy_(experts.narrow(0, dense.d_ff, dense.d_ff));
    } else if (spec->role == TensorRole::kFfnDown) {
      tensor.copy_(a.at(TensorRole::kExpertDown, spec->layer)[0]);
    } else {
      tensor.copy_(a.at(spec->role, spec->layer));
    }
  }
  const Batch batch = Batch::Pack(RandomDocuments({45, 61, 8}, routed.vocab_size, 6), routed.chunk_len);
  const Tensor real = batch.seq_idx >= 0;  // nobody reads what stands on pads
  EXPECT_LT(Difference(LogitsOf(b, batch).index({real}), LogitsOf(a, batch).index({real})), kTolF64);
  EXPECT_THROW((void)ConfigJson(dense), std::logic_error) << "config.json has no name for it";
}

// Pools are those of attention itself: a token that is in none of them, and beyond every window, is not looked at.
TEST(Model, CollectedPoolsAreThoseOfEachLayer) {
  const ModelConfig config = testing::Tiny();
  const Model model = RandomModel(config, 5);
  const Batch batch = Alone(config, RandomIds(2, 64, config.vocab_size, 5));
  const auto pools = model.CollectPools(batch);
  ASSERT_EQ(pools.size(), 2U);  // layers 1 and 2
  for (const Tensor& pool : pools) {
    EXPECT_EQ(pool.size(0), 2);
    EXPECT_EQ(pool.size(1), 64 / config.chunk_len);
    EXPECT_LE(pool.size(2), config.attention.landmark_budget);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t c = 0; c < pool.size(1); ++c) {
        const Tensor rows = pool[b][c].masked_select(pool[b][c] >= 0);
        EXPECT_EQ(rows.numel(), std::min(c * config.attention.landmarks_per_chunk, config.attention.landmark_budget));
        // Of this row, and of chunks before this one.
        for (int64_t i = 0; i < rows.numel(); ++i) {
          EXPECT_GE(rows[i].item<int64_t>(), b * 64);
          EXPECT_LT(rows[i].item<int64_t>(), b * 64 + c * config.chunk_len);
        }
      }
  }
  EXPECT_TRUE(model.CollectPools(batch, {.controls = {.landmarks = false}}).empty());
}

TEST(Model, EqualSeedsGiveEqualWeights) {
  const ModelConfig config = HydraNano();
  Model a(config), b(config);
  for (const auto& [spec, tensor] : a.Tensors()) EXPECT_TRUE(torch::equal(tensor, b.at(spec->role, spec->layer)));
  b.InitWeights(1);
  int64_t different = 0;
  for (const auto& [spec, tensor] : a.Tensors())
    different += torch::equal(tensor, b.at(spec->role, spec->layer)) ? 0 : 1;
  EXPECT_GT(different, 50);
}

TEST(Model, ImpossibleControlsAreRefused) {
  const ModelConfig config = testing::Tiny();
  Model model = RandomModel(config, 1);
  const Batch batch = Alone(config, RandomIds(1, 9, config.vocab_size, 1));
  for (const Controls& bad :
       {Controls{.force_experts = {4}}, Controls{.ban_experts = {-1}},
        Controls{.force_experts = {1}, .ban_experts = {1}}, Controls{.ban_experts = {0, 1, 2, 3}},
        Controls{.moe_top_k = 5}, Controls{.router_temperature = 0.0}, Controls{.expert_bias = {1.0}}})
    EXPECT_THROW(model.Forward(batch, {.controls = bad}), Error);
}

}  // namespace
}  // namespace hydra::nn
