// SPDX-License-Identifier: Apache-2.0
// Adafactor's update; at most two temporaries of a parameter's size at a time.
#include "hydra/train/adafactor.h"

#include <cmath>
#include <utility>

namespace hydra::train {
namespace {

using torch::Tensor;

constexpr double kEps = 1e-30;       // added to squares
constexpr double kUpdateClip = 1.0;  // largest root mean square of an update before the rate
constexpr double kDecayPower = -0.8;

double Decay(double step) { return 1 - std::pow(step, kDecayPower); }

// Divides by max(1, rms / clip) in place.
void ClipUpdate(const Tensor& update) {
  const double rms = update.norm().item<double>() / std::sqrt(static_cast<double>(update.numel()));
  if (rms > kUpdateClip) update.mul_(kUpdateClip / rms);
}

}  // namespace

Adafactor::Adafactor(std::vector<OptimParam> params, const OptimizerOptions& options)
    : Optimizer(std::move(params), options) {
  for (const OptimParam& param : params_) {
    const Tensor& w = param.tensor;
    const auto zeros = [&](at::IntArrayRef shape) { return torch::zeros(shape, w.options().requires_grad(false)); };
    if (param.rows) {
      moments_.push_back({.all = zeros({w.size(0), 1})});
    } else if (w.dim() < 2) {
      moments_.push_back({.all = zeros(w.sizes())});
    } else {
      std::vector<int64_t> row = w.sizes().vec(), col = row;
      row.pop_back();
      col.erase(col.end() - 2);
      moments_.push_back({.row = zeros(row), .col = zeros(col)});
    }
  }
}

Tensor Adafactor::Scale(size_t i, const Tensor& grad, double decay) {
  Moments& moments = moments_[i];
  {
    const Tensor squares = grad.square().add_(kEps);
    if (moments.all.defined()) return moments.all.lerp_(squares, 1 - decay).rsqrt();
    moments.row.lerp_(squares.mean(-1), 1 - decay);
    moments.col.lerp_(squares.mean(-2), 1 - decay);
  }
  // v = row col^T / mean(row)
  const Tensor row = (moments.row / moments.row.mean(-1, /*keepdim=*/true)).rsqrt_();
  return row.unsqueeze(-1) * moments.col.rsqrt().unsqueeze(-2);
}

void Adafactor::StepDense(double lr, double scale) {
  for (size_t i = 0; i < params_.size(); ++i) {
    const OptimParam& param = params_[i];
    if (param.rows || !param.tensor.grad().defined()) continue;
    const Tensor grad = scale == 1.0 || param.own_clip ? param.tensor.grad() : param.tensor.grad() * scale;
    steps_[i] += 1;
    const Tensor update = Scale(i, grad, Decay(steps_[i].item<double>())).mul_(grad);
    ClipUpdate(update);
    const double rate = lr * param.lr_scale;
    const Tensor weights = param.tensor.detach();
    if (param.weight_decay && options_.weight_decay > 0) weights.mul_(1 - rate * options_.weight_decay);
    weights.add_(update, -rate);
  }
}

void Adafactor::StepRows(size_t i, double lr, const Tensor& rows, const Tensor& grad) {
  const Tensor steps = steps_[i].index_select(0, rows) + 1;
  steps_[i].index_copy_(0, rows, steps);
  const Tensor fresh = torch::pow(steps.to(grad.scalar_type()), kDecayPower).unsqueeze(1);  // 1 - decay of each row
  Tensor& all = moments_[i].all;
  const Tensor v = torch::lerp(all.index_select(0, rows), grad.square().add_(kEps).mean(1, true), fresh);
  all.index_copy_(0, rows, v);
  const Tensor update = grad * v.rsqrt();
  ClipUpdate(update);
  const Tensor weights = params_[i].tensor.detach();
  weights.index_copy_(0, rows, weights.index_select(0, rows).sub_(update, lr));
}

NamedTensors Adafactor::State() const {
  NamedTensors out;
  for (size_t i = 0; i < params_.size(); ++i) {
    const std::string& name = params_[i].name;
    if (moments_[i].all.defined()) {
      out.emplace_back(name + ".exp_avg_sq", moments_[i].all);
    } else {
      out.emplace_back(name + ".exp_avg_sq_row", moments_[i].row);
      out.emplace_back(name + ".exp_avg_sq_col", moments_[i].col);
    }
    out.emplace_back(name + ".step", steps_[i]);
  }
  return out;
}

}  // namespace hydra::train
