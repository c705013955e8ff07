// SPDX-License-Identifier: Apache-2.0
// Attention paths: full causal, and sparse global attention = window + landmarks (specs/hydra.md 3).
// Dims: B rows, T tokens, A heads, Akv key heads, Dh head_dim, W window, C chunk_len, n = T / C, Gm landmark budget.
#pragma once

#include "hydra/nn/torch.h"

#include <vector>

#include "hydra/model/config.h"
#include "hydra/nn/batch.h"
#include "hydra/nn/layout.h"

namespace hydra::nn {

struct AttentionWeights {
  torch::Tensor q, k, v, o;                          // [A Dh, D], [Akv Dh, D], .., [D, A Dh]
  torch::Tensor q_norm, k_norm;                      // [Dh] or undefined
  torch::Tensor scorer_w, scorer_b, landmark_scale;  // [1, D], [1], [A]; undefined without landmarks
};

// Of latent attention: o as above, and what makes queries, keys and values (specs/blockffn.md 2).
struct LatentWeights {
  torch::Tensor q_down, q_norm, q_up;     // [q_rank, D], [q_rank], [A (nope + rope), q_rank]
  torch::Tensor kv_down, kv_norm, kv_up;  // [kv_rank + rope, D], [kv_rank], [A (nope + value), kv_rank]
  torch::Tensor o;                        // [D, A value]
};

// Rotate-half by pos * theta^(-2 i / Dh), angles in fp32 or better. x [B, T, A, Dh], pos [B, T].
torch::Tensor Rope(const torch::Tensor& x, const torch::Tensor& pos, double theta);

// Row offsets (b T + t) of the landmarks each chunk may see, in position order, -1 where the pool is not full:
// [B, n, G] int64 with G <= Gm; undefined when no chunk has any. scores [B, T]: larger is better, ties to the
// earlier. Positions of `pins` are promoted beside the best of their chunk and never leave a pool. No gradient.
torch::Tensor LandmarkPools(const AttentionConfig& config, const torch::Tensor& scores, const Layout& layout,
                            const std::vector<int64_t>& pins = {});

// out_t = sum_p softmax_p(q_t k_p / sqrt(Dh) + bias) v_p over the window (bias 0) and the landmarks of t's chunk that
// lie before the window (bias lambda_a log_sigma_p). A chunk at a time, recomputed in the backward pass:
// memory O(T (A Dh)) beside the tile. q [B, T, A, Dh]; k, v [B, T, Akv, Dh]; log_sigma [B, T] and lambda [A]
// undefined without landmarks; pools as above or undefined.
torch::Tensor SparseAttention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                              const torch::Tensor& log_sigma, const torch::Tensor& lambda, const torch::Tensor& pools,
                              const Layout& layout, int64_t window);
namespace composite {  // the slow twin
torch::Tensor SparseAttention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                              const torch::Tensor& log_sigma, const torch::Tensor& lambda, const torch::Tensor& pools,
                              const Layout& layout, int64_t window);
}  // namespace composite

// Causal softmax attention inside each document. q [B, T, A, Dh]; k, v [B, T, Akv, Dh] -> [B, T, A, Dh].
torch::Tensor FullAttention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                            const Layout& layout);

// What a query head sees of its document: the last `window` positions, its own included, and the first `sinks`.
struct SeenSpan {
  int64_t window = 0, sinks = 0;
  bool operator==(const SeenSpan&) const = default;
};
// Of each query head of a layer, as the plan of the options says [A]; empty without a plan.
std::vector<SeenSpan> SpansOfLayer(const ForwardOptions& options, int layer);

// FullAttention by masks, each head with its own span: tiles of queries, no T x T tensor. spans [A].
torch::Tensor SpanAttention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                            const Layout& layout, const std::vector<SeenSpan>& spans);

// The whole path: u [B, T, D] -> [B, T, D]. Of the controls: landmarks (off: window only) and pins. spans [A]: in the
// place of what the config says; a layer with a window has no sinks.
torch::Tensor Attention(const ModelConfig& config, AttentionKind kind, const AttentionWeights& w,
                        const torch::Tensor& u, const Layout& layout, const ForwardOptions& options,
                        const std::vector<SeenSpan>& spans = {});

// Queries, keys and values of every head, positions turned in.
struct LatentHeads {
  torch::Tensor q, k, v;  // [B, T, A, nope + rope] twice, [B, T, A, value]
};
LatentHeads ExpandLatent(const AttentionConfig& config, const LatentWeights& w, const torch::Tensor& u,
                         const torch::Tensor& pos);
// The whole path, expanded. u [B, T, D] -> [B, T, D].
torch::Tensor LatentAttention(const AttentionConfig& config, const LatentWeights& w, const torch::Tensor& u,
                              const Layout& layout);

}  // namespace hydra::nn
