// SPDX-License-Identifier: Apache-2.0
// A small model made from fixed numbers, so that a state saved by state_seeds.cc belongs to the model that
// state_file.cc loads it into. Not here: anything of a fuzzer.
#pragma once

#include "fuzz/model.h"
#include "hydra/convert/random_model.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/weights.h"

namespace hydra::fuzz {

inline Model StateModel() {
  const WeightSource source = RandomWeights(StateConfig(), {.type = WeightType::kF32, .seed = 1});
  return Model(
      ModelWeights::Build(source, {.ctx_size = 64, .kv_dtype = KvDtype::kF32, .act = Activations::kF32}, nullptr));
}

}  // namespace hydra::fuzz
