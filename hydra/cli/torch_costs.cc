// SPDX-License-Identifier: Apache-2.0
// Counts and prints what a run costs.
#include "hydra/cli/torch_costs.h"

#include <algorithm>
#include <cstdio>

#include "hydra/base/error.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/machine.h"

namespace hydra::cli {
namespace {

TrainMemoryOptions MemoryOptions(const train::RunConfig& run, const StageCosts& stage) {
  return {.tokens = stage.rows * stage.seq_len,
          .checkpoint_blocks = run.optim.checkpoint_blocks,
          .factored_moments = run.optim.optimizer == train::OptimizerKind::kAdafactor};
}

std::string ChangesOf(const train::Stage& stage, const ModelConfig& model) {
  std::string text;
  const auto add = [&](const std::string& name, const train::Ramp& ramp, double usual) {
    if (ramp.from == ramp.to && ramp.from == usual) return;
    text += StrCat(text.empty() ? "" : ", ", name, " ", ramp.from, ramp.from == ramp.to ? "" : StrCat(" to ", ramp.to));
  };
  for (size_t i = 0; i < stage.path_scale.size(); ++i)
    if (stage.IsOn(kModelParts[i], model)) add(ModelPartName(kModelParts[i]), stage.path_scale[i], 1);
  if (stage.landmarks_from > 0) text += StrCat(text.empty() ? "" : ", ", "landmarks from ", stage.landmarks_from);
  if (stage.router_mode == RouterMode::kRoundRobin) text += StrCat(text.empty() ? "" : ", ", "round robin");
  if (stage.router_temperature) add("temperature", *stage.router_temperature, model.moe.temperature);
  if (stage.router_balance) add("balance", *stage.router_balance, model.moe.aux_loss_coef);
  if (stage.workspace_bias) add("workspace bias", *stage.workspace_bias, 0);
  if (stage.pkm_bias) add("pkm bias", *stage.pkm_bias, 0);
  add("rate", stage.lr_scale, 1);
  return text;
}

// At half of the speed of matrix products: what training reaches, about.
double Hours(const StageCosts& stage, double speed) {
  constexpr double kShare = 0.5, kHour = 3600;
  return stage.flops_per_token * static_cast<double>(stage.tokens) / (kShare * speed) / kHour;
}

}  // namespace

Costs CountCosts(const train::RunConfig& run, const ModelConfig& model) {
  Costs costs;
  costs.params = CountParams(model);
  costs.steps = run.TotalSteps();
  costs.tokens_per_step = run.MostTokens() * run.optim.accum;
  costs.flops_per_token = 3 * MeanForwardFlops(model, run.MostSeqLen());
  costs.have = AvailableMemory();
  const std::vector<train::StageSpan> spans = run.StageSpans();
  for (size_t i = 0; i < std::max<size_t>(spans.size(), 1); ++i) {
    StageCosts stage{.steps = costs.steps, .rows = run.MostRows(), .seq_len = run.MostSeqLen()};
    ModelConfig config = model;
    if (i < spans.size()) {
      const train::Stage& of = run.stages[i];
      stage = {.name = of.name, .steps = spans[i].steps, .rows = spans[i].rows, .seq_len = spans[i].seq_len};
      for (const ModelPart part : kModelParts) {
        if (of.IsOn(part, model))
          stage.parts += StrCat(stage.parts.empty() ? "" : " ", ModelPartName(part));
        else if (HasPart(model, part))
          config = WithoutPart(config, part);
      }
      stage.changes = ChangesOf(of, model);
    }
    stage.tokens = stage.steps * stage.rows * stage.seq_len * run.optim.accum;
    stage.flops_per_token = 3 * MeanForwardFlops(config, stage.seq_len);
    // Weights and moments of the whole model are held from the start; a part that is off has no activations.
    stage.memory = CountTrainMemory(model, MemoryOptions(run, stage));
    stage.memory.activations = CountTrainMemory(config, MemoryOptions(run, stage)).activations;
    costs.flops += stage.flops_per_token * static_cast<double>(stage.tokens);
    if (stage.memory.total() > costs.memory.total()) costs.memory = stage.memory;
    costs.stages.push_back(std::move(stage));
  }
  return costs;
}

Json CostsJson(const Costs& costs) {
  return {{"params", {{"total", costs.params.total}, {"active", costs.params.active}}},
          {"steps", costs.steps},
          {"tokens_per_step", costs.tokens_per_step},
          {"flops_per_token", costs.flops_per_token},
          {"bytes",
           {{"weights", costs.memory.weights},
            {"gradients", costs.memory.gradients},
            {"moments", costs.memory.moments},
            {"activations", costs.memory.activations},
            {"total", costs.memory.total()},
            {"have", costs.have}}}};
}

void PrintCosts(const Costs& costs, const std::string& name) {
  std::printf("model        %s: %s parameters, %s active\n", name.c_str(), Commas(costs.params.total).c_str(),
              Commas(costs.params.active).c_str());
  std::printf("run          %s steps of up to %s tokens, %.3g MFLOP a token: %.3g TFLOP in all\n",
              Commas(costs.steps).c_str(), Commas(costs.tokens_per_step).c_str(), costs.flops_per_token / 1e6,
              costs.flops / 1e12);
  std::printf("memory       weights %s + gradients %s + moments %s + activations %s = %s of %s MiB\n",
              MiB(costs.memory.weights).c_str(), MiB(costs.memory.gradients).c_str(), MiB(costs.memory.moments).c_str(),
              MiB(costs.memory.activations).c_str(), MiB(costs.memory.total()).c_str(), MiB(costs.have).c_str());
  std::fflush(stdout);
}

// Refuses what would end in the out-of-memory killer, naming the setting that helps most.
void CheckMemory(const Costs& costs, const train::RunConfig& run) {
  if (costs.have == 0 || costs.memory.total() <= costs.have) return;
  const auto gib = [](int64_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
    return std::string(text);
  };
  const int64_t fixed = costs.memory.total() - costs.memory.activations, rows = run.optim.batch_rows.MaxValue();
  std::string advice = "a smaller model is needed";
  if (fixed < costs.have) {
    const auto fits = static_cast<int64_t>(static_cast<double>(rows) * static_cast<double>(costs.have - fixed) /
                                           static_cast<double>(costs.memory.activations));
    advice = fits >= 1 ? StrCat("--batch ", fits, " fits (optim.accum = ", (rows + fits - 1) / fits,
                                " keeps the step's size)")
                       : std::string("a smaller --seq-len is needed");
  }
  throw Error(ErrorCode::kUsage, StrCat("needs ", gib(costs.memory.total()), ", ", gib(costs.have), " free: ", advice));
}

void PrintStages(const Costs& costs, double speed) {
  std::printf("\n| stage | steps | tokens | rows x length | parts | MFLOP a token | MiB | hours | what moves |\n");
  std::printf("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- |\n");
  double hours = 0;
  for (const StageCosts& stage : costs.stages) {
    std::printf("| %s | %s | %s | %lld x %lld | %s | %.3g | %s | %.2g | %s |\n",
                stage.name.empty() ? "all" : stage.name.c_str(), Commas(stage.steps).c_str(),
                Commas(stage.tokens).c_str(), static_cast<long long>(stage.rows), static_cast<long long>(stage.seq_len),
                stage.parts.c_str(), stage.flops_per_token / 1e6, MiB(stage.memory.total()).c_str(),
                Hours(stage, speed), stage.changes.c_str());
    hours += Hours(stage, speed);
  }
  std::printf("\nabout %.2g hours at half of %.3g GFLOP/s, the speed of matrix products here\n", hours, speed / 1e9);
}

Json StagesJson(const Costs& costs, double speed) {
  Json list = Json::array();
  for (const StageCosts& stage : costs.stages)
    list.push_back({{"name", stage.name},
                    {"steps", stage.steps},
                    {"tokens", stage.tokens},
                    {"rows", stage.rows},
                    {"seq_len", stage.seq_len},
                    {"parts", stage.parts},
                    {"flops_per_token", stage.flops_per_token},
                    {"bytes", stage.memory.total()},
                    {"hours", Hours(stage, speed)},
                    {"changes", stage.changes}});
  return list;
}

}  // namespace hydra::cli
