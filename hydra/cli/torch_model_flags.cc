// SPDX-License-Identifier: Apache-2.0
// Threads and models for LibTorch.
#include "hydra/cli/torch_model_flags.h"

#include "hydra/base/thread_pool.h"
#include "hydra/nn/model_io.h"
#include "hydra/train/device.h"

namespace hydra::cli {

void SetThreads(int threads) { at::set_num_threads(threads > 0 ? threads : PhysicalCores()); }

nn::Model OpenModel(const ModelFlags& flags) {
  SetThreads(flags.threads);
  return nn::LoadModel(flags.model, {.device = train::ResolveDevice(flags.device).device});
}

}  // namespace hydra::cli
