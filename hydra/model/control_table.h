// SPDX-License-Identifier: Apache-2.0
// What settings of controls cost and what loss they leave, measured for one model; and the best of them within a budget
// of parameters. Not here: measuring (eval/control_losses.h), what controls do (hydra/runtime).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/model/controls.h"

namespace hydra {

// Parameters that a token uses under these controls: CountParams' active, with as many experts as they say, without
// paths and memories that they switch off.
[[nodiscard]] int64_t ActiveParams(const ModelConfig& config, const Controls& controls);

// Settings that differ in experts, paths and memory reads: every number of experts up to the model's, sparse attention
// on and off, each memory read or not. The model as it is comes first.
[[nodiscard]] std::vector<Controls> ControlSettings(const ModelConfig& config);

struct ControlTable {
  struct Row {
    Controls controls;
    int64_t active = 0;
    double loss = 0;  // bits per byte of held-out text
  };
  std::string config_sha256;  // of the model's config.json
  int64_t tokens = 0;         // that each loss is of
  std::vector<Row> rows;      // the model as it is first

  // A JSON file. Throws kFormat naming file and field; kUsage where it was measured for another model.
  [[nodiscard]] static ControlTable Load(const std::string& path, const ModelConfig& config);
  void Save(const std::string& path) const;
  // The least loss of at most so many active parameters; of equals the cheaper. Throws kUsage where none fits, naming
  // the least that there is.
  [[nodiscard]] const Row& Best(int64_t budget) const;
};

}  // namespace hydra
