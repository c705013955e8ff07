// SPDX-License-Identifier: Apache-2.0
// What optimisers share, and AdamW: dense tensors through ATen's fused kernel (one pass over weights, gradients and
// moments), rows by index.
#include "hydra/train/optim.h"

#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <unordered_set>

#include "hydra/base/error.h"
#include "hydra/train/adafactor.h"

namespace hydra::train {
namespace {

using torch::Tensor;

// Unique rows with a gradient and its values: of a coalesced sparse gradient, or the rows of a dense one that are not
// 0.
std::pair<Tensor, Tensor> GradRows(const Tensor& grad) {
  if (grad.is_sparse()) return {grad._indices()[0], grad._values()};
  const Tensor rows = (grad != 0).any(1).nonzero().squeeze(1);
  return {rows, grad.index_select(0, rows)};
}

Tensor Values(const Tensor& grad) { return grad.is_sparse() ? grad._values() : grad; }

bool AllFinite(const Tensor& tensor) { return torch::isfinite(tensor).all().item<bool>(); }

}  // namespace

Optimizer::Optimizer(std::vector<OptimParam> params, const OptimizerOptions& options)
    : params_(std::move(params)), options_(options) {
  for (const OptimParam& param : params_) {
    HYDRA_CHECK(!param.rows || param.tensor.dim() == 2, param.name, ": row-wise, but not a matrix");
    const auto like = torch::TensorOptions().device(param.tensor.device());
    steps_.push_back(param.rows ? torch::zeros({param.tensor.size(0)}, like.dtype(torch::kInt32))
                                : torch::zeros({}, like.dtype(torch::kFloat32)));
  }
}

double Optimizer::GradNorm() {
  const torch::NoGradGuard no_grad;
  std::vector<Tensor> grads, apart;
  for (OptimParam& param : params_) {
    Tensor& grad = param.tensor.mutable_grad();
    if (!grad.defined()) continue;
    if (grad.is_sparse()) {
      grad = grad.coalesce();
    } else if (grad.strides() != param.tensor.strides()) {
      grad = grad.contiguous();  // the fused kernel walks memory
    }
    (param.own_clip ? apart : grads).push_back(Values(grad));
  }
  const auto norm = [](const std::vector<Tensor>& all) {
    if (all.empty()) return 0.0;
    return torch::stack(at::_foreach_norm(all)).to(torch::kFloat64).norm().item<double>();
  };
  const double own = norm(apart);
  if (!std::isfinite(own)) return own;
  if (options_.clip > 0 && own > options_.clip) at::_foreach_mul_(apart, options_.clip / own);
  return norm(grads);
}

void Optimizer::Step(double lr, double grad_norm) {
  const torch::NoGradGuard no_grad;
  const double scale = options_.clip > 0 && grad_norm > options_.clip ? options_.clip / grad_norm : 1.0;
  StepDense(lr, scale);
  for (size_t i = 0; i < params_.size(); ++i) {
    if (!params_[i].rows || !params_[i].tensor.grad().defined()) continue;
    const auto [rows, grad] = GradRows(params_[i].tensor.grad());
    if (rows.numel() == 0) continue;
    StepRows(i, lr * params_[i].lr_scale, rows, scale == 1.0 ? grad : grad * scale);
  }
}

void Optimizer::SetRateFactors(std::span<const double> factors) {
  HYDRA_CHECK(factors.size() == params_.size(), factors.size(), " factors, ", params_.size(), " parameters");
  for (size_t i = 0; i < params_.size(); ++i) params_[i].lr_scale = factors[i];
}

void Optimizer::ZeroGrad() {
  for (OptimParam& param : params_) param.tensor.mutable_grad().reset();
}

std::string Optimizer::FirstNonFinite() const {
  const torch::NoGradGuard no_grad;
  for (const OptimParam& param : params_) {
    if (!AllFinite(param.tensor)) return param.name;
    const Tensor grad = param.tensor.grad();
    if (grad.defined() && !AllFinite(Values(grad))) return "gradient of " + param.name;
  }
  return "";
}

double Optimizer::RowsHit() const {
  double hit = 0, rows = 0;
  for (size_t i = 0; i < params_.size(); ++i) {
    if (!params_[i].rows) continue;
    hit += (steps_[i] > 0).sum().item<double>();
    rows += static_cast<double>(steps_[i].size(0));
  }
  return rows > 0 ? hit / rows : -1;
}

void Optimizer::LoadState(const SafeTensors& file) { LoadTensors(file, State()); }

AdamW::AdamW(std::vector<OptimParam> params, const OptimizerOptions& options) : Optimizer(std::move(params), options) {
  for (const OptimParam& param : params_) {
    const Tensor data = param.tensor.detach();
    moments_.push_back({torch::zeros_like(data), torch::zeros_like(data)});
  }
}

void AdamW::StepDense(double lr, double scale) {
  struct Group {
    std::vector<Tensor> params, grads, m, v, steps;
  };
  std::map<std::tuple<double, double, bool>, Group> groups;  // of equal rate, decay and clip
  for (size_t i = 0; i < params_.size(); ++i) {
    const OptimParam& param = params_[i];
    const Tensor grad = param.tensor.grad();
    if (param.rows || !grad.defined()) continue;
    Group& group = groups[{lr * param.lr_scale, param.weight_decay ? options_.weight_decay : 0.0, param.own_clip}];
    group.params.push_back(param.tensor);
    group.grads.push_back(grad);
    group.m.push_back(moments_[i].m);
    group.v.push_back(moments_[i].v);
    group.steps.push_back(steps_[i]);
  }
  for (auto& [key, group] : groups) {
    at::_foreach_add_(group.steps, 1);
    const auto& [rate, decay, own_clip] = key;
    // The kernel divides gradients by grad_scale.
    const std::optional<Tensor> grad_scale =
        scale == 1.0 || own_clip ? std::nullopt : std::optional(torch::full({}, 1.0 / scale, group.steps[0].options()));
    at::_fused_adamw_(group.params, group.grads, group.m, group.v, {}, group.steps, rate, options_.betas[0],
                      options_.betas[1], decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false, grad_scale);
  }
}

void AdamW::StepRows(size_t i, double lr, const Tensor& rows, const Tensor& g) {
  Moments& moments = moments_[i];
  const Tensor steps = steps_[i].index_select(0, rows) + 1;
  const Tensor m = moments.m.index_select(0, rows).lerp_(g, 1 - options_.betas[0]);
  const Tensor v = moments.v.index_select(0, rows).mul_(options_.betas[1]).addcmul_(g, g, 1 - options_.betas[1]);
  steps_[i].index_copy_(0, rows, steps);
  moments.m.index_copy_(0, rows, m);
  moments.v.index_copy_(0, rows, v);
  const Tensor count = steps.to(torch::kFloat64).unsqueeze(1);
  const auto correction = [&](double beta) { return 1 - torch::pow(beta, count); };  // [R, 1]
  const Tensor denominator = (v / correction(options_.betas[1])).sqrt_().add_(options_.eps);
  const Tensor update = (m / correction(options_.betas[0])).div_(denominator).mul_(lr);
  const Tensor weights = params_[i].tensor.detach();
  weights.index_copy_(0, rows, weights.index_select(0, rows).sub_(update));
}

NamedTensors AdamW::State() const {
  NamedTensors out;
  for (size_t i = 0; i < params_.size(); ++i) {
    out.emplace_back(params_[i].name + ".exp_avg", moments_[i].m);
    out.emplace_back(params_[i].name + ".exp_avg_sq", moments_[i].v);
    out.emplace_back(params_[i].name + ".step", steps_[i]);
  }
  return out;
}

std::unique_ptr<Optimizer> MakeOptimizer(std::vector<OptimParam> params, const OptimizerOptions& options) {
  if (options.kind == OptimizerKind::kAdafactor) return std::make_unique<Adafactor>(std::move(params), options);
  return std::make_unique<AdamW>(std::move(params), options);
}

namespace {

// Of paths and of reads of memories.
bool IsGate(TensorRole role) {
  switch (role) {
    case TensorRole::kPathGates:
    case TensorRole::kWsControllerWeight:
    case TensorRole::kWsControllerBias:
    case TensorRole::kPkmGateWeight:
    case TensorRole::kPkmGateBias: return true;
    default: return false;
  }
}

}  // namespace

std::vector<OptimParam> OptimParams(const nn::Model& model, double pkm_table_lr, bool published_groups) {
  const ModelConfig& config = model.config();
  std::vector<OptimParam> params;
  for (const auto& [spec, tensor] : model.Tensors()) {
    if (!spec->parameter) continue;
    const bool table = spec->role == TensorRole::kPkmTable, gates = IsGate(spec->role);
    const bool vocabulary = spec->role == TensorRole::kEmbedding || spec->role == TensorRole::kHead;
    const bool scale = spec->role == TensorRole::kBlockRouterScale && published_groups;
    const bool inner = config.IsMup() && ((spec->shape.size() > 1 && !vocabulary) || scale);
    params.push_back({.name = spec->name,
                      .tensor = tensor,
                      .weight_decay = spec->weight_decay || published_groups,
                      .lr_scale = table   ? pkm_table_lr
                                  : inner ? config.head_scale()
                                  : gates ? kGatesRate
                                          : 1.0,
                      .own_clip = spec->role == TensorRole::kBlockRouter,
                      .rows = table});
  }
  return params;
}

DType DTypeOf(const torch::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case torch::kFloat32: return DType::kF32;
    case torch::kFloat64: return DType::kF64;
    case torch::kBFloat16: return DType::kBF16;
    case torch::kInt32: return DType::kI32;
    case torch::kInt64: return DType::kI64;
    default: HYDRA_CHECK(false, "no element type on disk for ", torch::toString(tensor.scalar_type()));
  }
  return DType::kF32;
}

void LoadTensors(const SafeTensors& file, const NamedTensors& tensors) {
  const torch::NoGradGuard no_grad;
  std::unordered_set<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    names.insert(name);
    const TensorView& view = file.Get(name);
    const std::vector<int64_t> shape = tensor.sizes().vec();
    if (view.shape != shape)
      throw Error(ErrorCode::kTensor, StrCat(file.path(), ": ", name, ": shape ", ShapeText(view.shape),
                                             ", the model says ", ShapeText(shape)));
    if (view.dtype != DTypeOf(tensor))
      throw Error(ErrorCode::kTensor, StrCat(file.path(), ": ", name, ": ", DTypeName(view.dtype), ", expected ",
                                             DTypeName(DTypeOf(tensor))));
    Tensor host = torch::empty(shape, tensor.options().device(torch::kCPU));
    std::memcpy(host.data_ptr(), view.data, static_cast<size_t>(view.nbytes));
    tensor.detach().copy_(host);
  }
  for (const TensorView& view : file.tensors())
    if (names.count(view.name) == 0)
      throw Error(ErrorCode::kTensor, StrCat(file.path(), ": ", view.name, ": the model has no such tensor"));
}

}  // namespace hydra::train
