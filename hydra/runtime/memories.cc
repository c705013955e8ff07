// SPDX-License-Identifier: Apache-2.0
// The two memories of a pass: workspace (slots written when a chunk closes) and product-key memory (rows of a table).
// Formulas: specs/hydra.md 5 and 6. Dims: S slots, r rank, Sw slots written; Hp heads, nk sub-keys, dk half key, dv
// value.
#include <cmath>
#include <limits>

#include "hydra/runtime/pass.h"

namespace hydra {
namespace {

float Sigmoid(float v) { return 1 / (1 + std::exp(-v)); }

}  // namespace

// ---- Workspace ----

void Pass::Workspace(int layer) {
  const WorkspaceWeights& w = Block(layer).workspace;
  const int64_t D = c_.d_model, r = c_.workspace.rank, S = c_.workspace.n_slots;
  Norm(w.norm);
  const auto product = [&](const kernels::Matrix& m, Buffer<float>& out, const float* x) {
    s_.maps.push_back({.w = m, .x = x, .y = out.Get(n_ * r), .T = n_});
  };
  product(w.read_q, s_.ws_q, s_.u.data());
  product(w.write_k, s_.ws_k, s_.u.data());
  product(w.write_v, s_.ws_v, s_.u.data());
  Products();
  // (W_q u) . (W_kr R_i) = (W_kr^T W_q u) . R_i: r x r for each token in the place of S x r x r for each chunk
  product(w.read_k_t, s_.ws_mix, s_.ws_q.data());
  Products();
  const int64_t floats = S * r + 4 * S;
  float* scratch = s_.ws_norm.Get(floats * pool_.threads());
  pool_.For(static_cast<int64_t>(pieces_.size()), [&](int64_t i, int worker) {
    WorkspacePiece(layer, pieces_[static_cast<size_t>(i)], scratch + worker * floats);
  });
  product(w.read_v, s_.ws_q, s_.ws_mix.data());  // W_vr of the mixed slots
  Products();
  float* gate = s_.scale[0].Get(n_);
  for (const Piece& p : pieces_)
    for (int64_t t = p.row; t < p.row + p.T; ++t)
      gate[t] = static_cast<float>(p.state->controls().workspace_read) *
                Sigmoid(kernels::Dot(w.controller.data(), s_.u.data() + t * D, D) + w.controller_bias[0]);
  s_.maps.push_back(
      {.w = w.out, .x = s_.ws_q.data(), .y = s_.x.data(), .T = n_, .row_scale = gate, .accumulate = true});
  Products();
}

// Token by token: reads the slots as the last closed chunk left them, adds itself to the open chunk's online softmax,
// closes the chunk at its end. scratch: R(M) [S, r], scores [S], three rows of [S].
void Pass::WorkspacePiece(int layer, const Piece& p, float* scratch) {
  const WorkspaceWeights& w = Block(layer).workspace;
  const int64_t D = c_.d_model, r = c_.workspace.rank, S = c_.workspace.n_slots;
  SequenceState& state = *p.state;
  const BlockOffsets& at = At(state, layer);
  const float scale = 1 / std::sqrt(static_cast<float>(r));
  float *normed = scratch, *scores = scratch + S * r;
  float *acc = state.At(at.ws_acc), *sum = state.At(at.ws_sum), *max = state.At(at.ws_max);
  const auto norm_slots = [&] {
    kernels::RmsNorm({.x = state.At(at.ws_M),
                      .w = w.memory_norm.data(),
                      .y = normed,
                      .T = S,
                      .D = r,
                      .eps = static_cast<float>(c_.norm_eps)});
  };
  norm_slots();
  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t row = p.row + t;
    float* query = s_.ws_mix.data() + row * r;
    for (int64_t i = 0; i < S; ++i) scores[i] = kernels::Dot(normed + i * r, query, r);
    kernels::Softmax({.x = scores, .y = scores, .T = 1, .D = S, .scale = scale});
    std::fill_n(query, r, 0.0F);  // the mix takes its place
    for (int64_t i = 0; i < S; ++i) kernels::Axpy(scores[i], normed + i * r, query, r);

    const float iota = kernels::Dot(w.controller.data() + D, s_.u.data() + row * D, D) + w.controller_bias[1];
    const float *key = s_.ws_k.data() + row * r, *value = s_.ws_v.data() + row * r;
    for (int64_t i = 0; i < S; ++i) {
      const float logit = kernels::Dot(w.slot_queries.data() + i * r, key, r) * scale + iota;
      if (logit > max[i]) {
        const float fade = std::exp(max[i] - logit);  // 0 at a chunk's first token
        for (int64_t j = 0; j < r; ++j) acc[i * r + j] *= fade;
        sum[i] *= fade;
        max[i] = logit;
      }
      const float e = std::exp(logit - max[i]);
      kernels::Axpy(e, value, acc + i * r, r);
      sum[i] += e;
    }
    if ((p.pos + t + 1) % c_.chunk_len != 0) continue;
    CloseWorkspaceChunk(layer, state, scores);
    norm_slots();
  }
}

// M = (1 - gamma) M + gamma u with u the softmax mean and gamma open for the Sw best slots.
void Pass::CloseWorkspaceChunk(int layer, SequenceState& state, float* gate) {
  const WorkspaceWeights& w = Block(layer).workspace;
  const int64_t r = c_.workspace.rank, S = c_.workspace.n_slots, Sw = std::min(c_.workspace.write_slots, S);
  const BlockOffsets& at = At(state, layer);
  float *M = state.At(at.ws_M), *acc = state.At(at.ws_acc), *sum = state.At(at.ws_sum), *max = state.At(at.ws_max);
  for (int64_t i = 0; i < S; ++i) {
    for (int64_t j = 0; j < r; ++j) acc[i * r + j] /= sum[i];
    gate[i] = kernels::Dot(w.write_gate.data(), acc + i * r, r) + w.write_gate_bias[static_cast<size_t>(i)];
  }
  auto* open = reinterpret_cast<int32_t*>(gate + S);
  kernels::TopK(gate, S, Sw, open, nullptr);
  for (int64_t n = 0; n < Sw; ++n) {
    const int64_t i = open[n];
    const float g = Sigmoid(gate[i]);
    for (int64_t j = 0; j < r; ++j) M[i * r + j] = (1 - g) * M[i * r + j] + g * acc[i * r + j];
  }
  std::fill_n(acc, S * r, 0.0F);
  std::fill_n(sum, S, 0.0F);
  std::fill_n(max, S, -std::numeric_limits<float>::infinity());
}

// ---- Product-key memory ----

void Pass::Pkm(int layer) {
  const PkmConfig& c = c_.pkm;
  const PkmWeights& w = Block(layer).pkm;
  const int64_t D = c_.d_model, tables = 2 * c.n_heads, width = tables * c.d_key, nk = c.n_keys, kp = c.top_k,
                dv = c.d_value;
  Norm(w.norm);
  float* q = s_.pkm_q.Get(n_ * width);
  s_.maps.push_back({.w = w.query, .x = s_.u.data(), .y = q, .T = n_});
  Products();
  kernels::RmsNorm({.x = q,
                    .w = w.query_norm.data(),
                    .y = q,
                    .T = n_,
                    .D = width,
                    .groups = tables,
                    .eps = static_cast<float>(c_.norm_eps)});
  float* scores = s_.pkm_scores.Get(n_ * tables * nk);
  for (int64_t i = 0; i < tables; ++i)
    s_.maps.push_back({.w = w.sub_keys[static_cast<size_t>(i)],
                       .x = q + i * c.d_key,
                       .y = scores + i * nk,
                       .T = n_,
                       .x_stride = width,
                       .y_stride = tables * nk});
  Products();

  float* o = s_.pkm_o.Get(n_ * dv);
  float* gate = s_.scale[0].Get(n_);
  // of each worker: best of the halves and their sums; a table row
  const int64_t floats = 2 * kp + kp * kp + kp + dv, ints = 3 * kp;
  float* workers = s_.small.Get(floats * pool_.threads());
  int32_t* ids = s_.best.Get(ints * pool_.threads());
  pool_.For(n_, [&](int64_t t, int worker) {
    float *half = workers + worker * floats, *sums = half + 2 * kp, *share = sums + kp * kp, *value = share + kp;
    int32_t *first = ids + worker * ints, *second = first + kp, *pair = second + kp;
    float* out = o + t * dv;
    std::fill_n(out, dv, 0.0F);
    for (int64_t h = 0; h < c.n_heads; ++h) {
      const float* s = scores + (t * tables + 2 * h) * nk;
      kernels::TopK(s, nk, kp, first, half);
      kernels::TopK(s + nk, nk, kp, second, half + kp);
      for (int64_t i = 0; i < kp; ++i)
        for (int64_t j = 0; j < kp; ++j) sums[i * kp + j] = half[i] + half[kp + j];
      kernels::TopK(sums, kp * kp, kp, pair, share);
      kernels::Softmax({.x = share, .y = share, .T = 1, .D = kp});
      for (int64_t i = 0; i < kp; ++i) {
        const int64_t row = static_cast<int64_t>(first[pair[i] / kp]) * nk + second[pair[i] % kp];
        kernels::DecodeMatrixRow(w_.pkm_table, row, value);
        kernels::Axpy(share[i], value, out, dv);
      }
    }
    gate[t] = Sigmoid(kernels::Dot(w.gate.data(), s_.u.data() + t * D, D) + w.gate_bias);
  });
  for (const Piece& p : pieces_)
    for (int64_t t = p.row; t < p.row + p.T; ++t) gate[t] *= static_cast<float>(p.state->controls().pkm_read);
  s_.maps.push_back({.w = w.value, .x = o, .y = s_.x.data(), .T = n_, .row_scale = gate, .accumulate = true});
  Products();
}

}  // namespace hydra
