// SPDX-License-Identifier: Apache-2.0
// How much a model's loss would change if its heads saw fewer keys, by length, layer, head and distance (specs/moa.md
// 3), and the file of it. Not here: measuring (hydra/eval/influence.h), what plans are made of it (hydra/moa).
// Dims: L layers, A query heads, nb blocks of a length.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "hydra/model/attention_plan.h"

namespace hydra {

// How the loss of masking is estimated: the changes of all masked keys together without their signs (the default), the
// same with signs, or the published sum of each key's own change without its sign.
enum class Estimator { kJabs, kJsgn, kF };
[[nodiscard]] const char* EstimatorName(Estimator estimator);                               // "jabs", "jsgn", "f"
[[nodiscard]] Estimator ParseEstimator(const std::string& name, const std::string& where);  // throws kUsage

// Which items count.
enum class ProfileHalf { kBoth, kEven, kOdd };

struct InfluenceProfile {
  // Of one length. Sums over items; even and odd ones apart.
  struct Length {
    std::array<int64_t, 2> items{};     // how many, even and odd
    std::vector<double> f, jabs, jsgn;  // [2, L, A, nb]
    std::vector<double> losses;         // of each item, in the order in which they came
    std::vector<std::string> ids;       // of each item
    int64_t guarded = 0;                // values that stand for others (kernels/influence.h)
    [[nodiscard]] std::vector<double>& of(Estimator estimator);
    [[nodiscard]] const std::vector<double>& of(Estimator estimator) const;
  };
  AttentionPlan dense;                // the model, its layers' sinks and windows, the block size
  std::string items_sha256;           // ItemFile::Sha256
  std::map<int64_t, Length> lengths;  // by N

  [[nodiscard]] int64_t Blocks(int64_t N) const;  // nb
  // Zeros for a length.
  [[nodiscard]] Length Empty(int64_t N) const;
  // Where a head's numbers begin in a Length's arrays.
  [[nodiscard]] int64_t At(int64_t half, int layer, int64_t head, int64_t N) const;

  // Estimated increase of the loss of one item of N tokens where a query head sees the sinks and m blocks of keys,
  // m = 0 .. nb: 0 at nb. Of layers with a window also 0 from the whole window on. [nb + 1]
  [[nodiscard]] std::vector<double> Curve(Estimator estimator, int64_t N, int layer, int64_t head,
                                          ProfileHalf half = ProfileHalf::kBoth) const;
  // The same of a KV head: the sum over its query heads.
  [[nodiscard]] std::vector<double> UnitCurve(Estimator estimator, int64_t N, int layer, int64_t kv_head,
                                              ProfileHalf half = ProfileHalf::kBoth) const;
  // Spearman's correlation of the unit curves of the two halves; NaN while one has no items.
  [[nodiscard]] double HalfCorrelation(Estimator estimator, int64_t N) const;

  // safetensors with influence.{N}.{f,jabs,jsgn} [2, L, A, nb] f64. Load throws kFormat naming file and field.
  void Save(const std::string& path) const;
  [[nodiscard]] static InfluenceProfile Load(const std::string& path);
};

}  // namespace hydra
