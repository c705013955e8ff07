// SPDX-License-Identifier: Apache-2.0
// The scalar twin of products: a row of W is decoded and summed in double, one output after the other.
// Not here: anything fast (matmul.cc).
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "hydra/kernels/matmul.h"
#include "hydra/kernels/matmul_kernels.h"

namespace hydra::kernels::ref {
namespace {

// x as int8 dot products see it: blocks of 32 with a scale (XBlock).
void RoundBlocks(std::span<double> x) {
  for (size_t begin = 0; begin < x.size(); begin += kBlock) {
    const std::span<double> block = x.subspan(begin, kBlock);
    float amax = 0;
    bool finite = true;
    for (const double v : block) {
      amax = std::max(amax, std::abs(static_cast<float>(v)));
      finite = finite && std::isfinite(v);
    }
    const float scale = amax * (1.0f / 127.0f), inverse = amax < kTinyBlock ? 0.0f : 127.0f / amax;
    for (double& v : block)
      v = finite ? static_cast<double>(scale) * std::nearbyint(static_cast<float>(v) * inverse) : std::nan("");
  }
}

void RoundToBf16(std::span<double> x) {
  for (double& v : x) v = BF16ToFloat(FloatToBF16(static_cast<float>(v)));
}

}  // namespace

void MatMul(const MatMulArgs& a, ActType act) {
  const int64_t N = a.w.rows, K = a.w.cols;
  const int64_t x_stride = a.x_stride == 0 ? K : a.x_stride, y_stride = a.y_stride == 0 ? N : a.y_stride;
  const bool few = !IsQuantised(a.w.type) && (a.T <= kSmallBatch || a.steps >= a.T);
  const auto in_pairs = [&](int64_t t) {
    const bool step = !IsQuantised(a.w.type) && (few || t < a.steps);
    return !a.f32 && GoesInPairs(a.w.type, act) && !step;
  };
  std::vector<double> x(static_cast<size_t>(a.T * K));
  for (int64_t t = 0; t < a.T; ++t) {
    const float* from = a.x + (a.x_rows != nullptr ? a.x_rows[t] : t) * x_stride;
    const std::span<double> to(x.data() + t * K, static_cast<size_t>(K));
    std::copy(from, from + K, to.begin());
    if (act == ActType::kQ8 && IsQuantised(a.w.type)) RoundBlocks(to);
    if (in_pairs(t)) RoundToBf16(to);
  }
  std::vector<float> row(static_cast<size_t>(K));
  for (int64_t n = 0; n < N; ++n) {
    DecodeMatrixRow(a.w, n, row.data());
    const std::vector<double> w(row.begin(), row.end());
    std::vector<double> rounded = w;
    RoundToBf16(rounded);
    for (int64_t t = 0; t < a.T; ++t) {
      const std::vector<double>& factors = in_pairs(t) ? rounded : w;
      double sum = a.bias != nullptr ? a.bias[n] : 0;
      for (int64_t k = 0; k < K; ++k) sum += factors[static_cast<size_t>(k)] * x[static_cast<size_t>(t * K + k)];
      if (a.silu) sum /= 1 + std::exp(-sum);
      if (a.row_scale != nullptr) sum *= a.row_scale[t];
      float& y = a.y[(a.y_rows != nullptr ? a.y_rows[t] : t) * y_stride + n];
      y = static_cast<float>(a.accumulate ? y + sum : sum);
    }
  }
}

}  // namespace hydra::kernels::ref
