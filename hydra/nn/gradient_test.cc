// SPDX-License-Identifier: Apache-2.0
// Gradients of the whole model (specs/hydra.md 13, test 12): they match finite differences and reach every tensor
// that the specification does not except. And test 14: what is allocated is what the accounting says.
#include <gtest/gtest.h>

#include "hydra/model/accounting.h"
#include "hydra/nn/model.h"
#include "hydra/nn/step.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

using testing::Case;
using testing::Cases;
using testing::Difference;
using testing::RandomDocuments;
using testing::RandomModel;
using testing::Tiny;
using torch::Tensor;

// Tiny models of both kinds, G = 2 once, controller on and off.
std::vector<Case> TinyCases() {
  std::vector<Case> cases = {{"mamba2", Tiny()},
                             {"mamba2, G = 2, controller", Tiny()},
                             {"diagonal, controller", Tiny()},
                             {"untied, shared keys", Tiny()},
                             {"experts by token", Tiny()},
                             {"latent attention", testing::LatentNano()}};
  cases[1].config.ssm.n_groups = cases[1].config.ssm.norm_groups = 2;
  cases[1].config.gate_controller = true;
  cases[2].config.ssm.kind = SsmKind::kDiagonal;
  cases[2].config.gate_controller = true;
  cases[3].config.tie_embeddings = false;
  cases[3].config.attention.n_kv_heads = 1;
  cases[3].config.attention.qk_norm = false;
  cases[4].config = OverrideConfig(Tiny(), R"({"moe_kind": "blockffn", "expert_size": 16})", "case");
  ModelConfig& latent = cases[5].config;
  latent.vocab_size = 61;
  latent.d_model = 32;
  latent.attention.n_heads = latent.attention.n_kv_heads = 2;
  latent.attention.head_dim = 16;
  latent.attention.latent = {.q_rank = 12, .kv_rank = 10, .d_nope = 6, .d_rope = 4, .d_value = 16};
  latent.moe.n_experts = 5;
  latent.moe.d_expert = 16;
  return cases;
}

// Several documents, long enough that landmarks are read and evicted.
Batch TinyBatch(const ModelConfig& config, uint64_t seed) {
  const auto row = [&](const std::vector<int64_t>& lengths, uint64_t s) {
    return Batch::Pack(RandomDocuments(lengths, config.vocab_size, s), config.chunk_len, 96);
  };
  return Batch::Stack({row({61, 19}, seed), row({96}, seed + 1)});
}

Tensor DenseGradient(const Tensor& parameter) {
  const Tensor gradient = parameter.grad();
  if (!gradient.defined()) return torch::zeros_like(parameter);
  return gradient.is_sparse() ? gradient.to_dense() : gradient;
}

void Backward(Model& model, const Tensor& loss) {
  for (auto [spec, tensor] : model.Tensors()) tensor.mutable_grad().reset();
  loss.backward();
}

TEST(Gradient, MatchesFiniteDifferencesForEveryTensor) {
  uint64_t seed = 0;
  for (const Case& c : TinyCases()) {
    ++seed;
    Model model = RandomModel(c.config, seed);
    const Batch batch = TinyBatch(c.config, seed);
    Backward(model, model.Loss(batch).total);
    torch::NoGradGuard no_grad;
    for (const auto& [spec, tensor] : model.Tensors()) {
      if (!spec->parameter) continue;
      // Along the gradient and a random direction, each of length 1: steps of 2e-6 keep clear of other selections,
      // which would be a jump, and their error, h^2 third derivatives / 6, is below the loss's rounding, 5 eps / h.
      // Where ReLU routes, a step of 2e-6 passes corners here and there; one of 2e-7 rounds ten times as much.
      const bool corners = c.config.HasFfn(FfnKind::kBlockFfn);
      const double step = corners ? 2e-7 : 2e-6, least = corners ? 1e-2 : 1e-3;
      Tensor parameter = tensor;
      const Tensor before = parameter.clone(), gradient = DenseGradient(parameter);
      const Tensor noise = testing::Randn(spec->shape, seed * 77 + 1);
      const Tensor direction = gradient / gradient.norm().clamp_min(1e-9) + noise / noise.norm();
      const auto loss = [&](double by) {
        parameter.copy_(before + by * direction);
        return model.Loss(batch).total.item<double>();
      };
      const double numeric = (loss(step) - loss(-step)) / (2 * step);
      parameter.copy_(before);
      const double analytic = (gradient * direction).sum().item<double>();
      EXPECT_NEAR(numeric, analytic, 1e-6 * std::max(least, std::abs(analytic)))
          << c.name << " seed " << seed << " " << spec->name;
    }
  }
}

// What the specification excepts: b_iota and the gates of absent paths move nothing.
bool Excepted(const ModelConfig& config, const TensorSpec& spec, int64_t number) {
  if (spec.role == TensorRole::kWsControllerBias) return number == 1;
  const LayerConfig* layer = spec.layer < 0 ? nullptr : &config.layers[static_cast<size_t>(spec.layer)];
  const auto absent = [&](int64_t path) {
    return (path == 1 && layer->attention == AttentionKind::kNone) || (path == 2 && layer->ffn == FfnKind::kNone);
  };
  if (spec.role == TensorRole::kPathGates || spec.role == TensorRole::kControllerBias) return absent(number);
  if (spec.role == TensorRole::kControllerWeight) return absent(number / config.d_model);
  return false;
}

TEST(Gradient, ReachesEveryTensorOfNano) {
  constexpr double kRounding = 1e-13;  // b_iota's gradient is a sum that cancels
  for (const Case& c : Cases()) {
    Model model = RandomModel(c.config, 1);
    const Batch batch = Batch::Pack(RandomDocuments({150, 90}, c.config.vocab_size, 1), c.config.chunk_len);
    Backward(model, model.Loss(batch).total);
    for (const auto& [spec, tensor] : model.Tensors()) {
      if (!spec->parameter) {
        EXPECT_FALSE(tensor.requires_grad()) << spec->name;
        continue;
      }
      const Tensor gradient = DenseGradient(tensor).reshape({-1});
      EXPECT_TRUE(torch::isfinite(gradient).all().item<bool>()) << c.name << " " << spec->name;
      EXPECT_GT(gradient.abs().max().item<double>(), 0) << c.name << " " << spec->name;
      if (gradient.numel() > 3 * c.config.d_model || spec->role == TensorRole::kWsWriteGateBias)
        continue;                                     // closed slots
      for (int64_t i = 0; i < gradient.numel(); ++i)  // small tensors: each number
        EXPECT_EQ(std::abs(gradient[i].item<double>()) < kRounding, Excepted(c.config, *spec, i))
            << c.name << " " << spec->name << " " << i << ": " << gradient[i].item<double>();
    }
  }
}

// As initialised too, where many tensors are zero or one: nothing may be cut off from the start.
TEST(Gradient, ReachesEveryTensorFromTheInitialWeights) {
  for (const Case& c : Cases()) {
    Model model(c.config, ModelOptions{.dtype = torch::kFloat64});
    const Batch batch = Batch::Pack(RandomDocuments({150, 90}, c.config.vocab_size, 1), c.config.chunk_len);
    Backward(model, model.Loss(batch).total);
    for (const auto& [spec, tensor] : model.Tensors())
      if (spec->parameter) {
        EXPECT_GT(DenseGradient(tensor).abs().max().item<double>(), 0) << c.name << " " << spec->name;
      }
  }
}

TEST(Gradient, OfTheBalanceLossReachesTheRouter) {
  for (const Case& c : TinyCases()) {
    if (!c.config.HasFfn(FfnKind::kChunkMoe)) continue;
    Model model = RandomModel(c.config, 3);
    const Batch batch = TinyBatch(c.config, 3);
    Backward(model, model.Loss(batch).router[RouterTerm::kBalance]);
    for (const int layer : {0, 2})
      for (const TensorRole role : {TensorRole::kRouterPrev, TensorRole::kRouterFirst, TensorRole::kRouterInitSummary})
        EXPECT_GT(DenseGradient(model.at(role, layer)).abs().max().item<double>(), 0) << c.name << " layer " << layer;
    // No gradient through the loads: the experts of the last router cannot be reached by its loss.
    EXPECT_EQ(DenseGradient(model.at(TensorRole::kExpertDown, 2)).abs().max().item<double>(), 0);
    EXPECT_GT(DenseGradient(model.at(TensorRole::kExpertDown, 0)).abs().max().item<double>(), 0);
  }
}

TEST(Gradient, RoundRobinGivesTheRouterNone) {
  Model model = RandomModel(Tiny(), 4);
  Backward(model, model.Loss(TinyBatch(Tiny(), 4), {.router_mode = RouterMode::kRoundRobin}).total);
  for (const TensorRole role : {TensorRole::kRouterPrev, TensorRole::kRouterFirst, TensorRole::kRouterInitSummary})
    EXPECT_EQ(DenseGradient(model.at(role, 0)).abs().max().item<double>(), 0);
}

TEST(Gradient, OfThePkmTableIsSparseAndTouchesTheRowsHit) {
  ModelConfig config = HydraNano();
  Model model = RandomModel(config, 5);
  const Batch batch = Batch::Pack(RandomDocuments({20}, config.vocab_size, 5), config.chunk_len);
  Backward(model, model.Loss(batch).total);
  const Tensor gradient = model.at(TensorRole::kPkmTable).grad();
  ASSERT_TRUE(gradient.is_sparse());
  const int64_t rows = gradient.coalesce().indices().size(1);
  EXPECT_GT(rows, 0);
  EXPECT_LE(rows, 32 * 2 * 4);  // tokens with pads, heads, top_k
}

TEST(Gradient, IsTheSameWithRecomputedBlocks) {
  for (Case c : TinyCases()) {
    c.config.moe.domains = {{.name = "a", .experts = {0, 1}}, {.name = "b", .experts = {1, 2, 3}}};
    Model model = RandomModel(c.config, 6);
    Batch batch = TinyBatch(c.config, 6);
    batch.domain = torch::where(batch.seq_idx >= 0, batch.seq_idx % 2, -1);
    const Tensor plain_loss = model.Loss(batch).total;
    Backward(model, plain_loss);
    std::vector<Tensor> plain;
    for (const auto& [spec, tensor] : model.Tensors()) plain.push_back(DenseGradient(tensor).clone());
    const Tensor loss = model.Loss(batch, {.checkpoint_blocks = true}).total;
    EXPECT_EQ(loss.item<double>(), plain_loss.item<double>()) << c.name;
    Backward(model, loss);
    size_t i = 0;
    for (const auto& [spec, tensor] : model.Tensors())
      EXPECT_LT(Difference(DenseGradient(tensor), plain[i++]), 1e-12) << c.name << " " << spec->name;
  }
}

TEST(Gradient, PathsThatAreOffGetNone) {
  Model model = RandomModel(Tiny(), 7);
  const Batch batch = TinyBatch(Tiny(), 7);
  Backward(model, model.Loss(batch, {.controls = {.path_scale = {1, 0, 1}}, .workspace = false, .pkm = false}).total);
  for (const auto& [spec, tensor] : model.Tensors()) {
    const bool off = spec->name.find("self_attn") != std::string::npos ||
                     spec->name.find("workspace") != std::string::npos || spec->name.find("pkm") != std::string::npos;
    if (off) {
      EXPECT_EQ(DenseGradient(tensor).abs().max().item<double>(), 0) << spec->name;
    }
  }
}

// ---- 14: the accounting ----

TEST(Accounting, CountsWhatIsAllocated) {
  std::vector<Case> cases;
  for (const std::string& name : PresetNames())
    if (name != "hydra-1.6b") cases.push_back({name, Preset(name)});  // 6.5 GB: its numbers are core's golden ones
  cases.push_back({"hydra-nano, diagonal", HydraNano()});
  cases.back().config.ssm.kind = SsmKind::kDiagonal;
  for (const Case& c : cases) {
    Model model(c.config, ModelOptions{.initialise = false});
    int64_t parameters = 0, buffers = 0;
    for (const auto& [spec, tensor] : model.Tensors()) {
      (tensor.requires_grad() ? parameters : buffers) += tensor.numel();
    }
    const ParamCounts counts = CountParams(c.config);
    EXPECT_EQ(parameters, counts.total) << c.name;
    EXPECT_EQ(buffers, counts.buffers) << c.name;
  }
}

// Bytes that a sequence really holds, in the types that the accounting assumes.
int64_t AllocatedState(const Stepper& stepper) {
  int64_t bytes = 0;
  for (const BlockState& s : stepper.state()) {
    for (const Tensor& x : {s.conv, s.ssm, s.sum, s.mean, s.M, s.acc, s.weight, s.max})
      if (x.defined()) bytes += 4 * x.numel();
    if (s.routes.ids.defined()) bytes += 4 * (s.routes.ids.numel() + s.routes.route_weights.numel());
    for (const KeyEntry& e : s.ring) bytes += 2 * (e.k.numel() + e.v.numel()) + 4;      // score
    for (const KeyEntry& e : s.pool) bytes += 2 * (e.k.numel() + e.v.numel()) + 4 + 4;  // score, position
  }
  return bytes;
}

TEST(Accounting, StateBytesAreThoseOfAFullSequence) {
  for (const SsmKind kind : {SsmKind::kMamba2, SsmKind::kDiagonal}) {
    ModelConfig config = HydraNano();
    config.ssm.kind = kind;
    config.attention.landmark_budget = 8;  // full after 64 tokens
    Model model(config);
    Stepper stepper(model);
    for (int64_t t = 0; t < 100; ++t) (void)stepper.Step(t);
    EXPECT_EQ(AllocatedState(stepper), CountState(config, KvDtype::kF16).total());
    const int64_t before = AllocatedState(stepper);
    for (int64_t t = 0; t < 60; ++t) (void)stepper.Step(t);
    EXPECT_EQ(AllocatedState(stepper), before);  // constant
  }
}

}  // namespace
}  // namespace hydra::nn
