// SPDX-License-Identifier: Apache-2.0
// `hydralm bench --spec`: decoding with guesses beside plain decoding of the same text. Not here: the other tests
// (verb_bench.cc).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/cli/verb_bench_rows.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verb_speculation.h"

namespace hydra::cli {

struct SpeculationTest {
  std::string text;  // a file whose first tokens are the prompt; "": random tokens
  std::vector<int64_t> prompts, generates;
  int64_t repeats = 5;
};

// For each prompt and each number of tokens both ways of decoding take turns. Throws kUsage where a text is too short
// or the tokens differ, which they must not.
void RunSpeculationTests(const SpeculationTest& test, const SpeculationFlags& flags, const ModelFlags& model_flags,
                         const Runner& runner, RowFormat format);

}  // namespace hydra::cli
