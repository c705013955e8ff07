// SPDX-License-Identifier: Apache-2.0
// hydralm, the one command a user types; torch-free. Verbs that need LibTorch are handed to hydralm-train.
// Not here: the list of verbs, which CMake makes of verbs.h and the files that exist (cmake/verb_table.h.in).
#include "hydra/cli/cli.h"
#include "hydra/cli/hydralm_table.h"

int main(int argc, char** argv) {
  using namespace hydra::cli;
  return RunProgram(argc, argv, {.verbs = Verbs(), .handed = HandedVerbs(), .sibling = "hydralm-train"});
}
