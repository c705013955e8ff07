// SPDX-License-Identifier: Apache-2.0
// Profiles a model on items with answers: what its loss would change if each head saw fewer keys (specs/moa.md 3).
// Weights are frozen; a layer's activations live at a time. Silent. Not here: the statistics of a layer
// (nn/influence.h), files (model/influence_profile.h, data/items.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hydra/data/items.h"
#include "hydra/model/influence_profile.h"
#include "hydra/nn/model.h"
#include "hydra/train/device.h"

namespace hydra::eval {

// An empty profile of a model for these items: shapes, sinks and windows of its layers. Throws kConfig for a model that
// has no heads with caches of their own.
[[nodiscard]] InfluenceProfile EmptyProfile(const ModelConfig& config, const std::string& name,
                                            const std::string& weights_sha256, const ItemFile& items);

// No gradients of weights from here on.
void FreezeWeights(nn::Model& model);

struct InfluenceOptions {
  train::Device device = {};
  std::function<void(double share)> progress = {};  // 0 to 1 of an item; may throw, and the item counts for nothing
};
// Adds an item to the profile's length of it and returns its loss, mean nats of the answer's tokens. The model's
// weights must be frozen. Throws kData where the loss is not finite.
double AddItem(const nn::Model& model, const LongItem& item, const InfluenceOptions& options,
               InfluenceProfile* profile);

// Arithmetic of an item of so many tokens, in FLOP: forward twice, backward through activations, and the products of
// the statistics.
[[nodiscard]] double ItemFlops(const ModelConfig& config, int64_t tokens);

}  // namespace hydra::eval
