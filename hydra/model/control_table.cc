// SPDX-License-Identifier: Apache-2.0
// Costs of controls, and their table in a file.
#include "hydra/model/control_table.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/model/accounting.h"
#include "hydra/model/model_parts.h"
#include "hydra/model/tensor_table.h"

namespace hydra {
namespace {

constexpr const char* kFormat = "hydra-controls-1";

const Json& Need(const Json& json, const char* key, const std::string& where) {
  if (!json.is_object() || !json.contains(key)) throw Error(ErrorCode::kFormat, StrCat(where, ": ", key, ": missing"));
  return json[key];
}

}  // namespace

int64_t ActiveParams(const ModelConfig& config, const Controls& controls) {
  ModelConfig used = config;
  for (const ModelPart part : {ModelPart::kSsm, ModelPart::kSga, ModelPart::kMoe})
    if (HasPart(config, part) && controls.path_scale[static_cast<size_t>(part)] == 0) used = WithoutPart(used, part);
  if (controls.pkm_read == 0) used = WithoutPart(used, ModelPart::kPkm);
  const int64_t left = config.moe.n_experts - static_cast<int64_t>(controls.ban_experts.size());
  used.moe.top_k = !controls.force_experts.empty() ? static_cast<int64_t>(controls.force_experts.size())
                                                   : std::min(controls.moe_top_k.value_or(config.moe.top_k), left);
  int64_t active = CountParams(used).active;
  if (controls.workspace_read != 0) return active;
  TensorTable::ForEach(used, [&](const TensorSpec& spec) {
    if (spec.role == TensorRole::kWsReadQ || spec.role == TensorRole::kWsReadK || spec.role == TensorRole::kWsReadV ||
        spec.role == TensorRole::kWsOut)
      active -= spec.size();
  });
  return active;
}

std::vector<Controls> ControlSettings(const ModelConfig& config) {
  const bool moe = HasPart(config, ModelPart::kMoe), sga = HasPart(config, ModelPart::kSga);
  std::vector<Controls> settings;
  for (int64_t k = moe ? config.moe.top_k : 0; k >= 0; --k)
    for (const double attention : {1.0, 0.0})
      for (const double workspace : {1.0, 0.0})
        for (const double pkm : {1.0, 0.0}) {
          if ((attention == 0 && !sga) || (workspace == 0 && !config.HasWorkspace()) || (pkm == 0 && !config.HasPkm()))
            continue;
          Controls one{
              .path_scale = {1, attention, moe && k == 0 ? 0.0 : 1.0}, .workspace_read = workspace, .pkm_read = pkm};
          if (moe && k > 0 && k < config.moe.top_k) one.moe_top_k = k;
          settings.push_back(one);
        }
  return settings;
}

ControlTable ControlTable::Load(const std::string& path, const ModelConfig& config) {
  constexpr size_t kMostBytes = 16 << 20;
  const Json json = ParseJson(ReadFile(path, kMostBytes), path);
  if (Need(json, "format", path) != kFormat)
    throw Error(ErrorCode::kFormat,
                StrCat(path, ": format = ", JsonExcerpt(json["format"]), ": must be \"", kFormat, "\""));
  ControlTable table;
  ReadJson(Need(json, "config_sha256", path), path + ": config_sha256", &table.config_sha256);
  if (table.config_sha256 != Sha256Hex(ConfigJson(config)))
    throw Error(ErrorCode::kUsage, path + ": was measured for another model: hydralm eval controls measures this one");
  ReadJson(Need(json, "tokens", path), path + ": tokens", &table.tokens);
  const Json& rows = Need(json, "rows", path);
  if (!rows.is_array() || rows.empty())
    throw Error(ErrorCode::kFormat, path + ": rows: must be a list with a row at least");
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string at = StrCat(path, ": rows[", i, "]");
    Row row;
    row.controls = ParseControlsJson(Need(rows[i], "controls", at).dump(), at + ".controls");
    row.controls.Validate(config);
    ReadJson(Need(rows[i], "active", at), at + ".active", &row.active);
    ReadJson(Need(rows[i], "loss", at), at + ".loss", &row.loss);
    if (!std::isfinite(row.loss)) throw Error(ErrorCode::kFormat, at + ".loss: must be finite");
    table.rows.push_back(std::move(row));
  }
  return table;
}

void ControlTable::Save(const std::string& path) const {
  Json list = Json::array();
  for (const Row& row : rows)
    list.push_back({{"controls", Json::parse(ControlsJson(row.controls))}, {"active", row.active}, {"loss", row.loss}});
  const Json json{{"format", kFormat}, {"config_sha256", config_sha256}, {"tokens", tokens}, {"rows", list}};
  WriteFileAtomic(path, json.dump(1) + "\n");
}

const ControlTable::Row& ControlTable::Best(int64_t budget) const {
  const Row* best = nullptr;
  for (const Row& row : rows) {
    if (row.active > budget) continue;
    if (best == nullptr || row.loss < best->loss || (row.loss == best->loss && row.active < best->active)) best = &row;
  }
  if (best != nullptr) return *best;
  const auto least = std::ranges::min_element(rows, {}, &Row::active);
  throw Error(ErrorCode::kUsage, StrCat("--budget ", budget, ": the least that this model uses is ", least->active,
                                        " parameters a token"));
}

}  // namespace hydra
