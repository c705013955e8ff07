// SPDX-License-Identifier: Apache-2.0
// How many tokens of prompts are read in one pass: few beside texts that are being written, so that their readers see
// no gap; many where nobody waits for the next token. Learns from what passes took. Not here: whose tokens they are
// (engine.h).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace hydra::serve {

// Not thread-safe. Times are seconds; no token depends on them beyond rounding.
class ChunkRule {
 public:
  // Up to `slots` texts at once. A pass with a piece of a prompt takes at most `gap` times as long as one without.
  explicit ChunkRule(int slots, double gap = 2.3);
  // Tokens of prompts for a pass beside `writing` steps; at least kSizes[0].
  [[nodiscard]] int64_t Choose(int writing) const;
  // What a pass of `writing` steps and `tokens` of prompts took.
  void Measured(int writing, int64_t tokens, double seconds);

 private:
  static constexpr std::array<int64_t, 9> kSizes{2, 4, 8, 16, 32, 64, 128, 256, 512};
  static constexpr double kDecay = 0.8;    // of what is known
  static constexpr double kLongest = 0.5;  // of a pass that nobody waits beside, so that a new request waits no longer

  // Seconds of a pass of `writing` steps alone; 0: nothing is known.
  [[nodiscard]] double Plain(int writing) const;
  static void LearnOne(std::array<double, kSizes.size()>& took, size_t size, double seconds);
  // The largest size that is thought to take at most `seconds`, from what sizes took.
  [[nodiscard]] static int64_t Largest(const std::array<double, kSizes.size()>& took, double seconds, int64_t unknown);

  double gap_;
  std::vector<double> plain_;                             // [slots + 1] passes of so many steps
  std::array<double, kSizes.size()> beside_{}, alone_{};  // what prompts add to a pass; passes of prompts only
};

}  // namespace hydra::serve
