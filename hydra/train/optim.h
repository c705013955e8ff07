// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, 2019) over the tensors of a model: decay from the tensor table, rows of the
// product-key memory's table apart. Not here: learning-rate schedules (schedule.h), when to skip (guard.h).
#pragma once

#include <torch/torch.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hydra/core/safetensors.h"
#include "hydra/nn/model.h"

namespace hydra::train {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

struct AdamWOptions {
  std::array<double, 2> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;  // decoupled: w -= lr * decay * w
  double clip = 1.0;          // largest norm of all gradients together; 0 = not clipped
};

struct AdamWParam {
  std::string name;
  torch::Tensor tensor;  // a leaf that requires a gradient
  bool weight_decay = true;
  double lr_scale = 1;
  bool rows = false;  // [R, d]: only rows with a gradient move; moments and step count of each row; never decayed
};

// A parameter without a gradient is left as it is: neither moved nor decayed nor counted. The same gradients give
// the same bits for any number of threads. Not thread-safe.
class AdamW {
 public:
  AdamW(std::vector<AdamWParam> params, const AdamWOptions& options);

  // The norm of all gradients; sparse ones are coalesced in place. Not finite when any entry is not.
  double GradNorm();
  // One update at rate lr; gradients are scaled down to options.clip where grad_norm (of GradNorm) is above it.
  void Step(double lr, double grad_norm);
  void ZeroGrad();

  // "gradient of NAME" or "NAME" of the first that is not finite, in table order; "" where all are.
  [[nodiscard]] std::string FirstNonFinite() const;
  // Share of the rows of row-wise parameters that have moved at least once; -1 without such parameters.
  [[nodiscard]] double RowsHit() const;

  // Moments and step counts: NAME.exp_avg, NAME.exp_avg_sq, NAME.step. Handles alias the optimiser's storage.
  [[nodiscard]] NamedTensors State() const;
  // Takes them back; a missing, extra or misshapen tensor is an Error(kTensor) naming file and tensor.
  void LoadState(const SafeTensors& file);

  [[nodiscard]] const std::vector<AdamWParam>& params() const { return params_; }

 private:
  struct Moments {
    torch::Tensor m, v;  // as the parameter
    torch::Tensor step;  // f32 scalar on its device; row-wise: i32 [R]
  };
  void StepDense(double lr, double scale);
  void StepRows(AdamWParam& param, Moments& moments, double lr, double scale);

  std::vector<AdamWParam> params_;
  std::vector<Moments> moments_;
  AdamWOptions options_;
};

// Every parameter of the model, decayed as the tensor table says; the table of the product-key memory row-wise with
// pkm_table_lr as its factor.
[[nodiscard]] std::vector<AdamWParam> OptimParams(const nn::Model& model, double pkm_table_lr);

// Copies tensors of a file into `tensors`: all of them and no others, same shape and type; an Error(kTensor) else.
void LoadTensors(const SafeTensors& file, const NamedTensors& tensors);
// The element type of a tensor on disk.
[[nodiscard]] DType DTypeOf(const torch::Tensor& tensor);

}  // namespace hydra::train
