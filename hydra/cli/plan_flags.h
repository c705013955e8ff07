// SPDX-License-Identifier: Apache-2.0
// Attention plans as users give them: --plan FILE, --head-spans HOW. Not here: what a plan is
// (model/attention_plan.h), how one is made (hydra/moa).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "hydra/io/json.h"
#include "hydra/model/attention_plan.h"
#include "hydra/tensor/cache_dtype.h"

namespace hydra::cli {

struct PlanFlags {
  std::string file, head_spans = "ring";
};
void AddPlanFlags(CLI::App* verb, PlanFlags* flags);

// Plan lengths are multiples of this, so that texts of nearly one length have one N (specs/moa.md 1).
inline constexpr int64_t kPlanStep = 64;

// A plan for the sequences of a model; without one they are what the config says. Cheap to copy.
class UsedPlan {
 public:
  UsedPlan() = default;
  // Throws where the file is no plan, is of another model, or says nothing of the flags.
  UsedPlan(const PlanFlags& flags, const ModelConfig& config);

  explicit operator bool() const { return plan_ != nullptr; }
  [[nodiscard]] const AttentionPlan& plan() const { return *plan_; }
  [[nodiscard]] HeadSpans spans() const { return spans_; }
  // Of sequences of plan length N; null without a plan.
  [[nodiscard]] KvPlan At(int64_t N) const;
  // "smollm2-r25 at N 1024: 0.252 of the keys and values, 5.6 of 22.5 MiB"
  [[nodiscard]] std::string Text(int64_t N, KvDtype kv) const;
  // {"name", "rules_sha256", "length", "density", "pair_density", "kv_bytes"}, of one sequence.
  [[nodiscard]] Json About(int64_t N, KvDtype kv) const;

 private:
  std::shared_ptr<const AttentionPlan> plan_;
  HeadSpans spans_ = HeadSpans::kRing;
};

// Bytes of the keys and values of a sequence of plan length N.
[[nodiscard]] int64_t PlanKvBytes(const AttentionPlan& plan, int64_t N, KvDtype kv);

}  // namespace hydra::cli
