// SPDX-License-Identifier: Apache-2.0
// Rules of quantisation, as tables of roles.
#include "hydra/convert/quantize.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"

namespace hydra {
namespace {

using R = TensorRole;

struct RecipeRow {
  QuantRecipe recipe;
  const char* name;
  WeightType type;
};
constexpr RecipeRow kRecipes[] = {
    {QuantRecipe::kQ8_0, "q8_0", WeightType::kQ8_0},
    {QuantRecipe::kQ4_0, "q4_0", WeightType::kQ4_0},
    {QuantRecipe::kQ4_1, "q4_1", WeightType::kQ4_1},
    {QuantRecipe::kQ4_K_M, "q4_k_m", WeightType::kQ4_K},
};

bool IsHead(const ModelConfig& config, R role) {
  return role == R::kHead || (role == R::kEmbedding && config.tie_embeddings);
}

// The layers whose value and down matrices get more bits: the first and last eighth, and every third between.
bool MoreBits(int64_t layer, int64_t n_layers) {
  return layer < n_layers / 8 || layer >= 7 * n_layers / 8 || (layer - n_layers / 8) % 3 == 2;
}

WeightType Wanted(const ModelConfig& config, const TensorSpec& spec, QuantRecipe recipe) {
  if (spec.role == R::kPkmSubKeys || spec.role == R::kPkmTable) return WeightType::kQ8_0;
  const WeightType type = std::ranges::find(kRecipes, recipe, &RecipeRow::recipe)->type;
  if (recipe != QuantRecipe::kQ4_K_M) return type;
  const bool value_or_down = spec.role == R::kAttnV || spec.role == R::kFfnDown || spec.role == R::kExpertDown;
  if (IsHead(config, spec.role) || (value_or_down && MoreBits(spec.layer, config.n_layers()))) return WeightType::kQ6_K;
  return type;
}

}  // namespace

const char* QuantRecipeName(QuantRecipe recipe) {
  for (const RecipeRow& row : kRecipes)
    if (row.recipe == recipe) return row.name;
  return "?";
}

std::optional<QuantRecipe> ParseQuantRecipe(std::string_view name) {
  for (const RecipeRow& row : kRecipes)
    if (name == row.name) return row.recipe;
  return std::nullopt;
}

WeightType ExpertDownType(const ModelConfig& config, WeightType wanted) {
  const auto fits = [&](WeightType type) { return config.moe.d_expert % Info(type).block == 0; };
  constexpr int64_t kSmallBlock = 32;
  if (Info(wanted).block <= kSmallBlock && fits(wanted)) return wanted;
  return fits(WeightType::kQ8_0) ? WeightType::kQ8_0 : WeightType::kBF16;
}

std::string ExpertDownNote(const ModelConfig& config, QuantRecipe recipe) {
  if (!config.HasFfn(FfnKind::kBlockFfn)) return "";
  const WeightType wanted = std::ranges::find(kRecipes, recipe, &RecipeRow::recipe)->type;
  const WeightType type = ExpertDownType(config, wanted);
  if (type == wanted) return "";
  return StrCat("down matrices of experts are in ", Info(type).name, ": ",
                Info(wanted).block > 32 ? StrCat("blocks of ", Info(wanted).block, " cross experts")
                                        : StrCat("experts are ", config.moe.d_expert, " wide, no multiple of 32"));
}

WeightType QuantisedType(const ModelConfig& config, const TensorSpec& spec, QuantRecipe recipe) {
  if (!spec.matmul) return WeightType::kF32;
  if (spec.role == R::kBlockDown) return ExpertDownType(config, Wanted(config, spec, recipe));
  const int64_t row = spec.shape.back();
  for (const WeightType type : {Wanted(config, spec, recipe), WeightType::kQ8_0})
    if (row % Info(type).block == 0) return type;
  return WeightType::kF32;
}

double RelativeError(std::span<const float> values, std::span<const float> quantised) {
  HYDRA_CHECK(values.size() == quantised.size());
  double error = 0, sum = 0;  // neither is within a bound once it is NaN
  for (size_t i = 0; i < values.size(); ++i) {
    const double v = values[i], d = v - quantised[i];
    error += d * d;
    sum += v * v;
  }
  if (error == 0) return 0;
  const double relative = std::sqrt(error / sum);  // of zeros that became something: infinite
  return std::isnan(relative) ? INFINITY : relative;
}

}  // namespace hydra
