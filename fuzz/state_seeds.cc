// SPDX-License-Identifier: Apache-2.0
// Writes the first inputs of the target state_file: states of its model after a few tokens. Not a fuzz target; other
// formats are make_seeds.cc's.
#include "fuzz/seeds.h"
#include "fuzz/state_model.h"
#include "hydra/base/thread_pool.h"
#include "hydra/runtime/sequence_state.h"

using namespace hydra;

int main(int argc, char** argv) {
  return fuzz::WriteSeeds(argc, argv, [](fuzz::Seeds& seeds) {
    const Model model = fuzz::StateModel();
    ThreadPool pool(1);
    ForwardScratch scratch;
    for (const int n : {1, 14, 30}) {
      SequenceState state(model);
      for (int i = 0; i < n; ++i) (void)model.Step(state, i % 32, pool, scratch);
      state.SetPending({3});
      state.Save(seeds.Path("state_file", std::to_string(n)));
    }
  });
}
