// SPDX-License-Identifier: Apache-2.0
// hydralm-train: the verbs that need LibTorch. hydralm hands them over, so nobody types its name.
// Not here: the list of verbs, which CMake makes of verbs.h and the files that exist (cmake/verb_table.h.in).
#include "hydra/cli/cli.h"
#include "hydra/cli/process.h"
#include "hydra/cli/train_table.h"

int main(int argc, char** argv) {
  using namespace hydra::cli;
  SetUpProcess();
  return RunProgram(argc, argv, {.verbs = Verbs(), .handed = HandedVerbs(), .sibling = "hydralm"});
}
