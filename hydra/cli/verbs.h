// SPDX-License-Identifier: Apache-2.0
// The name and one line of every verb: hydralm lists them all, also those that hydralm-train runs. CMake reads this
// list: a verb kNameVerb is AddNameVerb in verb_name.cc or torch_name.cc, registered in the order of the lines below.
// Not here: flags and what a verb does (verb_*.cc, torch_*.cc).
#pragma once

#include "hydra/cli/cli.h"

namespace hydra::cli {

// Run by hydralm-train.
inline constexpr VerbLine kTrainVerb{"train", "train a model from a run file or flags"};
inline constexpr VerbLine kProfileVerb{"profile", "what each attention head's distance is worth, for hydralm plan"};
inline constexpr VerbLine kEvidenceVerb{"evidence", "run the experiments behind what Hydra claims, and judge them"};

// Run by hydralm; eval of shards and logits --engine torch by hydralm-train.
inline constexpr VerbLine kEvalVerb{"eval", "score a model: loss, bits per byte; plans by answers and perplexity"};
inline constexpr VerbLine kGenerateVerb{"generate", "continue a text"};
inline constexpr VerbLine kChatVerb{"chat", "talk to a model"};
inline constexpr VerbLine kServeVerb{"serve", "answer OpenAI's protocol over HTTP, with a chat page"};
inline constexpr VerbLine kBenchVerb{"bench", "time prompts and generation; perplexity"};
inline constexpr VerbLine kStateVerb{"state", "show what a saved state holds, or change parts of it"};
inline constexpr VerbLine kXrayVerb{"xray", "what each token of a text does in a model, layer by layer"};
inline constexpr VerbLine kLogitsVerb{"logits", "write the logits of given tokens as .npy"};
inline constexpr VerbLine kConvertVerb{"convert", "a model folder to GGUF, or GGUF to a folder"};
inline constexpr VerbLine kQuantizeVerb{"quantize", "a GGUF file with smaller weights"};
inline constexpr VerbLine kPlanVerb{"plan", "how many keys each attention head sees: find, show, import plans"};
inline constexpr VerbLine kTokenizerVerb{"tokenizer", "train, use and describe tokenizers"};
inline constexpr VerbLine kDataVerb{"data", "build, describe and check token shards"};
inline constexpr VerbLine kInspectVerb{"inspect", "parameters, FLOPs, bytes and memory of a model"};

}  // namespace hydra::cli
