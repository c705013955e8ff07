// SPDX-License-Identifier: Apache-2.0
// Workspace by chunks and product-key memory by tokens, in torch operators. Dims as in memory.h.
#include "hydra/nn/memory.h"

#include <cmath>

#include "hydra/nn/functions.h"

namespace hydra::nn {

using torch::Tensor;

Tensor WorkspaceGate(const WorkspaceConfig& config, const WorkspaceWeights& w, const Tensor& proposal) {
  const Tensor q = torch::matmul(proposal, w.write_gate_w.squeeze(0)) + w.write_gate_b;  // [.., S]
  const Tensor open = torch::zeros_like(q, torch::kBool).scatter(-1, TopK(q, config.write_slots), true);
  return torch::where(open, torch::sigmoid(q), torch::zeros({}, q.options())).unsqueeze(-1);
}

WorkspaceWrite WriteWorkspace(const WorkspaceConfig& config, const WorkspaceWeights& w, const Tensor& u) {
  const double scale = 1 / std::sqrt(static_cast<double>(config.rank));
  const Tensor keys = torch::linear(torch::linear(u, w.write_k), w.slot_queries) * scale;  // [.., C, S]
  const Tensor iota = torch::linear(u, w.controller_w.narrow(0, 1, 1), w.controller_b.narrow(0, 1, 1));
  const Tensor share = torch::softmax(keys + iota, -2);
  const Tensor proposal = torch::matmul(share.transpose(-2, -1), torch::linear(u, w.write_v));  // [.., S, r]
  return {WorkspaceGate(config, w, proposal), proposal};
}

Tensor ReadWorkspace(const ModelConfig& config, const WorkspaceWeights& w, const Tensor& u, const Tensor& M) {
  const Tensor normed = RmsNorm(M, w.memory_norm, config.norm_eps);
  const Tensor keys = torch::linear(normed, w.read_k), values = torch::linear(normed, w.read_v);
  const double scale = 1 / std::sqrt(static_cast<double>(config.workspace.rank));
  const Tensor a = torch::softmax(torch::matmul(torch::linear(u, w.read_q), keys.transpose(-2, -1)) * scale, -1);
  return torch::linear(torch::matmul(a, values), w.o);
}

Tensor WorkspaceReadGate(const WorkspaceWeights& w, const Tensor& u) {
  return torch::sigmoid(torch::linear(u, w.controller_w.narrow(0, 0, 1), w.controller_b.narrow(0, 0, 1)));
}

Tensor WorkspaceStates(const ModelConfig& config, const WorkspaceWeights& w, const Tensor& u, const Layout& layout) {
  const int64_t B = layout.B, n = layout.n_chunks, S = config.workspace.n_slots, r = config.workspace.rank;
  const WorkspaceWrite write = WriteWorkspace(config.workspace, w, u.view({B, n, layout.C, -1}));
  const Tensor keep = 1 - write.gate, add = write.gate * write.proposal;
  // The element before chunk c: (0, M0) at a document's start, else what chunk c - 1 wrote.
  const auto shift = [&](const Tensor& x) { return torch::constant_pad_nd(x.narrow(1, 0, n - 1), {0, 0, 0, 0, 1, 0}); };
  const Tensor first = layout.chunk_first.view({B, n, 1, 1});
  const Tensor a = torch::where(first, torch::zeros({}, u.options()), shift(keep));
  const Tensor b = torch::where(first, w.init_state, shift(add));
  return LinearScan(a.view({B, n, 1, S}), b.view({B, n, 1, 1, S, r})).narrow(1, 1, n).reshape({B, n, S, r});
}

Tensor Workspace(const ModelConfig& config, const WorkspaceWeights& w, const Tensor& x, const Layout& layout,
                 double rho) {
  const NoAutocast fp32;
  const Tensor u = RmsNorm(x, w.norm, config.norm_eps);
  const Tensor chunks = u.view({layout.B, layout.n_chunks, layout.C, -1});
  const Tensor read = ReadWorkspace(config, w, chunks, WorkspaceStates(config, w, u, layout));
  return (rho * WorkspaceReadGate(w, chunks) * read).view_as(x);
}

PkmRows SelectRows(const ModelConfig& config, const PkmWeights& w, const Tensor& u) {
  const PkmConfig& c = config.pkm;
  const int64_t N = u.size(0);
  const Tensor raw = torch::linear(u, w.query_proj).view({N, c.n_heads, 2, c.d_key});
  const Tensor q =
      RmsNorm(raw.view({N, c.n_heads * 2, c.d_key}), w.query_norm.view({c.n_heads * 2, c.d_key}), config.norm_eps);
  // [2 Hp, N, dk] x [2 Hp, dk, nk] -> [N, Hp, 2, nk]
  const Tensor scores =
      torch::bmm(q.transpose(0, 1), w.sub_keys.view({c.n_heads * 2, c.n_keys, c.d_key}).transpose(1, 2))
          .transpose(0, 1)
          .reshape({N, c.n_heads, 2, c.n_keys});
  const Tensor best = TopK(scores, c.top_k);  // [N, Hp, 2, kp]
  const Tensor value = scores.gather(-1, best);
  const auto pairs = [&](const Tensor& of_first, const Tensor& of_second) {
    return (of_first.unsqueeze(-1) + of_second.unsqueeze(-2)).reshape({N, c.n_heads, c.top_k * c.top_k});
  };
  const Tensor sums = pairs(value.select(2, 0), value.select(2, 1));
  const Tensor rows = pairs(best.select(2, 0) * c.n_keys, best.select(2, 1));
  const Tensor keep = TopK(sums, c.top_k);
  return {rows.gather(-1, keep), sums.gather(-1, keep)};
}

Tensor Pkm(const ModelConfig& config, const PkmWeights& w, const Tensor& table, const Tensor& x, double rho,
           const Tensor& rows, const PkmWatch* watch) {
  const NoAutocast fp32;
  const int64_t D = x.size(-1), n_tokens = x.numel() / D;
  const Tensor all = RmsNorm(x, w.norm, config.norm_eps).reshape({n_tokens, D});
  const Tensor u = rows.defined() ? GatherRows(all, rows) : all;
  const PkmRows found = SelectRows(config, w, u);
  const int64_t N = u.size(0), per_token = config.pkm.n_heads * config.pkm.top_k;
  const Tensor share = torch::softmax(found.scores, -1).view({N, per_token});
  // one bag a token: the sum over all heads; sparse gradient
  const Tensor o = std::get<0>(
      torch::embedding_bag(table, found.ids.view({-1}), torch::arange(0, N * per_token, per_token, found.ids.options()),
                           /*scale_grad_by_freq=*/false, /*mode=*/0, /*sparse=*/true, share.reshape({-1})));
  const Tensor beta = torch::sigmoid(torch::linear(u, w.gate_w, w.gate_b));
  if (watch != nullptr) (*watch)(found.ids, beta);
  const Tensor y = rho * beta * torch::linear(o, w.value_proj);
  return (rows.defined() ? ScatterAddRows(y, rows, n_tokens) : y).view_as(x);
}

}  // namespace hydra::nn
