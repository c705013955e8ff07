// SPDX-License-Identifier: Apache-2.0
// Model folders whose weights are pytorch_model.bin, or parts of it with their index, as sources of a conversion. The
// runtime refuses them. Not here: the files themselves (torch_file.h).
#pragma once

#include <string>
#include <vector>

#include "hydra/runtime/weights.h"

namespace hydra {

// As OpenWeights, and also a pytorch_model.bin, a pytorch_model.bin.index.json, or a folder that has one of them and no
// safetensors. Tensors are held to the table as those of safetensors files are; those whose numbers do not lie one
// behind the other are put in order when they are asked for.
[[nodiscard]] WeightSource OpenForConversion(const std::string& path, std::vector<std::string>* warnings = nullptr);

}  // namespace hydra
