// SPDX-License-Identifier: Apache-2.0
// Parts by name and in a config.
#include "hydra/model/model_parts.h"

namespace hydra {

const char* ModelPartName(ModelPart part) {
  switch (part) {
    case ModelPart::kSsm: return "ssm";
    case ModelPart::kSga: return "sga";
    case ModelPart::kMoe: return "moe";
    case ModelPart::kWorkspace: return "workspace";
    case ModelPart::kPkm: return "pkm";
  }
  return "";
}

std::optional<ModelPart> ParseModelPart(std::string_view name) {
  for (const ModelPart part : kModelParts)
    if (name == ModelPartName(part)) return part;
  return std::nullopt;
}

bool HasPart(const ModelConfig& config, ModelPart part) {
  if (config.wiring != Wiring::kParallel) return false;
  switch (part) {
    case ModelPart::kSsm: return config.HasSsm();
    case ModelPart::kSga: return config.HasAttention(AttentionKind::kSparse);
    case ModelPart::kMoe: return config.HasFfn(FfnKind::kChunkMoe) || config.HasFfn(FfnKind::kBlockFfn);
    case ModelPart::kWorkspace: return config.HasWorkspace();
    case ModelPart::kPkm: return config.HasPkm();
  }
  return false;
}

ModelConfig WithoutPart(ModelConfig config, ModelPart part) {
  for (LayerConfig& layer : config.layers) {
    switch (part) {
      case ModelPart::kSsm: layer.ssm = false; break;
      case ModelPart::kSga: layer.attention = AttentionKind::kNone; break;
      case ModelPart::kMoe: layer.ffn = FfnKind::kNone; break;
      case ModelPart::kWorkspace: layer.workspace = false; break;
      case ModelPart::kPkm: layer.pkm = false; break;
    }
  }
  return config;
}

}  // namespace hydra
