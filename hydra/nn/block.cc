// SPDX-License-Identifier: Apache-2.0
// Collects a block's tensors by role and runs its paths. Dims as in model.h.
#include "hydra/nn/block.h"

#include "hydra/nn/functions.h"
#include "hydra/nn/model.h"

namespace hydra::nn {

using torch::Tensor;
using R = TensorRole;

BlockWeights BlockWeights::Of(const Model& model, int layer) {
  const auto get = [&](TensorRole role) { return model.table().Find(role, layer) ? model.at(role, layer) : Tensor(); };
  BlockWeights w;
  w.norm = get(R::kBlockNorm);
  w.path_gates = get(R::kPathGates);
  w.controller_w = get(R::kControllerWeight);
  w.controller_b = get(R::kControllerBias);
  w.ssm = {get(R::kSsmInProj),
           get(R::kSsmConvWeight),
           get(R::kSsmConvBias),
           get(R::kSsmALog),
           get(R::kSsmD),
           get(R::kSsmDtBias),
           get(R::kSsmNorm),
           get(R::kSsmOutProj),
           get(R::kDiagonalParamProj),
           get(R::kDiagonalLambdaLog),
           get(R::kDiagonalSkipProj)};
  w.attention = {get(R::kAttnQ),
                 get(R::kAttnK),
                 get(R::kAttnV),
                 get(R::kAttnO),
                 get(R::kAttnQNorm),
                 get(R::kAttnKNorm),
                 get(R::kLandmarkScorerWeight),
                 get(R::kLandmarkScorerBias),
                 get(R::kLandmarkScale)};
  w.dense = {get(R::kFfnNorm), get(R::kFfnGate), get(R::kFfnUp), get(R::kFfnDown)};
  w.moe = {get(R::kRouterPrev),        get(R::kRouterFirst),  get(R::kRouterInitSummary),
           get(R::kRouterBalanceBias), get(R::kExpertGateUp), get(R::kExpertDown)};
  w.workspace = {get(R::kWsNorm),
                 get(R::kWsMemoryNorm),
                 get(R::kWsReadQ),
                 get(R::kWsWriteK),
                 get(R::kWsWriteV),
                 get(R::kWsReadK),
                 get(R::kWsReadV),
                 get(R::kWsOut),
                 get(R::kWsSlotQueries),
                 get(R::kWsInitState),
                 get(R::kWsWriteGateWeight),
                 get(R::kWsWriteGateBias),
                 get(R::kWsControllerWeight),
                 get(R::kWsControllerBias)};
  w.pkm = {get(R::kPkmNorm),      get(R::kPkmQueryProj),  get(R::kPkmQueryNorm), get(R::kPkmSubKeys),
           get(R::kPkmValueProj), get(R::kPkmGateWeight), get(R::kPkmGateBias)};
  if (model.table().Find(R::kPkmTable) != nullptr) w.pkm_table = model.at(R::kPkmTable);
  return w;
}

Tensor PathFactors(const BlockWeights& w, const Tensor& u, const ForwardOptions& options) {
  Tensor g = w.path_gates;
  if (options.controls.path_scale != std::array<double, 3>{1, 1, 1})
    g = g *
        torch::tensor({options.controls.path_scale[0], options.controls.path_scale[1], options.controls.path_scale[2]},
                      g.options());
  if (!w.controller_w.defined()) return g;
  return g * 2 * torch::sigmoid(torch::linear(u.to(g.scalar_type()), w.controller_w, w.controller_b));
}

Tensor Dense(const DenseWeights& w, const Tensor& u) {
  return torch::linear(torch::silu(torch::linear(u, w.gate)) * torch::linear(u, w.up), w.down);
}

namespace {

// x += a1 g1 SSM(u) + a2 g2 SGA(u) + a3 g3 MoE(u), then the memories, each of its own norm.
BlockOut Parallel(const ModelConfig& config, int layer, const BlockWeights& w, Tensor x, const Layout& layout,
                  const ForwardOptions& options) {
  const LayerConfig& parts = config.layers[static_cast<size_t>(layer)];
  const auto& a = options.controls.path_scale;
  BlockOut out;
  const Tensor u = RmsNorm(x, w.norm, config.norm_eps);
  const Tensor factors = PathFactors(w, u, options);
  const auto add = [&](int64_t path, const Tensor& value) {
    x = torch::addcmul(x, value.to(x.scalar_type()), factors.narrow(-1, path, 1));
  };
  if (parts.ssm && a[0] != 0) add(0, Ssm(config, w.ssm, u, layout));
  if (parts.attention != AttentionKind::kNone && a[1] != 0)
    add(1, Attention(config, parts.attention, w.attention, u, layout, options.controls));
  if (parts.ffn == FfnKind::kChunkMoe && a[2] != 0) {
    const Routes routes = Route(config, layer, w.moe, u, layout, options);
    add(2, ApplyExperts(w.moe, u, routes, layout));
    out.router = LossesOfRouter(config.moe, routes, layout, options);
  }
  if (parts.workspace && options.workspace && options.controls.workspace_read != 0)
    x = x + Workspace(config, w.workspace, x, layout, options.controls.workspace_read);
  if (parts.pkm && options.pkm && options.controls.pkm_read != 0)
    x = x + Pkm(config, w.pkm, w.pkm_table, x, options.controls.pkm_read, layout.real_rows, options.pkm_watch);
  out.x = x;
  return out;
}

// x += mixer(norm(x)); x += ffn(norm(x)).
BlockOut Sequential(const ModelConfig& config, int layer, const BlockWeights& w, Tensor x, const Layout& layout,
                    const ForwardOptions& options) {
  const LayerConfig& parts = config.layers[static_cast<size_t>(layer)];
  const Tensor u = RmsNorm(x, w.norm, config.norm_eps);
  x = x + (parts.ssm ? Ssm(config, w.ssm, u, layout)
                     : Attention(config, parts.attention, w.attention, u, layout, options.controls));
  if (parts.ffn == FfnKind::kDense) x = x + Dense(w.dense, RmsNorm(x, w.dense.norm, config.norm_eps));
  return {x, {}};
}

}  // namespace

BlockOut RunBlock(const ModelConfig& config, int layer, const BlockWeights& w, const Tensor& x, const Layout& layout,
                  const ForwardOptions& options) {
  if (!options.controls.layers.empty()) {
    ForwardOptions here = options;
    here.controls = options.controls.Of(layer);
    return RunBlock(config, layer, w, x, layout, here);
  }
  return config.wiring == Wiring::kParallel ? Parallel(config, layer, w, x, layout, options)
                                            : Sequential(config, layer, w, x, layout, options);
}

}  // namespace hydra::nn
