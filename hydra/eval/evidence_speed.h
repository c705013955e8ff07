// SPDX-License-Identifier: Apache-2.0
// Models whose speed is compared, in turns, by `hydralm bench`: random weights, since speed does not read them. Not
// here: which comparisons there are (evidence_throughput.cc, evidence_experts.cc, evidence_routing.cc).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hydra/eval/evidence.h"

namespace hydra::eval {

// One of the two: a prompt of so many tokens, or so many steps behind `depth` tokens.
struct SpeedShape {
  int64_t prompt = 0, generate = 0, depth = 0, batch = 1;
  [[nodiscard]] bool prefill() const { return prompt > 0; }
  [[nodiscard]] int64_t tokens() const { return prefill() ? prompt : depth; }
};

// In each round every model has a process of its own, in turn, which warms up and then measures `repeats` times; the
// round's sample is their median. With one round every repeat is a sample.
struct SpeedTurns {
  int64_t rounds = 10, repeats = 1;
  [[nodiscard]] int64_t samples() const { return rounds > 1 ? rounds : repeats; }
};

[[nodiscard]] Cell SpeedCell(const std::string& name, const std::vector<std::string>& models, EvidenceSize size,
                             const SpeedShape& shape, const SpeedTurns& turns);
// {"samples": {model: [tokens/s]}, "peak_bytes": {model: n}, "void": [round: true where the machine was not quiet]}.
// A round beside which other processes took more than a twentieth of the processors' time is measured again, twice at
// most.
[[nodiscard]] Json RunSpeedCell(const Cell& cell, CellContext& context);

// Samples of the rounds that are not void, and their quotients, round by round; nothing where there is no such cell.
[[nodiscard]] std::vector<double> SpeedSamples(const CellResults& results, const std::string& cell,
                                               const std::string& model);
[[nodiscard]] std::vector<double> SpeedRatios(const CellResults& results, const std::string& cell,
                                              const std::string& above, const std::string& below);
// The interval of the quotients' median. Fewer than three of them are no evidence: then there is none, and the note
// says why.
[[nodiscard]] Evidence SpeedEvidence(const CellResults& results, const std::string& cell, const std::string& above,
                                     const std::string& below);
[[nodiscard]] std::optional<double> PeakBytes(const CellResults& results, const std::string& cell,
                                              const std::string& model);

// Counted FLOP of a prompt of so many tokens, as `hydralm bench` computes it: the head for the last token alone.
[[nodiscard]] double PromptFlops(const ModelConfig& config, int64_t tokens);

}  // namespace hydra::eval
