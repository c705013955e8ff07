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
  w.latent = {get(R::kLatentQDown),  get(R::kLatentQNorm), get(R::kLatentQUp), get(R::kLatentKvDown),
              get(R::kLatentKvNorm), get(R::kLatentKvUp),  get(R::kAttnO)};
  w.ffn_norm = get(R::kFfnNorm);
  w.dense = {get(R::kFfnGate), get(R::kFfnUp), get(R::kFfnDown)};
  w.block_ffn = {get(R::kBlockRouter), get(R::kBlockRouterScale), get(R::kBlockUp), get(R::kBlockDown)};
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

// The layer, and what its routing gave.
Tensor BlockFfnPart(const ModelConfig& config, int layer, const BlockWeights& w, const Tensor& u, const Layout& layout,
                    const ForwardOptions& options, RouterLosses* losses) {
  const BlockRoutes routes = RouteBlock(config.moe, w.block_ffn, u, config.norm_eps);
  if (options.route_watch != nullptr) (*options.route_watch)(layer, routes.active);
  *losses = LossesOfBlock(config.moe, routes, layout, options);
  return BlockFfn(w.block_ffn, u, routes);
}

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
  if (parts.ssm && a[0] != 0) add(0, Ssm(config, w.ssm, u, layout.of_ssm()));
  if (parts.attention != AttentionKind::kNone && a[1] != 0)
    add(1, Attention(config, parts.attention, w.attention, u, layout, options, SpansOfLayer(options, layer)));
  if (parts.ffn == FfnKind::kChunkMoe && a[2] != 0) {
    const Routes routes = Route(config, layer, w.moe, u, layout, options);
    add(2, ApplyExperts(w.moe, u, routes, layout));
    out.router = LossesOfRouter(config.moe, routes, layout, options);
  }
  if (parts.ffn == FfnKind::kDense && a[2] != 0) add(2, Dense(w.dense, u));
  if (parts.ffn == FfnKind::kBlockFfn && a[2] != 0)
    add(2, BlockFfnPart(config, layer, w, u, layout, options, &out.router));
  if (parts.workspace && options.workspace && options.controls.workspace_read != 0)
    x = x + Workspace(config, w.workspace, x, layout, options.controls.workspace_read);
  if (parts.pkm && options.pkm && options.controls.pkm_read != 0)
    x = x + Pkm(config, w.pkm, w.pkm_table, x, options.controls.pkm_read, layout.real_rows, options.pkm_watch);
  out.x = x;
  return out;
}

// x += s mixer(norm(x)); x += s ffn(norm(x)); s is 1 but in MiniCPM.
BlockOut Sequential(const ModelConfig& config, int layer, const BlockWeights& w, Tensor x, const Layout& layout,
                    const ForwardOptions& options) {
  const LayerConfig& parts = config.layers[static_cast<size_t>(layer)];
  const double scale = config.residual_scale();
  const auto add = [&](const Tensor& value) { x = scale == 1 ? x + value : torch::add(x, value, scale); };
  BlockOut out;
  const Tensor u = RmsNorm(x, w.norm, config.norm_eps);
  if (parts.ssm) {
    add(Ssm(config, w.ssm, u, layout.of_ssm()));
  } else if (parts.attention == AttentionKind::kLatent) {
    add(LatentAttention(config.attention, w.latent, u, layout));
  } else {
    add(Attention(config, parts.attention, w.attention, u, layout, options, SpansOfLayer(options, layer)));
  }
  if (parts.ffn == FfnKind::kDense) add(Dense(w.dense, RmsNorm(x, w.ffn_norm, config.norm_eps)));
  if (parts.ffn == FfnKind::kBlockFfn)
    add(BlockFfnPart(config, layer, w, RmsNorm(x, w.ffn_norm, config.norm_eps), layout, options, &out.router));
  out.x = x;
  return out;
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
