// SPDX-License-Identifier: Apache-2.0
// What the tests of this folder share: a text and a tokenizer that was trained on it.
#pragma once

#include <string>

#include "hydra/text/bpe_train.h"
#include "hydra/text/tokenizer.h"

namespace hydra::eval::testing {

inline const std::string kText =
    "the cat sat on the mat and the dog sat on the cat; then the dog and the cat sat on the mat";

inline Tokenizer SmallTokenizer() { return Tokenizer::FromJson(TrainBpe({kText}, {.vocab_size = 280}).json, "test"); }

}  // namespace hydra::eval::testing
