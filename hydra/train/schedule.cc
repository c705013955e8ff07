// SPDX-License-Identifier: Apache-2.0
// Schedules of learning rate, batch and row length.
#include "hydra/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "hydra/base/error.h"

namespace hydra::train {
namespace {

double FirstStep(const StepSchedule::Point& point, int64_t total_steps) {
  return point.share ? std::ceil(point.from * static_cast<double>(total_steps)) : point.from;
}

}  // namespace

int64_t StepSchedule::At(int64_t step, int64_t total_steps) const {
  int64_t value = points_.front().value;
  for (const Point& point : points_)
    if (FirstStep(point, total_steps) <= static_cast<double>(step)) value = point.value;
  return value;
}

int64_t StepSchedule::MaxValue() const {
  int64_t most = points_.front().value;
  for (const Point& point : points_) most = std::max(most, point.value);
  return most;
}

std::string StepSchedule::Text() const {
  if (points_.size() == 1) return std::to_string(points_.front().value);
  std::string text;
  for (const Point& point : points_) {
    std::string from = nlohmann::json(point.from).dump();
    if (!point.share) from = std::to_string(static_cast<int64_t>(point.from));
    text += StrCat(text.empty() ? "[[" : ", [", from, ", ", point.value, "]");
  }
  return text + "]";
}

void ReadJson(const nlohmann::ordered_json& value, const std::string& field, StepSchedule* out) {
  if (!value.is_array()) {
    int64_t single = 0;
    ReadJson(value, field, &single);
    *out = StepSchedule(single);
    return;
  }
  const auto fail = [&](size_t i, const char* rule) {
    throw Error(ErrorCode::kConfig, StrCat(field, i < value.size() ? StrCat("[", i, "]") : std::string(), " = ",
                                           JsonExcerpt(i < value.size() ? value[i] : value), ": ", rule));
  };
  if (value.empty()) fail(value.size(), "must be a number or a list of [from, value]");
  std::vector<StepSchedule::Point> points;
  for (size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is_array() || value[i].size() != 2 || !value[i][0].is_number())
      fail(i, "must be [from, value], from a step (40) or a share of the run (0.5)");
    StepSchedule::Point point;
    point.share = value[i][0].is_number_float();
    ReadJson(value[i][0], StrCat(field, "[", i, "][0]"), &point.from);
    ReadJson(value[i][1], StrCat(field, "[", i, "][1]"), &point.value);
    if (point.from < 0 || (point.share && point.from > 1)) fail(i, "a step must be >= 0, a share of the run 0 to 1");
    if (i == 0 && point.from != 0) fail(i, "the first point must start at 0");
    if (i > 0 && point.share == points.back().share && point.from <= points.back().from) fail(i, "points must ascend");
    points.push_back(point);
  }
  *out = StepSchedule(std::move(points));
}

int64_t LrSchedule::DecayStart() const {
  if (shape == LrShape::kCosine) return warmup_steps;
  const auto end = static_cast<double>(std::max(total_steps, warmup_steps + 1));
  return std::max(warmup_steps, static_cast<int64_t>(std::ceil(end * (1 - decay_share))));
}

double LrSchedule::At(int64_t step) const {
  if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (shape == LrShape::kWsdExp) {
    const auto past = static_cast<double>(std::max<int64_t>(0, std::min(step, total_steps) - DecayStart()));
    return peak * std::exp2(-past / static_cast<double>(half_life));
  }
  const double end = static_cast<double>(std::max(total_steps, warmup_steps + 1));
  double begin = static_cast<double>(warmup_steps);
  if (shape == LrShape::kWsd) begin = std::max(begin, end * (1 - decay_share));
  // The last step, total_steps - 1, has progress 1.
  const double span = std::max(1.0, end - 1 - begin);
  const double progress = std::clamp((static_cast<double>(step) - begin) / span, 0.0, 1.0);
  const double share =
      shape == LrShape::kCosine ? 0.5 * (1 + std::cos(std::numbers::pi * progress)) : 1 - std::sqrt(progress);
  return peak * (min_ratio + (1 - min_ratio) * share);
}

int64_t StepsForTokens(int64_t tokens, const StepSchedule& rows, const StepSchedule& seq_len, int64_t accum) {
  const auto total = [&](int64_t steps) {
    // Both are constant between points, so it is enough to sum over those; a share becomes a step here.
    std::vector<int64_t> cuts{0, steps};
    for (const StepSchedule* schedule : {&rows, &seq_len})
      for (const StepSchedule::Point& point : schedule->points())
        cuts.push_back(static_cast<int64_t>(std::min(FirstStep(point, steps), static_cast<double>(steps))));
    std::sort(cuts.begin(), cuts.end());
    double sum = 0;  // as a double: it cannot overflow
    for (size_t i = 0; i + 1 < cuts.size(); ++i)
      if (cuts[i + 1] > cuts[i])
        sum += static_cast<double>(cuts[i + 1] - cuts[i]) * static_cast<double>(rows.At(cuts[i], steps)) *
               static_cast<double>(seq_len.At(cuts[i], steps)) * static_cast<double>(accum);
    return sum;
  };
  int64_t low = 0, high = 1;  // total(low) < tokens <= total(high)
  while (total(high) < static_cast<double>(tokens)) low = high, high *= 2;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (total(middle) < static_cast<double>(tokens) ? low : high) = middle;
  }
  return high;
}

}  // namespace hydra::train
