// SPDX-License-Identifier: Apache-2.0
// Chunk-routed mixture of experts: causal routing, dropless gathering by expert (specs/hydra.md 4).
// Dims: B rows, T tokens, C chunk_len, n = T / C, D d_model, E experts, F d_expert, k experts a chunk.
#pragma once

#include "hydra/nn/torch.h"

#include <vector>

#include "hydra/model/config.h"
#include "hydra/nn/batch.h"
#include "hydra/nn/layout.h"

namespace hydra::nn {

struct MoeWeights {
  torch::Tensor prev_proj, first_proj;  // [E, D]
  torch::Tensor init_summary;           // [D]
  torch::Tensor balance_bias;           // [E], selection only
  torch::Tensor gate_up;                // [E, 2 F, D], gate rows first
  torch::Tensor down;                   // [E, D, F]
};

struct Routes {
  torch::Tensor ids;            // [B, n, k] int64
  torch::Tensor route_weights;  // [B, n, k], sum 1
  torch::Tensor router_logits;  // [B, n, E]; undefined in round_robin mode
};

// What routes a chunk is known at its first token: the mean of u over the chunk before, and that token's u.
Routes Route(const ModelConfig& config, int layer, const MoeWeights& w, const torch::Tensor& u, const Layout& layout,
             const ForwardOptions& options);

// Selection and weights of given router logits [.., E]: ids and weights [.., k].
Routes SelectExperts(const MoeConfig& config, const torch::Tensor& router_logits, const torch::Tensor& balance_bias,
                     const Controls& controls);

// y_t = sum_e p_e Expert_e(u_t). u [B, T, D] -> [B, T, D], 0 on pads. Only chosen experts are computed.
torch::Tensor ApplyExperts(const MoeWeights& w, const torch::Tensor& u, const Routes& routes, const Layout& layout);

// out[rows[i]] += weights[places[i]] Expert_e(u[rows[i]]), e the expert that row i is of: the first n_rows[0] rows are
// expert 0's, and so on. u [N, D], weights [K], gate_up [E, 2 F, D], down [E, D, F], rows and places [M] int64 -> [N,
// D].
torch::Tensor RoutedExperts(const torch::Tensor& u, const torch::Tensor& weights, const torch::Tensor& gate_up,
                            const torch::Tensor& down, const torch::Tensor& rows, const torch::Tensor& places,
                            const std::vector<int64_t>& n_rows);
namespace composite {  // the slow twin
torch::Tensor RoutedExperts(const torch::Tensor& u, const torch::Tensor& weights, const torch::Tensor& gate_up,
                            const torch::Tensor& down, const torch::Tensor& rows, const torch::Tensor& places,
                            const std::vector<int64_t>& n_rows);
}  // namespace composite

// One expert on rows [M, D]; gate_up [2 F, D], down [D, F].
torch::Tensor Expert(const torch::Tensor& rows, const torch::Tensor& gate_up, const torch::Tensor& down);

struct RouterLosses {
  RouterTermValues terms;
  torch::Tensor load;    // [E] chunk assignments, no gradient
  torch::Tensor in_set;  // [2] of chunks with a label: choices from their own set, all choices; no gradient. Undefined
                         // where the batch has no labels, as is the term kDomain
};
// Means over the real chunks of the batch; zero losses in round_robin mode. kDomain: -log of the probability that a
// chunk's router gives to the experts of its label, 0 for chunks without.
RouterLosses LossesOfRouter(const MoeConfig& config, const Routes& routes, const Layout& layout,
                            const ForwardOptions& options);

}  // namespace hydra::nn
