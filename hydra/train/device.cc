// SPDX-License-Identifier: Apache-2.0
// Devices, autocast and the measured limit of matrix products.
#include "hydra/train/device.h"

#include <ATen/autocast_mode.h>

#include <algorithm>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"

namespace hydra::train {

Device ResolveDevice(const std::string& name) {
  if (name == "cpu") return {};
  if (name == "auto") return torch::cuda::is_available() ? Device{torch::Device(torch::kCUDA, 0), true} : Device{};
  const std::string kCuda = "cuda";
  const std::string rest = name.substr(std::min(kCuda.size(), name.size()));
  const bool digits = rest.size() > 1 && rest.size() < 5 && rest[0] == ':' &&
                      std::all_of(rest.begin() + 1, rest.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (name.rfind(kCuda, 0) != 0 || !(rest.empty() || digits))
    throw Error(ErrorCode::kUsage, StrCat("--device ", name, ": must be auto, cpu, cuda or cuda:N"));
  const int index = rest.empty() ? 0 : std::stoi(rest.substr(1));
  if (!torch::cuda::is_available())
    throw Error(ErrorCode::kUsage, StrCat("--device ", name, ": this LibTorch finds no GPU: --device cpu works"));
  const auto count = static_cast<int>(torch::cuda::device_count());
  if (index >= count)
    throw Error(ErrorCode::kUsage,
                StrCat("--device ", name, ": there are ", count, " GPUs: cuda:0 to cuda:", count - 1));
  return {torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(index)), true};
}

AutocastScope::AutocastScope(const Device& device) : on_(device.autocast) {
  if (!on_) return;
  before_ = at::autocast::is_autocast_enabled(at::kCUDA);
  at::autocast::set_autocast_enabled(at::kCUDA, true);
  at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
  at::autocast::increment_nesting();
}

AutocastScope::~AutocastScope() {
  if (!on_) return;
  // Weights cast to bf16 are kept while a scope lives; the optimiser changes them between scopes.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCUDA, before_);
}

double MeasurePeakFlops(const Device& device) {
  const torch::NoGradGuard no_grad;
  const bool gpu = device.device.is_cuda();
  const auto options =
      torch::TensorOptions().device(device.device).dtype(device.autocast ? torch::kBFloat16 : torch::kFloat32);
  double best = 0;
  for (const int64_t n : gpu ? std::vector<int64_t>{8192} : std::vector<int64_t>{512, 1024}) {
    const torch::Tensor a = torch::ones({n, n}, options), b = torch::ones({n, n}, options);
    const double flops = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
    for (int i = 0; i < 6; ++i) {  // the first ones warm up
      const double begin = Seconds();
      const torch::Tensor c = torch::mm(a, b);
      if (gpu) torch::cuda::synchronize();
      best = std::max(best, flops / (Seconds() - begin));
    }
  }
  return best;
}

}  // namespace hydra::train
