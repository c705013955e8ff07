// SPDX-License-Identifier: Apache-2.0
// Opens model folders with LibTorch as the flags say. Not here: the flags (model_flags.h), the verbs (torch_*.cc).
#pragma once

#include "hydra/cli/model_flags.h"
#include "hydra/nn/model.h"

namespace hydra::cli {

// Sets the threads and loads the folder on the device.
[[nodiscard]] nn::Model OpenModel(const ModelFlags& flags);
// Routing controls as the training form takes them.
[[nodiscard]] nn::ForwardOptions ToForwardOptions(const Controls& controls);

}  // namespace hydra::cli
