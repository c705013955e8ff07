// SPDX-License-Identifier: Apache-2.0
// What a run looks at while it trains: validation loss, the health of each part, what each is worth, and whether a
// stage ended as its watches ask.
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/nn/sparsity.h"
#include "hydra/train/checkpoint.h"
#include "hydra/train/trainer_impl.h"
#include "hydra/train/validation.h"

namespace hydra::train {

void Trainer::Impl::WriteRow(MetricsSplit split, MetricsRow row) {
  for (const auto& [name, value] : row.values)
    if (IsWatched(name)) now_.watched[name] = value;
  if (!log_) return;
  try {
    log_->Row(split, row);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kIo) throw;
    Warn(StrCat(error.what(), ": the row of step ", row.step, " is lost"));
  }
}

void Trainer::Impl::Evaluate() {
  // The longest rows of the run, so that losses of different stages can be compared; parts as in the step just made.
  const int64_t step = now_.step - 1;
  const ValidationOptions how{.seq_len = options_.run.MostSeqLen(),
                              .rows = std::max<int64_t>(1, options_.run.MostTokens() / options_.run.MostSeqLen()),
                              .max_tokens = options_.run.eval.tokens,
                              .device = options_.device,
                              .forward = curriculum_.ForwardAt(step)};
  const ValidationResult result = Validate(model_, *options_.val, options_.token_bytes, how);
  if (result.tokens == 0) {
    validates_ = false;  // the part that is read is the same each time
    return Warn(StrCat("eval.tokens = ", how.max_tokens,
                       ": no token of this part of the validation documents can be predicted: no validation loss"));
  }
  now_.val_step = now_.step;
  now_.val_loss = result.loss();
  now_.val_bpb = result.bits_per_byte();
  const bool stop = guard_.CheckValidation(now_.step, now_.val_loss);
  MetricsRow row{.step = now_.step, .tokens = now_.tokens, .seconds = now_.seconds, .flops = now_.flops, .values = {}};
  row.values["val/loss"] = now_.val_loss;
  if (!std::isnan(now_.val_bpb)) row.values["val/bpb"] = now_.val_bpb;
  RowPacker packer(*options_.val, {.chunk_len = options_.model.chunk_len, .seed = 0});
  const nn::Batch batch = NextBatch(packer, how.rows, how.seq_len).batch;
  for (const auto& [name, value] : model_.CollectStats(batch.To(options_.device.device), how.forward))
    row.values[name] = value;
  if (block_terms_.any()) MeasureSparsity(batch, how.forward, &row);
  if (options_.run.eval.part_tokens > 0) MeasureParts(how, &row);
  WriteRow(MetricsSplit::kVal, std::move(row));
  const EvalReport report{.step = now_.step,
                          .total_steps = total_steps_,
                          .loss = now_.val_loss,
                          .bpb = now_.val_bpb,
                          .best = guard_.best_step() == now_.step};
  folder_.Log(EvalLine(report));
  if (options_.callbacks.on_eval) options_.callbacks.on_eval(report);
  if (!stop) return;
  const int64_t best = folder_.exists() ? BestCheckpoint(folder_.checkpoints(), saved_step_) : -1;
  throw Error(ErrorCode::kDiverged,
              StrCat("step ", now_.step, ": validation loss ", now_.val_loss, " is ", options_.run.guard.val_rise,
                     " above its best, ", guard_.best_val(), " at step ", guard_.best_step(), ", for the ",
                     options_.run.guard.val_times, "th time running; best checkpoint: ",
                     best < 0 ? "none" : folder_.checkpoints() + "/" + CheckpointName(best)));
}

void Trainer::Impl::MeasureSparsity(const nn::Batch& batch, nn::ForwardOptions forward, MetricsRow* row) {
  const nn::SparsityByLayer counted = nn::CountSparsity(model_, batch.To(options_.device.device), std::move(forward));
  std::map<std::string, double> sums;
  const auto add = [&](const std::string& name, int layer, double value) {
    if (std::isnan(value)) return;
    row->values[StrCat("blockffn/", name, "/", layer)] = value;
    sums[name] += value / static_cast<double>(counted.size());
  };
  for (const auto& [layer, counter] : counted) {
    add("tls", layer, counter.token_sparsity());
    add("reuse", layer, counter.reuse());
    for (const int64_t window : SparsityCounter::kWindows)
      add(StrCat("cls_", window), layer, counter.chunk_sparsity(window));
  }
  for (const auto& [name, mean] : sums) row->values["blockffn/" + name] = mean;
}

void Trainer::Impl::MeasureParts(ValidationOptions how, MetricsRow* row) {
  how.max_tokens = options_.run.eval.part_tokens;
  const nn::ForwardOptions all = how.forward;
  const auto loss = [&](const nn::ForwardOptions& forward) {
    how.forward = forward;
    const ValidationResult result = Validate(model_, *options_.val, options_.token_bytes, how);
    return options_.token_bytes.empty() ? result.loss() : result.bits_per_byte();
  };
  const std::vector<ModelPart> on = curriculum_.PartsAt(now_.step - 1);
  if (on.empty()) return;
  const double with_all = loss(all);
  if (!std::isfinite(with_all)) return;
  for (const ModelPart part : on) {
    nn::ForwardOptions without = all;
    switch (part) {
      case ModelPart::kWorkspace: without.workspace = false; break;
      case ModelPart::kPkm: without.pkm = false; break;
      default: without.controls.path_scale[static_cast<size_t>(part)] = 0;
    }
    row->values[StrCat("off/", ModelPartName(part))] = loss(without) - with_all;
  }
  const bool has_landmarks = std::ranges::find(on, ModelPart::kSga) != on.end() && options_.model.HasLandmarks();
  if (!has_landmarks || !all.controls.landmarks) return;
  nn::ForwardOptions without = all;
  without.controls.landmarks = false;
  row->values["off/landmarks"] = loss(without) - with_all;
}

bool Trainer::Impl::IsWatched(const std::string& series) const {
  if (stage_ < 0) return false;
  return std::ranges::any_of(curriculum_.stage(stage_).watches, [&](const WatchRule& rule) {
    return series == rule.metric || series.starts_with(rule.metric + "/");
  });
}

std::string Trainer::Impl::JudgeStage() {
  const Stage& stage = curriculum_.stage(stage_);
  std::string stops;
  for (const WatchRule& rule : stage.watches) {
    double sum = 0;
    int64_t n = 0;
    for (const auto& [name, value] : now_.watched) {
      if (name == rule.metric) {
        sum = value, n = 1;
        break;
      }
      if (name.starts_with(rule.metric + "/")) sum += value, ++n;
    }
    const std::string at = StrCat("stage ", stage_ + 1, ", ", stage.name, ": ", rule.metric);
    if (n == 0) {
      Warn(at + " was not measured: its watch says nothing");
      continue;
    }
    const double value = sum / static_cast<double>(n);
    if (rule.Holds(value)) continue;
    const std::string text =
        StrCat(at, " = ", value, ": must be", rule.above ? StrCat(" above ", *rule.above) : "",
               rule.above && rule.below ? " and" : "", rule.below ? StrCat(" below ", *rule.below) : "");
    Warn(text);
    if (rule.stop && stops.empty()) stops = text;
  }
  now_.watched.clear();
  return now_.step < total_steps_ ? stops : "";
}

}  // namespace hydra::train
