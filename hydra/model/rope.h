// SPDX-License-Identifier: Apache-2.0
// Rotary embedding's frequencies, one place for all engines. Not here: turning vectors (hydra/kernels, hydra/nn).
#pragma once

#include <cstdint>
#include <vector>

#include "hydra/model/config.h"

namespace hydra {

// What the frequency of each pair is divided by, [head_dim / 2]; all 1 without scaling. Llama 3.1's rule: waves
// shorter than original / high_freq_factor positions keep their frequency, those longer than original /
// low_freq_factor are divided by `factor`, those between have a mixture of both frequencies, linear in the frequency.
[[nodiscard]] std::vector<double> RopeDivisors(const AttentionConfig& config);

// Radians that pair i turns each position, [head_dim / 2]: rope_theta^(-2 i / head_dim) over its divisor.
[[nodiscard]] std::vector<double> RopeInvFreq(const AttentionConfig& config);

// The scaling whose divisors these are (as f32): none where all are 1; else Llama 3.1's rule with the usual 1, 4 and
// 8192 where it gives them; else the divisors themselves.
[[nodiscard]] std::optional<RopeScaling> RopeScalingOf(const std::vector<double>& divisors,
                                                       const AttentionConfig& config);

}  // namespace hydra
