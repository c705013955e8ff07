// SPDX-License-Identifier: Apache-2.0
// Chunk-routed experts of a pass: routes at chunk starts, one gathered product for each chosen expert.
// Formulas: specs/hydra.md 4. Dims: E experts, F d_expert, k experts of a chunk, C chunk_len, D d_model.
#include <cmath>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/runtime/pass.h"

namespace hydra {

// S_c = top-k of z + bias, or what the controls force; weights are the softmax of z / tau over the chosen.
void Pass::SelectExperts(const MoeWeights& w, SequenceState& state, int layer, float* z) {
  const MoeConfig& c = c_.moe;
  const Controls& controls = state.controls();
  const int64_t E = c.n_experts;
  int32_t* ids = state.At<int32_t>(At(state, layer).moe_ids);
  float* weights = state.At(At(state, layer).moe_weights);
  int64_t k = 0;
  if (!controls.force_experts.empty()) {
    for (const int64_t e : controls.force_experts) ids[k++] = static_cast<int32_t>(e);
  } else {
    float* score = z + E;
    for (int64_t e = 0; e < E; ++e) {
      const auto i = static_cast<size_t>(e);
      score[e] =
          z[e] + w.balance_bias[i] + (controls.expert_bias.empty() ? 0 : static_cast<float>(controls.expert_bias[i]));
    }
    for (const int64_t e : controls.ban_experts) score[e] = -std::numeric_limits<float>::infinity();
    k = std::min(controls.moe_top_k.value_or(c.top_k), E - static_cast<int64_t>(controls.ban_experts.size()));
    kernels::TopK(score, E, k, ids, nullptr);
  }
  const auto tau = static_cast<float>(controls.router_temperature.value_or(c.temperature));
  for (int64_t j = 0; j < k; ++j) weights[j] = z[ids[j]];
  kernels::Softmax({.x = weights, .y = weights, .T = 1, .D = k, .scale = 1 / tau});
  state.route_count(layer) = static_cast<int32_t>(k);
}

// Routes the chunk that starts at row t of the piece.
void Pass::RouteChunk(int layer, const MoeWeights& w, const Piece& p, int64_t t) {
  const MoeConfig& c = c_.moe;
  SequenceState& state = *p.state;
  const int64_t E = c.n_experts, D = c_.d_model;
  if (c.mode == RouterMode::kRoundRobin) {
    const int64_t k = state.controls().moe_top_k.value_or(c.top_k), chunk = (p.pos + t) / c_.chunk_len;
    for (int64_t j = 0; j < k; ++j) {
      state.At<int32_t>(At(state, layer).moe_ids)[j] = static_cast<int32_t>((chunk + layer + j * E / k) % E);
      state.At(At(state, layer).moe_weights)[j] = 1 / static_cast<float>(k);
    }
    state.route_count(layer) = static_cast<int32_t>(k);
    return;
  }
  float* z = s_.router.Get(2 * E);
  const float* u = s_.u.data() + (p.row + t) * D;
  const float* mean = state.At(At(state, layer).moe_mean);
  for (int64_t e = 0; e < E; ++e)
    z[e] = kernels::Dot(w.prev.data() + e * D, mean, D) + kernels::Dot(w.first.data() + e * D, u, D);
  SelectExperts(w, state, layer, z);
}

void Pass::Route(int layer, const MoeWeights& w) {
  const int64_t D = c_.d_model, C = c_.chunk_len, E = c_.moe.n_experts;
  s_.assignments.clear();
  for (const Piece& p : pieces_) {
    if (!PathOn(p, 2)) continue;
    SequenceState& state = *p.state;
    const BlockOffsets& at = At(state, layer);
    float* sum = state.At(at.moe_sum);
    for (int64_t t = 0; t < p.T; ++t) {
      if ((p.pos + t) % C == 0) RouteChunk(layer, w, p, t);
      const auto row = static_cast<int32_t>(p.row + t);
      for (int32_t j = 0; j < state.route_count(layer); ++j)
        s_.assignments.push_back(
            {state.At<int32_t>(at.moe_ids)[j], row, state.At(at.moe_weights)[j] * s_.scale[2].data()[row]});
      kernels::Axpy(1, s_.u.data() + row * D, sum, D);
      if ((p.pos + t + 1) % C != 0) continue;
      float* mean = state.At(at.moe_mean);
      for (int64_t d = 0; d < D; ++d) mean[d] = sum[d] / static_cast<float>(C), sum[d] = 0;
    }
  }
  // Rows by expert, in the order of rows.
  const auto n = static_cast<int64_t>(s_.assignments.size());
  s_.expert_begin.assign(static_cast<size_t>(E + 1), 0);
  for (const Assignment& a : s_.assignments) ++s_.expert_begin[static_cast<size_t>(a.expert) + 1];
  for (size_t e = 0; e < static_cast<size_t>(E); ++e) s_.expert_begin[e + 1] += s_.expert_begin[e];
  int32_t* rows = s_.expert_rows.Get(n + E);
  float* weights = s_.expert_weight.Get(n);
  int32_t* next = rows + n;
  for (int64_t e = 0; e < E; ++e) next[e] = static_cast<int32_t>(s_.expert_begin[static_cast<size_t>(e)]);
  for (const Assignment& a : s_.assignments) {
    const int32_t i = next[a.expert]++;
    rows[i] = a.row;
    weights[i] = a.weight;
  }
}

void Pass::AddExpertInputs(const MoeWeights& w) {
  const int64_t F = c_.moe.d_expert, n = static_cast<int64_t>(s_.assignments.size());
  float* hidden = s_.hidden.Get(n * 2 * F);
  for (size_t e = 0; e < w.gate_up.size(); ++e) {
    const int64_t begin = s_.expert_begin[e], rows = s_.expert_begin[e + 1] - begin;
    if (rows > 0)
      s_.maps.push_back({.w = w.gate_up[e],
                         .x = s_.u.data(),
                         .y = hidden + begin * 2 * F,
                         .T = rows,
                         .x_rows = s_.expert_rows.data() + begin});
  }
  constexpr int64_t kRows = 16;
  for (int64_t i = 0; i < n; i += kRows) s_.tasks.push_back({Task::kSwiGlu, 0, i, std::min(n, i + kRows), 0, 0});
}

void Pass::AddExpertOutputs(const MoeWeights& w) {
  const int64_t F = c_.moe.d_expert;
  for (size_t e = 0; e < w.down.size(); ++e) {
    const int64_t begin = s_.expert_begin[e], rows = s_.expert_begin[e + 1] - begin;
    if (rows > 0)
      s_.maps.push_back({.w = w.down[e],
                         .x = s_.hidden.data() + begin * 2 * F,
                         .y = s_.x.data(),
                         .T = rows,
                         .x_stride = 2 * F,
                         .y_stride = c_.d_model,
                         .y_rows = s_.expert_rows.data() + begin,
                         .row_scale = s_.expert_weight.data() + begin,
                         .accumulate = true});
  }
}

}  // namespace hydra
