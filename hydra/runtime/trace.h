// SPDX-License-Identifier: Apache-2.0
// What a forward pass did with each of its tokens, layer by layer: gates, sizes, experts, landmarks, slots, rows. Kept
// only where a caller asks for it; it changes no bit. Not here: texts, entropies, times (xray.h).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "hydra/model/model_parts.h"

namespace hydra {

class SequenceState;

// An expert, a position, a slot or a row, and its share or weight.
struct Weighted {
  int64_t id = 0;
  float weight = 0;
  bool operator==(const Weighted&) const = default;
};

// One layer's part in one token. What the layer does not have stays empty or 0.
struct LayerTrace {
  std::array<float, 3> gate{};  // a g gamma of ssm, sga, moe
  std::array<float, 5> size{};  // Euclidean length of what each part added to the stream, kModelParts' order; in
                                // sequential models the mixer is ssm or sga, the ffn moe
  float stream = 0;             // of the stream behind the layer
  std::vector<Weighted> experts;
  std::vector<Weighted> landmarks;                  // positions with most attention, mean over heads, most first
  float landmark_share = 0;                         // of the attention that landmarks get together
  std::vector<Weighted> slots_read, slots_written;  // most first; written at the end of a chunk
  float workspace_gate = 0, pkm_gate = 0;           // of the reads
  std::vector<Weighted> rows;                       // of the product-key table, heads together, most first
};

struct TokenTrace {
  const SequenceState* sequence = nullptr;  // whose token it is
  int32_t id = 0;
  int64_t position = 0;
  std::vector<LayerTrace> layers;
};

// Filled by the passes of the scratch that it is given to (ForwardScratch::SetTrace); emptied by its owner.
class Trace {
 public:
  // Of all passes since Clear, in the order in which they were read.
  [[nodiscard]] const std::vector<TokenTrace>& tokens() const { return tokens_; }
  void Clear() { tokens_.clear(); }

  // For the pass: makes room for the rows of one; then At is of its rows.
  void BeginPass(int64_t rows, int64_t layers) {
    first_ = tokens_.size();
    tokens_.resize(first_ + static_cast<size_t>(rows));
    for (size_t i = first_; i < tokens_.size(); ++i) tokens_[i].layers.resize(static_cast<size_t>(layers));
  }
  [[nodiscard]] TokenTrace& Row(int64_t row) { return tokens_[first_ + static_cast<size_t>(row)]; }
  [[nodiscard]] LayerTrace& At(int64_t row, int layer) { return Row(row).layers[static_cast<size_t>(layer)]; }

 private:
  std::vector<TokenTrace> tokens_;
  size_t first_ = 0;
};

// The `most` heaviest of `all`, most first.
[[nodiscard]] std::vector<Weighted> Heaviest(std::vector<Weighted> all, size_t most);

}  // namespace hydra
