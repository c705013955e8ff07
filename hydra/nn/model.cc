// SPDX-License-Identifier: Apache-2.0
// The model: tensors from the table, blocks, head and losses. Dims as in model.h.
#include "hydra/nn/model.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/nn/block.h"
#include "hydra/nn/functions.h"
#include "hydra/nn/layout.h"

namespace hydra::nn {

using torch::Tensor;

namespace {

// What only the torch-free runtime computes.
void CheckFamily(const ModelConfig& config) {
  if (config.family == Family::kQwen2 || config.family == Family::kQwen3)
    throw Error(ErrorCode::kConfig, StrCat("model_type = \"", FamilyName(config.family),
                                           "\": is not trained; hydralm generate, chat, bench and logits run it"));
  if (config.attention.rope_scaling)
    throw Error(ErrorCode::kConfig, "rope_scaling: is not trained; hydralm generate, chat, bench and logits run it");
}

// Of a term where the run says nothing.
double Coefficient(const MoeConfig& moe, RouterTerm term) {
  switch (term) {
    case RouterTerm::kBalance: return moe.balance == RouterBalance::kLoss ? moe.aux_loss_coef : 0;
    case RouterTerm::kZ: return moe.z_loss_coef;
    case RouterTerm::kDomain: return moe.domain_loss_coef;
    case RouterTerm::kLocality:
    case RouterTerm::kChunk:
    case RouterTerm::kSize: return 0;  // a run's settings, not the model's
  }
  return 0;
}

}  // namespace

Model::Model(const ModelConfig& config, const ModelOptions& options)
    : config_(config), table_(config), options_(options) {
  CheckFamily(config_);
  const auto tensor_options = torch::TensorOptions().dtype(options.dtype).device(options.device);
  for (const TensorSpec& spec : table_.specs()) {
    tensors_.push_back(torch::empty(spec.shape, tensor_options).set_requires_grad(spec.parameter));
  }
  for (int i = 0; i < config_.n_layers(); ++i) {
    blocks_.push_back(std::make_unique<BlockWeights>(BlockWeights::Of(*this, i)));
  }
  if (options.initialise) InitWeights(0);
}

Model::Model(Model&&) noexcept = default;
Model::~Model() = default;

Tensor Model::at(TensorRole role, int layer) const {
  const TensorSpec* spec = table_.Find(role, layer);
  HYDRA_CHECK(spec != nullptr, "no tensor of role ", static_cast<int>(role), " in layer ", layer);
  return tensors_[static_cast<size_t>(spec - table_.specs().data())];
}

std::vector<std::pair<const TensorSpec*, Tensor>> Model::Tensors() const {
  std::vector<std::pair<const TensorSpec*, Tensor>> out;
  for (size_t i = 0; i < tensors_.size(); ++i) out.emplace_back(&table_.specs()[i], tensors_[i]);
  return out;
}

ForwardOut Model::Forward(const Batch& batch, const ForwardOptions& options) const {
  options.controls.Validate(config_);
  Layout layout = Layout::Make(batch, config_.chunk_len);
  if (options.ssm_resets.defined()) layout.ResetSsm(options.ssm_resets);
  Tensor x = Embed(batch.ids);
  std::array<std::vector<Tensor>, kRouterTerms> terms;
  std::vector<Tensor> load, in_set;
  for (int i = 0; i < config_.n_layers(); ++i) {
    const BlockWeights& weights = *blocks_[static_cast<size_t>(i)];
    const BlockOut out = options.checkpoint_blocks && torch::GradMode::is_enabled()
                             ? RecomputedBlock(config_, i, weights, x, layout, options)
                             : RunBlock(config_, i, weights, x, layout, options);
    x = out.x;
    if (!out.router.load.defined()) continue;
    for (size_t i_term = 0; i_term < kRouterTerms; ++i_term)
      if (const Tensor& term = out.router.terms[i_term]; term.defined()) terms[i_term].push_back(term);
    load.push_back(out.router.load);
    if (out.router.in_set.defined()) in_set.push_back(out.router.in_set);
  }
  ForwardOut result;
  result.hidden = FinalNorm(x);
  for (size_t i = 0; i < kRouterTerms; ++i)
    if (!terms[i].empty()) result.router.terms[i] = torch::stack(terms[i]).mean();
  if (!load.empty()) result.router.load = torch::stack(load);
  if (!in_set.empty()) result.router.in_set = torch::stack(in_set).sum(0);
  return result;
}

Tensor Model::RunLayer(int layer, const Tensor& x, const Layout& layout, const ForwardOptions& options) const {
  return RunBlock(config_, layer, *blocks_.at(static_cast<size_t>(layer)), x, layout, options).x;
}

Tensor Model::Embed(const Tensor& ids) const {
  const Tensor x = torch::embedding(at(TensorRole::kEmbedding), ids);
  return config_.scale_emb > 0 ? x * config_.scale_emb : x;
}

Tensor Model::FinalNorm(const Tensor& x) const {
  const Tensor normed = RmsNorm(x, at(TensorRole::kFinalNorm), config_.norm_eps);
  return config_.IsMup() ? normed * config_.head_scale() : normed;
}

Tensor Model::HeadWeight() const { return at(config_.tie_embeddings ? TensorRole::kEmbedding : TensorRole::kHead); }

Tensor Model::Logits(const Tensor& hidden) const { return torch::linear(hidden, HeadWeight()); }

LossOut Model::Loss(const Batch& batch, const ForwardOptions& options, const LossShares& shares) const {
  HYDRA_CHECK(batch.targets.defined(), "a loss needs targets");
  const ForwardOut out = Forward(batch, options);
  const Tensor targets = batch.targets.reshape({-1});
  const Tensor wanted = torch::nonzero(targets != -100).squeeze(1);
  LossOut loss;
  loss.n_targets = wanted.numel();
  HYDRA_CHECK(loss.n_targets > 0, "a batch without targets");
  const Tensor hidden = GatherRows(out.hidden.reshape({-1, config_.d_model}), wanted);
  loss.lm = LinearCrossEntropy(hidden, HeadWeight(), targets.index_select(0, wanted));
  loss.total = loss.lm * shares.targets;
  loss.router = out.router;
  for (size_t i = 0; i < kRouterTerms; ++i) {
    const auto term = static_cast<RouterTerm>(i);
    if (!out.router[term].defined()) continue;
    const double coef = options.router_coefs[i].value_or(Coefficient(config_.moe, term));
    if (coef != 0) loss.total = loss.total + shares.Of(term) * coef * out.router[term];
  }
  return loss;
}

Tensor Model::TokenLoss(const Batch& batch, const ForwardOptions& options) const {
  torch::NoGradGuard no_grad;
  const Tensor hidden = Forward(batch, options).hidden.reshape({-1, config_.d_model});
  const Tensor targets = batch.targets.reshape({-1});
  constexpr int64_t kRows = 4096;  // logits held at once
  std::vector<Tensor> parts;
  for (int64_t i = 0; i < targets.numel(); i += kRows) {
    const int64_t n = std::min(kRows, targets.numel() - i);
    parts.push_back(torch::cross_entropy_loss(Logits(hidden.narrow(0, i, n)), targets.narrow(0, i, n), {},
                                              at::Reduction::None, /*ignore_index=*/-100));
  }
  return torch::cat(parts).view_as(batch.targets);
}

}  // namespace hydra::nn
