// SPDX-License-Identifier: Apache-2.0
// Holds the tensors of a file to those of a model: each there once, in its shape, and no other but what no result
// needs. One rule for the runtime, the trainer and `inspect`, for safetensors and GGUF.
// Not here: reading of the files (io/safetensors.h, io/gguf.h), GGUF's names and shapes (gguf_model.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
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
  std::function<std::vector<int64_t>(const TensorSpec&, size_t)> shape;  // that this tensor of the file must have
  std::function<std::string_view(size_t)> name;
  std::function<std::span<const int64_t>(size_t)> stored_shape;
  std::function<void(size_t)> other;  // called for each tensor that the table lacks: throws, notes or passes over
};
// Throws kTensor naming file and tensor.
void CheckTensors(const ModelConfig& config, const TensorList& list);

// Whether a tensor is one that older versions of transformers and llama.cpp saved beside weights though the config says
// all of it (rotary frequencies, causal masks, positions). Only families with full attention have such.
[[nodiscard]] bool IsSavedBuffer(const ModelConfig& config, std::string_view name);

// Number of a model's tensor among those of a folder's weights, by any of the names that it may have there: a tied
// model's one matrix that of the embedding or of the head, experts those of OtherForms. `find` gives the number of a
// name; nothing where the file lacks the tensor.
using FindName = std::function<std::optional<size_t>(std::string_view)>;
[[nodiscard]] std::optional<size_t> FindByAnyName(const ModelConfig& config, const TensorSpec& spec,
                                                  const FindName& find);

// The shape that a tensor of this name must have in a folder's weights, and the order of its numbers. Of several shapes
// under one name that with as many dimensions counts.
struct StoredShape {
  std::vector<int64_t> shape;
  StoredOrder order = StoredOrder::kTable;
};
[[nodiscard]] StoredShape StoredShapeOf(const ModelConfig& config, const TensorSpec& spec, std::string_view name,
                                        size_t dims);
// The numbers of a tensor in the table's order, `element` bytes each. [spec.size() * element]
[[nodiscard]] std::vector<std::byte> InTableOrder(const ModelConfig& config, const TensorSpec& spec, StoredOrder order,
                                                  const std::byte* stored, int64_t element);

// Where a model's tensor lies in a safetensors file. Throws kTensor where the file lacks it.
struct FoundTensor {
  const TensorView& view;
  StoredOrder order;
};
[[nodiscard]] FoundTensor FindTensor(const ModelConfig& config, const SafeTensors& file, const TensorSpec& spec);

enum class OtherTensors { kRefused, kNoted };  // what is neither a weight nor a saved buffer

struct CheckTensorsOptions {
  std::vector<std::string>* warnings = nullptr;  // one line each: buffers that say something else than the config
  OtherTensors others = OtherTensors::kRefused;
};
// A model folder's weights. A tied model that has both names must have equal bytes under them. Throws kTensor.
void CheckTensors(const ModelConfig& config, const SafeTensors& file, const CheckTensorsOptions& options);
// Whether a name is the second one of a tied model's one matrix: both must hold the same numbers.
[[nodiscard]] bool IsHeadOfTied(const ModelConfig& config, std::string_view name);
[[noreturn]] void RefuseTiedHead(const std::string& path);  // where they do not
// Throws kTensor for a tensor that a folder's weights may not hold.
[[noreturn]] void RefuseOther(const ModelConfig& config, const std::string& path, std::string_view name);

}  // namespace hydra
