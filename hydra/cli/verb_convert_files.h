// SPDX-License-Identifier: Apache-2.0
// What `hydralm convert` and `hydralm quantize` share: what is read and what may be written over, tokenizers beside
// models, the verdict on them.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "hydra/convert/convert.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {

enum class TargetKind { kFolder, kGguf };

// Opens the source (by OpenWeights, or OpenForConversion) after a look at the target; warnings go to stderr. Throws
// kUsage where the result would take the place of the source, of a folder or of another kind of file. From then on a
// signal ends the work with StopStatus().
using OpenFn = WeightSource (*)(const std::string& path, std::vector<std::string>* warnings);
[[nodiscard]] WeightSource OpenSource(const std::string& source, const std::string& target, TargetKind kind,
                                      OpenFn open);

// Throws kUsage for the name of a plain file (out.txt) where a folder would be made.
void RefuseFileName(const std::string& target);

// One GGUF file with the tokenizer of the source, if that has one. `pre`: what --pre says of a GGUF source, or nothing.
ConvertReport WriteGgufModel(const WeightSource& source, const std::string& target, const TypeOfTensor& type_of,
                             const std::string& pre);
// A model folder with tokenizer.json, tokenizer_config.json and what else a folder keeps about text; from GGUF metadata
// or copied.
ConvertReport WriteFolderModel(const WeightSource& source, const std::string& target, std::optional<DType> dtype,
                               int64_t shard_bytes, const std::string& pre);

// The tokenizer of a model's file or folder, if there is one.
[[nodiscard]] std::optional<Tokenizer> TokenizerOf(const std::string& model, const std::string& pre = {});

// {"file", "bytes_before", "bytes_after"} and their line of text.
[[nodiscard]] nlohmann::ordered_json ReportJson(const std::string& target, const ConvertReport& report);
[[nodiscard]] std::string BytesText(const ConvertReport& report);

}  // namespace hydra::cli
