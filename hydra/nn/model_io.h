// SPDX-License-Identifier: Apache-2.0
// Model folders: config.json, model.safetensors, tokenizer.json <-> nn::Model.
// Not here: checkpoints with optimiser state (hydra/train/checkpoint.h).
#pragma once

#include <string>

#include "hydra/nn/model.h"

namespace hydra::nn {

// Builds the model of a folder and loads its weights. A missing, extra or misshapen tensor is an Error naming it.
[[nodiscard]] Model LoadModel(const std::string& folder, const ModelOptions& options = {});
// Copies the tensors of a safetensors file (or index) into the model.
void LoadWeights(const std::string& path, Model& model);
// Writes model.safetensors in table order, in the dtypes of the table (masters: all fp32 / fp64 as they are).
void SaveWeights(const std::string& path, const Model& model, bool masters = false);
// The whole folder, created if need be. `tokenizer_json` is the text of tokenizer.json; empty: none is written.
void SaveModel(const std::string& folder, const Model& model, const std::string& tokenizer_json);

}  // namespace hydra::nn
