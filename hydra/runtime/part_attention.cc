// SPDX-License-Identifier: Apache-2.0
// Attention up to the cache: products, QK-norm, RoPE; and the output product. Formulas: specs/hydra.md 3.
#include "hydra/runtime/part_attention.h"

#include <cmath>

namespace hydra {

bool CachedAttention::AddRound(int round, Round& out) {
  if (round > 0) return AddAttention(round - 1, out);
  const AttentionWeights& w = block().attention;
  const auto add = [&](const kernels::Matrix& m, const F32& bias, Buffer<float>& to) {
    out.products.push_back(OfInput(m, to.Get(pass_->n * m.rows)));
    if (!bias.empty()) out.products.back().bias = bias.data();
  };
  add(w.q, w.q_bias, q_);
  add(w.k, w.k_bias, k_);
  add(w.v, w.v_bias, v_);
  y_.Get(pass_->n * width());
  CountWeights({&w.q_bias, &w.k_bias, &w.v_bias, &w.q_norm, &w.k_norm});
  constexpr int64_t kRows = 16;
  for (size_t i = 0; i < pieces().size(); ++i)
    if (const Piece& p = pieces()[i]; On(p)) {
      AddTasks(out, kRotate, static_cast<int32_t>(i), p.T, kRows);
      pass_->moved->kv_written += p.T * KeyBytes(p);
    }
  return true;
}

void CachedAttention::Run(const Task& task, float* scratch) {
  if (task.kind != kRotate) return RunAttention(task, scratch);
  const AttentionConfig& c = attention();
  const AttentionWeights& w = block().attention;
  const Piece& p = pieces()[static_cast<size_t>(task.piece)];
  const int64_t row = p.row + task.begin, T = task.end - task.begin;
  const auto rotate = [&](float* x, int64_t heads, const F32& norm) {
    x += row * heads * c.head_dim;
    if (!norm.empty())
      kernels::RmsNorm({.x = x,
                        .w = norm.data(),
                        .y = x,
                        .T = T,
                        .D = heads * c.head_dim,
                        .groups = heads,
                        .eps = static_cast<float>(config().norm_eps),
                        .shared_weight = true});
    kernels::Rope({.x = x,
                   .pos = pass_->positions + row,
                   .inv_freq = pass_->weights.inv_freq.data(),
                   .T = T,
                   .heads = heads,
                   .Dh = c.head_dim,
                   .interleaved = pass_->weights.rope_interleaved});
  };
  rotate(q_.data(), c.n_heads, w.q_norm);
  rotate(k_.data(), c.n_kv_heads, w.k_norm);
  Store(p, task.begin, task.end);
}

void CachedAttention::AddOutput(std::vector<kernels::MatMulArgs>& products) {
  products.push_back(IntoStream(block().attention.o, y_.data(), width()));
}

void CachedAttention::StoreRow(const Piece& p, int64_t t, int64_t head, std::byte* key, std::byte* value) const {
  const AttentionConfig& c = attention();
  const int64_t from = ((p.row + t) * c.n_kv_heads + head) * c.head_dim;
  kernels::StoreKvRow(p.state->layout().kv, k_.data() + from, c.head_dim, key);
  kernels::StoreKvRow(p.state->layout().kv, v_.data() + from, c.head_dim, value);
}

kernels::AttentionArgs CachedAttention::Args(const Piece& p) const {
  const AttentionConfig& c = attention();
  kernels::AttentionArgs a{};
  a.q = q_.data() + p.row * width();
  a.y = y_.data() + p.row * width();
  a.dtype = p.state->layout().kv;
  a.A = c.n_heads, a.Akv = c.n_kv_heads, a.Dh = c.head_dim;
  a.pos = p.pos;
  a.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  return a;
}

void CachedAttention::AddQueryTiles(Round& out, int32_t kind, int32_t piece, int64_t begin, int64_t end, int64_t window,
                                    int64_t others) {
  const Piece& p = pieces()[static_cast<size_t>(piece)];
  const int64_t tiles = (end - begin + kQueryTile - 1) / kQueryTile;
  for (int64_t i = tiles - 1; i >= 0; --i) {
    const int64_t first = begin + i * kQueryTile, last = std::min(end, first + kQueryTile);
    const int64_t keys = std::min(p.pos + last, window > p.pos + last ? window : window + last - first - 1);
    pass_->moved->kv_read += (keys + others) * KeyBytes(p);
    for (int64_t kv = 0; kv < attention().n_kv_heads; ++kv)
      out.tasks.push_back({.part = this, .kind = kind, .piece = piece, .begin = first, .end = last, .head = kv});
  }
}

}  // namespace hydra
