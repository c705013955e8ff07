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

// What the file leaves out stays empty. Keys that are not here are ignored: most set up other programs.
struct GenerationConfig {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::optional<bool> do_sample;  // false: greedy
  std::vector<int32_t> eos_token_ids;
};

// Of a model folder, or of the folder of a .safetensors file; empty where there is no such file, and for a .gguf.
// Throws kFormat for bad JSON, kConfig "FILE: KEY = VALUE: RULE".
[[nodiscard]] GenerationConfig LoadGenerationConfig(const std::string& model_path);
[[nodiscard]] GenerationConfig ParseGenerationConfig(std::string_view text, const std::string& where);

}  // namespace hydra
