// SPDX-License-Identifier: Apache-2.0
// The rows of one KV head's cache in the memory of a state, seen through its filling. Cheap to make. Not here: which
// positions are kept and where (model/kv_filling.h), f32 to rows and attention over them (kernels/ops.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "hydra/kernels/ops.h"
#include "hydra/model/state_layout.h"

namespace hydra {

class KvCache {
 public:
  // `memory` is that of the state, which the layout's offsets count from.
  KvCache(const KvCacheLayout& layout, std::byte* memory) : layout_(&layout), memory_(memory) {}

  [[nodiscard]] const KvFilling& filling() const { return *layout_->filling; }
  [[nodiscard]] const KvCacheLayout& layout() const { return *layout_; }
  [[nodiscard]] bool value_in_key() const { return layout_->value_in_key(); }
  [[nodiscard]] std::byte* Key(int64_t row) const { return memory_ + layout_->k + row * layout_->k_stride; }
  [[nodiscard]] std::byte* Value(int64_t row) const { return memory_ + layout_->v + row * layout_->v_stride; }
  [[nodiscard]] std::byte* KeyOf(int64_t position) const { return Key(filling().RowOf(position)); }
  [[nodiscard]] std::byte* ValueOf(int64_t position) const { return Value(filling().RowOf(position)); }

  // Copies a key's and a value's row, in the cache's type, to a row of this cache.
  void Put(int64_t row, const std::byte* key, const std::byte* value) const {
    std::memcpy(Key(row), key, static_cast<size_t>(layout_->k_stride));
    if (!value_in_key()) std::memcpy(Value(row), value, static_cast<size_t>(layout_->v_stride));
  }

  // Appends the runs of what it holds once the positions 0 .. pos - 1 have come; `ranges` is working memory.
  void AddRuns(int64_t pos, std::vector<RowRange>& ranges, std::vector<kernels::KeyRun>& out) const {
    ranges.clear();
    filling().AddRanges(pos, ranges);
    for (const RowRange& range : ranges)
      out.push_back({.k = Key(range.row), .v = Value(range.row), .n = range.n, .first = range.first});
  }

 private:
  const KvCacheLayout* layout_;
  std::byte* memory_;
};

}  // namespace hydra
