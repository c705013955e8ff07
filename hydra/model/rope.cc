// SPDX-License-Identifier: Apache-2.0
// Frequencies of rotary embeddings, in double. Not here: their use.
#include "hydra/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace hydra {
namespace {

double PlainFrequency(const AttentionConfig& c, int64_t i) {
  return std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
}

}  // namespace

std::vector<double> RopeDivisors(const AttentionConfig& c) {
  std::vector<double> divisors(static_cast<size_t>(c.head_dim / 2), 1.0);
  if (!c.rope_scaling) return divisors;
  const RopeScaling& r = *c.rope_scaling;
  if (!r.divisors.empty()) return r.divisors;
  for (int64_t i = 0; i < c.head_dim / 2; ++i) {
    const double turns =  // within the original length
        static_cast<double>(r.original_max_position_embeddings) * PlainFrequency(c, i) / (2 * std::numbers::pi);
    const double smooth = std::clamp((turns - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor), 0.0, 1.0);
    divisors[static_cast<size_t>(i)] = 1 / ((1 - smooth) / r.factor + smooth);
  }
  return divisors;
}

std::vector<double> RopeInvFreq(const AttentionConfig& c) {
  std::vector<double> frequencies = RopeDivisors(c);
  for (int64_t i = 0; i < c.head_dim / 2; ++i) {
    double& f = frequencies[static_cast<size_t>(i)];
    f = PlainFrequency(c, i) / f;
  }
  return frequencies;
}

std::optional<RopeScaling> RopeScalingOf(const std::vector<double>& divisors, const AttentionConfig& config) {
  if (std::ranges::all_of(divisors, [](double d) { return d == 1; })) return std::nullopt;
  AttentionConfig trial = config;
  trial.rope_scaling = RopeScaling{.factor = *std::ranges::max_element(divisors)};
  const std::vector<double> rule = RopeDivisors(trial);
  constexpr double kTolerance = 1e-5;  // both sides come from f32 frequencies at best
  const auto near = [](double a, double b) { return std::abs(a - b) <= kTolerance * std::abs(b); };
  if (!std::ranges::equal(divisors, rule, near)) trial.rope_scaling->divisors = divisors;
  return trial.rope_scaling;
}

}  // namespace hydra
