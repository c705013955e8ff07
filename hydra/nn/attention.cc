// SPDX-License-Identifier: Apache-2.0
// Projections, QK-norm, RoPE and landmark scores around the two attention forms; spans of a plan by masks. Dims as in
// attention.h; R rows of a tile of queries, K keys that it sees.
#include "hydra/nn/attention.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "hydra/base/error.h"
#include "hydra/nn/functions.h"

namespace hydra::nn {

using torch::Tensor;

Tensor Rope(const Tensor& x, const Tensor& pos, double theta) {
  const int64_t half = x.size(-1) / 2;
  // fp64 angles: positions of a million keep all their bits
  const Tensor frequency = torch::exp(torch::arange(half, pos.options().dtype(torch::kFloat64)) *
                                      (-std::log(theta) / static_cast<double>(half)));
  const Tensor angle = (pos.unsqueeze(-1).to(torch::kFloat64) * frequency).unsqueeze(2);  // [B, T, 1, Dh / 2]
  const Tensor c = torch::cos(angle).to(x.scalar_type()), s = torch::sin(angle).to(x.scalar_type());
  const auto halves = x.chunk(2, -1);
  return torch::cat({halves[0] * c - halves[1] * s, halves[0] * s + halves[1] * c}, -1);
}

namespace {

Tensor Sdpa(const Tensor& q, const Tensor& k, const Tensor& v) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {}, 0.0,
                                          /*is_causal=*/true, std::nullopt, /*enable_gqa=*/q.size(2) != k.size(2))
      .transpose(1, 2);
}

}  // namespace

namespace {

// attend(q, k, v) of each document, put together as they stood.
template <class F>
Tensor PerDocument(const Tensor& q, const Tensor& k, const Tensor& v, const Layout& layout, F&& attend) {
  if (layout.one_document) return attend(q, k, v);
  const Tensor start = layout.doc_start.to(torch::kCPU).contiguous();
  const int64_t* first = start.const_data_ptr<int64_t>();
  std::vector<Tensor> rows;
  for (int64_t b = 0; b < layout.B; ++b) {
    std::vector<Tensor> documents;
    for (int64_t begin = 0, end = 1; begin < layout.T; begin = end++) {
      while (end < layout.T && first[b * layout.T + end] == first[b * layout.T + begin]) ++end;
      const auto part = [&](const Tensor& x) { return x.narrow(0, b, 1).narrow(1, begin, end - begin); };
      documents.push_back(attend(part(q), part(k), part(v)));
    }
    rows.push_back(torch::cat(documents, 1));
  }
  return torch::cat(rows, 0);
}

// The queries i0 .. i0 + R - 1 of a document. Keys: the sinks, and from the widest window's first one on.
Tensor SpanTile(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<SeenSpan>& spans, int64_t i0,
                int64_t R) {
  const int64_t A = q.size(2), group = A / k.size(2), end = i0 + R;
  int64_t widest = 0, most_sinks = 0;
  for (const SeenSpan& s : spans) widest = std::max(widest, s.window), most_sinks = std::max(most_sinks, s.sinks);
  const int64_t begin = widest > i0 ? 0 : i0 - widest + 1, sinks = std::min(most_sinks, begin);
  const auto index = torch::TensorOptions().dtype(torch::kInt64).device(q.device());
  const auto keys = [&](const Tensor& x) {  // [B, A, K, Dh]
    const Tensor near = x.narrow(1, begin, end - begin);
    const Tensor seen = sinks > 0 ? torch::cat({x.narrow(1, 0, sinks), near}, 1) : near;
    return seen.repeat_interleave(group, 2).transpose(1, 2);
  };
  const Tensor pos = torch::cat({torch::arange(0, sinks, index), torch::arange(begin, end, index)});  // [K]
  std::vector<int64_t> windows, first;
  for (const SeenSpan& s : spans) windows.push_back(s.window), first.push_back(s.sinks);
  const auto by_head = [&](const std::vector<int64_t>& x) {
    return torch::tensor(x, torch::kInt64).to(q.device()).view({A, 1, 1});
  };
  const Tensor age = torch::arange(i0, end, index).unsqueeze(1) - pos.unsqueeze(0);  // [R, K]
  const Tensor hidden = (age < 0) | ((age >= by_head(windows)) & (pos >= by_head(first)));
  Tensor scores = torch::matmul(q.narrow(1, i0, R).transpose(1, 2), keys(k).transpose(2, 3));  // [B, A, R, K]
  if (scores.scalar_type() != torch::kFloat64) scores = scores.to(torch::kFloat32);
  scores = (scores / std::sqrt(static_cast<double>(q.size(3))))
               .masked_fill(hidden.unsqueeze(0), -std::numeric_limits<double>::infinity());
  return torch::matmul(torch::softmax(scores, -1).to(v.scalar_type()), keys(v)).transpose(1, 2);
}

// Window attention in which query heads have windows of their own: those of one window together.
Tensor SparseBySpans(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_sigma, const Tensor& lambda,
                     const Tensor& pools, const Layout& layout, const std::vector<SeenSpan>& spans) {
  const int64_t group = q.size(2) / k.size(2);
  std::map<int64_t, std::vector<int64_t>> heads;  // by window
  for (size_t a = 0; a < spans.size(); ++a) heads[spans[a].window].push_back(static_cast<int64_t>(a));
  if (heads.size() == 1) return SparseAttention(q, k, v, log_sigma, lambda, pools, layout, heads.begin()->first);
  std::vector<Tensor> parts;
  std::vector<int64_t> order;
  for (const auto& [window, own] : heads) {
    const Tensor at = torch::tensor(own, torch::kInt64).to(q.device()), kv = at.div(group, "floor");
    parts.push_back(SparseAttention(q.index_select(2, at), k.index_select(2, kv), v.index_select(2, kv), log_sigma,
                                    lambda.defined() ? lambda.index_select(0, at) : Tensor(), pools, layout, window));
    order.insert(order.end(), own.begin(), own.end());
  }
  std::vector<int64_t> back(order.size());
  for (size_t i = 0; i < order.size(); ++i) back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  return torch::cat(parts, 2).index_select(2, torch::tensor(back, torch::kInt64).to(q.device()));
}

}  // namespace

Tensor FullAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Layout& layout) {
  return PerDocument(q, k, v, layout, Sdpa);
}

Tensor SpanAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Layout& layout,
                     const std::vector<SeenSpan>& spans) {
  HYDRA_CHECK(static_cast<int64_t>(spans.size()) == q.size(2), spans.size(), " spans for ", q.size(2), " heads");
  constexpr int64_t kTile = 128;
  return PerDocument(q, k, v, layout, [&](const Tensor& dq, const Tensor& dk, const Tensor& dv) {
    std::vector<Tensor> tiles;
    for (int64_t i = 0; i < dq.size(1); i += kTile)
      tiles.push_back(SpanTile(dq, dk, dv, spans, i, std::min(kTile, dq.size(1) - i)));
    return torch::cat(tiles, 1);
  });
}

std::vector<SeenSpan> SpansOfLayer(const ForwardOptions& options, int layer) {
  std::vector<SeenSpan> spans;
  if (options.plan == nullptr) return spans;
  const AttentionPlan& plan = *options.plan;
  const LayerPlan& l = plan.layers.at(static_cast<size_t>(layer));
  const int64_t group = plan.model.n_heads / plan.model.n_kv_heads, N = options.plan_length;
  for (int64_t h = 0; h < plan.model.n_heads && !l.rules.empty(); ++h) {
    const int64_t span =
        options.head_spans == HeadSpans::kOwn ? plan.HeadSpan(layer, h, N) : plan.Span(layer, h / group, N);
    spans.push_back({span - l.n_sinks, l.n_sinks});
  }
  return spans;
}

namespace {

// Between the projections, norms and softmax in fp32: q [B, T, A, Dh], k, v [B, T, Akv, Dh] -> [B, T, A, Dh].
Tensor Attend(const ModelConfig& config, AttentionKind kind, const AttentionWeights& w, const Tensor& u, Tensor q,
              Tensor k, const Tensor& v, const Layout& layout, const ForwardOptions& options,
              std::vector<SeenSpan> spans) {
  const NoAutocast fp32;
  const AttentionConfig& c = config.attention;
  const auto type = w.o.scalar_type();  // of the masters; q, k, v are bf16 under autocast
  q = q.to(type);
  k = k.to(type);
  if (w.q_norm.defined()) {
    q = RmsNorm(q, w.q_norm, config.norm_eps);
    k = RmsNorm(k, w.k_norm, config.norm_eps);
  }
  q = Rope(q, layout.pos, c.rope_theta);
  k = Rope(k, layout.pos, c.rope_theta);
  AttentionSeen seen;
  if (kind == AttentionKind::kFull) {
    // torch's fused attention keeps its own softmax in fp32
    seen.q = q.to(v.scalar_type()), seen.k = k.to(v.scalar_type()), seen.v = v;
    seen.out =
        spans.empty() ? FullAttention(seen.q, seen.k, v, layout) : SpanAttention(seen.q, seen.k, v, layout, spans);
  } else {
    if (spans.empty()) spans.assign(static_cast<size_t>(c.n_heads), {.window = c.window});
    seen.q = q, seen.k = k, seen.v = v.to(type), seen.window = c.window;
    if (options.controls.landmarks && w.scorer_w.defined()) {
      const Tensor score = torch::linear(u.to(type), w.scorer_w, w.scorer_b).squeeze(-1);  // [B, T]
      seen.log_sigma = torch::log_sigmoid(score);
      seen.lambda = torch::softplus(w.landmark_scale);
      seen.pools = LandmarkPools(c, score, layout, options.controls.pins);
    }
    seen.out = SparseBySpans(q, k, seen.v, seen.log_sigma, seen.lambda, seen.pools, layout, spans);
  }
  if (options.attention_watch != nullptr) (*options.attention_watch)(seen);
  return seen.out;
}

}  // namespace

Tensor Attention(const ModelConfig& config, AttentionKind kind, const AttentionWeights& w, const Tensor& u,
                 const Layout& layout, const ForwardOptions& options, const std::vector<SeenSpan>& spans) {
  const AttentionConfig& c = config.attention;
  const int64_t B = u.size(0), T = u.size(1);
  const auto heads = [&](const Tensor& map, int64_t n) { return torch::linear(u, map).view({B, T, n, c.head_dim}); };
  const Tensor q = heads(w.q, c.n_heads), k = heads(w.k, c.n_kv_heads), v = heads(w.v, c.n_kv_heads);
  return torch::linear(
      Attend(config, kind, w, u, q, k, v, layout, options, spans).reshape({B, T, c.n_heads * c.head_dim}), w.o);
}

LatentHeads ExpandLatent(const AttentionConfig& config, const LatentWeights& w, const Tensor& u, const Tensor& pos) {
  const LatentConfig& c = config.latent;
  const int64_t B = u.size(0), T = u.size(1), A = config.n_heads;
  const auto normed = [&](const Tensor& x, const Tensor& norm) {
    const NoAutocast fp32;
    return RmsNorm(x.to(norm.scalar_type()), norm, LatentConfig::kNormEps);
  };
  const Tensor q = torch::linear(normed(torch::linear(u, w.q_down), w.q_norm), w.q_up).view({B, T, A, c.d_key()});
  const auto down = torch::linear(u, w.kv_down).split_with_sizes({c.kv_rank, c.d_rope}, -1);
  const auto up = torch::linear(normed(down[0], w.kv_norm), w.kv_up)
                      .view({B, T, A, c.d_nope + c.d_value})
                      .split_with_sizes({c.d_nope, c.d_value}, -1);
  const NoAutocast fp32;
  const auto type = w.o.scalar_type();
  const auto q_parts = q.to(type).split_with_sizes({c.d_nope, c.d_rope}, -1);
  const Tensor turned = Rope(down[1].to(type).unsqueeze(2), pos, config.rope_theta);  // one for all heads
  return {.q = torch::cat({q_parts[0], Rope(q_parts[1], pos, config.rope_theta)}, -1),
          .k = torch::cat({up[0].to(type), turned.expand({B, T, A, c.d_rope})}, -1),
          .v = up[1]};
}

Tensor LatentAttention(const AttentionConfig& config, const LatentWeights& w, const Tensor& u, const Layout& layout) {
  const LatentConfig& c = config.latent;
  const LatentHeads heads = ExpandLatent(config, w, u, layout.pos);
  const auto type = heads.v.scalar_type();
  // The fused attention of the CPU takes values as wide as keys.
  const int64_t pad = c.d_key() - c.d_value;
  const Tensor v = pad > 0 ? torch::constant_pad_nd(heads.v, {0, pad}) : heads.v;
  const Tensor sums = FullAttention(heads.q.to(type), heads.k.to(type), v, layout).narrow(-1, 0, c.d_value);
  return torch::linear(sums.reshape({u.size(0), u.size(1), config.n_heads * c.d_value}), w.o);
}

}  // namespace hydra::nn
