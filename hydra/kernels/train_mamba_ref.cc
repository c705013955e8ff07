// SPDX-License-Identifier: Apache-2.0
// Scalar twins of the phases of Mamba-2's training form: the formulas of specs/hydra.md 2.1 to 2.4 and their gradients
// by the chain rule, token by token and pair by pair, sums in double. Not here: the fast phases (train_mamba.cc).
// Dims as in train_mamba.h; i, j tokens of a chunk, a_j the sum of dt A up to j, u_j = dt_j x_j, H the state before the
// chunk, S the state after it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "hydra/kernels/train_mamba.h"

namespace hydra::kernels::ref {
namespace {

double Sigmoid(double v) { return 1 / (1 + std::exp(-v)); }
double Silu(double v) { return v * Sigmoid(v); }
double SiluSlope(double v) { return Sigmoid(v) * (1 + v * (1 - Sigmoid(v))); }
double Softplus(double v) { return v > 20 ? v : std::log1p(std::exp(v)); }
size_t At(int64_t i) { return static_cast<size_t>(i); }

// One chunk's view of the arguments.
struct Chunk {
  const MambaTrainArgs& a;
  MambaChunk at;
  int64_t number, q, di, cd, W;
  bool first, next;  // begins its document; the document goes on behind it

  Chunk(const MambaTrainArgs& args, int64_t c) : a(args), at(args.chunks[c]), number(c) {
    q = at.end - at.begin;
    di = a.H * a.P, cd = di + 2 * a.G * a.N, W = di + cd + a.H;
    first = at.begin == at.document;
    next = c + 1 < a.n_chunks && a.chunks[c + 1].document == at.document;
  }
  [[nodiscard]] int64_t Group(int64_t h) const { return h / (a.H / a.G); }
  [[nodiscard]] int64_t BColumn(int64_t h) const { return di + Group(h) * a.N; }  // of xBC
  [[nodiscard]] int64_t CColumn(int64_t h) const { return BColumn(h) + a.G * a.N; }
  // Row n, column p of head h in states and dstates.
  [[nodiscard]] int64_t State(int64_t h, int64_t n, int64_t p) const {
    const int64_t heads = a.H / a.G;
    return ((number * a.G + Group(h)) * a.N + n) * heads * a.P + h % heads * a.P + p;
  }
  // Before silu. Taps before the document read 0.
  [[nodiscard]] double Convolved(int64_t j, int64_t c) const {
    double sum = a.conv_b != nullptr ? a.conv_b[c] : 0;
    for (int64_t k = 0; k < a.K; ++k) {
      const int64_t t = at.begin + j - (a.K - 1 - k);
      if (t >= at.document) sum += double{a.taps[k * cd + c]} * a.projected[t * W + di + c];
    }
    return sum;
  }
  [[nodiscard]] double RawDt(int64_t j, int64_t h) const {
    return double{a.projected[(at.begin + j) * W + di + cd + h]} + a.dt_bias[h];
  }
  [[nodiscard]] bool Real(int64_t j) const { return a.real == nullptr || a.real[at.begin + j]; }
  [[nodiscard]] double Dt(int64_t j, int64_t h) const {
    if (!Real(j)) return 0;
    return std::min(std::max(Softplus(RawDt(j, h)), double{a.dt_lo}), double{a.dt_hi});
  }
  // Of dt over raw dt.
  [[nodiscard]] double DtSlope(int64_t j, int64_t h) const {
    const double free = Softplus(RawDt(j, h));
    return Real(j) && free >= a.dt_lo && free <= a.dt_hi ? Sigmoid(RawDt(j, h)) : 0;
  }
};

// dt and its sums times A, of a head.
struct Steps {
  std::vector<double> dt, sum;
  Steps(const Chunk& k, int64_t h) {
    double a = 0;
    for (int64_t j = 0; j < k.q; ++j) {
      dt.push_back(k.Dt(j, h));
      sum.push_back(a += dt.back() * k.a.A[h]);
    }
  }
  [[nodiscard]] double Lead(int64_t i) const { return std::exp(sum[At(i)]); }
  [[nodiscard]] double Tail(int64_t j) const { return std::exp(sum.back() - sum[At(j)]); }
  [[nodiscard]] double Pair(int64_t i, int64_t j) const { return std::exp(sum[At(i)] - sum[At(j)]); }
};

// Convolved columns of a chunk before and after silu, [q, cd].
struct Columns {
  std::vector<double> before, xBC;
  explicit Columns(const Chunk& k) {
    for (int64_t j = 0; j < k.q; ++j)
      for (int64_t c = 0; c < k.cd; ++c) {
        before.push_back(k.Convolved(j, c));
        xBC.push_back(Silu(before.back()));
      }
  }
};

double Dot(const double* x, const double* y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace

// xBC, decay = exp(a_last), and sum_j exp(a_last - a_j) B_j (x) u_j where a chunk follows.
void MambaChunkStates(const MambaTrainArgs& a, int64_t chunk) {
  const Chunk k(a, chunk);
  const Columns columns(k);
  for (size_t i = 0; i < columns.xBC.size(); ++i) a.xBC[At(k.at.begin * k.cd) + i] = static_cast<float>(columns.xBC[i]);
  for (int64_t h = 0; h < a.H; ++h) {
    const Steps steps(k, h);
    a.decay[chunk * a.H + h] = static_cast<float>(steps.Lead(k.q - 1));
    for (int64_t n = 0; k.next && n < a.N; ++n)
      for (int64_t p = 0; p < a.P; ++p) {
        double sum = 0;
        for (int64_t j = 0; j < k.q; ++j) {
          const double* row = columns.xBC.data() + j * k.cd;
          sum += steps.Tail(j) * steps.dt[At(j)] * row[k.BColumn(h) + n] * row[h * a.P + p];
        }
        a.states[k.State(h, n, p)] = static_cast<float>(sum);
      }
  }
}

// H_{c+1} = decay_c H_c + states_c; H_c takes the place of states_c.
void MambaPassStates(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1) {
  for (int64_t h = 0; h < a.H; ++h)
    for (int64_t n = 0; n < a.N; ++n)
      for (int64_t p = 0; p < a.P; ++p) {
        if (const int64_t row = h / (a.H / a.G) * a.N + n; row < n0 || row >= n1) continue;
        double before = 0;
        for (int64_t c = c0; c < c1; ++c) {
          const Chunk k(a, c);
          float& state = a.states[k.State(h, n, p)];
          if (k.first) before = 0;
          const double after = k.next ? a.decay[c * a.H + h] * before + state : 0;
          state = static_cast<float>(before);
          before = after;
        }
      }
}

// y_i = exp(a_i) C_i H + sum_{j <= i} exp(a_i - a_j) (C_i B_j) u_j + D x_i, then the gated norm of 2.4.
void MambaChunkOutputs(const MambaTrainArgs& a, int64_t chunk) {
  const Chunk k(a, chunk);
  const std::vector<double> xBC(a.xBC + k.at.begin * k.cd, a.xBC + k.at.end * k.cd);
  for (int64_t h = 0; h < a.H; ++h) {
    const Steps steps(k, h);
    for (int64_t i = 0; i < k.q; ++i) {
      const double *row = xBC.data() + i * k.cd, *C = row + k.CColumn(h);
      std::vector<double> y(At(a.P));
      for (int64_t p = 0; p < a.P; ++p) {
        y[At(p)] = a.D[h] * row[h * a.P + p];
        for (int64_t n = 0; !k.first && n < a.N; ++n) y[At(p)] += steps.Lead(i) * C[n] * a.states[k.State(h, n, p)];
      }
      for (int64_t j = 0; j <= i; ++j) {
        const double* other = xBC.data() + j * k.cd;
        const double mix = steps.Pair(i, j) * Dot(C, other + k.BColumn(h), a.N) * steps.dt[At(j)];
        for (int64_t p = 0; p < a.P; ++p) y[At(p)] += mix * other[h * a.P + p];
      }
      for (int64_t p = 0; p < a.P; ++p) a.y[(k.at.begin + i) * k.di + h * a.P + p] = static_cast<float>(y[At(p)]);
    }
  }
  const int64_t width = k.di / a.norm_groups;
  for (int64_t t = k.at.begin; t < k.at.end; ++t)
    for (int64_t g = 0; g < k.di; g += width) {
      const auto gated = [&](int64_t i) { return a.y[t * k.di + i] * Silu(a.projected[t * k.W + i]); };
      double squares = 0;
      for (int64_t i = g; i < g + width; ++i) squares += gated(i) * gated(i);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + double{a.eps});
      for (int64_t i = g; i < g + width; ++i) a.out[t * k.di + i] = static_cast<float>(gated(i) * scale * a.norm[i]);
    }
}

namespace {

// The gated norm back: v = y silu(z), out = rstd v w; dv = rstd (g - v rstd^2 mean(g v)), g = dout w.
void BackwardGate(const Chunk& k, int64_t t, int64_t begin, int64_t width, float* sums) {
  const MambaTrainArgs& a = k.a;
  double squares = 0, products = 0;
  const auto y = [&](int64_t i) { return double{a.y[t * k.di + i]}; };
  const auto z = [&](int64_t i) { return double{a.projected[t * k.W + i]}; };
  const auto dout = [&](int64_t i) { return double{a.dout[t * k.di + i]}; };
  for (int64_t i = begin; i < begin + width; ++i) {
    const double v = y(i) * Silu(z(i));
    squares += v * v, products += dout(i) * a.norm[i] * v;
  }
  const auto n = static_cast<double>(width);
  const double rstd = 1 / std::sqrt(squares / n + double{a.eps}), pull = products * rstd * rstd / n;
  for (int64_t i = begin; i < begin + width; ++i) {
    const double v = y(i) * Silu(z(i)), dv = rstd * (dout(i) * a.norm[i] - v * pull);
    float* to = a.dprojected + t * k.W + i;
    to[0] = static_cast<float>(dv * y(i) * SiluSlope(z(i)));
    to[k.di] = static_cast<float>(dv * Silu(z(i)));
    sums[i] = static_cast<float>(sums[i] + dout(i) * rstd * v);
  }
}

}  // namespace

// dz, dy in the place of dx, the gradient of norm; dstates = sum_i exp(a_i) C_i (x) dy_i where a chunk lies before.
void MambaBackwardStates(const MambaTrainArgs& a, int64_t chunk, float* sums) {
  const Chunk k(a, chunk);
  const int64_t width = k.di / a.norm_groups;
  for (int64_t t = k.at.begin; t < k.at.end; ++t)
    for (int64_t g = 0; g < k.di; g += width) BackwardGate(k, t, g, width, sums);
  if (k.first) return;
  const Columns columns(k);
  for (int64_t h = 0; h < a.H; ++h) {
    const Steps steps(k, h);
    for (int64_t n = 0; n < a.N; ++n)
      for (int64_t p = 0; p < a.P; ++p) {
        double sum = 0;
        for (int64_t i = 0; i < k.q; ++i)
          sum += steps.Lead(i) * columns.xBC[At(i * k.cd + k.CColumn(h) + n)] *
                 a.dprojected[(k.at.begin + i) * k.W + k.di + h * a.P + p];
        a.dstates[k.State(h, n, p)] = static_cast<float>(sum);
      }
  }
}

// dH_c = dstates_c + decay_c dH_{c+1}; dH_{c+1} takes the place of dstates_c.
void MambaPassGradients(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1) {
  for (int64_t h = 0; h < a.H; ++h)
    for (int64_t n = 0; n < a.N; ++n)
      for (int64_t p = 0; p < a.P; ++p) {
        if (const int64_t row = h / (a.H / a.G) * a.N + n; row < n0 || row >= n1) continue;
        double after = 0;
        for (int64_t c = c1 - 1; c >= c0; --c) {
          const Chunk k(a, c);
          float& state = a.dstates[k.State(h, n, p)];
          if (!k.next) after = 0;
          const double before = k.first ? 0 : state + a.decay[c * a.H + h] * after;
          state = static_cast<float>(after);
          after = before;
        }
      }
}

namespace {

// Gradients of one head of a chunk: of u [q, P], B and C [q, N] (added to), and of a_j [q].
struct HeadGradients {
  std::vector<double> du, da;
};
HeadGradients BackwardHead(const Chunk& k, int64_t h, const Steps& steps, const Columns& columns, double* dxBC) {
  const MambaTrainArgs& a = k.a;
  HeadGradients g{std::vector<double>(At(k.q * a.P)), std::vector<double>(At(k.q))};
  const auto row = [&](int64_t j) { return columns.xBC.data() + j * k.cd; };
  const auto dy = [&](int64_t i, int64_t p) {
    return double{a.dprojected[(k.at.begin + i) * k.W + k.di + h * a.P + p]};
  };
  for (int64_t i = 0; i < k.q; ++i) {
    const double* C = row(i) + k.CColumn(h);
    double *dC = dxBC + i * k.cd + k.CColumn(h), *dB = dxBC + i * k.cd + k.BColumn(h);
    for (int64_t j = 0; j <= i; ++j) {  // y_i has exp(a_i - a_j) (C_i B_j) u_j
      const double decay = steps.Pair(i, j), CB = Dot(C, row(j) + k.BColumn(h), a.N);
      double dyu = 0;
      for (int64_t p = 0; p < a.P; ++p) {
        dyu += dy(i, p) * steps.dt[At(j)] * row(j)[h * a.P + p];
        g.du[At(j * a.P + p)] += decay * CB * dy(i, p);
      }
      for (int64_t n = 0; n < a.N; ++n) {
        dC[n] += decay * dyu * row(j)[k.BColumn(h) + n];
        dxBC[j * k.cd + k.BColumn(h) + n] += decay * dyu * C[n];
      }
      g.da[At(i)] += decay * CB * dyu, g.da[At(j)] -= decay * CB * dyu;
    }
    for (int64_t n = 0; !k.first && n < a.N; ++n)  // y_i has exp(a_i) C_i H
      for (int64_t p = 0; p < a.P; ++p) {
        const double pull = steps.Lead(i) * a.states[k.State(h, n, p)] * dy(i, p);
        dC[n] += pull, g.da[At(i)] += pull * C[n];
      }
    for (int64_t n = 0; k.next && n < a.N; ++n)  // S has exp(a_last - a_i) B_i (x) u_i
      for (int64_t p = 0; p < a.P; ++p) {
        const double want = steps.Tail(i) * a.dstates[k.State(h, n, p)], B = row(i)[k.BColumn(h) + n];
        const double u = steps.dt[At(i)] * row(i)[h * a.P + p];
        g.du[At(i * a.P + p)] += want * B, dB[n] += want * u;
        g.da[At(i)] -= want * B * u, g.da[At(k.q - 1)] += want * B * u;
      }
  }
  for (int64_t n = 0; k.next && !k.first && n < a.N; ++n)  // S has exp(a_last) H
    for (int64_t p = 0; p < a.P; ++p)
      g.da[At(k.q - 1)] +=
          double{a.decay[k.number * a.H + h]} * a.dstates[k.State(h, n, p)] * a.states[k.State(h, n, p)];
  return g;
}

}  // namespace

// Gradients of what goes into silu behind the convolution, and of raw dt, into dprojected; of D, A, dt_bias into sums.
void MambaBackwardInputs(const MambaTrainArgs& a, int64_t chunk, float* sums) {
  const Chunk k(a, chunk);
  const Columns columns(k);
  std::vector<double> dxBC(columns.xBC.size());
  for (int64_t h = 0; h < a.H; ++h) {
    const Steps steps(k, h);
    const HeadGradients g = BackwardHead(k, h, steps, columns, dxBC.data());
    double later = 0, dA = 0, dbias = 0, dD = 0;  // dt_m A is in a_i for all i >= m
    for (int64_t m = k.q - 1; m >= 0; --m) {
      float* row = a.dprojected + (k.at.begin + m) * k.W;
      later += g.da[At(m)];
      dA += steps.dt[At(m)] * later;
      double ddt = a.A[h] * later;
      for (int64_t p = 0; p < a.P; ++p) {
        const double x = columns.xBC[At(m * k.cd + h * a.P + p)], dy = row[k.di + h * a.P + p];
        ddt += x * g.du[At(m * a.P + p)];
        dD += x * dy;
        dxBC[At(m * k.cd + h * a.P + p)] = steps.dt[At(m)] * g.du[At(m * a.P + p)] + a.D[h] * dy;
      }
      const double draw = ddt * k.DtSlope(m, h);
      row[k.di + k.cd + h] = static_cast<float>(draw);
      dbias += draw;
    }
    float* sum = sums + k.di + h;
    sum[0] = static_cast<float>(sum[0] + dD), sum[a.H] = static_cast<float>(sum[a.H] + dA);
    sum[2 * a.H] = static_cast<float>(sum[2 * a.H] + dbias);
  }
  for (int64_t j = 0; j < k.q; ++j)
    for (int64_t c = 0; c < k.cd; ++c) {
      const size_t at = At(j * k.cd + c);
      a.dprojected[(k.at.begin + j) * k.W + k.di + c] = static_cast<float>(dxBC[at] * SiluSlope(columns.before[at]));
    }
}

// The convolution back, document by document, for the channels d0 .. d1 - 1: dx_t = sum_j w[K-1-j] g_{t+j},
// dw[K-1-j] = sum_t g_t x_{t-j}, in place of g.
void MambaBackwardConv(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t d0, int64_t d1, float* dtaps) {
  const int64_t di = a.H * a.P, cd = di + 2 * a.G * a.N, W = di + cd + a.H;
  for (int64_t c = c0, end; c < c1; c = end) {
    end = c + 1;
    while (end < c1 && a.chunks[end].document == a.chunks[c].document) ++end;
    const int64_t T = a.chunks[end - 1].end - a.chunks[c].begin, at = a.chunks[c].begin * W + di;
    for (int64_t d = d0; d < d1; ++d) {
      std::vector<double> g, taps(At(a.K + 1));
      for (int64_t t = 0; t < T; ++t) g.push_back(a.dprojected[at + t * W + d]);
      for (int64_t t = 0; t < T; ++t) {
        double dx = 0;
        for (int64_t j = 0; j < a.K; ++j) {
          if (t + j < T) dx += double{a.taps[(a.K - 1 - j) * cd + d]} * g[At(t + j)];
          if (t >= j) taps[At(a.K - 1 - j)] += g[At(t)] * a.projected[at + (t - j) * W + d];
        }
        taps[At(a.K)] += g[At(t)];
        a.dprojected[at + t * W + d] = static_cast<float>(dx);
      }
      for (int64_t i = 0; i <= a.K; ++i) dtaps[i * cd + d] = static_cast<float>(dtaps[i * cd + d] + taps[At(i)]);
    }
  }
}

}  // namespace hydra::kernels::ref
