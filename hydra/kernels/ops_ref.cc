// SPDX-License-Identifier: Apache-2.0
// Scalar twins of the kernels of ops.h: sums in double, never optimised, the oracle of the tests. Products with weights
// have theirs in matmul_ref.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/kernels/ops.h"
#include "hydra/kernels/ops_attention_blocks.h"
#include "hydra/kernels/target.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels::ref {
namespace {

double Sigmoid(double v) { return 1 / (1 + std::exp(-v)); }
double Silu(double v) { return v * Sigmoid(v); }
// specs/hydra.md 2.1: v itself above 20.
double Softplus(double v) { return v > 20 ? v : std::log1p(std::exp(v)); }
int64_t StrideOr(int64_t stride, int64_t width) { return stride != 0 ? stride : width; }

// Element i of a row in a KV dtype.
double KvAt(KvDtype dtype, const void* row, int64_t i) {
  const auto* bytes = static_cast<const uint8_t*>(row);
  const auto bits = [&](int64_t at) {
    uint16_t b = 0;
    std::memcpy(&b, bytes + at, sizeof(b));
    return b;
  };
  switch (dtype) {
    case KvDtype::kF32: {
      float value = 0;
      std::memcpy(&value, bytes + 4 * i, sizeof(value));
      return value;
    }
    case KvDtype::kBF16: return BF16ToFloat(bits(2 * i));
    case KvDtype::kF16: return F16ToFloat(bits(2 * i));
    case KvDtype::kQ8_0: {
      const int64_t block = i / 32 * 34;
      return double{F16ToFloat(bits(block))} * static_cast<int8_t>(bytes[block + 2 + i % 32]);
    }
  }
  return 0;
}

// Keys that one query sees, then their softmax and the sum of values.
struct SeenKey {
  const std::byte* k;
  const std::byte* v;
  double bias;
};
// Returns sum_p exp(s_p - max) v_p, and max and sum of exps.
struct Attended {
  std::vector<double> sum;
  double max, weight;
};
double ToBf16(double x) { return BF16ToFloat(FloatToBF16(static_cast<float>(x))); }
// bf16: scaled queries, keys and values are rounded. The fast one rounds exps too, of a maximum that it had then.
Attended Attend(const KeySet& set, const float* q, float scale, const std::vector<SeenKey>& keys, bool bf16) {
  const auto at = [&](const std::byte* row, int64_t i) {
    const double value = KvAt(set.dtype, row, i);
    return bf16 ? ToBf16(value) : value;
  };
  std::vector<double> scores;
  double max = -INFINITY;
  for (const SeenKey& key : keys) {
    double dot = 0;
    for (int64_t i = 0; i < set.Dk; ++i) {
      const double scaled = bf16 ? ToBf16(q[i] * scale) : double{q[i]} * scale;
      dot += scaled * at(key.k, i);
    }
    scores.push_back(dot + key.bias);
    max = std::max(max, scores.back());
  }
  Attended out{std::vector<double>(static_cast<size_t>(set.Dv)), max, 0};
  for (size_t p = 0; p < keys.size(); ++p) {
    const double e = std::exp(scores[p] - max);
    out.weight += e;
    for (int64_t i = 0; i < set.Dv; ++i) out.sum[static_cast<size_t>(i)] += e * at(keys[p].v, i);
  }
  return out;
}
// f(key, position, bias, is a landmark) for all rows of all runs.
template <class F>
void ForKeys(const KeySet& set, F&& f) {
  const int64_t k_stride = StrideOr(set.k_stride, KvRowBytes(set.dtype, set.Dk));
  const int64_t v_stride = StrideOr(set.v_stride, KvRowBytes(set.dtype, set.Dv));
  for (const KeyRun* run = set.runs; run != set.runs + set.n_runs; ++run)
    for (int64_t i = 0; i < run->n; ++i) {
      const SeenKey key{static_cast<const std::byte*>(run->k) + i * k_stride,
                        static_cast<const std::byte*>(run->v) + i * v_stride, 0};
      const bool listed = run->pos != nullptr;
      f(key, listed ? run->pos[i] : run->first + i, run->bias != nullptr ? double{run->bias[i]} : 0.0, listed);
    }
}

}  // namespace

void RmsNorm(const RmsNormArgs& a) {
  const int64_t xs = StrideOr(a.x_stride, a.D), ys = StrideOr(a.y_stride, a.D), zs = StrideOr(a.z_stride, a.D);
  const int64_t width = a.D / a.groups;
  std::vector<double> v(static_cast<size_t>(width));
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t g = 0; g < a.groups; ++g) {
      double squares = 0;
      for (int64_t i = 0; i < width; ++i) {
        const int64_t at = g * width + i;
        double& value = v[static_cast<size_t>(i)];
        value = a.x[t * xs + at];
        if (a.z != nullptr) value *= Silu(a.z[t * zs + at]);
        squares += value * value;
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + double{a.eps});
      for (int64_t i = 0; i < width; ++i)
        a.y[t * ys + g * width + i] =
            static_cast<float>(v[static_cast<size_t>(i)] * scale * a.w[a.shared_weight ? i : g * width + i]);
    }
}

void Rope(const RopeArgs& a) {
  const int64_t half = a.Dh / 2, stride = StrideOr(a.x_stride, a.heads * a.Dh);
  const int64_t head_stride = StrideOr(a.head_stride, a.Dh);
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(a.pos[t]) * a.inv_freq[i];
        float* x = a.x + t * stride + h * head_stride;
        float& first = x[a.interleaved ? 2 * i : i];
        float& second = x[a.interleaved ? 2 * i + 1 : i + half];
        const double u = first, v = second, cos = std::cos(angle), sin = std::sin(angle);
        first = static_cast<float>(u * cos - v * sin);
        second = static_cast<float>(v * cos + u * sin);
      }
}

void SwiGlu(const SwiGluArgs& a) {
  const int64_t stride = StrideOr(a.stride, a.F), ys = StrideOr(a.y_stride, a.F);
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t i = 0; i < a.F; ++i)
      a.y[t * ys + i] = static_cast<float>(Silu(a.gate[t * stride + i]) * a.up[t * stride + i]);
}

void Softmax(const SoftmaxArgs& a) {
  for (int64_t t = 0; t < a.T; ++t) {
    const float* x = a.x + t * a.D;
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < a.D; ++i) max = std::max(max, double{a.scale} * x[i]);
    for (int64_t i = 0; i < a.D; ++i) sum += std::exp(double{a.scale} * x[i] - max);
    for (int64_t i = 0; i < a.D; ++i)
      a.y[t * a.D + i] = static_cast<float>(std::exp(double{a.scale} * x[i] - max) / sum);
  }
}

void Conv(const ConvArgs& a) {
  const int64_t S = a.K - 1, xs = StrideOr(a.x_stride, a.C), ys = StrideOr(a.y_stride, a.C);
  const int64_t end = a.c1 == 0 ? a.C : a.c1;
  const auto u = [&](int64_t i, int64_t c) { return i < S ? a.state[i * a.C + c] : a.x[(i - S) * xs + c]; };
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t c = a.c0; c < end; ++c) {
      double sum = a.b != nullptr ? a.b[c] : 0;
      for (int64_t k = 0; k < a.K; ++k) sum += double{a.w[c * a.K + k]} * u(t + k, c);
      a.y[t * ys + c] = static_cast<float>(Silu(sum));
    }
  // Row i takes a later row, so ascending order overwrites nothing still needed.
  for (int64_t i = 0; i < S; ++i)
    for (int64_t c = a.c0; c < end; ++c) a.state[i * a.C + c] = u(i + a.T, c);
}

void Dt(const DtArgs& a) {
  const int64_t stride = StrideOr(a.stride, a.H);
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t h = 0; h < a.H; ++h) {
      const double dt = Softplus(double{a.raw[t * stride + h]} + a.bias[h]);
      a.dt[t * a.H + h] = static_cast<float>(std::min(std::max(dt, double{a.lo}), double{a.hi}));
    }
}

void Ssd(const SsdArgs& a) {
  const int64_t xs = StrideOr(a.x_stride, a.H * a.P), bcs = StrideOr(a.bc_stride, a.G * a.N);
  const int64_t ys = StrideOr(a.y_stride, a.H * a.P);
  std::vector<double> state(static_cast<size_t>(a.P * a.N));
  for (int64_t h = a.h0; h < a.h1; ++h) {
    const bool rounded = a.state_dtype == StateDtype::kBF16;
    float* floats = static_cast<float*>(a.state) + h * a.P * a.N;
    uint16_t* halves = static_cast<uint16_t*>(a.state) + h * a.P * a.N;
    for (size_t i = 0; i < state.size(); ++i) state[i] = rounded ? BF16ToFloat(halves[i]) : floats[i];
    for (int64_t t = 0; t < a.T; ++t) {
      const float* B = a.B + t * bcs + h * a.G / a.H * a.N;
      const float* C = a.C + t * bcs + h * a.G / a.H * a.N;
      const double dt = a.dt[t * a.H + h], decay = std::exp(dt * a.A[h]);
      for (int64_t p = 0; p < a.P; ++p) {
        const double x = a.x[t * xs + h * a.P + p];
        double sum = a.D[h] * x;
        for (int64_t n = 0; n < a.N; ++n) {
          double& s = state[static_cast<size_t>(p * a.N + n)];
          s = decay * s + dt * x * B[n];
          sum += s * C[n];
        }
        a.y[t * ys + h * a.P + p] = static_cast<float>(sum);
      }
    }
    for (size_t i = 0; i < state.size(); ++i) {
      const auto value = static_cast<float>(state[i]);
      if (rounded)
        halves[i] = FloatToBF16(value);
      else
        floats[i] = value;
    }
  }
}

void Diagonal(const DiagonalArgs& a) {
  for (int64_t d = a.d0; d < a.d1; ++d) {
    double s = a.state[d];
    for (int64_t t = 0; t < a.T; ++t) {
      const float* row = a.params + t * 4 * a.D + d;
      float& y = a.y[t * a.D + d];
      y = static_cast<float>((a.accumulate ? double{y} : 0.0) + row[2 * a.D] * s);
      s = std::exp(-Softplus(row[0]) * a.lambda[d]) * s + double{row[a.D]} * row[3 * a.D];
    }
    a.state[d] = static_cast<float>(s);
  }
}

void Attention(const AttentionArgs& a) {
  const int64_t Dk = a.keys.Dk, Dv = a.keys.Dv;
  const int64_t qs = StrideOr(a.q_stride, a.heads * Dk), ys = StrideOr(a.y_stride, a.heads * Dv);
  for (int64_t t = a.t0; t < a.t1; ++t)
    for (int64_t h = 0; h < a.heads; ++h) {
      std::vector<SeenKey> keys;
      const int64_t at = a.pos + t;
      ForKeys(a.keys, [&](SeenKey key, int64_t position, double bias, bool landmark) {
        const bool in_window = position > at - a.window;
        if (landmark ? in_window : position > at || !(in_window || position < a.sinks)) return;
        if (!landmark && a.tiles != nullptr) a.tiles->Visit(position);
        key.bias = landmark && a.lambda != nullptr ? a.lambda[h] * bias : 0;
        keys.push_back(key);
      });
      const int64_t each = AttentionTileQueries(a.heads, a.t1 - a.t0);
      const int64_t tile = a.alone ? t : a.t0 + (t - a.t0) / each * each;
      const bool bf16 = a.bf16 && HasBf16Dots() && QueriesAt(a, tile) > 1;
      const Attended out = Attend(a.keys, a.q + t * qs + h * Dk, a.scale, keys, bf16);
      for (int64_t i = 0; i < Dv; ++i)
        a.y[t * ys + h * Dv + i] = static_cast<float>(out.sum[static_cast<size_t>(i)] / out.weight);
    }
}

void AttentionPart(const AttentionPartArgs& a) {
  std::vector<SeenKey> keys;
  ForKeys(a.keys, [&](const SeenKey& key, int64_t position, double /*bias*/, bool landmark) {
    if (!landmark && a.begin <= position && position < a.end) keys.push_back(key);
  });
  for (int64_t h = 0; h < a.heads; ++h) {
    const Attended out = Attend(a.keys, a.q + h * a.keys.Dk, a.scale, keys, false);
    float* part = a.part + h * (a.keys.Dv + 2);
    for (int64_t i = 0; i < a.keys.Dv; ++i) part[i] = static_cast<float>(out.sum[static_cast<size_t>(i)]);
    part[a.keys.Dv] = static_cast<float>(out.max);
    part[a.keys.Dv + 1] = static_cast<float>(out.weight);
  }
}

void AttentionMerge(const AttentionMergeArgs& a) {
  const int64_t width = a.Dv + 2;
  for (int64_t h = 0; h < a.heads; ++h) {
    const auto part = [&](int64_t p) { return a.parts + (p * a.heads + h) * width; };
    double max = -INFINITY, weight = 0;
    for (int64_t p = 0; p < a.n_parts; ++p) max = std::max(max, double{part(p)[a.Dv]});
    for (int64_t p = 0; p < a.n_parts; ++p) weight += std::exp(part(p)[a.Dv] - max) * part(p)[a.Dv + 1];
    for (int64_t i = 0; i < a.Dv; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < a.n_parts; ++p) sum += std::exp(part(p)[a.Dv] - max) * part(p)[i];
      a.y[h * a.Dv + i] = static_cast<float>(sum / weight);
    }
  }
}

void ReluGates(const ReluGatesArgs& a) {
  const int64_t words = (a.E + 31) / 32;
  std::vector<double> r(static_cast<size_t>(a.E));
  for (int64_t t = 0; t < a.n; ++t) {
    std::fill_n(a.active + t * words, words, 0U);
    double squares = 0;
    for (int64_t e = 0; e < a.E; ++e) {
      const float raw = a.raw[t * a.E + e];
      r[static_cast<size_t>(e)] = raw > 0 ? raw : 0;
      squares += r[static_cast<size_t>(e)] * r[static_cast<size_t>(e)];
      if (raw > 0 && a.scale[e] != 0) a.active[t * words + e / 32] |= 1U << (e % 32);
    }
    const double rms = std::sqrt(squares / static_cast<double>(a.E) + a.eps);
    for (int64_t e = 0; e < a.E; ++e)
      a.gates[t * a.E + e] = static_cast<float>(r[static_cast<size_t>(e)] / rms * a.scale[e]);
  }
}

void TopK(const float* scores, int64_t n, int64_t k, int32_t* ids, float* values) {
  HYDRA_CHECK(0 <= k && k <= n);
  std::vector<int32_t> order(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) order[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  const auto key = [&](int32_t i) { return std::isnan(scores[i]) ? -INFINITY : scores[i]; };
  std::ranges::stable_sort(order, [&](int32_t i, int32_t j) { return key(i) > key(j); });
  for (int64_t j = 0; j < k; ++j) {
    ids[j] = order[static_cast<size_t>(j)];
    if (values != nullptr) values[j] = scores[ids[j]];
  }
}

float Dot(const float* x, const float* y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * y[i];
  return static_cast<float>(sum);
}

void LogSigmoid(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double v = x[i];
    y[i] = static_cast<float>(std::min(v, 0.0) - std::log1p(std::exp(-std::abs(v))));
  }
}

void Axpy(float scale, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(double{scale} * x[i] + y[i]);
}

}  // namespace hydra::kernels::ref
