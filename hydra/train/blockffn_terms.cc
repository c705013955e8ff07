// SPDX-License-Identifier: Apache-2.0
// Two controllers and two constants.
#include "hydra/train/blockffn_terms.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"

namespace hydra::train {
namespace {

constexpr double kLeast = 1e-8, kStep = 1.05;  // of ReMoE's weight: its first and least value, its factor a step

}  // namespace

BlockFfnTerms::BlockFfnTerms(const ModelConfig& model, const BlockFfnOptions& options)
    : options_(options), chunk_(options.cs) {
  const bool block = model.HasFfn(FfnKind::kBlockFfn);
  relu_ = block && model.moe.routing == BlockRouting::kRelu;
  remoe_ = block && model.moe.routing == BlockRouting::kReluPlain;
  top_k_ = block && model.moe.routing == BlockRouting::kTopK;
  target_ = static_cast<double>(model.moe.top_k) / static_cast<double>(std::max<int64_t>(1, model.moe.n_experts));
}

void BlockFfnTerms::Observe(double chunk_loss, double active_share, bool frozen) {
  if (relu_ && options_.cs.first > 0 && std::isfinite(chunk_loss)) chunk_.Observe(chunk_loss, frozen);
  if (remoe_ && std::isfinite(active_share))
    size_ = active_share > target_ ? size_ * kStep : std::max(kLeast, size_ / kStep);
}

Json BlockFfnTerms::Save() const { return {{"chunk", chunk_.Save()}, {"size", size_}}; }

void BlockFfnTerms::Load(const Json& json, const std::string& where) {
  for (const char* key : {"chunk", "size"})
    if (!json.is_object() || !json.contains(key)) throw Error(ErrorCode::kFormat, StrCat(where, ".", key, ": missing"));
  chunk_.Load(json["chunk"], where + ".chunk");
  ReadJson(json["size"], where + ".size", &size_);
}

}  // namespace hydra::train
