// SPDX-License-Identifier: Apache-2.0
// The two memories of a model: workspace (specs/hydra.md 5) and product-key memory (6).
// Dims: B rows, T tokens, n chunks of C, D d_model, S slots, r rank, Hp heads, nk sub-keys per half, dk, dv, kp top_k.
#pragma once

#include "hydra/nn/torch.h"

#include "hydra/model/config.h"
#include "hydra/nn/batch.h"
#include "hydra/nn/layout.h"

namespace hydra::nn {

struct WorkspaceWeights {
  torch::Tensor norm, memory_norm;           // [D], [r]
  torch::Tensor read_q, write_k, write_v;    // [r, D]
  torch::Tensor read_k, read_v, o;           // [r, r], [r, r], [D, r]
  torch::Tensor slot_queries, init_state;    // [S, r]
  torch::Tensor write_gate_w, write_gate_b;  // [1, r], [S]
  torch::Tensor controller_w, controller_b;  // [2, D], [2]: rows beta (read), iota (write)
};

struct WorkspaceWrite {
  torch::Tensor gate;      // gamma [.., S, 1], 0 on slots that are not among the write_slots best
  torch::Tensor proposal;  // u-hat [.., S, r]
};
// What a closed chunk writes. u [.., C, D] normed.
WorkspaceWrite WriteWorkspace(const WorkspaceConfig& config, const WorkspaceWeights& w, const torch::Tensor& u);
// gamma of given proposals [.., S, r] -> [.., S, 1].
torch::Tensor WorkspaceGate(const WorkspaceConfig& config, const WorkspaceWeights& w, const torch::Tensor& proposal);
// What tokens u [.., C, D] (normed) read from M [.., S, r], without the gate beta: [.., C, D].
torch::Tensor ReadWorkspace(const ModelConfig& config, const WorkspaceWeights& w, const torch::Tensor& u,
                            const torch::Tensor& M);
// beta [.., 1]
torch::Tensor WorkspaceReadGate(const WorkspaceWeights& w, const torch::Tensor& u);

// The state that each chunk reads, [B, n, S, r]: an associative scan over chunks, M0 at document starts. u normed.
torch::Tensor WorkspaceStates(const ModelConfig& config, const WorkspaceWeights& w, const torch::Tensor& u,
                              const Layout& layout);
// x [B, T, D] -> what is added to x; rho scales the read gate.
torch::Tensor Workspace(const ModelConfig& config, const WorkspaceWeights& w, const torch::Tensor& x,
                        const Layout& layout, double rho);

struct PkmWeights {
  torch::Tensor norm, query_proj, query_norm;  // [D], [2 Hp dk, D], [Hp, 2, dk]
  torch::Tensor sub_keys, value_proj;          // [Hp, 2, nk, dk], [D, dv]
  torch::Tensor gate_w, gate_b;                // [1, D], [1]
};

struct PkmRows {
  torch::Tensor ids;     // [N, Hp, kp] int64 rows of the table
  torch::Tensor scores;  // [N, Hp, kp]
};
// Exact top-kp of all nk * nk sums; ties to the better rank in half 1, then half 2. u [N, D] normed.
PkmRows SelectRows(const ModelConfig& config, const PkmWeights& w, const torch::Tensor& u);
// x [.., D] -> what is added to x. The gradient of table [nk * nk, dv] is sparse; rho scales the gate. `rows` [M] int64
// counts x's rows that read (0 is added to the others); undefined: all. `watch` may be null.
torch::Tensor Pkm(const ModelConfig& config, const PkmWeights& w, const torch::Tensor& table, const torch::Tensor& x,
                  double rho, const torch::Tensor& rows = {}, const PkmWatch* watch = nullptr);

}  // namespace hydra::nn
