// SPDX-License-Identifier: Apache-2.0
// What the verbs that run a model without LibTorch share: opening it as the flags say, the lines about it on stderr,
// --explain, stop signals of one answer. Not here: the flags (model_flags.h), the verbs (verb_generate.cc, ...).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/model_flags.h"
#include "hydra/runtime/generate.h"
#include "hydra/runtime/generation_config.h"
#include "hydra/runtime/memory_overlay.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/weights.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {

struct OpenOptions {
  bool quiet = false;       // Announce() prints no lines about the model; warnings still come
  int64_t ctx = 0;          // > 0: what the verb needs where -c was not given
  int64_t batch = 1;        // sequences held at once
  bool f32_only = false;    // activations in f32 whatever --act says
  int64_t provisional = 0;  // tokens of provisional passes
  int64_t extra = 0;        // bytes that the verb takes besides
};

// A model in memory with the threads that run it.
struct Runner {
  std::unique_ptr<ThreadPool> pool;
  Model model;
  std::string about;                              // the lines about the model, and those of --explain
  std::shared_ptr<const MemoryOverlay> memory{};  // of --memory
  std::vector<WeightedPack> packs{};              // what it was made of
  UsedPlan plan{};                                // of --plan
  // A new sequence of plan length N, with the packs.
  [[nodiscard]] SequenceState NewState(const Controls& controls, int64_t N) const;
  // One that was saved: under the plan and the packs of this run, with the length that it was saved with.
  [[nodiscard]] SequenceState LoadState(const std::string& path) const;
  // The plan's length of a sequence that is to have `tokens` tokens, -1 = as many as the context.
  [[nodiscard]] int64_t PlanLengthOf(int64_t tokens) const;
  // The line about the plan of a sequence on stderr; none without a plan.
  void AnnouncePlan(int64_t N) const;
  // Prints them on stderr: after all that the verb can check, so that an error stands alone.
  void Announce() const;
};
// Throws kUsage for a device, type or SIMD level that there is not, and where the memory does not suffice.
[[nodiscard]] Runner OpenRunner(const ModelFlags& flags, const OpenOptions& options);
// The same from weights at hand.
[[nodiscard]] Runner OpenRunner(const WeightSource& source, const ModelFlags& flags, const OpenOptions& options);

// A model for the threads of another one.
[[nodiscard]] Model OpenBeside(const ModelFlags& flags, const OpenOptions& options, ThreadPool& pool);

// The model's tokenizer, with its warnings on stderr; throws where it has more tokens than the model.
[[nodiscard]] Tokenizer LoadTokenizerOf(const Model& model, const ModelFlags& flags);
// The model's generation_config.json; what is not obeyed of it becomes a warning.
[[nodiscard]] GenerationConfig LoadWishes(const std::string& path);
// Every id that ends a text: of config.json, generation_config.json or GGUF's metadata, and the tokenizer's eos and
// eot. Warns of those of generation_config.json that are outside the vocabulary.
[[nodiscard]] std::vector<int32_t> EndIds(const Model& model, GenerationConfig config, const Tokenizer& tokenizer);

// "SmolLM2-135M-Instruct" of .../SmolLM2-135M-Instruct/ or ....gguf
[[nodiscard]] std::string ModelName(const std::string& path);
// Types of the matrices, the most bytes first; the same as text: "Q4_1, Q8_0".
[[nodiscard]] std::vector<WeightType> MatrixTypes(const WeightSource& source);
[[nodiscard]] std::string TypesText(const WeightSource& source);

// What multiplies them: "Q4_1 panels x int8; F32 rows x f32".
[[nodiscard]] std::string KernelsText(const Model& model);

// What tokens say, as UTF-8: a part of a character, or an id that the tokenizer does not have, is U+FFFD.
[[nodiscard]] std::string TextOfTokens(const Tokenizer& tokenizer, std::span<const int32_t> ids);

// Writes and shows at once.
void Show(std::string_view text);

}  // namespace hydra::cli
