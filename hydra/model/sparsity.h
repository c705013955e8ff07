// SPDX-License-Identifier: Apache-2.0
// How sparse the use of experts is, one definition for trainer, evaluation and runtime (specs/blockffn.md 5). An expert
// is active for a token where the router's score is above 0 and its scale is not 0. Not here: who counts what.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace hydra {

// Of one layer. Tokens come in the order of their documents.
class SparsityCounter {
 public:
  static constexpr std::array<int64_t, 7> kWindows = {1, 2, 4, 8, 16, 32, 64};

  explicit SparsityCounter(int64_t n_experts);

  // Windows and pairs begin anew.
  void BeginDocument();
  // active: [E], not 0 where active. A token that is not valid has a place in its window, which then does not count.
  void Add(std::span<const uint8_t> active, bool valid = true);

  // NaN where nothing was counted.
  [[nodiscard]] double token_sparsity() const;                // TLS
  [[nodiscard]] double chunk_sparsity(int64_t window) const;  // CLS_n, n one of kWindows
  [[nodiscard]] double union_growth(int64_t window) const;    // experts of a window over those of its mean token
  [[nodiscard]] double reuse() const;                         // share of a token's experts that the next one has too
  [[nodiscard]] int64_t tokens() const { return tokens_; }
  // Experts without use in the last `tokens` tokens, of which there must have been as many.
  [[nodiscard]] int64_t dead(int64_t tokens) const;
  // [E + 1] tokens by how many experts were active.
  [[nodiscard]] const std::vector<int64_t>& histogram() const { return histogram_; }

 private:
  struct Window {
    std::vector<uint8_t> used;  // of the open one
    int64_t n = 0, active = 0;  // its tokens so far, their active experts
    bool valid = true;
    int64_t windows = 0, used_sum = 0, active_sum = 0;  // of those that were closed
  };
  [[nodiscard]] const Window& At(int64_t window) const;

  int64_t n_experts_, tokens_ = 0, active_ = 0;
  std::array<Window, kWindows.size()> windows_;
  std::vector<uint8_t> last_;  // of the token before; empty: none
  bool last_valid_ = false;
  double reuse_ = 0;
  int64_t pairs_ = 0;
  std::vector<int64_t> histogram_, used_at_;  // used_at_: tokens_ at the last use
};

}  // namespace hydra
