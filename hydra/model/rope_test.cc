// SPDX-License-Identifier: Apache-2.0
// Frequencies of rotary embeddings against the published rule, written out case by case.
#include "hydra/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace hydra {
namespace {

// The three cases as Llama 3.1's release states them, by wavelength.
double Rule(double frequency, const RopeScaling& r) {
  const double wave = 2 * std::numbers::pi / frequency;
  const auto original = static_cast<double>(r.original_max_position_embeddings);
  if (wave < original / r.high_freq_factor) return frequency;
  if (wave > original / r.low_freq_factor) return frequency / r.factor;
  const double smooth = (original / wave - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
  return (1 - smooth) * frequency / r.factor + smooth * frequency;
}

TEST(Rope, PlainFrequencies) {
  const auto f = RopeInvFreq({.head_dim = 4, .rope_theta = 100});
  ASSERT_EQ(f.size(), 2u);
  EXPECT_DOUBLE_EQ(f[0], 1);
  EXPECT_DOUBLE_EQ(f[1], 0.1);
}

TEST(Rope, Llama3Rule) {
  for (const double factor : {8.0, 32.0}) {
    AttentionConfig c{.head_dim = 128, .rope_theta = 500000};
    const auto plain = RopeInvFreq(c);
    c.rope_scaling = RopeScaling{.factor = factor};
    const auto scaled = RopeInvFreq(c);
    int kept = 0, divided = 0, mixed = 0;
    for (size_t i = 0; i < 64; ++i) {
      const double want = Rule(plain[i], *c.rope_scaling);
      EXPECT_NEAR(scaled[i], want, 1e-12 * want) << i;
      ++(want == plain[i] ? kept : want == plain[i] / factor ? divided : mixed);
    }
    EXPECT_GT(kept, 20);
    EXPECT_GT(divided, 20);
    EXPECT_GT(mixed, 2);
  }
}

TEST(Rope, DivisorsGiveTheRuleBack) {
  AttentionConfig c{.head_dim = 64, .rope_theta = 500000};
  EXPECT_EQ(RopeScalingOf(RopeDivisors(c), c), std::nullopt);
  c.rope_scaling = RopeScaling{.factor = 32};
  std::vector<double> stored = RopeDivisors(c);
  for (double& d : stored) d = static_cast<double>(static_cast<float>(d));
  AttentionConfig back = c;
  back.rope_scaling = RopeScalingOf(stored, c);
  EXPECT_EQ(back, c);
  stored[3] = 1.5;  // no rule gives this
  back.rope_scaling = RopeScalingOf(stored, c);
  EXPECT_EQ(back.rope_scaling->divisors, stored);
  EXPECT_DOUBLE_EQ(RopeInvFreq(back)[3], RopeInvFreq({.head_dim = 64, .rope_theta = 500000})[3] / 1.5);
}

}  // namespace
}  // namespace hydra
