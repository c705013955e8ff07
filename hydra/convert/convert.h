// SPDX-License-Identifier: Apache-2.0
// Models from one file format to another: Hugging Face folders and GGUF files, plain or quantised. Silent.
// Not here: which type a quantised tensor gets (quantize.h), proof that two models are the same (verify.h), tokenizers
// (text/tokenizer_gguf.h), printing (hydra/cli).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/gguf.h"
#include "hydra/runtime/weights.h"

namespace hydra {

// A tensor of the table as f32, in the table's order and meaning, whatever its file does to it (GGUF's order of Q and K
// rows, -exp(A_log)). [size]
[[nodiscard]] std::vector<float> TensorValues(const WeightSource& source, const TensorSpec& spec);

struct TensorChange {
  std::string name;  // of the table
  WeightType from = WeightType::kF32, to = WeightType::kF32;
  double error = 0;  // RelativeError of the values
};

struct ConvertReport {
  int64_t read = 0, written = 0;              // tensors
  int64_t bytes_before = 0, bytes_after = 0;  // of tensors
  std::vector<TensorChange> changes;          // in the order of the table
};

using TypeOfTensor = std::function<WeightType(const TensorSpec&)>;

// Files of a model folder that are about text, not weights. A conversion between folders copies them.
inline constexpr const char* kModelTextFiles[] = {
    "tokenizer.json",    "tokenizer.model",        "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "generation_config.json", "chat_template.jinja",   "chat_template.json"};

// Whether a file of this name is one of a model folder as WriteModelFolder and its callers write them; such files are
// replaced, others are not.
[[nodiscard]] bool IsModelFolderFile(std::string_view name);

// config.json and model.safetensors (or shards of at most shard_bytes with their index) into a folder, made where it is
// missing. Matrices in `dtype` (F32, F16 or BF16), the rest F32; without one each tensor keeps its type and its bytes,
// and quantised ones get the type of the config. `add_files` writes what else belongs into the folder that it is given.
// A folder that holds a model has either the old one or the new one at any time, never parts of both; one that holds
// other files is refused (StagedFolder). Values that a type cannot hold are an Error that names the tensor.
ConvertReport WriteModelFolder(const WeightSource& source, const std::string& folder, std::optional<DType> dtype,
                               int64_t shard_bytes,
                               const std::function<void(const std::string& folder)>& add_files = {});

// One GGUF file; `add_metadata` sets keys after the model's own (a tokenizer's). What another GGUF file said of its
// model's origin is kept (gguf_origin.h); general.file_type and general.quantization_version are of the new types.
// Throws kConfig for what GGUF cannot say, and as WriteModelFolder.
ConvertReport WriteModelGguf(const WeightSource& source, const std::string& path, const TypeOfTensor& type_of,
                             const std::function<void(GgufMetadata&)>& add_metadata);

}  // namespace hydra
