// SPDX-License-Identifier: Apache-2.0
// What GGUF files say of a model's origin and of themselves: licence, author, source and the like survive conversion,
// also by way of a folder; the types of the file are said anew. Not here: the keys of the model (model/gguf_model.h)
// and of its tokenizer (text/tokenizer_gguf.h).
#pragma once

#include <span>

#include "hydra/io/gguf.h"
#include "hydra/runtime/weights.h"

namespace hydra {

// The keys general.* of a source, but for those of its architecture, types and layout. In a model folder they are texts
// of model.safetensors' __metadata__: "gguf:general.license" = "\"apache-2.0\"", the value as JSON.
[[nodiscard]] SafeTensorsMetadata OriginTexts(const WeightSource& source);
// The same into a GGUF file: from a GGUF file as they are, from a folder by their texts.
void SetOrigin(const WeightSource& source, GgufMetadata* metadata);

// general.file_type, by the type that most numbers have, and general.quantization_version where any is quantised.
void SetFileType(std::span<const GgufTensorInfo> tensors, GgufMetadata* metadata);

}  // namespace hydra
