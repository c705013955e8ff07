// SPDX-License-Identifier: Apache-2.0
// What changes over a run as a function of the step: learning rate, rows of a batch, length of a row.
// Not here: staged curricula (which parts are on). Steps count from 0.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/io/json.h"

namespace hydra::train {

// A number that changes at given points: one value, or [[from, value], ..] where an integer `from` is a step and a
// number with a decimal point a share of the run. The first point is 0; points ascend.
class StepSchedule {
 public:
  struct Point {
    double from = 0;
    bool share = false;  // `from` is a share of the run, not a step
    int64_t value = 0;
    bool operator==(const Point&) const = default;
  };

  StepSchedule(int64_t value = 0) : points_{{0, false, value}} {}  // NOLINT: a plain number is a schedule
  explicit StepSchedule(std::vector<Point> points) : points_(std::move(points)) {}

  [[nodiscard]] int64_t At(int64_t step, int64_t total_steps) const;
  [[nodiscard]] const std::vector<Point>& points() const { return points_; }
  [[nodiscard]] int64_t MaxValue() const;
  // As run.toml spells it: 8 or [[0, 4], [0.5, 8]].
  [[nodiscard]] std::string Text() const;
  bool operator==(const StepSchedule&) const = default;

 private:
  std::vector<Point> points_;
};

using hydra::ReadJson;
void ReadJson(const nlohmann::ordered_json& value, const std::string& field, StepSchedule* out);

enum class LrShape { kCosine, kWsd, kWsdExp };

// Linear warm-up over `warmup_steps`, then: cosine from the peak to min_ratio of it at the last step; or (WSD)
// the peak until decay_share of the run is left, then 1 - sqrt(progress) down to min_ratio (Haegele et al., 2024); or
// (WSD, exponential) half of it every half_life steps from there on.
struct LrSchedule {
  LrShape shape = LrShape::kCosine;
  double peak = 0;
  int64_t warmup_steps = 0, total_steps = 0;
  double min_ratio = 0.1, decay_share = 0.2;
  int64_t half_life = 560;
  // First step of the decay: of WSD; of cosine the end of the warm-up.
  [[nodiscard]] int64_t DecayStart() const;
  // The rate of the update that step `step` makes; past the end it stays at the lowest.
  [[nodiscard]] double At(int64_t step) const;
};

// The least number of steps whose batches (rows * seq_len * accum tokens each) hold `tokens`.
[[nodiscard]] int64_t StepsForTokens(int64_t tokens, const StepSchedule& rows, const StepSchedule& seq_len,
                                     int64_t accum);

}  // namespace hydra::train
