// SPDX-License-Identifier: Apache-2.0
// hydralm, the one command a user types; torch-free. Verbs that need LibTorch are handed to hydralm-train.
#include "hydra/cli/cli.h"
#include "hydra/cli/verbs.h"

namespace hydra::cli {
#ifdef HYDRALM_HAS_GENERATE
void AddGenerateVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_CHAT
void AddChatVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_BENCH
void AddBenchVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_LOGITS
void AddLogitsVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_CONVERT
void AddConvertVerb(CLI::App& root, VerbContext& context);
#endif
#ifdef HYDRALM_HAS_QUANTIZE
void AddQuantizeVerb(CLI::App& root, VerbContext& context);
#endif
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
#ifdef HYDRALM_HAS_GENERATE
                             AddGenerateVerb,
#endif
#ifdef HYDRALM_HAS_CHAT
                             AddChatVerb,
#endif
#ifdef HYDRALM_HAS_BENCH
                             AddBenchVerb,
#endif
#ifdef HYDRALM_HAS_LOGITS
                             AddLogitsVerb,
#endif
#ifdef HYDRALM_HAS_CONVERT
                             AddConvertVerb,
#endif
#ifdef HYDRALM_HAS_QUANTIZE
                             AddQuantizeVerb,
#endif
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
                         },
                     .sibling = "hydralm-train"});
}
