// SPDX-License-Identifier: Apache-2.0
// hydralm, the one command a user types; torch-free. Verbs that need LibTorch are handed to hydralm-train.
#include "hydra/cli/cli.h"
#include "hydra/cli/verbs.h"

namespace hydra::cli {
#ifdef HYDRALM_HAS_INSPECT
void AddInspectVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_TOKENIZER
void AddTokenizerVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_DATA
void AddDataVerb(CLI::App& root, VerbContext& context);
#endif
}  // namespace hydra::cli

int main(int argc, char** argv) {
  using namespace hydra::cli;
  return RunProgram(argc, argv,
                    {.verbs =
                         {
#ifdef HYDRALM_HAS_TOKENIZER
                             AddTokenizerVerb,
#endif
#ifdef HYDRALM_HAS_DATA
                             AddDataVerb,
#endif
#ifdef HYDRALM_HAS_INSPECT
                             AddInspectVerb,
#endif
                         },
                     .handed =
                         {
#ifdef HYDRALM_HAS_TRAIN
                             kTrainVerb,
#endif
#ifdef HYDRALM_HAS_EVAL
                             kEvalVerb,
#endif
#ifdef HYDRALM_HAS_GENERATE
                             kGenerateVerb,
#endif
#ifdef HYDRALM_HAS_LOGITS
                             kLogitsVerb,
#endif
                         },
                     .sibling = "hydralm-train"});
}
