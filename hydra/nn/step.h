// SPDX-License-Identifier: Apache-2.0
// The model one token at a time, slow and obvious, from the step forms of the specification: the oracle of
// "step == scan" and of the runtime. Not here: speed, sampling (hydra/runtime).
// Dims: H heads, P head_dim, N d_state, K taps, W window, S slots, r rank, D d_model.
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>
#include <vector>

#include "hydra/nn/block.h"
#include "hydra/nn/model.h"

namespace hydra::nn {

// A key in the window or the landmark pool, after norm and RoPE.
struct KeyEntry {
  int64_t pos;
  torch::Tensor k, v;  // [Akv, Dh]
  double score;        // landmark score; 0 without landmarks
};

// All that one sequence carries through one block; unused parts stay empty (specs/hydra.md 10).
struct BlockState {
  torch::Tensor conv;  // [K - 1, conv_dim], oldest first
  torch::Tensor ssm;   // [H, P, N], or [D] when diagonal
  std::vector<KeyEntry> ring, pool;
  torch::Tensor latent;               // [t, kv_rank + rope] of all tokens so far
  torch::Tensor sum, mean;            // [D] of the open chunk, of the closed one before
  Routes routes;                      // of the open chunk, ids and weights [1, 1, k]
  torch::Tensor M, acc, weight, max;  // [S, r], [S, r], [S], [S]
};

// Copying forks the sequence: the copies never see each other's tokens. The model must outlive it. Not thread-safe.
class Stepper {
 public:
  explicit Stepper(const Model& model, const ForwardOptions& options = {});
  // Logits [V] after this token.
  torch::Tensor Step(int64_t id);
  // What the head reads [D], given the token's scaled embedding.
  torch::Tensor StepEmbedding(const torch::Tensor& embedding);
  [[nodiscard]] int64_t pos() const { return pos_; }
  [[nodiscard]] const std::vector<BlockState>& state() const { return state_; }

 private:
  torch::Tensor RunBlock(int layer, const torch::Tensor& x, BlockState& state);
  torch::Tensor Ssm(const BlockWeights& w, const torch::Tensor& u, BlockState& state) const;
  torch::Tensor Attention(int layer, const BlockWeights& w, const torch::Tensor& u, BlockState& state) const;
  torch::Tensor Latent(const BlockWeights& w, const torch::Tensor& u, BlockState& state) const;
  torch::Tensor Ffn(int layer, const BlockWeights& w, const torch::Tensor& u, BlockState& state) const;
  torch::Tensor Moe(int layer, const BlockWeights& w, const torch::Tensor& u, BlockState& state) const;
  torch::Tensor Workspace(int layer, const BlockWeights& w, const torch::Tensor& x, BlockState& state) const;
  [[nodiscard]] const ForwardOptions& At(int layer) const { return options_[static_cast<size_t>(layer)]; }
  [[nodiscard]] bool ClosesChunk() const { return (pos_ + 1) % model_->config().chunk_len == 0; }

  const Model* model_;
  std::vector<ForwardOptions> options_;  // of each layer
  std::vector<BlockWeights> weights_;
  std::vector<BlockState> state_;
  int64_t pos_ = 0;
};

}  // namespace hydra::nn
