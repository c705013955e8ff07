// SPDX-License-Identifier: Apache-2.0
// Expert loads.
#include "hydra/train/experts.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/base/error.h"

namespace hydra::train {

void BalanceRouters(nn::Model& model, const torch::Tensor& load) {
  const torch::NoGradGuard no_grad;
  const ModelConfig& config = model.config();
  int64_t row = 0;
  for (int layer = 0; layer < config.n_layers(); ++layer) {
    if (config.layers[static_cast<size_t>(layer)].ffn != FfnKind::kChunkMoe) continue;
    torch::Tensor bias = model.at(TensorRole::kRouterBalanceBias, layer);
    const torch::Tensor loads = load[row++].to(bias.options());
    bias.add_(torch::sign(loads.mean() - loads), config.moe.bias_rate);
  }
}

ExpertWatch::ExpertWatch(const ModelConfig& config)
    : block_ffn_(config.HasFfn(FfnKind::kBlockFfn)),
      active_share_(std::numeric_limits<double>::quiet_NaN()),
      n_experts_(static_cast<size_t>(config.moe.n_experts)) {
  for (int layer = 0; layer < config.n_layers(); ++layer) {
    const FfnKind kind = config.layers[static_cast<size_t>(layer)].ffn;
    if (kind == FfnKind::kChunkMoe || kind == FfnKind::kBlockFfn) layers_.push_back(layer);
  }
  load_.assign(layers_.size() * n_experts_, 0);
  unused_.assign(layers_.size() * n_experts_, 0);
}

std::vector<std::string> ExpertWatch::Step(const torch::Tensor& load, int64_t tokens, int64_t dead_after) {
  std::vector<std::string> alarms;
  if (layers_.empty() || !load.defined()) return alarms;
  const torch::Tensor host = load.to(torch::kCPU, torch::kFloat64).contiguous();
  HYDRA_CHECK(static_cast<size_t>(host.numel()) == load_.size(), "loads ", host.sizes());
  const double* now = host.data_ptr<double>();
  tokens_ += tokens;
  if (block_ffn_)
    active_share_ = host.sum().item<double>() / (static_cast<double>(tokens) * static_cast<double>(load_.size()));
  for (size_t i = 0; i < load_.size(); ++i) {
    load_[i] += now[i];
    unused_[i] = now[i] > 0 ? 0 : unused_[i] + 1;
    if (dead_after > 0 && unused_[i] == dead_after)
      alarms.push_back(StrCat("layers.", layers_[i / n_experts_], ": expert ", i % n_experts_, " was not used for ",
                              dead_after, " steps"));
  }
  return alarms;
}

void ExpertWatch::StepLabels(const torch::Tensor& in_set) {
  if (!in_set.defined()) return;
  labels_[0] += in_set[0].item<double>();
  labels_[1] += in_set[1].item<double>();
}

void ExpertWatch::TakeMetrics(std::map<std::string, double>* values) {
  if (layers_.empty()) return;
  double cv = 0, dead = 0, least = 1;
  for (size_t row = 0; row < layers_.size(); ++row) {
    double sum = 0, squares = 0;
    const double* load = load_.data() + row * n_experts_;
    for (size_t e = 0; e < n_experts_; ++e) sum += load[e];
    const double mean = sum / static_cast<double>(n_experts_);
    if (!(mean > 0)) continue;
    for (size_t e = 0; e < n_experts_; ++e) {
      squares += (load[e] - mean) * (load[e] - mean);
      dead += load[e] == 0;
      (*values)[StrCat("moe/load/", layers_[row], "/", e)] = load[e] / sum;
      least = std::min(least, load[e] / sum);
    }
    cv += std::sqrt(squares / static_cast<double>(n_experts_)) / mean;
  }
  if (block_ffn_ && tokens_ > 0) {
    double active = 0;
    for (const double load : load_) active += load;
    (*values)["blockffn/tls"] = 1 - active / (static_cast<double>(tokens_) * static_cast<double>(load_.size()));
  }
  tokens_ = 0;
  (*values)["moe/load_cv"] = cv / static_cast<double>(layers_.size());
  (*values)["moe/dead_experts"] = dead;
  (*values)["moe/load_min"] = least;
  std::fill(load_.begin(), load_.end(), 0.0);
  if (labels_[1] > 0) (*values)["moe/in_set"] = labels_[0] / labels_[1];
  std::fill(labels_.begin(), labels_.end(), 0.0);
}

nlohmann::ordered_json ExpertWatch::Save() const {
  return {{"load", load_}, {"unused", unused_}, {"labels", labels_}, {"tokens", tokens_}};
}

void ExpertWatch::Load(const nlohmann::ordered_json& json, const std::string& where) {
  std::vector<double> load, labels(labels_.size(), 0.0);
  std::vector<int64_t> unused;
  for (const char* key : {"load", "unused"})
    if (!json.is_object() || !json.contains(key)) throw Error(ErrorCode::kFormat, StrCat(where, ".", key, ": missing"));
  ReadJson(json["load"], where + ".load", &load);
  ReadJson(json["unused"], where + ".unused", &unused);
  if (json.contains("labels")) ReadJson(json["labels"], where + ".labels", &labels);
  if (json.contains("tokens")) ReadJson(json["tokens"], where + ".tokens", &tokens_);
  if (labels.size() != labels_.size())
    throw Error(ErrorCode::kFormat, StrCat(where, ".labels: ", labels.size(), " numbers: must be ", labels_.size()));
  if (load.size() != load_.size() || unused.size() != unused_.size())
    throw Error(ErrorCode::kFormat,
                StrCat(where, ": ", load.size(), " numbers, the model has ", load_.size(), " experts"));
  load_ = std::move(load);
  unused_ = std::move(unused);
  labels_ = std::move(labels);
}

}  // namespace hydra::train
