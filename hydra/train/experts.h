// SPDX-License-Identifier: Apache-2.0
// Use of the experts over time: numbers for the log, an alarm for those nobody chooses, and bias balancing.
// Not here: routing and its losses (nn/moe.h). Dims: E experts, n MoE layers.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/nn/model.h"

namespace hydra::train {

// specs/hydra.md 4, after the step: b_e += rate * sign(mean load - load_e). load [n, E] of the whole step.
void BalanceRouters(nn::Model& model, const torch::Tensor& load);

class ExpertWatch {
 public:
  // Remembers which blocks have experts; for a model without any, all calls do nothing.
  explicit ExpertWatch(const ModelConfig& config);

  // Takes the assignments [n, E] of one step of `tokens` tokens. Returns a line for each expert that has now been
  // without any for `dead_after` steps (0: none).
  std::vector<std::string> Step(const torch::Tensor& load, int64_t tokens, int64_t dead_after);
  // Mean over layers of the share of experts that are active, in the step that Step took last; NaN without BlockFFN.
  [[nodiscard]] double active_share() const { return active_share_; }
  // Of a step's chunks with labels: see nn::RouterOut. Undefined: the step had none.
  void StepLabels(const torch::Tensor& in_set);
  // moe/load_cv, moe/dead_experts, moe/load_min and moe/load/LAYER/EXPERT (share of the layer's chunks) since the last
  // call; with labels moe/in_set, the share of choices that were from the set of a chunk's label; of BlockFFN
  // blockffn/tls, the share of experts that are not active.
  void TakeMetrics(std::map<std::string, double>* values);

  [[nodiscard]] nlohmann::ordered_json Save() const;
  void Load(const nlohmann::ordered_json& json, const std::string& where);

 private:
  std::vector<int> layers_;
  bool block_ffn_;      // experts are of tokens, not of chunks
  int64_t tokens_ = 0;  // since TakeMetrics
  double active_share_;
  size_t n_experts_;
  std::vector<double> load_;     // [n * E] since TakeMetrics
  std::vector<int64_t> unused_;  // [n * E] steps without a chunk
  // Since TakeMetrics: choices from the own set, all choices of labelled chunks.
  std::vector<double> labels_ = std::vector<double>(2, 0.0);
};

}  // namespace hydra::train
