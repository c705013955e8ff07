// SPDX-License-Identifier: Apache-2.0
// Models and controls for LibTorch.
#include "hydra/cli/torch_model_flags.h"

#include <algorithm>
#include <thread>

#include "hydra/nn/model_io.h"
#include "hydra/train/device.h"

namespace hydra::cli {

nn::Model OpenModel(const ModelFlags& flags) {
  at::set_num_threads(flags.threads > 0 ? flags.threads
                                        : static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  return nn::LoadModel(flags.model, {.device = train::ResolveDevice(flags.device).device});
}

nn::ForwardOptions ToForwardOptions(const Controls& controls) {
  return {.path_scale = controls.path_scale,
          .workspace_read = controls.workspace_read,
          .pkm_read = controls.pkm_read,
          .landmarks = controls.landmarks,
          .router_temperature = controls.router_temperature,
          .moe_top_k = controls.moe_top_k,
          .force_experts = controls.force_experts,
          .ban_experts = controls.ban_experts,
          .expert_bias = controls.expert_bias};
}

}  // namespace hydra::cli
