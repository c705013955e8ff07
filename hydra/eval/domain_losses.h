// SPDX-License-Identifier: Apache-2.0
// How far a model's experts are addressable by domain: the loss of each domain's documents with each set of experts
// forced, and how often routers choose from the own set by themselves. Silent.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hydra/eval/perplexity.h"

namespace hydra::eval {

// Held-out documents of one domain. Losses are bits per byte.
struct DomainLosses {
  std::string domain;
  int64_t documents = 0, tokens = 0;
  double free = 0;             // with nothing forced
  std::vector<double> forced;  // with the set of each domain, in the order of the model's
  double in_set = 0;           // share of a chunk's experts that are of the own set, nothing forced
  double chance = 0;           // the same of experts drawn at random: the set's share of all
};

// One entry for each domain of the model that the split has documents of; on_domain is told of each. Throws kUsage for
// a model without domains, kData where no document is of one, and as EvaluateShards.
[[nodiscard]] std::vector<DomainLosses> MeasureDomains(nn::Model& model, const Tokenizer& tokenizer,
                                                       const std::string& folder, const std::string& split,
                                                       const PerplexityOptions& options,
                                                       const std::function<void(const DomainLosses&)>& on_domain);

}  // namespace hydra::eval
