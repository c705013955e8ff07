// SPDX-License-Identifier: Apache-2.0
// Weights of BlockFFN's terms of the loss over a run (specs/blockffn.md 4): locality and L1 are constants, the chunk
// loss follows its scheduler, ReMoE's L1 its own controller. Torch-free. Not here: the terms (nn/blockffn.h).
#pragma once

#include <cstdint>
#include <string>

#include "hydra/io/json.h"
#include "hydra/model/config.h"
#include "hydra/train/factor_scheduler.h"

namespace hydra::train {

// [blockffn] of run.toml. A weight of 0: the term is not computed.
struct BlockFfnOptions {
  double al_weight = 2e-3, al_alpha = 100;
  double l1_weight = 0;
  int64_t cs_chunk = 64;
  FactorOptions cs = {};
  bool operator==(const BlockFfnOptions&) const = default;
};

// Weights of the step that comes; for a model without such layers all are 0.
class BlockFfnTerms {
 public:
  BlockFfnTerms(const ModelConfig& model, const BlockFfnOptions& options);

  [[nodiscard]] double locality() const { return relu_ ? options_.al_weight : 0; }
  [[nodiscard]] double chunk() const { return relu_ && options_.cs.first > 0 ? chunk_.Value() : 0; }
  [[nodiscard]] double size() const { return remoe_ ? size_ : relu_ ? options_.l1_weight : 0; }
  [[nodiscard]] const BlockFfnOptions& options() const { return options_; }
  // Whether the model has such layers at all.
  [[nodiscard]] bool any() const { return relu_ || remoe_ || top_k_; }

  // After the step: its chunk loss and the mean share of experts that were active. Frozen: the chunk loss's weight
  // stays.
  void Observe(double chunk_loss, double active_share, bool frozen);

  [[nodiscard]] Json Save() const;
  // Throws kFormat naming `where` and the field.
  void Load(const Json& json, const std::string& where);

 private:
  BlockFfnOptions options_;
  FactorScheduler chunk_;
  bool relu_, remoe_, top_k_;
  double target_ = 0;   // ReMoE's active share, k / E
  double size_ = 1e-8;  // ReMoE's weight
};

}  // namespace hydra::train
