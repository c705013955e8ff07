// SPDX-License-Identifier: Apache-2.0
// The training loop of tasks.
#include "hydra/eval/task_train.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/eval/task_batch.h"
#include "hydra/io/file.h"
#include "hydra/train/checkpoint.h"
#include "hydra/train/experts.h"
#include "hydra/train/guard.h"
#include "hydra/train/optim.h"
#include "hydra/train/schedule.h"

namespace hydra::eval {
namespace {

using torch::Tensor;

constexpr int64_t kCurvePoints = 50;

class TaskTrainer {
 public:
  TaskTrainer(nn::Model& model, const Task& task, const TaskTraining& options)
      : model_(model),
        task_(task),
        o_(options),
        lr_{.shape = train::LrShape::kCosine,
            .peak = options.lr,
            .warmup_steps = std::max<int64_t>(1, options.steps / 20),
            .total_steps = options.steps,
            .min_ratio = 0.05},
        optimizer_(train::MakeOptimizer(train::OptimParams(model, kTableRate), {})),
        guard_(train::GuardConfig{}) {
    HYDRA_CHECK(task.vocabulary() <= model.config().vocab_size, "ids of ", task.vocabulary());
    MakeDirs(o_.folder);
    model_.InitWeights(o_.seed);
    if (const auto found = train::FindCheckpoint(o_.folder, [](const std::string&) {})) Restore(*found);
  }

  TaskTrained Run() {
    double saved = Seconds();
    while (now_.step < o_.steps && !now_.diverged) {
      if (o_.stop != nullptr && o_.stop->load() != 0) {
        Save();
        return now_;
      }
      const double begin = Seconds();
      const double loss = Step();
      now_.seconds += Seconds() - begin;
      if (o_.on_step) o_.on_step(now_.step, loss);
      if (Seconds() - saved < o_.checkpoint_seconds) continue;
      Save();
      saved = Seconds();
    }
    now_.finished = true;
    Save();
    return now_;
  }

 private:
  static constexpr double kTableRate = 4;  // of the product-key memory, as run files have it

  double Step() {
    const std::vector<TaskBatch> micro = MakeBatches(task_.TrainStep(o_.seed, now_.step), o_.align, o_.micro_tokens);
    double targets = 0, chunks = 0;
    for (const TaskBatch& batch : micro) {
      targets += static_cast<double>(batch.n_targets);
      chunks += static_cast<double>(batch.n_chunks);
      now_.tokens += batch.n_tokens;
    }
    optimizer_->ZeroGrad();
    double total = 0, lm = 0;
    Tensor load;
    for (const TaskBatch& batch : micro) {
      const nn::LossShares shares{.targets = static_cast<double>(batch.n_targets) / targets,
                                  .chunks = static_cast<double>(batch.n_chunks) / chunks,
                                  .batches = 1 / static_cast<double>(micro.size())};
      nn::LossOut out;
      {
        const train::AutocastScope autocast(o_.device);
        out = model_.Loss(batch.batch.To(o_.device.device), {}, shares);
      }
      out.total.backward();
      total += out.total.item<double>();
      lm += out.lm.item<double>() * shares.targets;
      if (out.router.load.defined()) load = load.defined() ? load + out.router.load : out.router.load;
    }
    Update(total, load);
    ++now_.step;
    Remember(lm);
    return lm;
  }

  void Update(double loss, const Tensor& load) {
    const double norm = optimizer_->GradNorm();
    const train::Guard::Decision decision = guard_.Check(now_.step, loss, norm);
    if (decision.verdict == train::Guard::Verdict::kUpdate) {
      optimizer_->Step(lr_.At(now_.step), norm);
      if (load.defined() && model_.config().moe.balance == RouterBalance::kBias) train::BalanceRouters(model_, load);
    }
    now_.diverged = decision.verdict == train::Guard::Verdict::kStop;
    now_.skipped = guard_.skipped();
  }

  // Losses that are no numbers are in no point: `skipped` counts their steps.
  void Remember(double loss) {
    if (std::isfinite(loss)) {
      sum_ += loss;
      ++summed_;
    }
    const bool point = now_.step % std::max<int64_t>(1, o_.steps / kCurvePoints) == 0 || now_.step == o_.steps;
    if (!point || summed_ == 0) return;
    now_.curve.emplace_back(now_.step, sum_ / static_cast<double>(summed_));
    sum_ = 0;
    summed_ = 0;
  }

  void Save() {
    if (saved_step_ == now_.step) return;
    Json curve = Json::array();
    for (const auto& [step, loss] : now_.curve) curve.push_back({step, loss});
    train::CheckpointContent content{.weights = {},
                                     .optimiser = optimizer_->State(),
                                     .state = {{"world_size", 1},  // files of the optimiser, which the reader counts
                                               {"step", now_.step},
                                               {"tokens", now_.tokens},
                                               {"seconds", now_.seconds},
                                               {"diverged", now_.diverged},
                                               {"sum", sum_},
                                               {"summed", summed_},
                                               {"curve", curve},
                                               {"guard", guard_.Save()}},
                                     .metadata = {{"format", "pt"}}};
    for (const auto& [spec, tensor] : model_.Tensors()) content.weights.emplace_back(spec->name, tensor);
    (void)train::WriteCheckpoint(o_.folder, now_.step, content);
    train::PruneCheckpoints(o_.folder, 1, now_.step);
    saved_step_ = now_.step;
  }

  void Restore(const train::Checkpoint& found) {
    const std::string where = found.folder + "/state.json: ";
    const auto at = [&](const char* key) -> const Json& {
      if (!found.state.contains(key)) throw Error(ErrorCode::kFormat, where + key + ": missing");
      return found.state[key];
    };
    ReadJson(at("step"), where + "step", &now_.step);
    ReadJson(at("tokens"), where + "tokens", &now_.tokens);
    ReadJson(at("seconds"), where + "seconds", &now_.seconds);
    ReadJson(at("diverged"), where + "diverged", &now_.diverged);
    ReadJson(at("sum"), where + "sum", &sum_);
    ReadJson(at("summed"), where + "summed", &summed_);
    std::vector<std::vector<double>> curve;
    ReadJson(at("curve"), where + "curve", &curve);
    for (const std::vector<double>& point : curve) {
      if (point.size() != 2) throw Error(ErrorCode::kFormat, where + "curve: a point has two numbers");
      now_.curve.emplace_back(static_cast<int64_t>(point[0]), point[1]);
    }
    guard_.Load(at("guard"), where + "guard");
    now_.skipped = guard_.skipped();
    train::NamedTensors weights;
    for (const auto& [spec, tensor] : model_.Tensors()) weights.emplace_back(spec->name, tensor);
    const torch::NoGradGuard no_grad;
    train::LoadTensors(found.weights, weights);
    optimizer_->LoadState(found.optimiser);
    saved_step_ = now_.step;
  }

  nn::Model& model_;
  const Task& task_;
  TaskTraining o_;
  train::LrSchedule lr_;
  std::unique_ptr<train::Optimizer> optimizer_;
  train::Guard guard_;
  TaskTrained now_;
  double sum_ = 0;  // of losses since the curve's last point
  int64_t summed_ = 0;
  int64_t saved_step_ = -1;
};

}  // namespace

TaskTrained TrainOnTask(nn::Model& model, const Task& task, const TaskTraining& options) {
  return TaskTrainer(model, task, options).Run();
}

}  // namespace hydra::eval
