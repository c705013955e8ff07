// SPDX-License-Identifier: Apache-2.0
// Sets up LibTorch and opens model folders as the flags say. Not here: the flags (model_flags.h), the verbs
// (torch_*.cc).
#pragma once

#include "hydra/cli/model_flags.h"
#include "hydra/nn/model.h"

namespace hydra::cli {

// Threads of LibTorch; 0 = the cores that this process may use (PhysicalCores), as hydralm has it.
void SetThreads(int threads);
// Sets the threads and loads the folder on the device.
[[nodiscard]] nn::Model OpenModel(const ModelFlags& flags);

}  // namespace hydra::cli
