// SPDX-License-Identifier: Apache-2.0
// Influence of keys: the kernel over threads, and its twin of torch operators. Dims as in influence.h; Akv key heads,
// R rows of a strip, n keys that a strip may see, G pool places.
#include "hydra/nn/influence.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/kernels/influence.h"
#include "hydra/nn/form.h"

namespace hydra::nn {

using torch::Tensor;

namespace {

constexpr int64_t kTilesOfACall = 16;       // queries in tiles: a call turns all keys before them into columns once
constexpr int64_t kStripNumbers = 1 << 22;  // of one strip of the twin
constexpr double kFloorOfRest = 1e-6, kLeastSeen = 1e-30;

void CheckSeen(const AttentionSeen& seen, const Tensor& d_out, const InfluenceOptions& o, const InfluenceStats& stats) {
  HYDRA_CHECK(seen.q.dim() == 4 && seen.q.size(0) == 1 && d_out.sizes() == seen.q.sizes(), "q ", seen.q.sizes(), " dO ",
              d_out.sizes());
  HYDRA_CHECK(seen.q.size(2) % seen.k.size(2) == 0, "k ", seen.k.sizes());
  const int64_t nb = (seen.q.size(1) + o.block - 1) / o.block;
  HYDRA_CHECK(stats.f.size(0) == seen.q.size(2) && stats.f.size(1) == nb, "statistics ", stats.f.sizes());
}

}  // namespace

InfluenceStats InfluenceStats::Zeros(int64_t heads, int64_t tokens, int64_t block) {
  const auto zeros = [&] { return torch::zeros({heads, (tokens + block - 1) / block}, torch::kFloat64); };
  InfluenceStats stats;
  stats.f = zeros(), stats.jabs = zeros(), stats.jsgn = zeros();
  return stats;
}

void AttentionInfluence(const AttentionSeen& seen, const Tensor& d_out_in, const InfluenceOptions& o,
                        InfluenceStats* stats) {
  if (ChooseForm(Op::kAttentionInfluence, {seen.q, seen.k, seen.v, d_out_in, seen.log_sigma, seen.lambda}) !=
      Form::kFused)
    return composite::AttentionInfluence(seen, d_out_in, o, stats);
  CheckSeen(seen, d_out_in, o, *stats);
  const Tensor q = seen.q.detach().contiguous(), k = seen.k.detach().contiguous(), v = seen.v.detach().contiguous(),
               d_out = d_out_in.detach().contiguous();
  const auto given = [](const Tensor& x) { return x.defined() ? x.detach().contiguous() : Tensor(); };
  const Tensor pools = given(seen.pools), log_sigma = given(seen.log_sigma), lambda = given(seen.lambda);
  kernels::AttentionInfluenceArgs a{};
  a.T = q.size(1), a.A = q.size(2), a.Akv = k.size(2), a.Dh = q.size(3);
  a.b = o.block, a.n_sinks = o.n_sinks, a.W = seen.window > 0 ? std::min(seen.window, a.T) : 0;
  a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(a.Dh)));
  a.q = q.const_data_ptr<float>(), a.k = k.const_data_ptr<float>(), a.v = v.const_data_ptr<float>();
  a.d_out = d_out.const_data_ptr<float>();
  if (pools.defined()) {
    a.C = o.chunk_len, a.G = pools.size(2);
    a.pools = pools.const_data_ptr<int64_t>();
    a.log_sigma = log_sigma.const_data_ptr<float>(), a.lambda = lambda.const_data_ptr<float>();
  }
  // A call has sums of its own, added up in order: the result does not depend on the number of threads.
  const int64_t nb = stats->f.size(1), groups = (nb + kTilesOfACall - 1) / kTilesOfACall, calls = a.A * groups;
  std::vector<double> sums(static_cast<size_t>(calls * 3 * nb));
  std::vector<int64_t> guarded(static_cast<size_t>(calls));
  at::parallel_for(0, calls, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> floats(new float[static_cast<size_t>(kernels::InfluenceScratchFloats(a))]);
    const std::unique_ptr<double[]> doubles(new double[static_cast<size_t>(kernels::InfluenceScratchDoubles(a))]);
    for (int64_t i = begin; i < end; ++i) {
      kernels::AttentionInfluenceArgs of_call = a;
      of_call.f = sums.data() + i * 3 * nb, of_call.jabs = of_call.f + nb, of_call.jsgn = of_call.jabs + nb;
      of_call.guarded = guarded.data() + i;
      const int64_t t0 = i % groups * kTilesOfACall;
      kernels::AttentionInfluence(of_call, i / groups, t0, t0 + kTilesOfACall, {floats.get(), doubles.get()});
    }
  });
  for (int64_t i = 0; i < calls; ++i) {
    const double* from = sums.data() + i * 3 * nb;
    for (const Tensor& sum : {stats->f, stats->jabs, stats->jsgn}) {
      double* to = sum.mutable_data_ptr<double>() + i / groups * nb;
      for (int64_t m = 0; m < nb; ++m) to[m] += from[m];
      from += nb;
    }
    stats->guarded += guarded[static_cast<size_t>(i)];
  }
}

namespace {

// Probabilities and gradients of the rows r0 .. r1 - 1, [A, R, n] fp64 each, and the bin of each entry [R, n]: -1 where
// it always stays, and where it is not seen, whose probability is 0.
struct Strip {
  Tensor A, G;  // [A, R, n]
  Tensor bin;   // [R, n] int64
};

Strip MakeStrip(const AttentionSeen& seen, const Tensor& d_out, const InfluenceOptions& o, int64_t r0, int64_t r1) {
  const int64_t heads = seen.q.size(2), kv_heads = seen.k.size(2), R = r1 - r0;
  const int64_t first = seen.window > 0 ? std::max<int64_t>(0, r0 - seen.window + 1) : 0;
  const double scale = 1 / std::sqrt(static_cast<double>(seen.q.size(3)));
  const auto all_heads = [&](const Tensor& x, int64_t dim) {  // of a key head's rows, a copy for each of its queries'
    return x.repeat_interleave(heads / kv_heads, dim);
  };
  const auto rows = [&](const Tensor& x) { return x.detach()[0].narrow(0, r0, R).transpose(0, 1); };  // [A, R, Dh]
  const auto keys = [&](const Tensor& x) {                                                            // [A, Dh, n]
    return all_heads(x.detach()[0].narrow(0, first, r1 - first), 1).permute({1, 2, 0});
  };
  Tensor scores = torch::matmul(rows(seen.q), keys(seen.k)) * scale, G = torch::matmul(rows(d_out), keys(seen.v));
  const auto ids = torch::TensorOptions().dtype(torch::kInt64).device(seen.q.device());
  const Tensor i = torch::arange(r0, r1, ids).unsqueeze(1), j = torch::arange(first, r1, ids).unsqueeze(0);
  Tensor visible = j <= i;
  if (seen.window > 0) visible = visible & (i - j < seen.window);
  Tensor bin = torch::where(visible & (j >= o.n_sinks), (i - j).div(o.block, "floor"), -1);
  if (seen.pools.defined()) {
    const Tensor pool = seen.pools[0].index_select(0, i.squeeze(1).div(o.chunk_len, "floor"));  // [R, G]
    const Tensor place = pool.clamp_min(0);
    const auto of_pool = [&](const Tensor& x) {  // [A, R, G, Dh]
      return all_heads(x.detach()[0].index_select(0, place.reshape({-1})).view({R, -1, kv_heads, x.size(3)}), 2)
          .permute({2, 0, 1, 3});
    };
    const auto times = [&](const Tensor& x, const Tensor& of) {  // [A, R, Dh] with [A, R, G, Dh]
      return torch::matmul(of, rows(x).unsqueeze(3)).squeeze(3);
    };
    const Tensor bias = seen.lambda.detach().view({-1, 1, 1}) * seen.log_sigma.detach()[0].index({place}).unsqueeze(0);
    scores = torch::cat({times(seen.q, of_pool(seen.k)) * scale + bias, scores}, 2);
    G = torch::cat({times(d_out, of_pool(seen.v)), G}, 2);
    visible = torch::cat({(pool >= 0) & (pool <= i - seen.window), visible}, 1);
    bin = torch::cat({torch::full_like(pool, -1), bin}, 1);
  }
  scores = scores.to(torch::kFloat64).masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity());
  return {torch::softmax(scores, -1), G.to(torch::kFloat64), bin};
}

// Sums of x [A, R, n] over the entries of each bin: [A, R, nb].
Tensor ByBin(const Tensor& x, const Tensor& bin, int64_t nb) {
  const Tensor has = bin >= 0;
  return torch::zeros({x.size(0), x.size(1), nb}, x.options())
      .scatter_add_(2, bin.clamp_min(0).unsqueeze(0).expand_as(x), x * has);
}

}  // namespace

void composite::AttentionInfluence(const AttentionSeen& seen, const Tensor& d_out, const InfluenceOptions& o,
                                   InfluenceStats* stats) {
  CheckSeen(seen, d_out, o, *stats);
  torch::NoGradGuard no_grad;
  const int64_t T = seen.q.size(1), heads = seen.q.size(2), nb = stats->f.size(1);
  const int64_t pool = seen.pools.defined() ? seen.pools.size(2) * seen.q.size(3) : 0;
  const int64_t R = std::clamp<int64_t>(kStripNumbers / (heads * (T + pool)), 1, 256);
  const auto to = [](const Tensor& sum, const Tensor& x) { sum.add_(x.to(torch::kCPU)); };
  for (int64_t r0 = 0; r0 < T; r0 += R) {
    const Strip s = MakeStrip(seen, d_out, o, r0, std::min(T, r0 + R));
    const Tensor AG = s.A * s.G, D = AG.sum(-1, /*keepdim=*/true);
    const Tensor E = s.A / (1 - s.A).clamp_min(kFloorOfRest) * (D - s.G);
    to(stats->f, ByBin(E.abs(), s.bin, nb).sum(1));
    const Tensor za = ByBin(s.A, s.bin, nb), zc = ByBin(AG, s.bin, nb);
    const auto suffix = [](const Tensor& z) { return z.flip(2).cumsum(2).flip(2); };
    const Tensor stays = (s.bin < 0).unsqueeze(0);
    const Tensor sa = (s.A * stays).sum(-1), sc = (AG * stays).sum(-1);  // [A, R]
    const Tensor ma = suffix(za), mc = suffix(zc), pa = za.cumsum(2), pc = zc.cumsum(2), mean = D.squeeze(-1);
    Tensor wider = torch::zeros_like(mean);
    for (int64_t m = nb - 1; m >= 1; --m) {
      const Tensor a = ma.select(2, m), va = sa + pa.select(2, m - 1), vc = sc + pc.select(2, m - 1);
      const Tensor small = a <= 0.5, guard = small.logical_not() & (va < kLeastSeen);
      const Tensor masked = (a * mean - mc.select(2, m)) / torch::where(small, 1 - a, 1.0);
      const Tensor J = torch::where(small, masked, torch::where(guard, wider, vc / va.clamp_min(kLeastSeen) - mean));
      stats->guarded += guard.sum().item<int64_t>();
      to(stats->jabs.select(1, m), J.abs().sum(1));
      to(stats->jsgn.select(1, m), J.sum(1));
      wider = J;
    }
  }
}

}  // namespace hydra::nn
