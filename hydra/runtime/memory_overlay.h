// SPDX-License-Identifier: Apache-2.0
// Memory packs on a model while it runs: f32 rows that are added to rows of the product-key table where they are read.
// The table stays as it is, so unloading a pack is exact, a quantised table serves too, and each sequence may have
// packs of its own. Not here: packs in files (model/memory_pack.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/model/memory_pack.h"
#include "hydra/runtime/weights.h"

namespace hydra {

// The hash that packs must have for this model: the one that its file carries, else that of its own tensors. Throws
// kFormat for a quantised file that carries none, kUsage for a model without a product-key memory.
[[nodiscard]] std::string MemoryBase(const WeightSource& source);
// The same; nothing where that would throw.
[[nodiscard]] std::optional<std::string> FindMemoryBase(const WeightSource& source);

struct WeightedPack {
  MemoryPack pack;
  std::string path;  // for messages
  double strength = 1;
};

// Immutable; shared by the sequences that have it.
class MemoryOverlay {
 public:
  // Throws kUsage naming the pack: for another model (base or sizes), or with rows that another one has, unless `add`
  // says that these are added up.
  [[nodiscard]] static std::shared_ptr<const MemoryOverlay> Make(std::span<const WeightedPack> packs,
                                                                 const WeightSource& source, bool add);

  // What is added to a row of the table, [d_value]; null: nothing.
  [[nodiscard]] const float* Find(int64_t row) const;
  [[nodiscard]] int64_t rows() const { return static_cast<int64_t>(rows_.size()); }
  [[nodiscard]] int64_t bytes() const;
  // "facts:1 (3f2a..), ..": what a saved state remembers of its packs.
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::vector<int32_t> rows_;  // ascending
  std::vector<float> delta_;   // [rows, width]
  int64_t width_ = 0;
  std::string text_;
};

}  // namespace hydra
