// SPDX-License-Identifier: Apache-2.0
// The model in its training form: Hydra, its transformer and Mamba-2 controls, from one config.
// Not here: files (model_io.h), one-token steps (step.h), optimisation (hydra/train).
// Dims: B rows, T tokens, D d_model, V vocab, E experts.
#pragma once

#include "hydra/nn/torch.h"

#include <memory>
#include <utility>
#include <vector>

#include "hydra/model/config.h"
#include "hydra/model/tensor_table.h"
#include "hydra/nn/batch.h"

namespace hydra::nn {

struct BlockWeights;  // block.h
struct Layout;        // layout.h

// What routing gave, means over the layers that have it; undefined tensors in a model without routed experts.
struct RouterOut {
  RouterTermValues terms;
  torch::Tensor load;    // [n_moe, E] assignments of this batch, no gradient: chunks of chunk experts, else tokens
  torch::Tensor in_set;  // [2] choices from the set of a chunk's label, all choices of labelled chunks; all layers
  [[nodiscard]] const torch::Tensor& operator[](RouterTerm term) const { return terms[TermIndex(term)]; }
};

// Means that the log shows (gates, slot use); filled when asked for, no gradients. See Model::CollectStats.
using Stats = std::vector<std::pair<std::string, double>>;

struct ForwardOut {
  torch::Tensor hidden;  // [B, T, D] after the final norm
  RouterOut router;
};

// The part of a step's loss that one batch of the step is: its share of the step's targets weighs its cross entropy,
// its share of the step's chunks the losses of chunk routers, since those are means over chunks, and its share of the
// step's batches those of BlockFFN (specs/blockffn.md 4).
struct LossShares {
  double targets = 1, chunks = 1, batches = 1;
  [[nodiscard]] double Of(RouterTerm term) const { return term < RouterTerm::kLocality ? chunks : batches; }
};

struct LossOut {
  // total = targets * lm + sum over the terms of share * coefficient * term; shares as in LossShares.
  torch::Tensor total;    // scalar
  torch::Tensor lm;       // scalar, mean nats over targets
  int64_t n_targets = 0;  // targets that are not -100
  RouterOut router;
};

struct ModelOptions {
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat32;  // of the master weights; kFloat64 in tests
  bool initialise = true;                // false: weights hold garbage until they are loaded
};

class Model {
 public:
  // Weights are initialised from seed 0 unless options say otherwise; see InitWeights.
  explicit Model(const ModelConfig& config, const ModelOptions& options = {});
  Model(Model&&) noexcept;
  ~Model();

  [[nodiscard]] ForwardOut Forward(const Batch& batch, const ForwardOptions& options = {}) const;
  // One block of Forward by itself, for what goes through a model layer by layer. x [B, T, D] -> [B, T, D].
  [[nodiscard]] torch::Tensor RunLayer(int layer, const torch::Tensor& x, const Layout& layout,
                                       const ForwardOptions& options = {}) const;
  // Rows of the embedding, and what the head reads, with MiniCPM's scales. ids [..] -> [.., D]; x [.., D] -> [.., D].
  [[nodiscard]] torch::Tensor Embed(const torch::Tensor& ids) const;
  [[nodiscard]] torch::Tensor FinalNorm(const torch::Tensor& x) const;
  [[nodiscard]] torch::Tensor Logits(const torch::Tensor& hidden) const;  // [.., D] -> [.., V]
  // Cross entropy of batch.targets, with the router's losses as the config says. n_targets must be > 0.
  [[nodiscard]] LossOut Loss(const Batch& batch, const ForwardOptions& options = {},
                             const LossShares& shares = {}) const;
  // Summed nats of each target: [B, T] float, 0 where the target is -100. No gradient.
  [[nodiscard]] torch::Tensor TokenLoss(const Batch& batch, const ForwardOptions& options = {}) const;

  // Fills every tensor as its Init says. Equal seeds give equal bits on every device and platform.
  void InitWeights(uint64_t seed);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const TensorTable& table() const { return table_; }
  // The tensor of a role; throws when the model has none. Handles alias the model's storage.
  [[nodiscard]] torch::Tensor at(TensorRole role, int layer = -1) const;
  // Parameters and buffers in table order.
  [[nodiscard]] std::vector<std::pair<const TensorSpec*, torch::Tensor>> Tensors() const;
  // Per-layer means for the log (gate/ssm/L, workspace/write_gate/L, pkm/gate/L, ssm/half_life/L, ...).
  [[nodiscard]] Stats CollectStats(const Batch& batch, const ForwardOptions& options = {}) const;
  // The landmarks that chunks see, of each layer that has a pool: see LandmarkPools (attention.h).
  [[nodiscard]] std::vector<torch::Tensor> CollectPools(const Batch& batch, const ForwardOptions& options = {}) const;

 private:
  [[nodiscard]] torch::Tensor HeadWeight() const;  // [V, D]

  ModelConfig config_;
  TensorTable table_;
  ModelOptions options_;
  std::vector<torch::Tensor> tensors_;  // table order
  std::vector<std::unique_ptr<BlockWeights>> blocks_;
};
}  // namespace hydra::nn
