// SPDX-License-Identifier: Apache-2.0
// What a training run is: the fields of run.toml, read from a file and from KEY=VALUE settings, written back whole.
// Not here: the model's fields (model/config.h), where the run is kept and on which device it runs (trainer.h).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hydra/model/config.h"
#include "hydra/train/blockffn_terms.h"
#include "hydra/train/guard.h"
#include "hydra/train/optimizer_options.h"
#include "hydra/train/schedule.h"
#include "hydra/train/stage.h"

namespace hydra::train {

// Where a stage lies in the run.
struct StageSpan {
  int64_t first = 0, steps = 0;  // of the run
  int64_t rows = 0, seq_len = 0;
};

struct RunConfig {
  std::string file;  // that LoadRunConfig read, for messages about what it lacks; "" = none

  struct Model {
    std::string preset;            // a preset's name; or
    std::string config;            // config.json, or a folder that holds one
    std::string overrides = "{}";  // JSON object: the other keys of [model], which are keys of config.json
    bool operator==(const Model&) const = default;
  } model;

  struct Data {
    std::string dir;        // made by `hydralm data build`
    std::string tokenizer;  // tokenizer.json; empty: the one in dir
    bool operator==(const Data&) const = default;
  } data;

  struct Optim {
    int64_t steps = 0;            // length of the run in steps; or
    int64_t tokens = 0;           // in tokens, pads included
    StepSchedule batch_rows = 8;  // rows of a micro-batch
    StepSchedule seq_len = 256;   // tokens of a row
    int64_t accum = 1;            // micro-batches of a step
    int64_t seed = 1;             // of initial weights and data order
    OptimizerKind optimizer = OptimizerKind::kAdamW;
    bool checkpoint_blocks = false;  // keep each block's input only, compute the rest again in the backward pass
    double lr = 1e-3;
    LrShape schedule = LrShape::kCosine;
    int64_t warmup_steps = 100;
    double min_lr_ratio = 0.1;
    double decay_share = 0.2;                // of the run, schedule = "wsd" and "wsd_exp"
    int64_t half_life = 560;                 // steps, schedule = "wsd_exp"
    std::array<double, 2> betas{0.9, 0.95};  // of AdamW; so is eps
    double eps = 1e-8;
    double weight_decay = 0.1;
    double clip = 1.0;              // largest gradient norm; 0 = not clipped
    double pkm_table_lr = 4.0;      // factor on lr for the table of the product-key memory
    bool published_groups = false;  // of BlockFFN: decay everywhere, the router's scale at the matrices' rate
    bool operator==(const Optim&) const = default;
  } optim;

  BlockFfnOptions blockffn;

  struct Log {
    int64_t every = 10;     // steps
    double peak_flops = 0;  // of the device, for mfu; 0 = measured at the start
    bool operator==(const Log&) const = default;
  } log;

  struct Checkpoint {
    int64_t every = 500;  // steps; 0 = at the end and when interrupted only
    int64_t keep = 3;     // newest ones kept, and the best one
    bool operator==(const Checkpoint&) const = default;
  } checkpoint;

  struct Eval {
    int64_t every = 200;         // steps; 0 = at the end only
    int64_t tokens = 131072;     // of the validation split; 0 = all at each evaluation
    int64_t part_tokens = 8192;  // the loss with each part switched off is of so many; 0 = not measured
    bool operator==(const Eval&) const = default;
  } eval;

  GuardConfig guard;

  std::string curriculum;     // "default": stages that follow from the model, until ResolveCurriculum; or
  std::vector<Stage> stages;  // [[stage]]; none: all parts are on from the first step to the last

  bool operator==(const RunConfig&) const = default;

  // Rules between fields and bounds are checked when values are read; this checks what must be there.
  void Validate(const std::string& where) const;
  [[nodiscard]] int64_t TotalSteps() const;
  // Of each stage; none without stages.
  [[nodiscard]] std::vector<StageSpan> StageSpans() const;
  // Over the whole run.
  [[nodiscard]] int64_t MostRows() const;
  [[nodiscard]] int64_t MostSeqLen() const;
  [[nodiscard]] int64_t MostTokens() const;  // of a micro-batch
  [[nodiscard]] LrSchedule Lr() const;
};

// Reads a run file (at most 16 MiB) and then settings ("optim.lr=3e-4", the value as TOML; what is no TOML value is
// text). An empty path is an empty file. Unknown keys, bad types, numbers that are not decimal or not finite and values
// out of bounds are errors naming file or setting, key, value and rule. Keys of [model] that are keys of config.json
// are checked by ResolveModel.
[[nodiscard]] RunConfig LoadRunConfig(const std::string& path, const std::vector<std::string>& settings = {});
// The same from the text of a file; `where` names it.
[[nodiscard]] RunConfig ParseRunConfig(const std::string& text, const std::string& where,
                                       const std::vector<std::string>& settings = {});

// The text of run.toml with every field; ParseRunConfig of it gives an equal config.
[[nodiscard]] std::string RunToml(const RunConfig& config);
// "optim.lr: 0.003 != 0.001" for each field that differs; the model's fields apart.
[[nodiscard]] std::vector<std::string> CompareRunConfigs(const RunConfig& a, const RunConfig& b);
// "section.key" of every field, for messages and help.
[[nodiscard]] std::vector<std::string> RunConfigKeys();

// The model that [model] describes. `base` (of --init) is used where neither preset nor config is given; `where` begins
// the messages about keys of config.json.
[[nodiscard]] ModelConfig ResolveModel(const RunConfig& config, const ModelConfig* base = nullptr,
                                       const std::string& where = "[model]");

// Puts the default curriculum in the place of its name and checks all stages against the model.
void ResolveCurriculum(const ModelConfig& model, RunConfig* config);

}  // namespace hydra::train
