// SPDX-License-Identifier: Apache-2.0
// --spec and --spec-n of the verbs that decode: which drafter guesses, what it needs, what came of it. Not here: how
// guesses are checked (runtime/speculation.h).
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "hydra/cli/model_flags.h"
#include "hydra/io/json.h"
#include "hydra/runtime/speculation.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {

struct SpeculationFlags {
  std::string drafter = "off";  // off, ngram, self (with layers behind a colon), or a model
  int64_t most = 4;             // guesses of a pass
  [[nodiscard]] bool on() const { return drafter != "off"; }
  [[nodiscard]] bool self() const { return drafter == "self" || drafter.starts_with("self:"); }
  // Tokens of a provisional pass; 0: none.
  [[nodiscard]] int64_t provisional() const { return on() ? most + 1 : 0; }
};
void AddSpeculationFlags(CLI::App* verb, SpeculationFlags* flags);

// The model of --spec MODEL, or the part of the model itself that guesses where layers do; null where the drafter needs
// none. Throws kUsage where its tokenizer is another one, or for layers that the model does not have.
[[nodiscard]] std::unique_ptr<Model> OpenDraftModel(const SpeculationFlags& flags, const ModelFlags& model_flags,
                                                    const Model& model, const Tokenizer& tokenizer, ThreadPool& pool);
// For decoding; null, which is plain steps, with --spec off. `draft`: what OpenDraftModel gave. Throws kUsage where the
// drafter cannot guess for this model, with the reason. Models, pool and scratch must outlive it.
[[nodiscard]] std::unique_ptr<Speculation> MakeSpeculation(const SpeculationFlags& flags, const Model& model,
                                                           const Model* draft, ThreadPool& pool,
                                                           ForwardScratch& scratch);

// "drafter      self: 1 of state and passes (MiB)\n", weights too where it is another model; "" where it has no memory
// that does not grow with the text.
[[nodiscard]] std::string DrafterMemory(const Speculation* speculation, const Model* draft);

// "ngram: 312 tokens in 160 passes, 1.95 a pass; right 0.82 0.61 of 150 92; 73.4 MB a token"
[[nodiscard]] std::string SpeculationText(const Speculation& speculation);
[[nodiscard]] Json SpeculationJson(const Speculation& speculation);

}  // namespace hydra::cli
