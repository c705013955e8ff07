// SPDX-License-Identifier: Apache-2.0
// The loop of generation over a Stepper.
#include "hydra/nn/generate.h"

#include <algorithm>

#include "hydra/core/error.h"
#include "hydra/nn/step.h"

namespace hydra::nn {

std::vector<int64_t> Generate(const Model& model, const std::vector<int64_t>& prompt, const GenerateOptions& options,
                              const std::function<bool(int64_t)>& on_token) {
  if (prompt.empty()) throw Error(ErrorCode::kUsage, "the prompt has no tokens");
  Stepper stepper(model, options.controls);
  Sampler sampler(options.sampler);
  torch::Tensor logits;
  for (const int64_t id : prompt) {
    logits = stepper.Step(id);
    sampler.Accept(static_cast<int32_t>(id));
  }
  std::vector<int64_t> out;
  while (options.max_tokens < 0 || static_cast<int64_t>(out.size()) < options.max_tokens) {
    const torch::Tensor host = logits.to(torch::kCPU, torch::kFloat32).contiguous();
    const int64_t id = sampler.Pick({host.const_data_ptr<float>(), static_cast<size_t>(host.numel())});
    if (std::count(options.end_ids.begin(), options.end_ids.end(), id) > 0) break;
    out.push_back(id);
    if (on_token && !on_token(id)) break;
    logits = stepper.Step(id);
  }
  return out;
}

}  // namespace hydra::nn
