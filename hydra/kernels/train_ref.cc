// SPDX-License-Identifier: Apache-2.0
// Scalar twins of the training kernels of attention and SwiGLU: sums in double, formulas from specs/hydra.md 3 and 4,
// gradients by the chain rule. Mamba-2's are in train_mamba_ref.cc. Dims as in train_attention.h and train_swiglu.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "hydra/kernels/train_attention.h"
#include "hydra/kernels/train_swiglu.h"

namespace hydra::kernels::ref {
namespace {

double Sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

// A key that a query sees.
struct SeenToken {
  int64_t token;
  bool landmark;
  double log_sigma;  // 0 in the window
};
std::vector<SeenToken> SeenBy(const AttentionTrainArgs& a, int64_t t) {
  std::vector<SeenToken> seen;
  for (int64_t j = 0; j < a.G; ++j) {
    const int64_t token = a.pools[t / a.C * a.G + j];
    if (token >= 0 && a.pos[token] <= a.pos[t] - a.W) seen.push_back({token, true, a.log_sigma[token]});
  }
  for (int64_t token = std::max(a.document[t], t - a.W + 1); token <= t; ++token) seen.push_back({token, false, 0});
  return seen;
}

double Dot(const float* x, const float* y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * y[i];
  return sum;
}

double Score(const AttentionTrainArgs& a, const float* q, int64_t kv, double lambda, const SeenToken& key) {
  return a.scale * Dot(q, a.k + (key.token * a.Akv + kv) * a.Dh, a.Dh) + lambda * key.log_sigma;
}

// Gradients of one KV head, summed in double before they are added.
struct HeadGradients {
  explicit HeadGradients(const AttentionTrainArgs& a)
      : dk(static_cast<size_t>(a.M * a.Dh)), dv(dk.size()), dsigma(static_cast<size_t>(a.M)) {}
  std::vector<double> dk, dv;  // [M, Dh]
  std::vector<double> dsigma;  // [M]

  void AddTo(const AttentionTrainArgs& a, int64_t kv) const {
    for (int64_t m = 0; m < a.M; ++m) {
      for (int64_t i = 0; i < a.Dh; ++i) {
        const auto at = static_cast<size_t>(m * a.Dh + i);
        float &k = a.dk[(m * a.Akv + kv) * a.Dh + i], &v = a.dv[(m * a.Akv + kv) * a.Dh + i];
        k = static_cast<float>(k + dk[at]), v = static_cast<float>(v + dv[at]);
      }
      if (a.G == 0) continue;
      float& sigma = a.dsigma[kv * a.M + m];
      sigma = static_cast<float>(sigma + dsigma[static_cast<size_t>(m)]);
    }
  }
};

// One query of one head: ds = p (dp - dout out), of which everything else follows. Returns sum ds log_sigma.
double BackwardQuery(const AttentionTrainArgs& a, int64_t t, int64_t head, HeadGradients& sums) {
  const int64_t kv = head / (a.A / a.Akv), at = (t * a.A + head) * a.Dh;
  const float *q = a.q + at, *dout = a.dout + at;
  const double mean = Dot(dout, a.out + at, a.Dh), lambda = a.G > 0 ? a.lambda[head] : 0;
  std::vector<double> dq(static_cast<size_t>(a.Dh));
  double dlambda = 0;
  for (const SeenToken& key : SeenBy(a, t)) {
    const int64_t row = (key.token * a.Akv + kv) * a.Dh;
    const double p = std::exp(Score(a, q, kv, lambda, key) - a.log_sum[t * a.A + head]);
    const double ds = p * (Dot(dout, a.v + row, a.Dh) - mean);
    for (int64_t i = 0; i < a.Dh; ++i) {
      const auto to = static_cast<size_t>(key.token * a.Dh + i);
      dq[static_cast<size_t>(i)] += a.scale * ds * a.k[row + i];
      sums.dk[to] += a.scale * ds * q[i];
      sums.dv[to] += p * dout[i];
    }
    if (key.landmark) sums.dsigma[static_cast<size_t>(key.token)] += lambda * ds;
    dlambda += ds * key.log_sigma;
  }
  for (int64_t i = 0; i < a.Dh; ++i) a.dq[at + i] = static_cast<float>(dq[static_cast<size_t>(i)]);
  return dlambda;
}

}  // namespace

// specs/hydra.md 3: softmax over the window and, with lambda log sigma added, over the pool's keys before it.
void AttentionTrain(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1) {
  const int64_t group = a.A / a.Akv;
  for (int64_t t = c0 * a.C; t < c1 * a.C; ++t) {
    const std::vector<SeenToken> seen = SeenBy(a, t);
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      const double lambda = a.G > 0 ? a.lambda[head] : 0;
      const int64_t at = (t * a.A + head) * a.Dh;
      std::vector<double> scores;
      for (const SeenToken& key : seen) scores.push_back(Score(a, a.q + at, kv, lambda, key));
      const double max = *std::ranges::max_element(scores);
      double sum = 0;
      for (const double score : scores) sum += std::exp(score - max);
      a.log_sum[t * a.A + head] = static_cast<float>(max + std::log(sum));
      for (int64_t i = 0; i < a.Dh; ++i) {
        double out = 0;
        for (size_t j = 0; j < seen.size(); ++j)
          out += std::exp(scores[j] - max) / sum * a.v[(seen[j].token * a.Akv + kv) * a.Dh + i];
        a.out[at + i] = static_cast<float>(out);
      }
    }
  }
}

void AttentionTrainBackward(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1) {
  const int64_t group = a.A / a.Akv;
  HeadGradients sums(a);
  for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
    double dlambda = 0;
    for (int64_t t = c0 * a.C; t < c1 * a.C; ++t) dlambda += BackwardQuery(a, t, head, sums);
    if (a.G > 0) a.dlambda[head] = static_cast<float>(a.dlambda[head] + dlambda);
  }
  sums.AddTo(a, kv);
}

// specs/hydra.md 4: y = p silu(gate) up.
void SwiGluTrain(const SwiGluTrainArgs& a) {
  for (int64_t m = 0; m < a.M; ++m)
    for (int64_t i = 0; i < a.F; ++i) {
      const double gate = a.gate_up[m * 2 * a.F + i], up = a.gate_up[m * 2 * a.F + a.F + i];
      a.y[m * a.F + i] = static_cast<float>(a.p[m] * gate * Sigmoid(gate) * up);
    }
}

void SwiGluTrainBackward(const SwiGluTrainArgs& a) {
  for (int64_t m = 0; m < a.M; ++m) {
    const double p = a.p[m];
    double dp = 0;
    for (int64_t i = 0; i < a.F; ++i) {
      const double gate = a.gate_up[m * 2 * a.F + i], up = a.gate_up[m * 2 * a.F + a.F + i], dy = a.dy[m * a.F + i];
      const double s = Sigmoid(gate), silu = gate * s;
      dp += dy * silu * up;
      a.y[m * a.F + i] = static_cast<float>(p * silu * up);
      a.dgate_up[m * 2 * a.F + i] = static_cast<float>(p * dy * up * s * (1 + gate * (1 - s)));
      a.dgate_up[m * 2 * a.F + a.F + i] = static_cast<float>(p * dy * silu);
    }
    a.dp[m] = static_cast<float>(dp);
  }
}

}  // namespace hydra::kernels::ref
