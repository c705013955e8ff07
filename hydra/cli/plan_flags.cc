// SPDX-License-Identifier: Apache-2.0
// Opens plans and says what they keep.
#include "hydra/cli/plan_flags.h"

#include <fmt/format.h>

#include "hydra/base/error.h"

namespace hydra::cli {

void AddPlanFlags(CLI::App* verb, PlanFlags* flags) {
  verb->add_option("--plan", flags->file, "how many keys each KV head sees: a file of hydralm plan")->type_name("FILE");
  verb->add_option("--head-spans", flags->head_spans, "query heads see their ring, or their own span of it")
      ->check(CLI::IsMember({"ring", "own"}))
      ->type_name("HOW");
}

UsedPlan::UsedPlan(const PlanFlags& flags, const ModelConfig& config)
    : spans_(ParseHeadSpans(flags.head_spans, "--head-spans")) {
  if (!flags.file.empty())
    plan_ = std::make_shared<const AttentionPlan>(AttentionPlan::Load(flags.file, config));
  else if (spans_ == HeadSpans::kOwn)
    throw Error(ErrorCode::kUsage, "--head-spans own: needs --plan FILE");
  if (spans_ == HeadSpans::kOwn && plan_->unit != PlanUnit::kHead)
    throw Error(ErrorCode::kUsage, StrCat("--head-spans own: ", flags.file, ": unit = ", PlanUnitName(plan_->unit),
                                          ": must be head: its query heads have no spans of their own"));
}

KvPlan UsedPlan::At(int64_t N) const {
  if (!plan_) return nullptr;
  return plan_->Fillings(N, spans_);
}

int64_t PlanKvBytes(const AttentionPlan& plan, int64_t N, KvDtype kv) {
  return 2 * plan.KvRows(N) * KvRowBytes(kv, plan.model.head_dim);
}

namespace {

// Of sequences without a plan that see as much as the config lets them.
int64_t DenseKvBytes(const AttentionPlan& plan, int64_t N, KvDtype kv) {
  int64_t rows = 0;
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer)
    rows += plan.model.n_kv_heads * plan.DenseSpan(layer, N);
  return 2 * rows * KvRowBytes(kv, plan.model.head_dim);
}

}  // namespace

std::string UsedPlan::Text(int64_t N, KvDtype kv) const {
  constexpr double kMiB = 1 << 20;
  return fmt::format("{} at N {}: {:.3f} of the keys and values, {:.1f} of {:.1f} MiB",
                     plan_->name.empty() ? "plan" : plan_->name, N, plan_->Density(N),
                     static_cast<double>(PlanKvBytes(*plan_, N, kv)) / kMiB,
                     static_cast<double>(DenseKvBytes(*plan_, N, kv)) / kMiB);
}

Json UsedPlan::About(int64_t N, KvDtype kv) const {
  return {{"name", plan_->name},
          {"rules_sha256", plan_->RulesSha256()},
          {"length", N},
          {"density", plan_->Density(N)},
          {"pair_density", plan_->PairDensity(N)},
          {"kv_bytes", PlanKvBytes(*plan_, N, kv)}};
}

}  // namespace hydra::cli
