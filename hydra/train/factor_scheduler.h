// SPDX-License-Identifier: Apache-2.0
// The weight of the chunk loss over a run: it follows the loss, window by window (specs/blockffn.md 4). Not here: the
// loss (nn/blockffn.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "hydra/io/json.h"

namespace hydra::train {

struct FactorOptions {
  double first = 0.05;        // lambda of the first step
  int64_t start = 1000;       // steps before it moves
  int64_t adjust = 100;       // steps of a window
  double growth_min = 1.025;  // least growth where the loss grew
  double max_factor = 4;      // lambda is at most so many times `first`
  bool operator==(const FactorOptions&) const = default;
};

class FactorScheduler {
 public:
  explicit FactorScheduler(const FactorOptions& options)
      : options_(options), low_(options.first), high_(options.first) {}

  // Lambda of the step that comes.
  [[nodiscard]] double Value() const;
  // After that step: its mean chunk loss. Frozen: the step is counted, lambda stays from its next window on.
  void Observe(double chunk_loss, bool frozen = false);

  [[nodiscard]] Json Save() const;
  // Throws kFormat naming `where` and the field.
  void Load(const Json& json, const std::string& where);

 private:
  FactorOptions options_;
  double low_, high_;  // lambda moves from low_ to high_ over the window
  int64_t step_ = 0;
  double sum_ = 0;                // of the losses of the window
  std::optional<double> before_;  // mean of the window before
};

}  // namespace hydra::train
