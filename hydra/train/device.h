// SPDX-License-Identifier: Apache-2.0
// Where a model is trained and evaluated, and in which precision: fp32 on a CPU, bf16 autocast on a GPU.
#pragma once

#include "hydra/nn/torch.h"

#include <string>

namespace hydra::train {

struct Device {
  torch::Device device = torch::kCPU;
  bool autocast = false;  // matrix products in bf16; master weights, norms, softmax and state stay fp32
};

// "auto" (a GPU where LibTorch has one), "cpu", "cuda", "cuda:1". Throws Error(kUsage) for what is not there.
[[nodiscard]] Device ResolveDevice(const std::string& name);

// bf16 autocast while it lives, where `device` says so.
class AutocastScope {
 public:
  explicit AutocastScope(const Device& device);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  bool on_, before_ = false;
};

// FLOP/s of matrix products in the precision of training, the best of a few of each size: 512 and 1024 rows on a CPU
// (many cores need the larger), 8192 on a GPU. Takes a few tenths of a second on two cores.
[[nodiscard]] double MeasurePeakFlops(const Device& device);

}  // namespace hydra::train
