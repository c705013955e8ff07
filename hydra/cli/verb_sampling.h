// SPDX-License-Identifier: Apache-2.0
// Flags of the verbs that pick tokens: penalties, truncation, temperature, seed. Not here: the sampler
// (runtime/sampler.h).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "hydra/runtime/generation_config.h"
#include "hydra/runtime/sampler.h"

namespace hydra::cli {

struct SamplingFlags {
  SamplerOptions sampler;
  int64_t seed = -1;
  std::vector<std::string> logit_bias;  // ID=VALUE
};
void AddSamplingFlags(CLI::App* verb, SamplingFlags* flags);
// A flag or its variable wins over the model's generation_config.json, which wins over the default. A seed of -1
// becomes a random one.
[[nodiscard]] SamplerOptions ResolveSampling(const SamplingFlags& flags, const CLI::App* verb,
                                             const GenerationConfig& config);
// What the model's generation_config.json wishes, and else the defaults.
[[nodiscard]] SamplerOptions WishedSampling(const GenerationConfig& config);
// How tokens are picked, on one line: what -v prints.
[[nodiscard]] std::string SamplingText(const SamplerOptions& sampling);

}  // namespace hydra::cli
