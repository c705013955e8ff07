// SPDX-License-Identifier: Apache-2.0
// Optimisers over the tensors of a model, and AdamW: decay from the tensor table, rows of the product-key memory's
// table apart. Not here: Adafactor (adafactor.h), learning-rate schedules (schedule.h), when to skip (guard.h).
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hydra/io/safetensors.h"
#include "hydra/nn/model.h"
#include "hydra/train/optimizer_options.h"

namespace hydra::train {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

struct OptimParam {
  std::string name;
  torch::Tensor tensor;  // a leaf that requires a gradient
  bool weight_decay = true;
  double lr_scale = 1;
  bool own_clip = false;  // clipped together with others of its kind, apart from the rest
  bool rows = false;      // [R, d]: only rows with a gradient move; state and step count of each row; never decayed
};

// A parameter without a gradient is left as it is: neither moved nor decayed nor counted. AdamW: the same gradients
// give the same bits for any number of threads. Not thread-safe.
class Optimizer {
 public:
  Optimizer(std::vector<OptimParam> params, const OptimizerOptions& options);
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // The norm of all gradients but those with a clip of their own, which are scaled down to it in place; sparse ones are
  // coalesced in place. Not finite when any entry is not.
  double GradNorm();
  // One update at rate lr; gradients are scaled down to options.clip where grad_norm (of GradNorm) is above it.
  void Step(double lr, double grad_norm);
  void ZeroGrad();

  // "gradient of NAME" or "NAME" of the first that is not finite, in table order; "" where all are.
  [[nodiscard]] std::string FirstNonFinite() const;
  // Share of the rows of row-wise parameters that have moved at least once; -1 without such parameters.
  [[nodiscard]] double RowsHit() const;

  // NAME.step and what else is kept of each parameter. Handles alias the optimiser's storage.
  [[nodiscard]] virtual NamedTensors State() const = 0;
  // Takes them back; a missing, extra or misshapen tensor is an Error(kTensor) naming file and tensor.
  void LoadState(const SafeTensors& file);

  [[nodiscard]] const std::vector<OptimParam>& params() const { return params_; }
  // From the next step on: lr_scale of each parameter.
  void SetRateFactors(std::span<const double> factors);

 protected:
  // Parameters with dense gradients, and one row-wise parameter: rows [n], grad [n, d] already scaled.
  virtual void StepDense(double lr, double scale) = 0;
  virtual void StepRows(size_t i, double lr, const torch::Tensor& rows, const torch::Tensor& grad) = 0;

  std::vector<OptimParam> params_;
  std::vector<torch::Tensor> steps_;  // f32 scalar on its parameter's device; row-wise: i32 [R]
  OptimizerOptions options_;
};

// Moments: NAME.exp_avg, NAME.exp_avg_sq.
class AdamW final : public Optimizer {
 public:
  AdamW(std::vector<OptimParam> params, const OptimizerOptions& options);
  [[nodiscard]] NamedTensors State() const override;

 private:
  void StepDense(double lr, double scale) override;
  void StepRows(size_t i, double lr, const torch::Tensor& rows, const torch::Tensor& grad) override;

  struct Moments {
    torch::Tensor m, v;  // as the parameter
  };
  std::vector<Moments> moments_;
};

[[nodiscard]] std::unique_ptr<Optimizer> MakeOptimizer(std::vector<OptimParam> params, const OptimizerOptions& options);

// The factor of the gates of paths and of reads. Adam moves each number by about the rate: at the rate of the matrices
// a gate is at zero before what is behind it has learned anything, and then that learns no more.
inline constexpr double kGatesRate = 0.05;

// Every parameter of the model, decayed as the tensor table says; the table of the product-key memory row-wise with
// pkm_table_lr as its factor, gates with kGatesRate. With muP scales matrices but embedding and head have
// dim_model_base / D as theirs; BlockFFN's routers are clipped apart. published_groups: as RunConfig::Optim has it.
[[nodiscard]] std::vector<OptimParam> OptimParams(const nn::Model& model, double pkm_table_lr,
                                                  bool published_groups = false);

// Copies tensors of a file into `tensors`: all of them and no others, same shape and type; an Error(kTensor) else.
void LoadTensors(const SafeTensors& file, const NamedTensors& tensors);
// The element type of a tensor on disk.
[[nodiscard]] DType DTypeOf(const torch::Tensor& tensor);

}  // namespace hydra::train
