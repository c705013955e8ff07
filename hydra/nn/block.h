// SPDX-License-Identifier: Apache-2.0
// One block: its tensors and the two wirings (specs/hydra.md 1). Private to nn: use model.h.
// Dims: B rows, T tokens, D d_model, F d_ff.
#pragma once

#include "hydra/nn/torch.h"

#include "hydra/nn/attention.h"
#include "hydra/nn/batch.h"
#include "hydra/nn/blockffn.h"
#include "hydra/nn/layout.h"
#include "hydra/nn/memory.h"
#include "hydra/nn/moe.h"
#include "hydra/nn/ssm.h"

namespace hydra::nn {

class Model;

struct DenseWeights {
  torch::Tensor gate, up, down;  // [F, D], [F, D], [D, F]
};

// Handles into the model's tensors; those of absent parts are undefined.
struct BlockWeights {
  torch::Tensor norm, path_gates, controller_w, controller_b;  // [D], [3], [3, D], [3]
  SsmWeights ssm;
  AttentionWeights attention;
  LatentWeights latent;
  torch::Tensor ffn_norm;  // [D], sequential wiring
  DenseWeights dense;
  BlockFfnWeights block_ffn;
  MoeWeights moe;
  WorkspaceWeights workspace;
  PkmWeights pkm;
  torch::Tensor pkm_table;  // [n * n, d_value], the model's: all sites share it

  static BlockWeights Of(const Model& model, int layer);
};

struct BlockOut {
  torch::Tensor x;  // [B, T, D]
  RouterLosses router;
};

BlockOut RunBlock(const ModelConfig& config, int layer, const BlockWeights& w, const torch::Tensor& x,
                  const Layout& layout, const ForwardOptions& options);

// The same, keeping only x for the backward pass, which runs the block a second time (activation checkpointing).
BlockOut RecomputedBlock(const ModelConfig& config, int layer, const BlockWeights& w, const torch::Tensor& x,
                         const Layout& layout, const ForwardOptions& options);

// [.., 3]: a * gate * controller of u, the factor of each path.
torch::Tensor PathFactors(const BlockWeights& w, const torch::Tensor& u, const ForwardOptions& options);

// SwiGLU of normed input.
torch::Tensor Dense(const DenseWeights& w, const torch::Tensor& u);

}  // namespace hydra::nn
