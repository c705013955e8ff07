// SPDX-License-Identifier: Apache-2.0
// Holds the tensors of a file to those of a model: each there once, in its shape, and no other but what no result
// needs. One rule for the runtime, the trainer and `inspect`, for safetensors and GGUF.
// Not here: reading of the files (io/safetensors.h, io/gguf.h), GGUF's names and shapes (gguf_model.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/safetensors.h"
#include "hydra/model/tensor_table.h"

namespace hydra {

// The tensors of a file by their number, whatever its format.
struct TensorList {
  std::string path;              // what messages call the file
  const char* config_says = "";  // of a shape, in messages: "config.json says", "the metadata say"
  size_t count = 0;
  // Number of a tensor of the table; throws kTensor where the file lacks it.
  std::function<size_t(const TensorSpec&)> find;
  std::function<std::vector<int64_t>(const TensorSpec&)> shape;  // that the file must have
  std::function<std::string_view(size_t)> name;
  std::function<std::span<const int64_t>(size_t)> stored_shape;
  std::function<void(size_t)> other;  // called for each tensor that the table lacks: throws, notes or passes over
};
// Throws kTensor naming file and tensor.
void CheckTensors(const ModelConfig& config, const TensorList& list);

// Whether a tensor is one that older versions of transformers and llama.cpp saved beside weights though the config says
// all of it (rotary frequencies, causal masks, positions). Only families with full attention have such.
[[nodiscard]] bool IsSavedBuffer(const ModelConfig& config, std::string_view name);

// Where a model's tensor lies in a safetensors file. A tied model may have its one matrix under the name of the
// embedding or under that of the head. Throws kTensor where the file lacks it.
[[nodiscard]] const TensorView& FindTensor(const ModelConfig& config, const SafeTensors& file, const TensorSpec& spec);

enum class OtherTensors { kRefused, kNoted };  // what is neither a weight nor a saved buffer

struct CheckTensorsOptions {
  std::vector<std::string>* warnings = nullptr;  // one line each: buffers that say something else than the config
  OtherTensors others = OtherTensors::kRefused;
};
// A model folder's weights. A tied model that has both names must have equal bytes under them. Throws kTensor.
void CheckTensors(const ModelConfig& config, const SafeTensors& file, const CheckTensorsOptions& options);

}  // namespace hydra
