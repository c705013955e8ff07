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

// The goal's ratio of counted FLOP at 64K, transformer-29m to hydra-29m: forward FLOP of a token as specs/hydra.md 10
// counts them (linear = 2 active: the tied head for every token), mean over the text.
//   transformer-29m   linear 57.93 M + attention 8 x 2048 x 65,537 / 2 = 536.88 M                  = 594.81 M
//   hydra-29m         linear 30.83 M + attention about 2.24 M + scan 2.42 M + workspace 0.13 M =  35.63 M
// which is 16.69 in the scan form (and 16.85 with the full pool, token by token).
inline constexpr double kCountedRatio = 16.8;

// Counted FLOP of a prompt of so many tokens, as `hydralm bench` computes it: the head for the last token alone. That
// is less work than the goal counts, by 4.19 M a token of transformer-29m and 3.15 M of hydra-29m: the ratio of these
// is 18.2, and is not the goal's.
[[nodiscard]] double PromptFlops(const ModelConfig& config, int64_t tokens);

}  // namespace hydra::eval
