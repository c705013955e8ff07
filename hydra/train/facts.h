// SPDX-License-Identifier: Apache-2.0
// Facts that a model is taught: questions, their answers, other ways to ask. Torch-free. Not here: teaching (teach.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/text/tokenizer.h"

namespace hydra::train {

struct Fact {
  std::string prompt, answer;
  std::vector<std::string> paraphrases;  // of the prompt
};

// A line of JSON for each: {"prompt", "answer", "paraphrases": [..]}. Throws kFormat naming file, line and field; an
// empty prompt or answer, a line without them, an unknown key, a file without facts.
[[nodiscard]] std::vector<Fact> ReadFacts(const std::string& path);

// One way to ask a fact as tokens.
struct FactExample {
  std::vector<int32_t> ids;  // of the question, then of its answer
  int64_t answer = 0;        // the first token of the answer
  size_t fact = 0;
};
// How each fact is asked: `held_out` false: with its prompt and its paraphrases but for the last `keep_out` of them;
// true: with those. Throws kData for an answer without a token.
[[nodiscard]] std::vector<FactExample> Examples(const std::vector<Fact>& facts, const Tokenizer& tokenizer,
                                                int64_t keep_out, bool held_out);

}  // namespace hydra::train
