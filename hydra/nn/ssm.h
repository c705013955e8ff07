// SPDX-License-Identifier: Apache-2.0
// The SSM path of a block: Mamba-2 (chunked SSD) and the published diagonal recurrence (specs/hydra.md 2).
// Not here: one-token steps (step.h).
// Dims: B rows, T tokens, D d_model, H heads, P head_dim, N d_state, G groups, K taps, Q scan_chunk, di d_inner = H P,
// cd = di + 2 G N.
#pragma once

#include "hydra/nn/torch.h"

#include "hydra/model/config.h"
#include "hydra/nn/layout.h"

namespace hydra::nn {

struct SsdOut {
  torch::Tensor y;      // [B, T, H, P] without the skip D x
  torch::Tensor state;  // [B, H, P, N] after the last token
};

// h_t = exp(dt A) h_{t-1} + dt x (x) B, y_t = h_t C, by chunks of Q (Mamba-2, arXiv 2405.21060, section 6).
//   x [B, T, H, P], dt [B, T, H] (0 where a token must not count), A [H] < 0, Bm and Cm [B, T, G, N],
//   seq [B, T] int64 document of each token or undefined for one document, Q >= 1.
// No state passes from one document to the next; memory is O(T (Q H + N H P / Q)).
SsdOut SsdScan(const torch::Tensor& x, const torch::Tensor& dt, const torch::Tensor& A, const torch::Tensor& Bm,
               const torch::Tensor& Cm, const torch::Tensor& seq, int64_t Q);

// [B, T, 4 D] -> [B, T, D]: y_t = C_t s_t, s_{t+1} = alpha_t s_t + B_t U_t, alpha = exp(-softplus(delta)
// exp(lambda_log)).
torch::Tensor DiagonalScan(const torch::Tensor& params, const torch::Tensor& lambda_log, const Layout& layout);

// Tensors of one SSM path; those of the other kind are undefined.
struct SsmWeights {
  torch::Tensor in_proj, conv_w, conv_b;            // [2 di + 2 G N + H, D], [cd, 1, K], [cd] or undefined
  torch::Tensor A_log, D, dt_bias;                  // [H]
  torch::Tensor norm, out_proj;                     // [di], [D, di]
  torch::Tensor param_proj, lambda_log, skip_proj;  // diagonal: [4 D, D], [D], [D, D]
};

// Mamba-2 between its two projections: convolution, dt, scan, skip, gated norm.  projected [B, T, 2 di + 2 G N + H] ->
// [B, T, di].  One autograd function where ChooseForm (form.h) says so; else the twin below.
torch::Tensor Mamba2Core(const ModelConfig& config, const SsmWeights& w, const torch::Tensor& projected,
                         const Layout& layout);
namespace composite {
torch::Tensor Mamba2Core(const ModelConfig& config, const SsmWeights& w, const torch::Tensor& projected,
                         const Layout& layout);
}  // namespace composite

// u [B, T, D] -> [B, T, D].
torch::Tensor Ssm(const ModelConfig& config, const SsmWeights& w, const torch::Tensor& u, const Layout& layout);

// clamp(softplus(raw + dt_bias), time_step_limit); softplus(v) = v above 20.
torch::Tensor SsmDt(const SsmConfig& config, const torch::Tensor& raw, const torch::Tensor& dt_bias);

}  // namespace hydra::nn
