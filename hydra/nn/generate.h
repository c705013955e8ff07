// SPDX-License-Identifier: Apache-2.0
// Slow, obvious generation with the training form, one token a step: the oracle of the fast runtime.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "hydra/core/sampler.h"
#include "hydra/nn/model.h"

namespace hydra::nn {

struct GenerateOptions {
  int64_t max_tokens = 512;        // -1: until an end token
  std::vector<int64_t> end_ids;    // generation stops before these
  SamplerOptions sampler;
  ForwardOptions controls;
};

// Feeds the prompt (at least one token), then picks tokens until an end; on_token sees each and may return false to
// stop. Returns the new tokens. The model is only read.
std::vector<int64_t> Generate(const Model& model, const std::vector<int64_t>& prompt, const GenerateOptions& options,
                              const std::function<bool(int64_t)>& on_token = {});

}  // namespace hydra::nn
