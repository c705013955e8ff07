// SPDX-License-Identifier: Apache-2.0
// Values of run.toml: their bounds, and their text in TOML. Private to run_config.cc and stage.cc.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/io/json.h"
#include "hydra/train/optimizer_options.h"
#include "hydra/train/schedule.h"

namespace hydra::train {

struct Bounds {
  double low = 0, high = 1e15;
};
inline constexpr Bounds kAtLeast0{0, 1e15}, kAtLeast1{1, 1e15}, kShare{0, 1}, kBelow1{0, 0.9999999},
    kAny{-1e300, 1e300};

// Whole numbers with all their digits.
inline std::string BoundText(double value) {
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  return whole ? std::to_string(static_cast<int64_t>(value)) : StrCat(value);
}

inline void CheckBounds(double value, const std::string& field, const Bounds& bounds) {
  CheckNumber(value, field);
  if (value >= bounds.low && value <= bounds.high) return;
  const std::string low = BoundText(bounds.low), high = BoundText(bounds.high);
  std::string rule = StrCat(low, " to ", high);
  if (bounds.high >= 1e15) rule = value < bounds.low ? StrCat(">= ", low) : StrCat("at most ", high);
  throw Error(ErrorCode::kConfig, StrCat(field, " = ", BoundText(value), ": must be ", rule));
}

template <class T>
void CheckBounds(const T& value, const std::string& field, const Bounds& bounds) {
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    CheckBounds(static_cast<double>(value), field, bounds);
  } else if constexpr (std::is_same_v<T, std::array<double, 2>>) {
    for (const double x : value) CheckBounds(x, field, bounds);
  } else if constexpr (std::is_same_v<T, StepSchedule>) {
    for (const StepSchedule::Point& point : value.points()) CheckBounds(point.value, field, bounds);
  }
}

inline std::string Text(int64_t value) { return std::to_string(value); }
inline std::string Text(double value) { return nlohmann::json(value).dump(); }    // shortest that reads back equal
inline std::string Text(const std::string& value) { return Json(value).dump(); }  // JSON's escapes are TOML's, too
inline std::string Text(const StepSchedule& value) { return value.Text(); }
inline std::string Text(bool value) { return value ? "true" : "false"; }
inline std::string Text(OptimizerKind value) { return value == OptimizerKind::kAdamW ? "\"adamw\"" : "\"adafactor\""; }
inline std::string Text(LrShape value) {
  return value == LrShape::kCosine ? "\"cosine\"" : value == LrShape::kWsd ? "\"wsd\"" : "\"wsd_exp\"";
}
inline std::string Text(const std::array<double, 2>& value) {
  return StrCat("[", Text(value[0]), ", ", Text(value[1]), "]");
}

}  // namespace hydra::train
