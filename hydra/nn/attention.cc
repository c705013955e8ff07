// SPDX-License-Identifier: Apache-2.0
// Projections, QK-norm, RoPE and landmark scores around the two attention forms. Dims as in attention.h.
#include "hydra/nn/attention.h"

#include <ATen/Functions.h>

#include <cmath>

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

Tensor FullAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Layout& layout) {
  if (layout.one_document) return Sdpa(q, k, v);
  const Tensor start = layout.doc_start.to(torch::kCPU).contiguous();
  const int64_t* first = start.const_data_ptr<int64_t>();
  std::vector<Tensor> rows;
  for (int64_t b = 0; b < layout.B; ++b) {
    std::vector<Tensor> documents;
    for (int64_t begin = 0, end = 1; begin < layout.T; begin = end++) {
      while (end < layout.T && first[b * layout.T + end] == first[b * layout.T + begin]) ++end;
      const auto part = [&](const Tensor& x) { return x.narrow(0, b, 1).narrow(1, begin, end - begin); };
      documents.push_back(Sdpa(part(q), part(k), part(v)));
    }
    rows.push_back(torch::cat(documents, 1));
  }
  return torch::cat(rows, 0);
}

namespace {

// Between the projections, norms and softmax in fp32: q [B, T, A, Dh], k, v [B, T, Akv, Dh] -> [B, T, A, Dh].
Tensor Attend(const ModelConfig& config, AttentionKind kind, const AttentionWeights& w, const Tensor& u, Tensor q,
              Tensor k, const Tensor& v, const Layout& layout, const Controls& controls) {
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
  // torch's fused attention keeps its own softmax in fp32
  if (kind == AttentionKind::kFull) return FullAttention(q.to(v.scalar_type()), k.to(v.scalar_type()), v, layout);
  if (!controls.landmarks || !w.scorer_w.defined())
    return SparseAttention(q, k, v.to(type), {}, {}, {}, layout, c.window);
  const Tensor score = torch::linear(u.to(type), w.scorer_w, w.scorer_b).squeeze(-1);  // [B, T]
  return SparseAttention(q, k, v.to(type), torch::log_sigmoid(score), torch::softplus(w.landmark_scale),
                         LandmarkPools(c, score, layout, controls.pins), layout, c.window);
}

}  // namespace

Tensor Attention(const ModelConfig& config, AttentionKind kind, const AttentionWeights& w, const Tensor& u,
                 const Layout& layout, const Controls& controls) {
  const AttentionConfig& c = config.attention;
  const int64_t B = u.size(0), T = u.size(1);
  const auto heads = [&](const Tensor& map, int64_t n) { return torch::linear(u, map).view({B, T, n, c.head_dim}); };
  const Tensor q = heads(w.q, c.n_heads), k = heads(w.k, c.n_kv_heads), v = heads(w.v, c.n_kv_heads);
  return torch::linear(Attend(config, kind, w, u, q, k, v, layout, controls).reshape({B, T, c.n_heads * c.head_dim}),
                       w.o);
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
