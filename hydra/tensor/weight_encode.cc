// SPDX-License-Identifier: Apache-2.0
// f32 rows to stored rows. Scales are searched for as ggml's reference quantisers do without an importance matrix, with
// f32 operations in their order, so that the bytes equal those of its tools. Not here: reading (weight_type.cc).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/tensor/weight_block.h"
#include "hydra/tensor/weight_type.h"

namespace hydra {
namespace {

// A group with smaller values is all zero.
constexpr float kTiny = 1e-15f;

// More than any block can hold (65504 * 63 * 15 + ..., 65504 * 128 * 32), little enough for the sums below.
constexpr float kHuge = 1e9f;

// To nearest, ties to even, then into low..high; low for NaN.
int NearestIn(float value, int low, int high) {
  const float nearest = std::nearbyint(value);
  if (!(nearest > static_cast<float>(low))) return low;
  return nearest < static_cast<float>(high) ? static_cast<int>(nearest) : high;
}

// A scale or minimum as f16; values that it cannot hold would become infinite when read.
uint16_t Scale(float value, const char* type) {
  const uint16_t bits = FloatToF16(value);
  if (!std::isfinite(F16ToFloat(bits)))
    throw Error(ErrorCode::kTensor,
                fmt::format("values are too large for {}: a scale of {:g} exceeds 65504", type, value));
  return bits;
}

// 0 where d is too small to have one.
float Inverse(float d) {
  const float inverse = 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// The value of the largest magnitude, the first of several, with its sign.
float Extreme(const float* x, int n) {
  float amax = 0, extreme = 0;
  for (int i = 0; i < n; ++i)
    if (amax < std::fabs(x[i])) {
      amax = std::fabs(x[i]);
      extreme = x[i];
    }
  return extreme;
}

void Encode(const float* x, BlockQ8_0& b) {
  const float d = std::fabs(Extreme(x, 32)) / 127.0f;
  const float inverse = Inverse(d);
  b.d = Scale(d, "Q8_0");
  for (int i = 0; i < 32; ++i) b.qs[i] = static_cast<int8_t>(std::round(x[i] * inverse));
}

void Encode(const float* x, BlockQ4_0& b) {
  const float d = Extreme(x, 32) / -8.0f;
  const float inverse = Inverse(d);
  b.d = Scale(d, "Q4_0");
  const auto q = [&](int i) { return std::min(15, static_cast<int>(x[i] * inverse + 8.5f)); };
  for (int i = 0; i < 16; ++i) b.qs[i] = static_cast<uint8_t>(q(i) | q(i + 16) << 4);
}

void Encode(const float* x, BlockQ4_1& b) {
  const auto bounds = std::minmax_element(x, x + 32);
  const auto min = bounds.first, max = bounds.second;
  const float d = (*max - *min) / 15.0f;
  const float inverse = Inverse(d);
  b.d = Scale(d, "Q4_1");
  b.m = Scale(*min, "Q4_1");
  // Half is added and the rest cut off, as in llama.cpp, whose bytes these are.
  const auto q = [&](int i) {
    const float shifted = (x[i] - *min) * inverse + 0.5f;
    return std::min(15, static_cast<int>(shifted));
  };
  for (int i = 0; i < 16; ++i) b.qs[i] = static_cast<uint8_t>(q(i) | q(i + 16) << 4);
}

// Scale and minimum (<= 0) of a group of 32, x ~ scale q + min with q in 0..15, that minimise the error weighted by w:
// 21 scales around the plain one are tried, each with the least-squares line through its rounding.
struct Line {
  float scale, min;
};
Line FitLine(const float* x, const float* w, uint8_t* q) {
  constexpr int n = 32, kMax = 15;
  float min = x[0], max = x[0];
  float sum_w = w[0], sum_x = sum_w * x[0];
  for (int i = 1; i < n; ++i) {
    min = std::min(min, x[i]);
    max = std::max(max, x[i]);
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  Line best{0, std::min(min, 0.0f)};
  std::fill_n(q, n, uint8_t{0});
  if (max == best.min) return best;
  std::array<float, n> trial;
  const auto round_at = [&](float inverse) {  // around the best minimum so far
    for (int i = 0; i < n; ++i)
      trial[static_cast<size_t>(i)] = static_cast<float>(NearestIn(inverse * (x[i] - best.min), 0, kMax));
  };
  const auto error_of = [&](Line line) {
    float error = 0;
    for (int i = 0; i < n; ++i) {
      const float diff = line.scale * trial[static_cast<size_t>(i)] + line.min - x[i];
      error += w[i] * (diff * diff);
    }
    return error;
  };
  const auto keep = [&](Line line) {
    best = line;
    for (int i = 0; i < n; ++i) q[i] = static_cast<uint8_t>(trial[static_cast<size_t>(i)]);
  };
  const float inverse = static_cast<float>(kMax) / (max - best.min);
  round_at(inverse);
  keep({1 / inverse, best.min});
  float best_error = error_of(best);
  for (int step = 0; step <= 20; ++step) {
    round_at((-1.0f + 0.1f * static_cast<float>(step) + static_cast<float>(kMax)) / (max - best.min));
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < n; ++i) {
      const float l = trial[static_cast<size_t>(i)];
      sum_l += w[i] * l;
      sum_l2 += w[i] * l * l;
      sum_xl += w[i] * l * x[i];
    }
    const float det = sum_w * sum_l2 - sum_l * sum_l;
    if (!(det > 0)) continue;
    Line line{(sum_w * sum_xl - sum_x * sum_l) / det, (sum_l2 * sum_x - sum_l * sum_xl) / det};
    if (line.min > 0) line = {sum_xl / sum_l2, 0};
    const float error = error_of(line);
    if (error < best_error) {
      best_error = error;
      keep(line);
    }
  }
  return best;
}

void Encode(const float* x, BlockQ4_K& b) {
  std::array<Line, 8> lines;
  std::array<uint8_t, 256> q;
  float max_scale = 0, max_min = 0;
  for (int j = 0; j < 8; ++j) {
    const float* group = x + 32 * j;
    float sum_x2 = 0;
    for (int i = 0; i < 32; ++i) sum_x2 += group[i] * group[i];
    const float mean = std::sqrt(sum_x2 / 32);
    std::array<float, 32> w;
    for (size_t i = 0; i < 32; ++i) w[i] = mean + std::fabs(group[i]);
    Line& line = lines[static_cast<size_t>(j)];
    line = FitLine(group, w.data(), q.data() + 32 * j);
    max_scale = std::max(max_scale, line.scale);
    max_min = std::max(max_min, -line.min);
  }
  const float inverse_scale = max_scale > 0 ? 63.0f / max_scale : 0.0f;
  const float inverse_min = max_min > 0 ? 63.0f / max_min : 0.0f;
  b.d = Scale(max_scale / 63.0f, "Q4_K");
  b.dmin = Scale(max_min / 63.0f, "Q4_K");
  std::fill(std::begin(b.scales), std::end(b.scales), uint8_t{0});
  for (int j = 0; j < 8; ++j) {
    const Line& line = lines[static_cast<size_t>(j)];
    const ScaleMin s{NearestIn(inverse_scale * line.scale, 0, 63), NearestIn(inverse_min * -line.min, 0, 63)};
    SetScaleMinK4(b.scales, j, s);
    const float d = F16ToFloat(b.d) * static_cast<float>(s.scale);
    const float min = F16ToFloat(b.dmin) * static_cast<float>(s.min);
    if (d == 0) continue;  // the fit's q stay: they mean nothing, but the reference writes them
    for (int i = 32 * j; i < 32 * (j + 1); ++i)
      q[static_cast<size_t>(i)] = static_cast<uint8_t>(NearestIn((x[i] + min) / d, 0, 15));
  }
  for (size_t j = 0; j < 4; ++j)
    for (size_t i = 0; i < 32; ++i) b.qs[32 * j + i] = static_cast<uint8_t>(q[64 * j + i] | q[64 * j + 32 + i] << 4);
}

// The scale of a group of 16, x ~ scale (q - 32) with q in 0..63, best by squares weighted by x^2: 19 scales around the
// plain one are tried.
float FitScale(const float* x, uint8_t* q) {
  constexpr int n = 16;
  const float extreme = Extreme(x, n);
  std::fill_n(q, n, uint8_t{0});
  if (std::fabs(extreme) < kTiny) return 0;
  float scale = 0, best = 0;
  const auto try_inverse = [&](float inverse, bool first) {
    float sum_xl = 0, sum_l2 = 0;
    for (int i = 0; i < n; ++i) {
      const auto l = static_cast<float>(NearestIn(inverse * x[i], -32, 31));
      const float w = x[i] * x[i];
      sum_xl += w * x[i] * l;
      sum_l2 += w * l * l;
    }
    if (!first && !(sum_l2 > 0 && sum_xl * sum_xl > best * sum_l2)) return;
    scale = sum_l2 != 0 ? sum_xl / sum_l2 : 0.0f;
    best = scale * sum_xl;
    for (int i = 0; i < n; ++i) q[i] = static_cast<uint8_t>(32 + NearestIn(inverse * x[i], -32, 31));
  };
  try_inverse(-32.0f / extreme, true);
  for (int step = -9; step <= 9; ++step)
    if (step != 0) try_inverse(-(32.0f + 0.1f * static_cast<float>(step)) / extreme, false);
  return scale;
}

void Encode(const float* x, BlockQ6_K& b) {
  std::array<float, 16> scales;
  std::array<uint8_t, 256> q;
  for (int j = 0; j < 16; ++j) scales[static_cast<size_t>(j)] = FitScale(x + 16 * j, q.data() + 16 * j);
  const float extreme = Extreme(scales.data(), 16);
  if (std::fabs(extreme) < kTiny) {
    b = {};
    return;
  }
  const float inverse = -128.0f / extreme;
  b.d = Scale(1 / inverse, "Q6_K");
  for (int j = 0; j < 16; ++j) {
    const auto scale = static_cast<int8_t>(NearestIn(inverse * scales[static_cast<size_t>(j)], -128, 127));
    b.scales[j] = scale;
    const float d = F16ToFloat(b.d) * static_cast<float>(scale);
    if (d == 0) continue;  // as in Q4_K
    for (int i = 16 * j; i < 16 * (j + 1); ++i)
      q[static_cast<size_t>(i)] = static_cast<uint8_t>(32 + NearestIn(x[i] / d, -32, 31));
  }
  for (size_t half = 0; half < 2; ++half)
    for (size_t i = 0; i < 32; ++i) {
      const uint8_t* at = q.data() + 128 * half + i;
      b.ql[64 * half + i] = static_cast<uint8_t>((at[0] & 15) | (at[64] & 15) << 4);
      b.ql[64 * half + 32 + i] = static_cast<uint8_t>((at[32] & 15) | (at[96] & 15) << 4);
      b.qh[32 * half + i] = static_cast<uint8_t>(at[0] >> 4 | at[32] >> 4 << 2 | at[64] >> 4 << 4 | at[96] >> 4 << 6);
    }
}

template <class Block>
void EncodeBlocks(const float* values, int64_t n, int64_t per_block, void* row) {
  auto* bytes = static_cast<std::byte*>(row);
  for (int64_t i = 0; i < n; i += per_block, bytes += sizeof(Block)) {
    Block block;
    Encode(values + i, block);
    std::memcpy(bytes, &block, sizeof(block));
  }
}

template <uint16_t (*narrow)(float), float (*widen)(uint16_t)>
void EncodeHalves(WeightType type, const float* values, int64_t n, void* row) {
  auto* bytes = static_cast<std::byte*>(row);
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t bits = narrow(values[i]);
    if (!std::isfinite(widen(bits)))
      throw Error(ErrorCode::kTensor, fmt::format("column {} = {:g}: too large for {}", i, values[i], Info(type).name));
    std::memcpy(bytes + 2 * i, &bits, 2);
  }
}

}  // namespace

void EncodeRow(WeightType type, const float* values, int64_t n, void* row) {
  HYDRA_CHECK(n >= 0 && n % Info(type).block == 0, Info(type).name, " row of ", n);
  const bool quantised = IsQuantised(type);
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(values[i]))
      throw Error(ErrorCode::kTensor, fmt::format("column {} = {}: must be finite", i, values[i]));
    if (quantised && std::fabs(values[i]) > kHuge)
      throw Error(ErrorCode::kTensor, fmt::format("column {} = {:g}: too large for {}", i, values[i], Info(type).name));
  }
  switch (type) {
    case WeightType::kF32: std::memcpy(row, values, static_cast<size_t>(n) * sizeof(float)); return;
    case WeightType::kF16: return EncodeHalves<FloatToF16, F16ToFloat>(type, values, n, row);
    case WeightType::kBF16: return EncodeHalves<FloatToBF16, BF16ToFloat>(type, values, n, row);
    case WeightType::kQ8_0: return EncodeBlocks<BlockQ8_0>(values, n, 32, row);
    case WeightType::kQ4_0: return EncodeBlocks<BlockQ4_0>(values, n, 32, row);
    case WeightType::kQ4_1: return EncodeBlocks<BlockQ4_1>(values, n, 32, row);
    case WeightType::kQ4_K: return EncodeBlocks<BlockQ4_K>(values, n, 256, row);
    case WeightType::kQ6_K: return EncodeBlocks<BlockQ6_K>(values, n, 256, row);
    case WeightType::kQ5_0:
    case WeightType::kQ5_1:
    case WeightType::kQ5_K:
      throw Error(
          ErrorCode::kUsage,
          fmt::format("{} is read, not written: use F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K or Q6_K", Info(type).name));
  }
}

}  // namespace hydra
