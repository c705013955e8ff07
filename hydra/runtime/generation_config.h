// SPDX-License-Identifier: Apache-2.0
// generation_config.json: a model's own wishes for sampling. Flags win over them (hydra/cli). Not here: sampling
// (sampler.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

// What the file leaves out stays empty.
struct GenerationConfig {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::optional<bool> do_sample;  // false: greedy
  std::vector<int32_t> eos_token_ids;
  // A line for each thing in the file that would change the text and is not obeyed, naming the file and its keys.
  std::vector<std::string> warnings;
  std::string where;  // the file, as warnings name it

  // Leaves out the end tokens that are not below `vocab`, with a warning.
  void DropEndsBeyond(int64_t vocab);
};

// Of a model folder, or of the folder of a .safetensors file; empty where there is no such file, and for a .gguf.
// Throws kFormat for bad JSON, kConfig "FILE: KEY = VALUE: RULE".
[[nodiscard]] GenerationConfig LoadGenerationConfig(const std::string& model_path);
[[nodiscard]] GenerationConfig ParseGenerationConfig(std::string_view text, const std::string& where);

}  // namespace hydra
