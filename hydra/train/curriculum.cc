// SPDX-License-Identifier: Apache-2.0
// Stages by step.
#include "hydra/train/curriculum.h"

#include <algorithm>

#include "hydra/base/error.h"

namespace hydra::train {
namespace {

ModelPart PartOf(Component component) {
  switch (component) {
    case Component::kAttention: return ModelPart::kSga;
    case Component::kMoe: return ModelPart::kMoe;
    case Component::kWorkspace: return ModelPart::kWorkspace;
    case Component::kPkmSite:
    case Component::kPkmTable: return ModelPart::kPkm;
    default: return ModelPart::kSsm;
  }
}

bool IsOfAPart(Component component) { return component == Component::kSsm || PartOf(component) != ModelPart::kSsm; }

}  // namespace

// ---- Entries that stay ----

void HeldEntries::BeforeStep() {
  const torch::NoGradGuard no_grad;
  for (Entry& entry : entries_) {
    entry.value = entry.parameter.detach().select(0, entry.index).clone();
    if (const torch::Tensor grad = entry.parameter.grad(); grad.defined()) grad.select(0, entry.index).zero_();
  }
}

void HeldEntries::AfterStep() {
  const torch::NoGradGuard no_grad;
  for (const Entry& entry : entries_) entry.parameter.detach().select(0, entry.index).copy_(entry.value);
}

// ---- Stages ----

Curriculum::Curriculum(const RunConfig& run, const ModelConfig& model)
    : run_(run), model_(model), spans_(run.StageSpans()), total_steps_(run.TotalSteps()) {
  HYDRA_CHECK(run.curriculum.empty(), "a curriculum that was not resolved: ", run.curriculum);
}

int Curriculum::StageAt(int64_t step) const {
  int stage = n_stages() - 1;
  while (stage > 0 && step < spans_[static_cast<size_t>(stage)].first) --stage;
  return stage;
}

bool Curriculum::EndsStage(int64_t done) const {
  return std::ranges::any_of(spans_, [&](const StageSpan& span) { return done == span.first + span.steps; });
}

double Curriculum::ShareAt(int64_t step) const {
  const StageSpan& now = span(StageAt(step));
  return static_cast<double>(std::min(step - now.first + 1, now.steps)) / static_cast<double>(now.steps);
}

int64_t Curriculum::RowsAt(int64_t step) const {
  return n_stages() > 0 ? span(StageAt(step)).rows : run_.optim.batch_rows.At(step, total_steps_);
}

int64_t Curriculum::SeqLenAt(int64_t step) const {
  return n_stages() > 0 ? span(StageAt(step)).seq_len : run_.optim.seq_len.At(step, total_steps_);
}

const std::vector<DataShare>& Curriculum::DataAt(int64_t step) const {
  static const std::vector<DataShare> kNone;
  return n_stages() > 0 ? stage(StageAt(step)).data : kNone;
}

bool Curriculum::IsOnAt(ModelPart part, int64_t step) const {
  if (n_stages() == 0) return HasPart(model_, part);
  const Stage& now = stage(StageAt(step));
  const auto path = static_cast<size_t>(part);
  return now.IsOn(part, model_) && (path >= now.path_scale.size() || now.path_scale[path].At(ShareAt(step)) != 0);
}

std::vector<ModelPart> Curriculum::PartsAt(int64_t step) const {
  std::vector<ModelPart> parts;
  for (const ModelPart part : kModelParts)
    if (IsOnAt(part, step)) parts.push_back(part);
  return parts;
}

nn::ForwardOptions Curriculum::ForwardAt(int64_t step) const {
  nn::ForwardOptions forward{.checkpoint_blocks = run_.optim.checkpoint_blocks};
  if (n_stages() == 0) return forward;
  const Stage& now = stage(StageAt(step));
  const double share = ShareAt(step);
  for (size_t path = 0; path < now.path_scale.size(); ++path)
    if (HasPart(model_, kModelParts[path]))
      forward.controls.path_scale[path] = IsOnAt(kModelParts[path], step) ? now.path_scale[path].At(share) : 0;
  forward.workspace = IsOnAt(ModelPart::kWorkspace, step);
  forward.pkm = IsOnAt(ModelPart::kPkm, step);
  if (IsOnAt(ModelPart::kSga, step) && model_.HasLandmarks()) forward.controls.landmarks = share > now.landmarks_from;
  if (!IsOnAt(ModelPart::kMoe, step)) return forward;
  forward.router_mode = now.router_mode;
  if (now.router_temperature) forward.controls.router_temperature = now.router_temperature->At(share);
  if (now.router_balance) forward.router_coefs[nn::TermIndex(nn::RouterTerm::kBalance)] = now.router_balance->At(share);
  return forward;
}

double Curriculum::LrScaleAt(int64_t step) const {
  return n_stages() > 0 ? stage(StageAt(step)).lr_scale.At(ShareAt(step)) : 1;
}

std::vector<double> Curriculum::RateFactorsAt(int64_t step, const nn::Model& model) const {
  std::vector<double> factors;
  const std::vector<OptimParam> usual = OptimParams(model, 1, run_.optim.published_groups);
  for (const auto& [spec, tensor] : model.Tensors()) {
    if (!spec->parameter) continue;
    double factor = usual[factors.size()].lr_scale;
    if (n_stages() > 0 && IsOfAPart(spec->component))
      factor *= stage(StageAt(step)).lr_parts[static_cast<size_t>(PartOf(spec->component))];
    if (spec->role == TensorRole::kPkmTable)
      factor *= n_stages() > 0 ? stage(StageAt(step)).lr_pkm_table.value_or(run_.optim.pkm_table_lr)
                               : run_.optim.pkm_table_lr;
    factors.push_back(factor);
  }
  return factors;
}

void Curriculum::SetBiases(int64_t step, nn::Model& model) const {
  if (n_stages() == 0) return;
  const torch::NoGradGuard no_grad;
  const Stage& now = stage(StageAt(step));
  for (int layer = 0; layer < model_.n_layers(); ++layer) {
    const LayerConfig& parts = model_.layers[static_cast<size_t>(layer)];
    if (parts.workspace && now.workspace_bias)
      model.at(TensorRole::kWsControllerBias, layer).select(0, 0).fill_(now.workspace_bias->At(ShareAt(step)));
    if (parts.pkm && now.pkm_bias)
      model.at(TensorRole::kPkmGateBias, layer).select(0, 0).fill_(now.pkm_bias->At(ShareAt(step)));
  }
}

HeldEntries Curriculum::HeldAt(int64_t step, const nn::Model& model) const {
  HeldEntries held;
  if (n_stages() == 0) return held;
  const Stage& now = stage(StageAt(step));
  for (int layer = 0; layer < model_.n_layers(); ++layer) {
    const LayerConfig& parts = model_.layers[static_cast<size_t>(layer)];
    for (size_t path = 0; path < now.path_scale.size(); ++path) {
      if (!HasPart(model_, kModelParts[path]) || IsOnAt(kModelParts[path], step)) continue;
      for (const TensorRole role : {TensorRole::kPathGates, TensorRole::kControllerWeight, TensorRole::kControllerBias})
        if (model.table().Find(role, layer) != nullptr) held.Add(model.at(role, layer), static_cast<int64_t>(path));
    }
    if (parts.workspace && now.workspace_bias) held.Add(model.at(TensorRole::kWsControllerBias, layer), 0);
    if (parts.pkm && now.pkm_bias) held.Add(model.at(TensorRole::kPkmGateBias, layer), 0);
  }
  return held;
}

std::string Curriculum::StageLine(int i) const {
  const StageSpan& now = span(i);
  std::string parts;
  for (const ModelPart part : kModelParts)
    if (stage(i).IsOn(part, model_)) parts += StrCat(" ", ModelPartName(part));
  return StrCat("stage ", i + 1, " of ", n_stages(), ", ", stage(i).name, ": steps ", now.first + 1, " to ",
                now.first + now.steps, ", ", now.rows, " rows of ", now.seq_len, " tokens", parts.empty() ? "" : ",",
                parts);
}

ModelConfig Curriculum::ConfigOf(int i) const {
  ModelConfig config = model_;
  if (i < 0) return config;
  for (const ModelPart part : kModelParts)
    if (HasPart(model_, part) && !stage(i).IsOn(part, model_)) config = WithoutPart(config, part);
  return config;
}

}  // namespace hydra::train
