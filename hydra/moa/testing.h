// SPDX-License-Identifier: Apache-2.0
// Profiles and problems that are made up, for the tests of this folder.
#pragma once

#include <cmath>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/moa/problem.h"

namespace hydra::moa::testing {

struct Shape {
  int64_t layers = 30, kv_heads = 3, group = 3;
  std::vector<int64_t> lengths = {1024, 2048, 4096};
};

// A decoder of a shape.
inline ModelConfig ConfigOf(const Shape& shape) {
  ModelConfig c = TransformerNano();
  c.layers.assign(static_cast<size_t>(shape.layers), c.layers[0]);
  c.attention.n_kv_heads = shape.kv_heads;
  c.attention.n_heads = shape.kv_heads * shape.group;
  return c;
}

// Heads of all kinds: most are local, some need a share of the text, a few all of it; losses fall with the span, over
// four powers of ten.
inline InfluenceProfile MadeUpProfile(const Shape& shape, uint64_t seed) {
  InfluenceProfile profile;
  profile.dense = AttentionPlan::Dense(ConfigOf(shape));
  for (const int64_t N : shape.lengths) {
    InfluenceProfile::Length length = profile.Empty(N);
    length.items = {1, 1};
    length.ids = {"a", "b"};
    length.losses = {1, 1};
    const int64_t nb = profile.Blocks(N);
    for (int layer = 0; layer < shape.layers; ++layer)
      for (int64_t head = 0; head < shape.kv_heads * shape.group; ++head) {
        Rng rng(seed, static_cast<uint64_t>(layer * 1000 + head));  // a head is of one kind at all lengths
        const double weight = std::pow(10, -4 * rng.Uniform()), kind = rng.Uniform(), part = rng.Uniform();
        for (int64_t half = 0; half < 2; ++half)
          for (int64_t m = 1; m < nb - 1; ++m) {
            const double tokens = static_cast<double>(64 * m), share = tokens / static_cast<double>(N);
            double loss = std::exp(-tokens / (64 + 200 * part));
            if (kind > 0.6) loss = std::exp(-share / (0.05 + 0.3 * part));
            if (kind > 0.9) loss = 1 - share * (0.5 + 0.5 * part);
            const auto at = static_cast<size_t>(profile.At(half, layer, head, N) + m);
            length.jabs[at] = weight * loss * (1 + 0.02 * rng.Normal());
            length.jsgn[at] = 0.5 * length.jabs[at];
            length.f[at] = length.jabs[at] / 10;
          }
      }
    profile.lengths[N] = std::move(length);
  }
  return profile;
}

// Sizes and costs at random, without a model behind them: costs fall and sizes grow with the rule's number.
inline Problem RandomProblem(int64_t units, int64_t rules, int64_t lengths, uint64_t seed) {
  Rng rng(seed);
  Problem problem;
  problem.dense = AttentionPlan::Dense(ConfigOf({.layers = units, .kv_heads = 1, .group = 1}));
  problem.rules.resize(static_cast<size_t>(rules));
  problem.scale.assign(static_cast<size_t>(lengths), 1);
  for (int64_t i = 0; i < lengths; ++i) {
    problem.profiled.push_back(1024 << i);
    problem.bounded.push_back(1024 << i);
    problem.bounds[1024 << i] = 0.5;
  }
  std::vector<int64_t> least(static_cast<size_t>(lengths)), most(least);
  for (int64_t u = 0; u < units; ++u) {
    problem.units.push_back({static_cast<int>(u / 2), u % 2});  // two of a layer
    std::vector<double> cost(static_cast<size_t>(lengths), static_cast<double>(rules));
    std::vector<int64_t> size(static_cast<size_t>(lengths), 2);
    for (int64_t r = 0; r < rules; ++r) {
      for (size_t q = 0; q < size.size(); ++q) {
        size[q] += static_cast<int64_t>(rng.Below(6)) + 1;
        cost[q] -= rng.Uniform();
        problem.size.push_back(size[q]);
        if (r == 0) least[q] += size[q];
        if (r == rules - 1) most[q] += size[q];
      }
      problem.cost.insert(problem.cost.end(), cost.begin(), cost.end());
    }
  }
  for (size_t q = 0; q < least.size(); ++q)
    problem.cap.push_back(least[q] + static_cast<int64_t>(rng.Uniform() * static_cast<double>(most[q] - least[q])));
  problem.dense_size = most;
  return problem;
}

}  // namespace hydra::moa::testing
