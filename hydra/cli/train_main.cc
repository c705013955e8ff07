// SPDX-License-Identifier: Apache-2.0
// hydralm-train: the verbs that need LibTorch. hydralm hands them over, so nobody types its name.
#include "hydra/cli/cli.h"
#include "hydra/cli/process.h"

namespace hydra::cli {
#ifdef HYDRALM_HAS_TRAIN
void AddTrainVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_EVAL
void AddEvalVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_LOGITS
void AddLogitsVerb(CLI::App& root, VerbContext& context);
#endif
}  // namespace hydra::cli

int main(int argc, char** argv) {
  using namespace hydra::cli;
  hydra::cli::SetUpProcess();
  return RunProgram(argc, argv,
                    {.verbs =
                         {
#ifdef HYDRALM_HAS_TRAIN
                             AddTrainVerb,
#endif
#ifdef HYDRALM_HAS_EVAL
                             AddEvalVerb,
#endif
#ifdef HYDRALM_HAS_LOGITS
                             AddLogitsVerb,
#endif
                         },
                     .handed = {},
                     .sibling = "hydralm"});
}
