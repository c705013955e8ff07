// SPDX-License-Identifier: Apache-2.0
// Which landmarks a chunk sees; window + landmark attention in torch operators as an own autograd function, the slow
// twin of fused_attention.cc, which serves other devices than the CPU and fp64: keys of each chunk are gathered (its
// band, then its pool) for a tile of chunks at a time, and again in the backward pass, so no T x T tensor ever stands
// in memory. Dims as in attention.h; m chunks in a tile, Kb band keys and G pool keys a chunk, R = A / Akv query heads
// a key head.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/nn/attention.h"
#include "hydra/nn/functions.h"

namespace hydra::nn {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

struct TileDims {
  int64_t B, T, C, n, A, Akv, Dh, W, Kb, G;
  [[nodiscard]] int64_t R() const { return A / Akv; }
  [[nodiscard]] int64_t keys() const { return Kb + G; }
};

// What one tile of chunks attends to.
struct Tile {
  int64_t begin, m;  // chunks, counted over all rows
  Tensor keys;       // [m * (Kb + G)] rows of k and v
  Tensor hidden;     // [m, 1, 1, C, Kb + G] bool: not visible
};

constexpr int64_t kTileNumbers = 1 << 21;  // scores held at once

// A sixteenth of the batch at most, so that short inputs do not pay for buffers of long ones.
int64_t ChunksPerTile(const TileDims& d) {
  const int64_t at_once = kTileNumbers / (d.A * d.C * d.keys());
  return std::max<int64_t>(1, std::min(at_once, (d.B * d.n + 15) / 16));
}

// Band keys are the rows from (start of chunk) - (Kb - C) to its end; pool keys come from `pools`.
Tile MakeTile(const TileDims& d, const Layout& layout, const Tensor& pools, int64_t begin, int64_t m) {
  Tile tile{begin, m, {}, {}};
  const auto options = layout.pos.options();
  const Tensor chunk = torch::arange(begin, begin + m, options);
  const Tensor row = chunk.div(d.n, "floor"), first = chunk.remainder(d.n) * d.C;      // [m]
  const Tensor band_t = first.unsqueeze(1) + torch::arange(d.C - d.Kb, d.C, options);  // [m, Kb]
  const Tensor band = (row * d.T).unsqueeze(1) + band_t.clamp_min(0);
  const Tensor seq = layout.scan_seq.view({-1}), pos = layout.pos.view({-1});
  const Tensor own = ((row * d.T) + first).unsqueeze(1) + torch::arange(d.C, options);  // [m, C]
  const Tensor t = first.unsqueeze(1) + torch::arange(d.C, options);                    // [m, C]
  const Tensor age = t.unsqueeze(2) - band_t.unsqueeze(1);                              // [m, C, Kb]
  const Tensor same = seq.index({own}).unsqueeze(2) == seq.index({band}).unsqueeze(1);
  Tensor visible = same & (age >= 0) & (age < d.W) & (band_t >= 0).unsqueeze(1);
  Tensor keys = band;
  if (d.G > 0) {
    const Tensor pool = pools.view({-1, d.G}).narrow(0, begin, m);  // [m, G]
    const Tensor place = pool.clamp_min(0);
    const Tensor far = pos.index({place}).unsqueeze(1) <= pos.index({own}).unsqueeze(2) - d.W;
    visible = torch::cat({visible, far & (pool >= 0).unsqueeze(1)}, 2);
    keys = torch::cat({keys, place}, 1);
  }
  tile.keys = keys.reshape({-1});
  tile.hidden = visible.logical_not().view({m, 1, 1, d.C, d.keys()});
  return tile;
}

// Rows of chunks [begin, begin + m) of x [B, T, H, Dh] as [m, Akv, R * C, Dh].
Tensor Queries(const TileDims& d, const Tensor& x, const Tile& tile) {
  return x.view({d.B * d.n, d.C, d.Akv, d.R(), d.Dh})
      .narrow(0, tile.begin, tile.m)
      .permute({0, 2, 3, 1, 4})
      .reshape({tile.m, d.Akv, d.R() * d.C, d.Dh});
}

void StoreQueries(const TileDims& d, const Tensor& value, const Tile& tile, Tensor& x) {
  x.view({d.B * d.n, d.C, d.Akv, d.R(), d.Dh})
      .narrow(0, tile.begin, tile.m)
      .copy_(value.view({tile.m, d.Akv, d.R(), d.C, d.Dh}).permute({0, 3, 1, 2, 4}));
}

// Gathered keys or values: [m, Akv, Kb + G, Dh].
Tensor Keys(const TileDims& d, const Tensor& x, const Tile& tile) {
  return x.view({d.B * d.T, d.Akv * d.Dh})
      .index_select(0, tile.keys)
      .view({tile.m, d.keys(), d.Akv, d.Dh})
      .transpose(1, 2)
      .contiguous();
}

// log sigma of the tile's pool keys: [m, 1, 1, 1, G].
Tensor PoolScores(const TileDims& d, const Tensor& log_sigma, const Tile& tile) {
  const Tensor rows = tile.keys.view({tile.m, d.keys()}).narrow(1, d.Kb, d.G).reshape({-1});
  return log_sigma.view({-1}).index_select(0, rows).view({tile.m, 1, 1, 1, d.G});
}

// Softmax over the visible keys: [m, Akv, R * C, Kb + G].
Tensor Probabilities(const TileDims& d, const Tensor& q, const Tensor& k, const Tensor& log_sigma, const Tensor& lambda,
                     const Tile& tile) {
  Tensor scores = torch::matmul(q, k.transpose(2, 3)).mul_(1 / std::sqrt(static_cast<double>(d.Dh)));
  const Tensor by_head = scores.view({tile.m, d.Akv, d.R(), d.C, d.keys()});
  if (d.G > 0) by_head.narrow(4, d.Kb, d.G).add_(lambda.view({1, d.Akv, d.R(), 1, 1}) * PoolScores(d, log_sigma, tile));
  by_head.masked_fill_(tile.hidden, -std::numeric_limits<double>::infinity());
  return torch::softmax(scores, -1);
}

struct SparseAttentionFn : torch::autograd::Function<SparseAttentionFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                        const std::optional<Tensor>& log_sigma_in, const std::optional<Tensor>& lambda_in,
                        const std::optional<Tensor>& pools_in, const Layout* layout, int64_t window) {
    const Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
    const Tensor log_sigma = log_sigma_in ? log_sigma_in->contiguous() : Tensor();
    const Tensor lambda = lambda_in.value_or(Tensor()), pools = pools_in.value_or(Tensor());
    const TileDims d = Dims(q, k, pools, *layout, window);
    Tensor out = torch::empty_like(q);
    ForEachTile(d, *layout, pools, [&](const Tile& tile) {
      const Tensor p = Probabilities(d, Queries(d, q, tile), Keys(d, k, tile), log_sigma, lambda, tile);
      StoreQueries(d, torch::matmul(p, Keys(d, v, tile)), tile, out);
    });
    ctx->save_for_backward({q, k, v, log_sigma, lambda, pools, out, layout->scan_seq, layout->pos});
    ctx->saved_data["window"] = window;
    ctx->saved_data["C"] = layout->C;
    return out;
  }

  // dS = P (dP - sum_p dO O); every part is written tile by tile, keys and values added up.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto s = ctx->get_saved_variables();
    const Tensor &q = s[0], &k = s[1], &v = s[2], &log_sigma = s[3], &lambda = s[4], &pools = s[5], &out = s[6];
    Layout layout;
    layout.scan_seq = s[7];
    layout.pos = s[8];
    layout.C = ctx->saved_data["C"].toInt();
    const TileDims d = Dims(q, k, pools, layout, ctx->saved_data["window"].toInt());
    const Tensor dout = grads[0].contiguous();
    const double scale = 1 / std::sqrt(static_cast<double>(d.Dh));
    Tensor dq = torch::empty_like(q), dk = torch::zeros_like(k), dv = torch::zeros_like(v);
    Tensor dsigma = d.G > 0 ? torch::zeros_like(log_sigma) : Tensor();
    Tensor dlambda = d.G > 0 ? torch::zeros_like(lambda) : Tensor();
    const auto add = [&](const Tensor& value, const Tile& tile, const Tensor& to) {
      AddRowsInto(value.transpose(1, 2).reshape({-1, d.Akv * d.Dh}), tile.keys, to.view({d.B * d.T, d.Akv * d.Dh}));
    };
    ForEachTile(d, layout, pools, [&](const Tile& tile) {
      const Tensor qt = Queries(d, q, tile), kt = Keys(d, k, tile), vt = Keys(d, v, tile), go = Queries(d, dout, tile);
      const Tensor p = Probabilities(d, qt, kt, log_sigma, lambda, tile);
      const Tensor mean = (go * Queries(d, out, tile)).sum(-1, /*keepdim=*/true);
      const Tensor ds = torch::matmul(go, vt.transpose(2, 3)).sub_(mean).mul_(p);
      StoreQueries(d, torch::matmul(ds, kt).mul_(scale), tile, dq);
      add(torch::matmul(ds.transpose(2, 3), qt).mul_(scale), tile, dk);
      add(torch::matmul(p.transpose(2, 3), go), tile, dv);
      if (d.G > 0) {
        const Tensor pool =
            ds.view({tile.m, d.Akv, d.R(), d.C, d.keys()}).narrow(4, d.Kb, d.G).sum(3);  // [m, Akv, R, G]
        const Tensor per_key = (pool * lambda.view({1, d.Akv, d.R(), 1})).sum({1, 2});   // [m, G]
        const Tensor rows = tile.keys.view({tile.m, d.keys()}).narrow(1, d.Kb, d.G).reshape({-1});
        AddRowsInto(per_key.reshape({-1, 1}), rows, dsigma.view({-1, 1}));
        dlambda += (pool * PoolScores(d, log_sigma, tile).squeeze(3)).sum({0, 3}).view({-1});
      }
    });
    return {dq, dk, dv, dsigma, dlambda, Tensor(), Tensor(), Tensor()};
  }

 private:
  static TileDims Dims(const Tensor& q, const Tensor& k, const Tensor& pools, const Layout& layout, int64_t window) {
    TileDims d{};
    d.B = q.size(0), d.T = q.size(1), d.A = q.size(2), d.Dh = q.size(3);
    d.C = layout.C, d.n = d.T / d.C, d.Akv = k.size(2);
    d.W = std::min(window, d.T);
    d.Kb = std::min((d.W - 1 + d.C - 1) / d.C * d.C + d.C, d.T);
    d.G = pools.defined() ? pools.size(2) : 0;
    return d;
  }

  template <class F>
  static void ForEachTile(const TileDims& d, const Layout& layout, const Tensor& pools, const F& f) {
    const int64_t total = d.B * d.n, step = ChunksPerTile(d);
    for (int64_t begin = 0; begin < total; begin += step)
      f(MakeTile(d, layout, pools, begin, std::min(step, total - begin)));
  }
};

// Best promoted rows seen so far, pinned ones first, kept best first.
class Pool {
 public:
  Pool(const double* scores, const std::vector<bool>& pinned, int64_t budget)
      : scores_(scores), pinned_(pinned), budget_(static_cast<size_t>(budget)) {}
  void Clear() { best_.clear(); }
  void Add(int64_t row) {
    const auto at = std::upper_bound(best_.begin(), best_.end(), row, [&](int64_t x, int64_t y) {
      const bool x_pinned = pinned_[static_cast<size_t>(x)], y_pinned = pinned_[static_cast<size_t>(y)];
      if (x_pinned != y_pinned) return x_pinned;
      return scores_[x] > scores_[y] || (scores_[x] == scores_[y] && x < y);
    });
    best_.insert(at, row);
    if (best_.size() > budget_) best_.pop_back();
  }
  [[nodiscard]] std::vector<int64_t> InPositionOrder() const {
    std::vector<int64_t> rows = best_;
    std::sort(rows.begin(), rows.end());
    return rows;
  }

 private:
  const double* scores_;
  const std::vector<bool>& pinned_;
  size_t budget_;
  std::vector<int64_t> best_;
};

// Of each row: whether its position is pinned.
std::vector<bool> PinnedRows(const std::vector<int64_t>& pins, const Layout& layout) {
  std::vector<bool> pinned(static_cast<size_t>(layout.B * layout.T));
  if (pins.empty()) return pinned;
  const Tensor pos = layout.pos.to(torch::kCPU).contiguous(), real = layout.real.to(torch::kCPU).contiguous();
  for (size_t i = 0; i < pinned.size(); ++i)
    pinned[i] = real.const_data_ptr<bool>()[i] && std::ranges::binary_search(pins, pos.const_data_ptr<int64_t>()[i]);
  return pinned;
}

}  // namespace

Tensor LandmarkPools(const AttentionConfig& config, const Tensor& scores, const Layout& layout,
                     const std::vector<int64_t>& pins) {
  const std::vector<bool> pinned = PinnedRows(pins, layout);
  const Tensor value = scores.detach().to(torch::kCPU, torch::kFloat64).contiguous();
  Tensor others = scores.detach();  // without the pinned ones
  if (!pins.empty()) {
    const Tensor hidden = torch::zeros({layout.B * layout.T}, torch::kBool);
    for (size_t i = 0; i < pinned.size(); ++i) hidden.mutable_data_ptr<bool>()[i] = pinned[i];
    others = others.masked_fill(hidden.view({layout.B, layout.T}).to(scores.device()),
                                -std::numeric_limits<double>::infinity());
  }
  const Tensor by_chunk = others.view({layout.B * layout.n_chunks, layout.C});
  const Tensor promoted = TopK(by_chunk, config.landmarks_per_chunk).to(torch::kCPU).contiguous();
  const Tensor first = layout.chunk_first.to(torch::kCPU).contiguous(),
               closed = layout.chunk_closed.to(torch::kCPU).contiguous();
  const int64_t* best = promoted.const_data_ptr<int64_t>();
  const bool *is_first = first.const_data_ptr<bool>(), *is_closed = closed.const_data_ptr<bool>();
  Pool pool(value.const_data_ptr<double>(), pinned, config.landmark_budget);
  std::vector<std::vector<int64_t>> pools;
  size_t widest = 0;
  for (int64_t c = 0; c < layout.B * layout.n_chunks; ++c) {
    if (is_first[c] || c % layout.n_chunks == 0) pool.Clear();
    pools.push_back(pool.InPositionOrder());
    widest = std::max(widest, pools.back().size());
    if (!is_closed[c]) continue;
    for (int64_t row = c * layout.C; row < (c + 1) * layout.C; ++row)
      if (pinned[static_cast<size_t>(row)]) pool.Add(row);
    for (int64_t i = 0; i < config.landmarks_per_chunk; ++i)
      if (const int64_t row = c * layout.C + best[c * config.landmarks_per_chunk + i];
          !pinned[static_cast<size_t>(row)])
        pool.Add(row);
  }
  if (widest == 0) return {};
  const auto G = static_cast<int64_t>(widest);
  Tensor out = torch::full({layout.B, layout.n_chunks, G}, -1, torch::kInt64);
  int64_t* to = out.mutable_data_ptr<int64_t>();
  for (size_t c = 0; c < pools.size(); ++c)
    std::copy(pools[c].begin(), pools[c].end(), to + static_cast<int64_t>(c) * G);
  return out.to(layout.pos.device());
}

Tensor composite::SparseAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_sigma,
                                  const Tensor& lambda, const Tensor& pools, const Layout& layout, int64_t window) {
  const auto maybe = [](const Tensor& x) { return x.defined() ? std::optional<Tensor>(x) : std::nullopt; };
  return SparseAttentionFn::apply(q, k, v, maybe(log_sigma), maybe(lambda), maybe(pools), &layout, window);
}

}  // namespace hydra::nn
