// SPDX-License-Identifier: Apache-2.0
// Chunked SSD in four stages of batched products, and the two SSM paths around it: the slow twin of mamba2.cc, which
// serves other devices than the CPU and fp64. Dims as in ssm.h, n = T / Q.
#include "hydra/nn/ssm.h"

#include <limits>

#include "hydra/base/error.h"
#include "hydra/nn/functions.h"

namespace hydra::nn {

using torch::Tensor;

namespace {

Tensor PadTime(const Tensor& x, int64_t pad) {
  if (pad == 0) return x;
  std::vector<int64_t> widths(static_cast<size_t>(2 * x.dim()), 0);
  widths[static_cast<size_t>(2 * (x.dim() - 2) + 1)] = pad;  // end of dimension 1
  return torch::constant_pad_nd(x, widths);
}

// Which pairs of a chunk share a document, and what may cross its borders.
struct ChunkMasks {
  Tensor pair;       // [B, n, Q, Q] bool: j <= i, same document
  Tensor from_prev;  // [B, n, Q] bool: document of the chunk before goes on at i
  Tensor to_end;     // [B, n, Q] bool: same document as the chunk's last token
  Tensor carry;      // [B, n] bool: document of the chunk before goes on at the last token
};

ChunkMasks MakeMasks(const Tensor& seq, int64_t B, int64_t n, int64_t Q) {
  const Tensor s = seq.view({B, n, Q});
  const Tensor last = s.select(2, Q - 1);
  // -2: there is no chunk before the first
  const Tensor previous = torch::constant_pad_nd(last.narrow(1, 0, n - 1), {1, 0}, -2);
  ChunkMasks m;
  m.pair = (s.unsqueeze(3) == s.unsqueeze(2)).tril();
  m.from_prev = s == previous.unsqueeze(2);
  m.to_end = s == last.unsqueeze(2);
  m.carry = last == previous;
  return m;
}

}  // namespace

SsdOut SsdScan(const Tensor& x_in, const Tensor& dt_in, const Tensor& A, const Tensor& Bm_in, const Tensor& Cm_in,
               const Tensor& seq_in, int64_t Q) {
  const int64_t B = x_in.size(0), T = x_in.size(1), H = x_in.size(2), P = x_in.size(3);
  const int64_t G = Bm_in.size(2), N = Bm_in.size(3), Hg = H / G;
  Q = std::min(Q, T);
  const int64_t n = (T + Q - 1) / Q, pad = n * Q - T;
  const Tensor x = PadTime(x_in, pad).view({B, n, Q, H, P}), dt = PadTime(dt_in, pad).view({B, n, Q, H});
  const Tensor Bm = PadTime(Bm_in, pad).view({B, n, Q, G, N}).transpose(2, 3);  // [B, n, G, Q, N]
  const Tensor Cm = PadTime(Cm_in, pad).view({B, n, Q, G, N}).transpose(2, 3);
  Tensor seq;  // a padded tail belongs to the last document
  if (seq_in.defined())
    seq = pad == 0 ? seq_in : torch::cat({seq_in, seq_in.narrow(1, T - 1, 1).expand({B, pad})}, 1);
  else
    seq = torch::zeros({1, n * Q}, torch::TensorOptions().dtype(torch::kInt64).device(x.device()));
  const ChunkMasks mask = MakeMasks(seq, seq.size(0), n, Q);

  // chunk_cumsum, restarted at each document: 0/1 weights keep other documents' values out exactly.
  const Tensor a = torch::matmul(mask.pair.to(x.dtype()), dt * A);  // [B, n, Q, H]
  const Tensor a_last = a.select(2, Q - 1);                         // [B, n, H]
  const Tensor xdt = x * dt.unsqueeze(-1);                          // [B, n, Q, H, P]

  // chunk_state [B, n, G, N, Hg, P]: sum_j exp(a_last - a_j) dt_j B_j (x) x_j
  const double ninf = -std::numeric_limits<double>::infinity();
  const Tensor to_end = (a_last.unsqueeze(2) - a).masked_fill(~mask.to_end.unsqueeze(-1), ninf).exp();
  const Tensor weighted = (xdt * to_end.unsqueeze(-1)).view({B, n, Q, G, Hg * P}).transpose(2, 3);
  const Tensor states = torch::matmul(Bm.transpose(3, 4), weighted).view({B, n, G, N, Hg, P});

  // state_passing: [B, n + 1, G, N, Hg, P], before and after each chunk
  const Tensor decay = a_last.masked_fill(~mask.carry.unsqueeze(-1), ninf).exp().view({B, n, G, Hg});
  const Tensor passed = LinearScan(decay, states);

  // chunk_scan: inside the chunk, then what came before it
  const Tensor ah = a.transpose(2, 3).contiguous();  // [B, n, H, Q]; else every Q x Q below inherits its strides
  const Tensor pair_decay =
      (ah.unsqueeze(4) - ah.unsqueeze(3)).masked_fill_(~mask.pair.unsqueeze(2), ninf).exp_();  // [B, n, H, Q, Q]
  const Tensor CB = torch::matmul(Cm, Bm.transpose(3, 4)).unsqueeze(3);                        // [B, n, G, 1, Q, Q]
  const Tensor weights = (CB * pair_decay.view({B, n, G, Hg, Q, Q})).view({B, n, H, Q, Q});
  const Tensor inside = torch::matmul(weights, xdt.transpose(2, 3)).transpose(2, 3);  // [B, n, Q, H, P]
  const Tensor before =
      torch::matmul(Cm, passed.narrow(1, 0, n).reshape({B, n, G, N, Hg * P})).transpose(2, 3).reshape({B, n, Q, H, P});
  const Tensor from_prev = a.masked_fill(~mask.from_prev.unsqueeze(-1), ninf).exp().unsqueeze(-1);
  const Tensor y = torch::addcmul(inside, before, from_prev).reshape({B, n * Q, H, P});
  const Tensor last = passed.select(1, n);  // [B, G, N, Hg, P]
  return {y.narrow(1, 0, T), last.permute({0, 1, 3, 4, 2}).reshape({B, H, P, N})};
}

Tensor DiagonalScan(const Tensor& params, const Tensor& lambda_log, const Layout& layout) {
  const auto parts = params.chunk(4, -1);  // delta, B, C, U
  const int64_t B = params.size(0), T = params.size(1), D = lambda_log.size(0);
  const Tensor rate = torch::softplus(parts[0]) * torch::exp(lambda_log);
  // The step after a document's last token starts from nothing.
  Tensor goes_on = layout.scan_seq.narrow(1, 1, T - 1) == layout.scan_seq.narrow(1, 0, T - 1);
  goes_on = torch::constant_pad_nd(goes_on, {0, 1}, 1).unsqueeze(-1);
  const Tensor zero = torch::zeros({}, params.options());
  const Tensor alpha = torch::where(goes_on, torch::exp(-rate), zero);
  const Tensor input = torch::where(goes_on, parts[1] * parts[3], zero);
  const Tensor s = LinearScan(alpha.reshape({B, T, 1, D}), input.reshape({B, T, 1, 1, D, 1}));
  return parts[2] * s.narrow(1, 0, T).reshape({B, T, D});
}

Tensor SsmDt(const SsmConfig& config, const Tensor& raw, const Tensor& dt_bias) {
  const Tensor dt = torch::softplus(raw + dt_bias);
  if (config.dt_limit[0] <= 0 && config.dt_limit[1] == SsmConfig::kInfinity) return dt;
  return dt.clamp(config.dt_limit[0], config.dt_limit[1]);
}

Tensor composite::Mamba2Core(const ModelConfig& config, const SsmWeights& w, const Tensor& projected,
                             const Layout& layout) {
  const SsmConfig& c = config.ssm;
  const int64_t B = projected.size(0), T = projected.size(1), di = c.d_inner(), gn = c.n_groups * c.d_state;
  const auto parts = projected.split_with_sizes({di, c.conv_dim(), c.n_heads}, -1);
  const Tensor xBC = nn::CausalConvSilu(parts[1], w.conv_w.squeeze(1), w.conv_b, layout.doc_start);
  const auto x_b_c = xBC.split_with_sizes({di, gn, gn}, -1);
  const Tensor x = x_b_c[0].view({B, T, c.n_heads, c.head_dim});
  const auto groups = [&](const Tensor& v) { return v.view({B, T, c.n_groups, c.d_state}); };
  Tensor dt = SsmDt(c, parts[2], w.dt_bias);
  if (!layout.one_document) dt = torch::where(layout.real.unsqueeze(-1), dt, torch::zeros({}, dt.options()));
  const SsdOut out = SsdScan(x, dt, -torch::exp(w.A_log), groups(x_b_c[1]), groups(x_b_c[2]),
                             layout.one_document ? Tensor() : layout.scan_seq, c.scan_chunk);
  const Tensor y = torch::addcmul(out.y, x, w.D.unsqueeze(-1)).reshape({B, T, di});
  const int64_t width = di / c.norm_groups;
  const Tensor gated = (y * torch::silu(parts[0])).view({B, T, c.norm_groups, width});
  return nn::RmsNorm(gated, w.norm.view({c.norm_groups, width}), config.norm_eps).view({B, T, di});
}

Tensor Ssm(const ModelConfig& config, const SsmWeights& w, const Tensor& u, const Layout& layout) {
  if (config.ssm.kind == SsmKind::kMamba2) {
    const auto core = [&](const Tensor& projected) {
      const NoAutocast fp32;
      return Mamba2Core(config, w, projected.to(w.A_log.scalar_type()), layout);
    };
    return torch::linear(core(torch::linear(u, w.in_proj)), w.out_proj);
  }
  const Tensor params = torch::linear(u, w.param_proj), skip = torch::linear(u, w.skip_proj);
  const NoAutocast fp32;
  return DiagonalScan(params.to(w.lambda_log.scalar_type()), w.lambda_log, layout) + skip;
}

}  // namespace hydra::nn
