// SPDX-License-Identifier: Apache-2.0
// The models of the experiments, by name.
#include <algorithm>
#include <optional>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/eval/evidence.h"
#include "hydra/model/accounting.h"
#include "hydra/model/model_parts.h"

namespace hydra::eval {
namespace {

// Small enough for a test to train all of them in seconds; every part is there.
ModelConfig Smallest(ModelConfig c) {
  c.vocab_size = 2048;
  c.d_model = 32;
  if (c.family != Family::kHydra) {
    c.layers.resize(2);
    c.attention.n_heads = c.attention.n_kv_heads = 2;
    c.attention.head_dim = 16;
    c.d_ff = c.d_ff > 0 ? 64 : 0;
    c.ssm.n_heads = 4;
    c.ssm.head_dim = 16;
    c.ssm.d_state = 8;
    return c;
  }
  c.layers = {{.ffn = FfnKind::kChunkMoe},
              {.attention = AttentionKind::kSparse, .workspace = true},
              {.ffn = FfnKind::kChunkMoe, .pkm = true},
              {}};
  c.ssm.n_heads = 4;
  c.ssm.head_dim = 16;
  c.ssm.d_state = 8;
  c.ssm.scan_chunk = 16;
  c.attention.n_heads = c.attention.n_kv_heads = 2;
  c.attention.head_dim = 16;
  c.attention.window = 32;
  c.attention.landmark_budget = 16;
  c.moe.n_experts = 8;
  c.moe.d_expert = 8;
  c.workspace = {.n_slots = 8, .rank = 8, .write_slots = 4};
  c.pkm = {.n_heads = 2, .n_keys = 8, .d_key = 8, .d_value = 16, .top_k = 2};
  return c;
}

ModelConfig Base(const std::string& preset, EvidenceSize size) {
  if (size == EvidenceSize::k29M) {
    if (preset == "transformer-active") return Preset("transformer-29m-active");
    return Preset(preset + "-29m");
  }
  const ModelConfig nano = Preset(preset == "transformer-active" ? "transformer-nano-active" : preset + "-nano");
  return size == EvidenceSize::kSmoke ? Smallest(nano) : nano;
}

ModelConfig WithDenseForPkm(const ModelConfig& hydra) {
  ModelConfig c = WithoutPart(hydra, ModelPart::kPkm);
  const int64_t spare = CountParams(hydra).total - CountParams(c).total;
  size_t site = 0;
  while (!hydra.layers[site].pkm) ++site;
  while (c.layers[site].ffn != FfnKind::kNone) {
    ++site;
    HYDRA_CHECK(site < c.layers.size(), "no block without an ffn behind the product keys");
  }
  c.layers[site].ffn = FfnKind::kDense;
  c.d_ff = (spare + 3 * c.d_model / 2) / (3 * c.d_model);
  return c;
}

// One expert that every chunk takes is a dense SwiGLU; its router decides nothing and is not trained.
ModelConfig WithOneExpert(ModelConfig c, int64_t width) {
  c.moe.n_experts = c.moe.top_k = 1;
  c.moe.d_expert = width;
  c.moe.aux_loss_coef = c.moe.z_loss_coef = 0;
  return c;
}

std::optional<std::string> After(const std::string& name, const std::string& prefix) {
  if (name.rfind(prefix, 0) != 0) return std::nullopt;
  return name.substr(prefix.size());
}

ModelConfig Variant(const std::string& name, const ModelConfig& hydra) {
  ModelConfig c = hydra;
  if (name == "hydra") return c;
  if (name == "hydra-pkm-dense") return WithDenseForPkm(hydra);
  if (name == "hydra-moe-active") return WithOneExpert(c, c.moe.top_k * c.moe.d_expert);
  if (name == "hydra-moe-total") return WithOneExpert(c, c.moe.n_experts * c.moe.d_expert);
  if (name == "hydra-no-memories") return WithoutPart(WithoutPart(c, ModelPart::kWorkspace), ModelPart::kPkm);
  if (name == "hydra-round-robin") {
    c.moe.mode = RouterMode::kRoundRobin;
    return c;
  }
  if (const auto coefficient = After(name, "hydra-balance-")) {
    c.moe.aux_loss_coef = ParseNumber(*coefficient, name);
    return c;
  }
  if (const auto experts = After(name, "hydra-top-")) {
    c.moe.top_k = ParseWholeNumber(*experts, 1, c.moe.n_experts, name);
    return c;
  }
  if (const auto part = After(name, "hydra-no-"))
    if (const auto known = ParseModelPart(*part)) return WithoutPart(c, *known);
  throw Error(ErrorCode::kUsage, StrCat("model ", name, ": unknown"));
}

}  // namespace

const char* SizeName(EvidenceSize size) {
  switch (size) {
    case EvidenceSize::kSmoke: return "smoke";
    case EvidenceSize::kNano: return "nano";
    case EvidenceSize::k29M: return "29m";
  }
  return "";
}

EvidenceSize ParseSize(const std::string& name) {
  for (const EvidenceSize size : {EvidenceSize::kSmoke, EvidenceSize::kNano, EvidenceSize::k29M})
    if (name == SizeName(size)) return size;
  throw Error(ErrorCode::kUsage, StrCat("--size ", name, ": must be nano or 29m"));
}

ModelConfig EvidenceModel(const std::string& name, EvidenceSize size) {
  ModelConfig c;
  if (name == "transformer" || name == "transformer-active" || name == "mamba2") {
    c = Base(name, size);
  } else {
    c = Variant(name, Base("hydra", size));
  }
  c.Validate(name);
  return c;
}

}  // namespace hydra::eval
