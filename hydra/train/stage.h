// SPDX-License-Identifier: Apache-2.0
// A stage of a curriculum (specs/hydra.md 11): the fields of a [[stage]] of run.toml, and the default curriculum of a
// model. Not here: which step lies in which stage (run_config.h), what a step does of it (curriculum.h).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/model/config.h"
#include "hydra/model/model_parts.h"

namespace hydra::train {

// A number that moves in a line over a stage; `to` is reached at its last step.
struct Ramp {
  double from = 1, to = 1;
  Ramp(double value = 1) : from(value), to(value) {}  // NOLINT: a plain number is a ramp
  Ramp(double a, double b) : from(a), to(b) {}
  // share: of the stage that is done with this step, above 0 and up to 1.
  [[nodiscard]] double At(double share) const { return from + (to - from) * share; }
  bool operator==(const Ramp&) const = default;
};

// Rows of one corpus among those of a stage.
struct DataShare {
  std::string path;  // made by `hydralm data build`, with the run's tokenizer
  double share = 0;
  bool operator==(const DataShare&) const = default;
};

// A series of the log that must end the stage above or below a bound; the mean of NAME/LAYER where NAME alone is none.
struct WatchRule {
  std::string metric;
  std::optional<double> above{}, below{};
  bool stop = false;  // else it warns
  [[nodiscard]] bool Holds(double value) const { return (!above || value > *above) && (!below || value < *below); }
  bool operator==(const WatchRule&) const = default;
};

struct Stage {
  std::string name;
  double share = 0;                  // of the run: of its tokens where optim.tokens is given, else of its steps
  int64_t seq_len = 0;               // tokens of a row; 0: optim.seq_len
  int64_t batch_rows = 0;            // 0: as many as hold about the tokens of optim.batch_rows * optim.seq_len
  std::vector<std::string> parts{};  // that are on; empty: all of the model
  std::array<Ramp, 3> path_scale{};  // a of ssm, sga, moe
  double landmarks_from = 0;         // share of the stage after which landmarks are visible
  std::optional<RouterMode> router_mode{};
  std::optional<Ramp> router_temperature{}, router_balance{};  // tau; the coefficient of the balance loss
  Ramp lr_scale{};
  std::array<double, 5> lr_parts{1, 1, 1, 1, 1};     // factor on the rate of each part, kModelParts' order
  std::optional<double> lr_pkm_table{};              // instead of optim.pkm_table_lr
  std::optional<Ramp> workspace_bias{}, pkm_bias{};  // read gates, set each step and not learned
  std::vector<DataShare> data{};                     // empty: data.dir
  std::vector<WatchRule> watches{};
  [[nodiscard]] bool IsOn(ModelPart part, const ModelConfig& model) const;
  bool operator==(const Stage&) const = default;
};

// The list of [[stage]]; `where` names the file. Errors name it, the stage, the key, its value and the rule.
[[nodiscard]] std::vector<Stage> ReadStages(const Json& list, const std::string& where);
// As run.toml spells them; ReadStages of it gives equal stages.
[[nodiscard]] std::string StagesToml(const std::vector<Stage>& stages);
// "stage.NAME.KEY: 0.1 != 0.2" for each that differs; one line where the stages are others.
[[nodiscard]] std::vector<std::string> CompareStages(const std::vector<Stage>& a, const std::vector<Stage>& b);
// Rules between stages, and between stages and model.
void CheckStages(const std::vector<Stage>& stages, const ModelConfig& model, const std::string& where);

// curriculum = "default": the table of specs/hydra.md 11, its lengths scaled to the model; of the parts that the model
// has. Throws kConfig for a model that is no Hydra.
[[nodiscard]] std::vector<Stage> DefaultCurriculum(const ModelConfig& model);

// Names of series that a watch may name.
[[nodiscard]] std::vector<std::string> WatchableSeries();

}  // namespace hydra::train
