// SPDX-License-Identifier: Apache-2.0
// Forward and backward of the own autograd functions on the CPU. Which form runs: form.h.
// Gradients are written (=); torch adds. Dims as in functions.h.
#include "hydra/nn/functions.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/nn/form.h"

namespace hydra::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ---- LinearScan ----

struct ScanDims {
  int64_t B, L, X, Y, Z, I;
};

// One (b, x, y) lane of Z * I numbers: steps are `stride` apart in b and out.
template <class T>
void ScanLane(const ScanDims& d, const T* a, const T* b, T* out, int64_t stride) {
  const int64_t width = d.Z * d.I, a_stride = d.X * d.Z;
  for (int64_t t = 0; t < d.L; ++t) {
    const T *at = a + t * a_stride, *bt = b + t * stride, *prev = out + t * stride;
    T* next = out + (t + 1) * stride;
    if (d.I == 1) {
      for (int64_t z = 0; z < width; ++z) next[z] = at[z] * prev[z] + bt[z];
      continue;
    }
    for (int64_t z = 0; z < d.Z; ++z) {
      const T az = at[z];
      for (int64_t i = z * d.I; i < (z + 1) * d.I; ++i) next[i] = az * prev[i] + bt[i];
    }
  }
}

// carry holds d(out_{t+1}) while t descends; da is this lane's own [L, Z].
template <class T>
void ScanLaneBackward(const ScanDims& d, const T* a, const T* out, const T* dout, T* da, T* db, int64_t stride) {
  const int64_t width = d.Z * d.I, a_stride = d.X * d.Z;
  std::vector<T> carry(dout + d.L * stride, dout + d.L * stride + width);
  for (int64_t t = d.L - 1; t >= 0; --t) {
    const T *at = a + t * a_stride, *prev = out + t * stride, *dprev = dout + t * stride;
    T *dbt = db + t * stride, *dat = da + t * d.Z;
    for (int64_t z = 0; z < d.Z; ++z) {
      const T az = at[z];
      T sum = 0;
      for (int64_t i = z * d.I; i < (z + 1) * d.I; ++i) {
        dbt[i] = carry[static_cast<size_t>(i)];
        sum += carry[static_cast<size_t>(i)] * prev[i];
        carry[static_cast<size_t>(i)] = dprev[i] + az * carry[static_cast<size_t>(i)];
      }
      dat[z] = sum;
    }
  }
}

ScanDims DimsOf(const Tensor& b) { return {b.size(0), b.size(1), b.size(2), b.size(3), b.size(4), b.size(5)}; }

struct LinearScanFn : torch::autograd::Function<LinearScanFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a_in, const Tensor& b_in) {
    const Tensor a = a_in.contiguous(), b = b_in.contiguous();
    const ScanDims d = DimsOf(b);
    Tensor out = torch::empty({d.B, d.L + 1, d.X, d.Y, d.Z, d.I}, b.options());
    out.select(1, 0).zero_();
    const int64_t width = d.Z * d.I, stride = d.X * d.Y * width;
    AT_DISPATCH_FLOATING_TYPES(b.scalar_type(), "LinearScan", [&] {
      const auto *pa = a.const_data_ptr<scalar_t>(), *pb = b.const_data_ptr<scalar_t>();
      auto* po = out.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, d.B * d.X * d.Y, 1, [&](int64_t begin, int64_t end) {
        for (int64_t lane = begin; lane < end; ++lane) {
          const int64_t n = lane / (d.X * d.Y), xy = lane % (d.X * d.Y), x = xy / d.Y;
          ScanLane(d, pa + (n * d.L * d.X + x) * d.Z, pb + n * d.L * stride + xy * width,
                   po + n * (d.L + 1) * stride + xy * width, stride);
        }
      });
    });
    ctx->save_for_backward({a, out});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &a = saved[0], &out = saved[1], dout = grads[0].contiguous();
    const ScanDims d{out.size(0), out.size(1) - 1, out.size(2), out.size(3), out.size(4), out.size(5)};
    Tensor db = torch::empty({d.B, d.L, d.X, d.Y, d.Z, d.I}, out.options());
    Tensor da = torch::empty({d.B, d.X, d.Y, d.L, d.Z}, out.options());  // a lane each, summed over Y below
    const int64_t width = d.Z * d.I, stride = d.X * d.Y * width;
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "LinearScanBackward", [&] {
      const auto *pa = a.const_data_ptr<scalar_t>(), *po = out.const_data_ptr<scalar_t>();
      const auto* pd = dout.const_data_ptr<scalar_t>();
      auto *pda = da.mutable_data_ptr<scalar_t>(), *pdb = db.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, d.B * d.X * d.Y, 1, [&](int64_t begin, int64_t end) {
        for (int64_t lane = begin; lane < end; ++lane) {
          const int64_t n = lane / (d.X * d.Y), xy = lane % (d.X * d.Y), x = xy / d.Y;
          const int64_t at_out = n * (d.L + 1) * stride + xy * width;
          ScanLaneBackward(d, pa + (n * d.L * d.X + x) * d.Z, po + at_out, pd + at_out, pda + lane * d.L * d.Z,
                           pdb + n * d.L * stride + xy * width, stride);
        }
      });
    });
    return {da.sum(2).transpose(1, 2).contiguous(), db};
  }
};

// ---- CausalConvSilu ----

// Visits blocks of rows in parallel: f(row, t_begin, t_end).
template <class F>
void ForTimeBlocks(int64_t B, int64_t T, const F& f) {
  constexpr int64_t kBlock = 128;
  const int64_t per_row = (T + kBlock - 1) / kBlock;
  at::parallel_for(0, B * per_row, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t0 = (i % per_row) * kBlock;
      f(i / per_row, t0, std::min(t0 + kBlock, T));
    }
  });
}

struct ConvDims {
  int64_t B, T, C, K, x_row, x_step;  // strides of x in numbers
};

// pre[c] = bias[c] + sum_j wt[K-1-j][c] x[t-j][c]; wt is [K, C].
template <class T>
void ConvPre(const ConvDims& d, const T* x, const T* wt, const T* bias, int64_t t, int64_t start, T* pre) {
  if (bias != nullptr)
    std::copy(bias, bias + d.C, pre);
  else
    std::fill(pre, pre + d.C, T(0));
  for (int64_t j = 0; j < d.K && t - j >= start; ++j) {
    const T *w = wt + (d.K - 1 - j) * d.C, *xt = x + (t - j) * d.x_step;
    for (int64_t c = 0; c < d.C; ++c) pre[c] += w[c] * xt[c];
  }
}

struct CausalConvSiluFn : torch::autograd::Function<CausalConvSiluFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& w, const std::optional<Tensor>& bias_in,
                        const Tensor& start) {
    const Tensor bias = bias_in.value_or(Tensor());
    const Tensor x = x_in.stride(2) == 1 ? x_in : x_in.contiguous();
    const Tensor wt = w.t().contiguous();
    const ConvDims d{x.size(0), x.size(1), x.size(2), w.size(1), x.stride(0), x.stride(1)};
    Tensor y = torch::empty({d.B, d.T, d.C}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "CausalConvSilu", [&] {
      const auto *px = x.const_data_ptr<scalar_t>(), *pw = wt.const_data_ptr<scalar_t>();
      const scalar_t* pb = bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr;
      const int64_t* ps = start.const_data_ptr<int64_t>();
      auto* py = y.mutable_data_ptr<scalar_t>();
      ForTimeBlocks(d.B, d.T, [&](int64_t b, int64_t t0, int64_t t1) {
        for (int64_t t = t0; t < t1; ++t) {
          scalar_t* out = py + (b * d.T + t) * d.C;
          ConvPre(d, px + b * d.x_row, pw, pb, t, ps[b * d.T + t], out);
        }
      });
    });
    ctx->save_for_backward({x, wt, bias, start});
    return torch::silu_(y);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &wt = saved[1], &bias = saved[2], &start = saved[3], dy = grads[0].contiguous();
    const ConvDims d{x.size(0), x.size(1), x.size(2), wt.size(0), x.stride(0), x.stride(1)};
    Tensor pre = torch::empty({d.B, d.T, d.C}, x.options());
    Tensor dx = torch::zeros_like(pre);
    const int64_t n_blocks = d.B * ((d.T + 127) / 128);
    Tensor dw = torch::zeros({n_blocks, d.K + 1, d.C}, x.options());  // last row: bias; summed in order of blocks
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "CausalConvSiluBackward", [&] {
      const auto *px = x.const_data_ptr<scalar_t>(), *pw = wt.const_data_ptr<scalar_t>();
      const scalar_t* pb = bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr;
      const int64_t* ps = start.const_data_ptr<int64_t>();
      const auto* pdy = dy.const_data_ptr<scalar_t>();
      auto *pp = pre.mutable_data_ptr<scalar_t>(), *pdx = dx.mutable_data_ptr<scalar_t>();
      auto* pdw = dw.mutable_data_ptr<scalar_t>();
      ForTimeBlocks(d.B, d.T, [&](int64_t b, int64_t t0, int64_t t1) {
        for (int64_t t = t0; t < t1; ++t) {  // pre becomes d(pre)
          scalar_t* p = pp + (b * d.T + t) * d.C;
          const scalar_t* g = pdy + (b * d.T + t) * d.C;
          ConvPre(d, px + b * d.x_row, pw, pb, t, ps[b * d.T + t], p);
          for (int64_t c = 0; c < d.C; ++c) {
            const scalar_t s = 1 / (1 + std::exp(-p[c]));
            p[c] = g[c] * s * (1 + p[c] * (1 - s));
          }
        }
      });
      ForTimeBlocks(d.B, d.T, [&](int64_t b, int64_t t0, int64_t t1) {
        scalar_t* block_dw = pdw + (b * ((d.T + 127) / 128) + t0 / 128) * (d.K + 1) * d.C;
        for (int64_t t = t0; t < t1; ++t) {
          const scalar_t* own = pp + (b * d.T + t) * d.C;
          scalar_t *out = pdx + (b * d.T + t) * d.C, *bias_sum = block_dw + d.K * d.C;
          for (int64_t c = 0; c < d.C; ++c) bias_sum[c] += own[c];
          for (int64_t j = 0; j < d.K; ++j) {
            const scalar_t* w = pw + (d.K - 1 - j) * d.C;
            if (t + j < d.T && ps[b * d.T + t + j] <= t) {  // x_t is tap j of token t + j
              const scalar_t* g = own + j * d.C;
              for (int64_t c = 0; c < d.C; ++c) out[c] += w[c] * g[c];
            }
            if (t - j >= ps[b * d.T + t]) {
              const scalar_t* xt = px + b * d.x_row + (t - j) * d.x_step;
              scalar_t* sum = block_dw + (d.K - 1 - j) * d.C;
              for (int64_t c = 0; c < d.C; ++c) sum[c] += own[c] * xt[c];
            }
          }
        }
      });
    });
    const Tensor sums = dw.sum(0);
    return {dx, sums.narrow(0, 0, d.K).t().contiguous(), bias.defined() ? sums[d.K] : Tensor(), Tensor()};
  }
};

// ---- RmsNorm ----

// sum f(i) in 16 partial sums, which the compiler keeps in vector registers; the order is fixed by n.
template <class T, class F>
T SumOf(int64_t n, const F& f) {
  constexpr int64_t kLanes = 16;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += f(i + l);
  T sum = 0;
  for (; i < n; ++i) sum += f(i);
  for (const T lane : lanes) sum += lane;
  return sum;
}
template <class T>
T SumSquares(const T* x, int64_t n) {
  return SumOf<T>(n, [&](int64_t i) { return x[i] * x[i]; });
}
template <class T>
T SumProducts(const T* a, const T* b, const T* c, int64_t n) {
  return SumOf<T>(n, [&](int64_t i) { return a[i] * b[i] * c[i]; });
}

struct RmsNormFn : torch::autograd::Function<RmsNormFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& w_in, double eps) {
    const Tensor x = x_in.contiguous(), w = w_in.contiguous();
    const int64_t n = x.size(-1), rows = x.numel() / n, w_rows = w.numel() / n;
    Tensor y = torch::empty_like(x), rstd = torch::empty({rows}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "RmsNorm", [&] {
      const auto *px = x.const_data_ptr<scalar_t>(), *pw = w.const_data_ptr<scalar_t>();
      auto *py = y.mutable_data_ptr<scalar_t>(), *pr = rstd.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const scalar_t *row = px + r * n, *weight = pw + (r % w_rows) * n;
          const scalar_t inv = pr[r] = 1 / std::sqrt(SumSquares(row, n) / scalar_t(n) + scalar_t(eps));
          for (int64_t i = 0; i < n; ++i) py[r * n + i] = row[i] * inv * weight[i];
        }
      });
    });
    ctx->save_for_backward({x, w, rstd});
    return y;
  }

  // dx = rstd (g - x rstd^2 mean(g x)), g = dy w;  dw = sum over rows of dy x rstd.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &rstd = saved[2], dy = grads[0].contiguous();
    const int64_t n = x.size(-1), rows = x.numel() / n, w_rows = w.numel() / n;
    const int64_t block =
        std::max<int64_t>(64, (rows / w_rows + 31) / 32) * w_rows;  // fixed: same sums for any threads
    const int64_t n_blocks = (rows + block - 1) / block;
    Tensor dx = torch::empty_like(x), dw = torch::zeros({n_blocks, w_rows, n}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "RmsNormBackward", [&] {
      const auto *px = x.const_data_ptr<scalar_t>(), *pw = w.const_data_ptr<scalar_t>();
      const auto *pr = rstd.const_data_ptr<scalar_t>(), *pdy = dy.const_data_ptr<scalar_t>();
      auto *pdx = dx.mutable_data_ptr<scalar_t>(), *pdw = dw.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, n_blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin * block; r < std::min(end * block, rows); ++r) {
          const scalar_t *row = px + r * n, *g = pdy + r * n, *weight = pw + (r % w_rows) * n, inv = pr[r];
          scalar_t* sums = pdw + ((r / block) * w_rows + r % w_rows) * n;
          for (int64_t i = 0; i < n; ++i) sums[i] += g[i] * row[i] * inv;
          const scalar_t pull = SumProducts(g, weight, row, n) * inv * inv / scalar_t(n);
          for (int64_t i = 0; i < n; ++i) pdx[r * n + i] = inv * (g[i] * weight[i] - row[i] * pull);
        }
      });
    });
    return {dx, dw.sum(0).view_as(w), Tensor()};
  }
};

// ---- rows ----

struct GatherRowsFn : torch::autograd::Function<GatherRowsFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& index) {
    ctx->save_for_backward({index});
    ctx->saved_data["rows"] = x.size(0);
    return x.index_select(0, index);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Tensor index = ctx->get_saved_variables()[0];
    Tensor dx = torch::zeros({ctx->saved_data["rows"].toInt(), grads[0].size(1)}, grads[0].options());
    AddRowsInto(grads[0], index, dx);
    return {dx, Tensor()};
  }
};

struct ScatterAddRowsFn : torch::autograd::Function<ScatterAddRowsFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& index, int64_t n_rows) {
    ctx->save_for_backward({index});
    Tensor y = torch::zeros({n_rows, x.size(1)}, x.options());
    AddRowsInto(x, index, y);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {grads[0].index_select(0, ctx->get_saved_variables()[0]), Tensor(), Tensor()};
  }
};

// Keeps the k best of one row sorted; k is small beside n.
template <class T>
void TopKRow(const T* scores, int64_t n, int64_t k, int64_t* best) {
  const auto better = [&](int64_t i, int64_t j) {  // does i come before j?
    if (std::isnan(scores[j])) return !std::isnan(scores[i]);
    return scores[i] > scores[j];  // equal: the lower index was there first and stays
  };
  int64_t held = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (held == k && !better(i, best[k - 1])) continue;
    int64_t at = held < k ? held++ : k - 1;
    for (; at > 0 && better(i, best[at - 1]); --at) best[at] = best[at - 1];
    best[at] = i;
  }
}

}  // namespace

Tensor LinearScan(const Tensor& a, const Tensor& b) {
  HYDRA_CHECK(
      a.dim() == 4 && b.dim() == 6 && a.size(1) == b.size(1) && a.size(2) == b.size(2) && a.size(3) == b.size(4), "a ",
      a.sizes(), " b ", b.sizes());
  return ChooseForm(Op::kLinearScan, {a, b}) == Form::kFused ? LinearScanFn::apply(a, b) : composite::LinearScan(a, b);
}

Tensor CausalConvSilu(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& start) {
  HYDRA_CHECK(x.dim() == 3 && w.dim() == 2 && w.size(0) == x.size(2) && start.size(1) == x.size(1), "x ", x.sizes());
  if (ChooseForm(Op::kCausalConvSilu, {x, w, bias}) != Form::kFused)
    return composite::CausalConvSilu(x, w, bias, start);
  const auto maybe_bias =
      bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;  // apply takes no undefined tensor
  return CausalConvSiluFn::apply(x, w, maybe_bias, start.contiguous());
}

Tensor RmsNorm(const Tensor& x, const Tensor& w, double eps) {
  HYDRA_CHECK(w.size(-1) == x.size(-1) && (w.dim() == 1 || w.size(-2) == x.size(-2)), "x ", x.sizes(), " w ",
              w.sizes());
  return ChooseForm(Op::kRmsNorm, {x, w}) == Form::kFused ? RmsNormFn::apply(x, w, eps) : composite::RmsNorm(x, w, eps);
}

Tensor GatherRows(const Tensor& x, const Tensor& index) {
  return ChooseForm(Op::kGatherRows, {x}) == Form::kFused ? GatherRowsFn::apply(x, index)
                                                          : composite::GatherRows(x, index);
}

Tensor ScatterAddRows(const Tensor& x, const Tensor& index, int64_t n_rows) {
  return ChooseForm(Op::kScatterAddRows, {x}) == Form::kFused ? ScatterAddRowsFn::apply(x, index, n_rows)
                                                              : composite::ScatterAddRows(x, index, n_rows);
}

void AddRowsInto(const Tensor& src_in, const Tensor& index, const Tensor& dst) {
  if (ChooseForm(Op::kAddRowsInto, {dst, src_in}) != Form::kFused) {
    dst.index_add_(0, index, src_in);
    return;
  }
  const Tensor src = src_in.contiguous();
  const int64_t m = src.size(0), width = src.size(1);
  AT_DISPATCH_FLOATING_TYPES(dst.scalar_type(), "AddRowsInto", [&] {
    const auto* ps = src.const_data_ptr<scalar_t>();
    const int64_t* pi = index.const_data_ptr<int64_t>();
    auto* pd = dst.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, width, 64, [&](int64_t begin, int64_t end) {  // threads own columns, so order is kept
      for (int64_t i = 0; i < m; ++i) {
        scalar_t* out = pd + pi[i] * width;
        const scalar_t* in = ps + i * width;
        for (int64_t c = begin; c < end; ++c) out[c] += in[c];
      }
    });
  });
}

Tensor TopK(const Tensor& scores_in, int64_t k) {
  HYDRA_CHECK(k >= 1 && k <= scores_in.size(-1), "k = ", k, " of ", scores_in.sizes());
  if (ChooseForm(Op::kTopK, {scores_in}) != Form::kFused) return composite::TopK(scores_in, k);
  const Tensor scores = scores_in.detach().contiguous();
  const int64_t n = scores.size(-1), rows = scores.numel() / n;
  auto shape = scores.sizes().vec();
  shape.back() = k;
  Tensor best = torch::empty(shape, torch::kInt64);
  AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "TopK", [&] {
    const auto* ps = scores.const_data_ptr<scalar_t>();
    int64_t* pb = best.mutable_data_ptr<int64_t>();
    at::parallel_for(0, rows, 32, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) TopKRow(ps + r * n, n, k, pb + r * k);
    });
  });
  return best;
}

}  // namespace hydra::nn
