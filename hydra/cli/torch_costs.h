// SPDX-License-Identifier: Apache-2.0
// What a training run costs, before it begins: parameters, steps, FLOPs, memory, and the plan of its stages. Not here:
// counting (model/accounting.h), the run itself (torch_train.cc).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/model/accounting.h"
#include "hydra/train/run_config.h"

namespace hydra::cli {

// One stage; a run without stages is one.
struct StageCosts {
  std::string name{}, parts{};  // "" without stages
  int64_t steps = 0, rows = 0, seq_len = 0, tokens = 0;
  double flops_per_token = 0;  // forward and backward, of what the stage computes
  TrainMemory memory{};
  std::string changes{};  // what moves within it: "sga 0 to 1, landmarks from 0.5"
};

struct Costs {
  ParamCounts params;
  TrainMemory memory;  // of the stage that needs most
  int64_t steps = 0, tokens_per_step = 0, have = 0;
  double flops_per_token = 0;  // of the longest rows, all parts on
  double flops = 0;            // of the run
  std::vector<StageCosts> stages;
};
[[nodiscard]] Costs CountCosts(const train::RunConfig& run, const ModelConfig& model);
[[nodiscard]] Json CostsJson(const Costs& costs);
void PrintCosts(const Costs& costs, const std::string& name);
// Refuses what would end in the out-of-memory killer, naming the setting that helps most.
void CheckMemory(const Costs& costs, const train::RunConfig& run);

// The plan as a table: stages, their tokens, lengths, parts, memory, and hours at half of `speed`, the FLOP/s of matrix
// products.
void PrintStages(const Costs& costs, double speed);
[[nodiscard]] Json StagesJson(const Costs& costs, double speed);

}  // namespace hydra::cli
