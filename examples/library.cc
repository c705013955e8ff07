// SPDX-License-Identifier: Apache-2.0
// The C++ library in one page: continues a prompt with the most probable tokens. specs/interfaces.md 7 shows the same
// program (tests/commands/library_test.py compares them and runs this one). Not here: stop strings, saved states
// (runtime/generate.h).
//   example_library MODEL [PROMPT]
#include <iostream>

#include "hydra/base/error.h"
#include "hydra/base/thread_pool.h"
#include "hydra/base/utf8.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/text/tokenizer.h"

int main(int argc, char** argv) try {
  if (argc < 2) throw hydra::Error(hydra::ErrorCode::kUsage, "usage: example_library MODEL [PROMPT]");
  hydra::ThreadPool pool(2);
  const auto model = hydra::Model::Load(argv[1], {.ctx_size = 8192});
  const auto tokenizer = hydra::Tokenizer::Load(argv[1]);
  hydra::SequenceState state(model);
  hydra::ForwardScratch scratch;
  hydra::Sampler sampler({.temperature = 0});
  auto logits = model.Prefill(state, tokenizer.Encode(argc > 2 ? argv[2] : "Once upon a time"), pool, scratch);
  hydra::Utf8Stream text;  // a character may be spread over several tokens
  for (int count = 0; count < 64; ++count) {
    const int32_t id = sampler.Pick(logits);
    if (id == tokenizer.eos_id()) break;
    std::cout << text.Push(tokenizer.TokenBytes(id));
    logits = model.Step(state, id, pool, scratch);
  }
  std::cout << text.Finish();
} catch (const hydra::Error& error) {
  std::cerr << "example_library: " << error.what() << "\n";
  return 2;
}
