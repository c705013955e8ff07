// SPDX-License-Identifier: Apache-2.0
// Packs laid over one another.
#include "hydra/runtime/memory_overlay.h"

#include <algorithm>
#include <map>

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra {

std::optional<std::string> FindMemoryBase(const WeightSource& source) {
  if (!source.config.HasPkm()) return std::nullopt;
  if (const auto recorded = RecordedMemoryBase(source.metadata)) return *recorded;
  MemoryBaseHash hash;
  std::vector<float> row;
  const TensorTable table(source.config);
  for (const TensorSpec& spec : table.specs()) {
    if (!MemoryBaseHash::Covers(spec.role)) continue;
    const StoredTensor tensor = source.tensor(spec);
    if (IsQuantised(tensor.type)) return std::nullopt;
    const int64_t cols = spec.shape.back();
    row.resize(static_cast<size_t>(cols));
    for (int64_t i = 0; i < spec.size() / cols; ++i) {
      DecodeRow(tensor.type, tensor.data + i * RowBytes(tensor.type, cols), cols, row.data());
      hash.Add(row);
    }
  }
  return hash.Finish();
}

std::string MemoryBase(const WeightSource& source) {
  if (!source.config.HasPkm()) throw Error(ErrorCode::kUsage, StrCat(source.path, ": has no product-key memory"));
  const auto base = FindMemoryBase(source);
  if (!base)
    throw Error(ErrorCode::kFormat, StrCat(source.path, ": is quantised and does not say (", kMemoryBaseKey,
                                           ") which memories fit it: quantise the model again"));
  return *base;
}

std::shared_ptr<const MemoryOverlay> MemoryOverlay::Make(std::span<const WeightedPack> packs,
                                                         const WeightSource& source, bool add) {
  auto overlay = std::make_shared<MemoryOverlay>();
  const std::string base = MemoryBase(source);
  const PkmConfig& c = source.config.pkm;
  overlay->width_ = c.d_value;
  struct Row {
    std::vector<float> delta;
    const WeightedPack* from;
  };
  std::map<int32_t, Row> rows;
  for (const WeightedPack& one : packs) {
    const MemoryPack& pack = one.pack;
    if (pack.n_keys != c.n_keys || pack.width != c.d_value)
      throw Error(ErrorCode::kUsage, StrCat("--memory ", one.path, ": its table is [", pack.n_keys, "^2, ", pack.width,
                                            "], this model's [", c.n_keys, "^2, ", c.d_value, "]"));
    if (pack.base != base)
      throw Error(ErrorCode::kUsage,
                  StrCat("--memory ", one.path, ": was taught to another model (base ", pack.base.substr(0, 8),
                         ".., this one is ", base.substr(0, 8), "..): teach it to this one: hydralm train --teach"));
    for (size_t i = 0; i < pack.rows.size(); ++i) {
      const auto [at, is_new] = rows.try_emplace(pack.rows[i], Row{{}, &one});
      if (!is_new && !add)
        throw Error(ErrorCode::kUsage, StrCat("--memory ", one.path, ": row ", pack.rows[i], " is in ",
                                              at->second.from->path, " too: --memory-merge add adds them up"));
      at->second.delta.resize(static_cast<size_t>(pack.width));
      for (int64_t d = 0; d < pack.width; ++d)
        at->second.delta[static_cast<size_t>(d)] +=
            static_cast<float>(one.strength) * pack.delta[i * static_cast<size_t>(pack.width) + static_cast<size_t>(d)];
    }
    const std::string sum = Sha256Hex(std::as_bytes(std::span(pack.delta))).substr(0, 8);
    overlay->text_ += StrCat(overlay->text_.empty() ? "" : ", ", pack.name, ":", one.strength, " (", sum, ")");
  }
  for (const auto& [row, what] : rows) {
    overlay->rows_.push_back(row);
    overlay->delta_.insert(overlay->delta_.end(), what.delta.begin(), what.delta.end());
  }
  return overlay;
}

const float* MemoryOverlay::Find(int64_t row) const {
  const auto at = std::ranges::lower_bound(rows_, row);
  if (at == rows_.end() || *at != row) return nullptr;
  return delta_.data() + (at - rows_.begin()) * width_;
}

int64_t MemoryOverlay::bytes() const {
  return static_cast<int64_t>(rows_.size() * sizeof(int32_t) + delta_.size() * sizeof(float));
}

}  // namespace hydra
