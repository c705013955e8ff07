// SPDX-License-Identifier: Apache-2.0
// What `hydralm convert` and `hydralm quantize` share: tokenizers beside models, the result's lines.
#pragma once

#include <functional>
#include <string>

#include "hydra/convert/convert.h"
#include "hydra/io/gguf.h"

namespace hydra::cli {

// Throws kUsage where the result would take the place of the source or of another kind of file.
void CheckTarget(const std::string& source, const std::string& target);

// Sets a GGUF file's tokenizer keys from those of another GGUF file or from a model folder; nothing where the source
// has no tokenizer. `pre`: what --pre says of a GGUF source, or nothing.
[[nodiscard]] std::function<void(GgufMetadata&)> TokenizerKeys(const WeightSource& source, const std::string& pre);
// tokenizer.json, tokenizer_config.json and what else a folder keeps about text; from GGUF metadata or copied. Makes
// the folder where it is missing; writes nothing where the tokenizer cannot be read.
void WriteTokenizerFiles(const WeightSource& source, const std::string& folder, const std::string& pre);

// The tensors whose values changed most, at most n, worst first.
[[nodiscard]] std::vector<TensorChange> WorstChanges(const ConvertReport& report, size_t n);

}  // namespace hydra::cli
