// SPDX-License-Identifier: Apache-2.0
// BlockFFN on a CPU: lists of the tokens that run each expert, and the layer as products over those lists
// (specs/blockffn.md 1 and 6). Not here: weights of experts from scores (ReluGates in ops.h), the products themselves
// (matmul.h), training. Dims: n tokens, D width, E experts, de neurons of an expert.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hydra/base/buffer.h"
#include "hydra/kernels/matmul.h"

namespace hydra::kernels {

// Tokens of each expert, experts one after another.
class ExpertLists {
 public:
  // each(f) calls f(row, expert, weight) for all that run, the rows of an expert ascending; it is called twice.
  template <class Each>
  void Build(int64_t E, Each&& each) {
    begin_.assign(static_cast<size_t>(E) + 1, 0);
    each([&](int64_t, int64_t e, float) { ++begin_[static_cast<size_t>(e) + 1]; });
    for (size_t e = 0; e + 1 < begin_.size(); ++e) begin_[e + 1] += begin_[e];
    next_.assign(begin_.begin(), begin_.end() - 1);
    rows_.Get(total());
    weights_.Get(total());
    each([&](int64_t row, int64_t e, float weight) {
      const int64_t to = next_[static_cast<size_t>(e)]++;
      rows_.data()[to] = static_cast<int32_t>(row);
      weights_.data()[to] = weight;
    });
  }
  // Tokens of all lists.
  [[nodiscard]] int64_t total() const { return begin_.empty() ? 0 : begin_.back(); }
  [[nodiscard]] int64_t begin(int64_t e) const { return begin_[static_cast<size_t>(e)]; }
  [[nodiscard]] int64_t count(int64_t e) const { return begin(e + 1) - begin(e); }
  [[nodiscard]] const int32_t* rows(int64_t e) const { return rows_.data() + begin(e); }
  [[nodiscard]] const float* weights(int64_t e) const { return weights_.data() + begin(e); }
  // f(expert) for those that some token runs, ascending.
  template <class F>
  void ForEach(F&& f) const {
    for (int64_t e = 0; e + 1 < static_cast<int64_t>(begin_.size()); ++e)
      if (count(e) > 0) f(e);
  }
  // How many of an expert's rows lie below `end`.
  [[nodiscard]] int64_t CountBelow(int64_t e, int64_t end) const;
  [[nodiscard]] int64_t bytes() const { return rows_.bytes() + weights_.bytes(); }

 private:
  std::vector<int64_t> begin_, next_;  // [E + 1] where each expert's tokens begin; [E]
  Buffer<int32_t> rows_;
  Buffer<float> weights_;
};

// Which experts each token runs, and how much each counts.
struct ExpertGates {
  const float* gates = nullptr;      // [n, E]
  const uint32_t* active = nullptr;  // [n, ceil(E / 32)] bits
  const float* scale = nullptr;      // [n] factors of a token's output; null: 1
  const int32_t* list = nullptr;     // the tokens that run the layer, ascending; null: all
  int64_t n = 0;                     // how many those are
  int64_t E = 0;
};

// The products of one pass through a layer's experts: up with SiLU and weight, then down, each expert's weights read
// once for the tokens of its list. Few tokens have the bits that each has alone, whatever came with it.
class ExpertProducts {
 public:
  static constexpr int64_t kFew = kSmallBatch;   // tokens of a pass of which each has the bits that it has alone
  static constexpr int64_t kFewGathered = 1024;  // of so few, tokens of the lists of one round

  // The first `steps` tokens have such bits in any pass.
  void Begin(const ExpertGates& gates, int64_t steps);
  // Appends products of the next experts, hidden = weight silu(up x); false where there are none. Few experts at a time
  // where many tokens run them, so that the memory of their inputs is that of two passes of all tokens.
  bool AddUp(std::span<const Matrix> up, const float* x, std::vector<MatMulArgs>& out);
  // Appends y += down hidden, experts ascending: each row of y gets its terms in that order.
  void AddDown(std::span<const Matrix> down, float* y, std::vector<MatMulArgs>& out) const;

  [[nodiscard]] const ExpertLists& lists() const { return lists_; }
  [[nodiscard]] int64_t bytes() const { return lists_.bytes() + hidden_.bytes(); }

 private:
  // Shares of all tokens from which all are multiplied: in one expert, because gathering costs more than it saves; in
  // all active ones, because one input then serves them all.
  static constexpr double kWholeExpert = 0.9, kWholeLayer = 0.6;

  [[nodiscard]] int64_t StepsOf(int64_t e) const;
  [[nodiscard]] bool Whole(int64_t e) const { return whole_[static_cast<size_t>(e)] != 0; }

  ExpertLists lists_;
  std::vector<int64_t> counts_;  // [E] tokens that are active
  std::vector<uint8_t> whole_;   // [E] whether all tokens are listed
  Buffer<float> hidden_;         // [total, de]
  int64_t n_ = 0, steps_ = 0, next_ = 0;
};

// y = the layer of n tokens, of gates made of router and scale. The same arguments are CUDA's in device memory.
struct BlockFfnArgs {
  const float* x = nullptr;                    // [n, D]
  Matrix router = {};                          // [E, D]
  const float* router_scale = nullptr;         // [E]
  std::span<const Matrix> up = {}, down = {};  // of each expert [de, D] and [D, de]
  float* y = nullptr;                          // [n, D], overwritten
  uint32_t* active_bits = nullptr;             // [n, ceil(E / 32)] out; null: nobody asks
  int64_t n = 0, D = 0, E = 0;
  float eps = 1e-5f;
};

// Working memory: grows to the largest call. One for each concurrent caller.
struct BlockFfnScratch {
  MatMulScratch matmul;
  ExpertProducts products;
  Buffer<float> gates;      // [n, E]
  Buffer<uint32_t> active;  // [n, ceil(E / 32)]
  std::vector<MatMulArgs> maps;
};

void BlockFfn(const BlockFfnArgs& a, const MatMulOptions& options, ThreadPool& pool, BlockFfnScratch& scratch);

namespace ref {
// Dense, sums in double, one thread. With kQ8 inputs of quantised weights are rounded as the fast one rounds them.
void BlockFfn(const BlockFfnArgs& a, ActType act);
}  // namespace ref

}  // namespace hydra::kernels
