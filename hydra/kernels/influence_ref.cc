// SPDX-License-Identifier: Apache-2.0
// Scalar twin of the influence kernel: each row's entries in a list, each set of masked ones summed anew, in double.
// Formulas of specs/moa.md 3. Dims as in influence.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/kernels/influence.h"

namespace hydra::kernels::ref {
namespace {

// A key that a row sees: probability, gradient on it, bin or -1 where it always stays.
struct InfluenceEntry {
  double A, G;
  int64_t bin;
};

double DotOf(const float* x, const float* y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * y[i];
  return sum;
}

std::vector<InfluenceEntry> EntriesOf(const AttentionInfluenceArgs& a, int64_t head, int64_t i) {
  const int64_t kv = head / (a.A / a.Akv);
  const float *q = a.q + (i * a.A + head) * a.Dh, *d_out = a.d_out + (i * a.A + head) * a.Dh;
  std::vector<InfluenceEntry> entries;
  const auto add = [&](int64_t j, double bias, int64_t bin) {
    const int64_t at = (j * a.Akv + kv) * a.Dh;
    entries.push_back({a.scale * DotOf(q, a.k + at, a.Dh) + bias, DotOf(d_out, a.v + at, a.Dh), bin});
  };
  for (int64_t g = 0; g < a.G; ++g) {
    const int64_t token = a.pools[i / a.C * a.G + g];
    if (token >= 0 && token <= i - a.W) add(token, double{a.lambda[head]} * a.log_sigma[token], -1);
  }
  for (int64_t j = a.W > 0 ? std::max<int64_t>(0, i - a.W + 1) : 0; j <= i; ++j)
    add(j, 0, j < a.n_sinks ? -1 : (i - j) / a.b);
  double top = entries.front().A, total = 0;  // scores until here
  for (const InfluenceEntry& e : entries) top = std::max(top, e.A);
  for (const InfluenceEntry& e : entries) total += std::exp(e.A - top);
  for (InfluenceEntry& e : entries) e.A = std::exp(e.A - top) / total;
  return entries;
}

}  // namespace

void AttentionInfluence(const AttentionInfluenceArgs& a, int64_t head, int64_t t0, int64_t t1) {
  constexpr double kFloor = 1e-6, kLeast = 1e-30;
  for (int64_t i = t0 * a.b; i < std::min(t1 * a.b, a.T); ++i) {
    const float* d_out = a.d_out + (i * a.A + head) * a.Dh;
    if (std::all_of(d_out, d_out + a.Dh, [](float x) { return x == 0; })) continue;
    const std::vector<InfluenceEntry> entries = EntriesOf(a, head, i);
    double D = 0;
    int64_t last = 0;
    for (const InfluenceEntry& e : entries) D += e.A * e.G, last = std::max(last, e.bin);
    for (const InfluenceEntry& e : entries)
      if (e.bin >= 0) a.f[e.bin] += std::abs(e.A / std::max(1 - e.A, kFloor) * (D - e.G));
    double wider = 0;  // J of the next larger m
    for (int64_t m = last; m >= 1; --m) {
      double ma = 0, mc = 0, va = 0, vc = 0;
      for (const InfluenceEntry& e : entries) {
        (e.bin >= m ? ma : va) += e.A;
        (e.bin >= m ? mc : vc) += e.A * e.G;
      }
      double J = wider;
      if (ma <= 0.5)
        J = (ma * D - mc) / (1 - ma);
      else if (va >= kLeast)
        J = vc / va - D;
      else
        ++*a.guarded;
      a.jabs[m] += std::abs(J);
      a.jsgn[m] += J;
      wider = J;
    }
  }
}

}  // namespace hydra::kernels::ref
