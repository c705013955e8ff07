// SPDX-License-Identifier: Apache-2.0
// The k largest of many scores, exactly, ties to the lower index. Not here: what is done with them (hydra/runtime).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_select.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// The first index from i on whose score is above `floor`, or n.
int64_t FindAbove(const float* scores, int64_t i, int64_t n, float floor) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, floor);
  for (; i + lanes <= n; i += lanes) {
    const auto first = hn::FindFirstTrue(d, hn::Gt(hn::LoadU(d, scores + i), limit));
    if (first >= 0) return i + first;
  }
  while (i < n && !(scores[i] > floor)) ++i;
  return i;
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {
namespace {

HWY_EXPORT(FindAbove);

// NaN ranks with -inf.
float Key(float score) { return std::isnan(score) ? -INFINITY : score; }

}  // namespace

// The best so far are kept in order. A later score enters only above the last of them (an equal one loses to the lower
// index) and stands behind its equals; the scan for such scores is the vector part.
void TopK(const float* scores, int64_t n, int64_t k, int32_t* ids, float* values) {
  HYDRA_CHECK(0 <= k && k <= n && n <= INT32_MAX);
  if (k == 0) return;
  const auto find = HYDRA_DISPATCH(FindAbove);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (kept == k) {
      i = find(scores, i, n, Key(scores[ids[k - 1]]));
      if (i == n) break;
    }
    const float key = Key(scores[i]);
    int32_t* at =
        std::upper_bound(ids, ids + kept, key, [&](float value, int32_t id) { return value > Key(scores[id]); });
    if (kept < k) ++kept;
    std::memmove(at + 1, at, static_cast<size_t>(ids + kept - 1 - at) * sizeof(int32_t));
    *at = static_cast<int32_t>(i);
  }
  for (int64_t j = 0; values != nullptr && j < k; ++j) values[j] = scores[ids[j]];
}

}  // namespace hydra::kernels
#endif
