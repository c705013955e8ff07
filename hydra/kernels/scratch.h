// SPDX-License-Identifier: Apache-2.0
// How kernels lay out the floats that one call works in. Not here: who allocates them (the callers of XScratchFloats).
#pragma once

#include <cstdint>

namespace hydra::kernels {

inline constexpr int64_t kAlign = 16;  // floats: a vector of the widest level
inline int64_t RoundUp(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

// Gives parts out one after the other from `base`; from nullptr it only counts.
class ScratchParts {
 public:
  explicit ScratchParts(float* base) : base_(base) {}
  float* operator()(int64_t floats) {
    float* part = base_ != nullptr ? base_ + used_ : nullptr;
    used_ += floats;
    return part;
  }
  [[nodiscard]] int64_t used() const { return used_; }

 private:
  float* base_;
  int64_t used_ = 0;
};

}  // namespace hydra::kernels
