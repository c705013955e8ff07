// SPDX-License-Identifier: Apache-2.0
// Teaching facts to a trained model (specs/hydra.md 6): rows of the product-key table that the questions read are moved
// until the answers follow, while rehearsal text holds the model to what it said before. For comparison the same can be
// taught to a low-rank change of projections, or to all weights. Silent. Not here: facts in files (facts.h), packs in
// files (model/memory_pack.h).
#pragma once

#include "hydra/nn/torch.h"

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hydra/model/memory_pack.h"
#include "hydra/nn/model.h"
#include "hydra/train/corpus.h"
#include "hydra/train/facts.h"

namespace hydra::train {

enum class TeachInto { kTable, kLowRank, kAll };

struct TeachOptions {
  TeachInto into = TeachInto::kTable;
  int64_t steps = 400;    // at most: it ends earlier where every question that is trained is answered
  int64_t examples = 32;  // questions of a step
  int64_t rehearsal_rows = 4, rehearsal_tokens = 256;  // text of a step
  double lr = 3e-2;
  double rehearsal = 1.0;  // weight of the rehearsal text's KL to the untaught model, nats a token
  int64_t low_rank = 0;    // rank of kLowRank; 0: as many numbers as the rows that kTable would move
  uint64_t seed = 1;
  const std::atomic<int>* stop = nullptr;  // not 0: end after this step
  std::function<void(int64_t step, double loss, double kl)> on_step = {};
};

struct TeachReport {
  int64_t steps = 0;
  double seconds = 0;
  int64_t facts = 0, trained = 0, held_out = 0;  // facts; ways to ask that were trained, and that were not
  // Shares of answers that follow to the last token, greedily, before and after: of trained and of held-out questions.
  double trained_before = 0, trained_after = 0, held_out_before = 0, held_out_after = 0;
  double mean_gate = 0;                 // beta, mean over the tokens of the questions and the sites
  int64_t rows = 0, numbers = 0;        // rows that moved; numbers that could
  std::optional<MemoryPack> pack = {};  // of kTable
};

// Teaches `model` in place; with kTable all but rows of its table keep their bits. `base`: of the pack. Throws kUsage
// for kTable in a model without a product-key memory, kData where a question is longer than the model's context.
[[nodiscard]] TeachReport Teach(nn::Model& model, const std::vector<FactExample>& trained,
                                const std::vector<FactExample>& held_out, const Corpus& rehearsal,
                                const std::string& base, const TeachOptions& options);

// Share of the examples whose answer follows greedily, token by token.
[[nodiscard]] double AnswersRight(const nn::Model& model, const std::vector<FactExample>& examples);

}  // namespace hydra::train
