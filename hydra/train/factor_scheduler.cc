// SPDX-License-Identifier: Apache-2.0
// Windows of steps.
#include "hydra/train/factor_scheduler.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"

namespace hydra::train {

double FactorScheduler::Value() const {
  const double share = static_cast<double>(step_ % options_.adjust + 1) / static_cast<double>(options_.adjust);
  return low_ + (high_ - low_) * share;
}

void FactorScheduler::Observe(double chunk_loss, bool frozen) {
  sum_ += chunk_loss;
  if (frozen) low_ = high_ = Value();
  ++step_;
  if (step_ % options_.adjust != 0) return;
  const double mean = sum_ / static_cast<double>(options_.adjust);
  const std::optional<double> before = std::exchange(before_, mean);
  sum_ = 0;
  low_ = high_;
  if (frozen || !before || *before <= 0 || step_ < options_.start) return;
  const double gamma = mean / *before, ratio = gamma <= 1 ? gamma : std::max(gamma, options_.growth_min);
  high_ = low_ > 0 ? low_ * std::min(ratio, options_.first * options_.max_factor / low_) : 0;
}

Json FactorScheduler::Save() const {
  return {
      {"low", low_}, {"high", high_}, {"step", step_}, {"sum", sum_}, {"before", before_ ? Json(*before_) : Json()}};
}

void FactorScheduler::Load(const Json& json, const std::string& where) {
  const auto read = [&](const char* key, auto* out) {
    if (!json.is_object() || !json.contains(key)) throw Error(ErrorCode::kFormat, StrCat(where, ".", key, ": missing"));
    ReadJson(json[key], StrCat(where, ".", key), out);
  };
  read("low", &low_);
  read("high", &high_);
  read("step", &step_);
  read("sum", &sum_);
  before_.reset();
  if (json.contains("before") && !json["before"].is_null()) read("before", &before_.emplace());
  if (step_ < 0) throw Error(ErrorCode::kFormat, StrCat(where, ".step = ", step_, ": must be >= 0"));
}

}  // namespace hydra::train
