// SPDX-License-Identifier: Apache-2.0
// Saved states of a small hydra model. The checksum is not compared in this build (FUZZING_BUILD_MODE_UNSAFE_FOR_
// PRODUCTION), so that the other checks are reached; a state that loads is stepped twice. Not here: other families.
#include "fuzz/input.h"
#include "fuzz/state_model.h"
#include "hydra/base/thread_pool.h"
#include "hydra/runtime/sequence_state.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Model model = fuzz::StateModel();
  static ThreadPool pool(1);
  const fuzz::InputFile input(fuzz::Text(data, size));
  fuzz::Accepts([&] {
    SequenceState state = SequenceState::Load(input.path(), model);
    ForwardScratch scratch;
    (void)model.Step(state, 1, pool, scratch);
    (void)model.Step(state, 2, pool, scratch);
  });
  return 0;
}
