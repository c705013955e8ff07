// SPDX-License-Identifier: Apache-2.0
// Active sets of BlockFFN's experts that a test or a benchmark plants in the place of the router's: full sizes run with
// random weights at a chosen activity. Never set in products. Not here: routing by weights (part_blockffn.cc).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hydra {

class RoutingSource {
 public:
  virtual ~RoutingSource() = default;
  // Writes the active experts of a layer for the token at a position: bit e mod 32 of word e / 32. The same at every
  // call, so that a token that is read again runs the same experts.
  virtual void Experts(int layer, int64_t position, std::span<uint32_t> bits) const = 0;
};

// Each expert is active in a share `a` of the positions, and stays active from one to the next with probability `r`,
// independently of the others: a union of n neighbours has the share 1 - (1 - a) (1 - a (1 - r) / (1 - a))^(n - 1) of
// all. a = 1: all experts always.
class MarkovRouting final : public RoutingSource {
 public:
  struct Options {
    double a = 1, r = 1;  // 0 < a <= 1; for a < 1, 0 <= r <= 1 and a (1 - r) <= 1 - a
    uint64_t seed = 1;
  };
  // For so many layers, experts and positions. Throws kUsage for shares that no such chain has.
  MarkovRouting(int64_t layers, int64_t experts, int64_t positions, const Options& options);
  void Experts(int layer, int64_t position, std::span<uint32_t> bits) const override;

 private:
  int64_t words_, positions_;
  std::vector<uint32_t> bits_;  // [layers, positions, words]
};

}  // namespace hydra
