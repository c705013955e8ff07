// SPDX-License-Identifier: Apache-2.0
// Models from one file format to another: Hugging Face folders and GGUF files, plain or quantised. Silent.
// Not here: which type a quantised tensor gets (quantize.h), tokenizers (text/tokenizer_gguf.h), printing (hydra/cli).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"
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

// config.json and model.safetensors (or shards of at most shard_bytes with their index) into a folder, made where it is
// missing. Types must be F32, F16 or BF16. Matrices in `dtype`, the rest F32.
ConvertReport WriteModelFolder(const WeightSource& source, const std::string& folder, DType dtype, int64_t shard_bytes);

// One GGUF file; `add_metadata` sets keys after the model's own (a tokenizer's). Throws kConfig for what GGUF cannot
// say.
ConvertReport WriteModelGguf(const WeightSource& source, const std::string& path, const TypeOfTensor& type_of,
                             const std::function<void(GgufMetadata&)>& add_metadata);

// Compares a written model with its source: every tensor's values, and the logits of random tokens with f32
// activations.
struct VerifyReport {
  double worst_tensor = 0;  // largest RelativeError, and whose
  std::string worst_name;
  double logits = 0;  // largest difference, relative to max(1, largest logit)
  int64_t tokens = 0;
};
[[nodiscard]] VerifyReport VerifyModel(const WeightSource& source, const WeightSource& written, ThreadPool& pool);

}  // namespace hydra
