// SPDX-License-Identifier: Apache-2.0
// BlockFFN: experts behind a ReLU router with a norm, and the two losses that make neighbouring tokens share them
// (specs/blockffn.md 1 and 4). Not here: the losses' weights over a run (train/factor_scheduler.h), how sparse a model
// is (model/sparsity.h). Dims: B rows, T tokens, D d_model, E experts, F d_expert, N tokens of all rows.
#pragma once

#include "hydra/nn/torch.h"

#include "hydra/nn/layout.h"
#include "hydra/nn/moe.h"

namespace hydra::nn {

struct BlockFfnWeights {
  torch::Tensor router, router_scale;  // [E, D], [E]
  torch::Tensor up, down;              // [E F, D], [D, E F]: expert e has rows and columns e F .. (e + 1) F - 1
};

// In fp32 (fp64 where the weights are), whatever autocast says.
struct BlockRoutes {
  torch::Tensor raw;     // [.., E] scores of the router
  torch::Tensor gates;   // [.., E] factors of the experts; 0 where not active
  torch::Tensor active;  // [.., E] bool, no gradient
};
// kRelu: max(raw, 0), of RMS 1 over the experts, times router_scale. The baselines: kReluPlain max(raw, 0) alone, kTopK
// the k largest of softmax(raw), made to sum to 1.
BlockRoutes RouteBlock(const MoeConfig& config, const BlockFfnWeights& w, const torch::Tensor& x, double eps);

// y_t = sum_e gates_te Expert_e(x_t), Expert_e(x) = W_down,e silu(W_up,e x). x [.., D] -> [.., D]. Dense above an
// active share of one half, by the tokens of each expert below it: both are exact, gradients too.
torch::Tensor BlockFfn(const BlockFfnWeights& w, const torch::Tensor& x, const BlockRoutes& routes);
torch::Tensor BlockFfnDense(const BlockFfnWeights& w, const torch::Tensor& x, const torch::Tensor& gates);
torch::Tensor BlockFfnLists(const BlockFfnWeights& w, const torch::Tensor& x, const BlockRoutes& routes);

// The terms that options.router_coefs ask for, and the tokens of each expert. kSize: of kRelu the mean of max(raw, 0);
// of kReluPlain E / (N^2 k) sum_e (sum_t gates_te) (tokens of e), N tokens.
RouterLosses LossesOfBlock(const MoeConfig& config, const BlockRoutes& routes, const Layout& layout,
                           const ForwardOptions& options);

// Activation locality: a token's experts should be those of the token before, mean over pairs within a document and
// experts; 0 where there is no pair. raw [B, T, E].
torch::Tensor LocalityLoss(const torch::Tensor& raw, const Layout& layout, double alpha);

// Chunk sparsification: few experts should be used within `chunk` consecutive tokens of a document, mean over chunks
// and experts. raw [B, T, E].
torch::Tensor ChunkLoss(const torch::Tensor& raw, const Layout& layout, int64_t chunk);

}  // namespace hydra::nn
