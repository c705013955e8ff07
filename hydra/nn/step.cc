// SPDX-License-Identifier: Apache-2.0
// Step forms of every part of a block. Dims as in step.h.
#include "hydra/nn/step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/nn/functions.h"

namespace hydra::nn {

using torch::Tensor;

Stepper::Stepper(const Model& model, const ForwardOptions& options) : model_(&model) {
  torch::NoGradGuard no_grad;
  const ModelConfig& c = model_->config();
  const auto zeros = [&](at::IntArrayRef shape) {
    return torch::zeros(shape, model_->at(TensorRole::kFinalNorm).options());
  };
  for (int i = 0; i < c.n_layers(); ++i) {
    weights_.push_back(BlockWeights::Of(model, i));
    options_.push_back(options);
    options_.back().controls = options.controls.Of(i);
    BlockState s;
    const LayerConfig& layer = c.layers[static_cast<size_t>(i)];
    if (layer.ssm && c.ssm.kind == SsmKind::kMamba2) {
      s.conv = zeros({c.ssm.d_conv - 1, c.ssm.conv_dim()});
      s.ssm = zeros({c.ssm.n_heads, c.ssm.head_dim, c.ssm.d_state});
    } else if (layer.ssm) {
      s.ssm = zeros({c.d_model});
    }
    if (layer.ffn == FfnKind::kChunkMoe) {
      s.sum = zeros({c.d_model});
      s.mean = weights_.back().moe.init_summary;
    }
    if (layer.workspace) {
      s.M = weights_.back().workspace.init_state;
      s.acc = zeros({c.workspace.n_slots, c.workspace.rank});
      s.weight = zeros({c.workspace.n_slots});
      s.max = torch::full_like(s.weight, -std::numeric_limits<double>::infinity());
    }
    state_.push_back(std::move(s));
  }
}

Tensor Stepper::Step(int64_t id) {
  torch::NoGradGuard no_grad;
  const int64_t vocab = model_->config().vocab_size;
  if (id < 0 || id >= vocab) throw Error(ErrorCode::kUsage, StrCat("token id ", id, ": must be 0 to ", vocab - 1));
  return model_->Logits(StepEmbedding(model_->Embed(torch::tensor(id, torch::kInt64))));
}

Tensor Stepper::StepEmbedding(const Tensor& embedding) {
  torch::NoGradGuard no_grad;
  Tensor x = embedding;
  for (int i = 0; i < model_->config().n_layers(); ++i) x = RunBlock(i, x, state_[static_cast<size_t>(i)]);
  ++pos_;
  return model_->FinalNorm(x);
}

Tensor Stepper::RunBlock(int layer, const Tensor& input, BlockState& state) {
  const ModelConfig& c = model_->config();
  const LayerConfig& parts = c.layers[static_cast<size_t>(layer)];
  const BlockWeights& w = weights_[static_cast<size_t>(layer)];
  const Tensor u = RmsNorm(input, w.norm, c.norm_eps);
  Tensor x = input;
  if (c.wiring == Wiring::kSequential) {
    const double scale = c.residual_scale();
    const bool latent = parts.attention == AttentionKind::kLatent;
    x = x + scale * (parts.ssm ? Ssm(w, u, state) : latent ? Latent(w, u, state) : Attention(layer, w, u, state));
    return parts.ffn == FfnKind::kNone ? x : x + scale * Ffn(layer, w, RmsNorm(x, w.ffn_norm, c.norm_eps), state);
  }
  const ForwardOptions& options = At(layer);
  const Tensor g = PathFactors(w, u, options);
  const auto& a = options.controls.path_scale;
  if (parts.ssm && a[0] != 0) x = x + g[0] * Ssm(w, u, state);
  if (parts.attention != AttentionKind::kNone && a[1] != 0) x = x + g[1] * Attention(layer, w, u, state);
  if (parts.ffn != FfnKind::kNone && a[2] != 0) x = x + g[2] * Ffn(layer, w, u, state);
  if (parts.workspace && options.workspace) x = x + Workspace(layer, w, x, state);
  if (parts.pkm && options.pkm && options.controls.pkm_read != 0)
    x = x + Pkm(c, w.pkm, w.pkm_table, x, options.controls.pkm_read);
  return x;
}

Tensor Stepper::Ssm(const BlockWeights& weights, const Tensor& u, BlockState& state) const {
  const ModelConfig& model = model_->config();
  const SsmConfig& c = model.ssm;
  const SsmWeights& w = weights.ssm;
  if (c.kind == SsmKind::kDiagonal) {
    const auto p = torch::matmul(w.param_proj, u).chunk(4);             // delta, B, C, U
    const Tensor y = p[2] * state.ssm + torch::matmul(w.skip_proj, u);  // reads before it writes
    state.ssm = torch::exp(-torch::softplus(p[0]) * torch::exp(w.lambda_log)) * state.ssm + p[1] * p[3];
    return y;
  }
  const int64_t gn = c.n_groups * c.d_state;
  const auto parts = torch::matmul(w.in_proj, u).split_with_sizes({c.d_inner(), c.conv_dim(), c.n_heads});
  const Tensor taps = torch::cat({state.conv, parts[1].unsqueeze(0)});  // [K, conv_dim]
  state.conv = taps.narrow(0, 1, c.d_conv - 1);
  Tensor pre = (taps * w.conv_w.squeeze(1).t()).sum(0);
  if (w.conv_b.defined()) pre = pre + w.conv_b;
  const auto x_b_c = torch::silu(pre).split_with_sizes({c.d_inner(), gn, gn});
  const Tensor x = x_b_c[0].view({c.n_heads, c.head_dim});
  const auto by_head = [&](const Tensor& v) {
    return v.view({c.n_groups, 1, c.d_state})
        .expand({c.n_groups, c.n_heads / c.n_groups, c.d_state})
        .reshape({c.n_heads, c.d_state});
  };
  const Tensor Bm = by_head(x_b_c[1]), Cm = by_head(x_b_c[2]), dt = SsmDt(c, parts[2], w.dt_bias);
  const Tensor decay = torch::exp(dt * -torch::exp(w.A_log)).view({-1, 1, 1});
  state.ssm = decay * state.ssm + (dt.unsqueeze(1) * x).unsqueeze(2) * Bm.unsqueeze(1);
  const Tensor y = torch::matmul(state.ssm, Cm.unsqueeze(2)).squeeze(2) + w.D.unsqueeze(1) * x;
  const int64_t width = c.d_inner() / c.norm_groups;
  const Tensor gated = (y.reshape({-1}) * torch::silu(parts[0])).view({c.norm_groups, width});
  return torch::matmul(w.out_proj, RmsNorm(gated, w.norm.view({c.norm_groups, width}), model.norm_eps).reshape({-1}));
}

Tensor Stepper::Attention(int layer, const BlockWeights& weights, const Tensor& u, BlockState& state) const {
  const ModelConfig& model = model_->config();
  const AttentionConfig& c = model.attention;
  const AttentionWeights& w = weights.attention;
  const bool sparse = model.layers[static_cast<size_t>(layer)].attention == AttentionKind::kSparse;
  const Controls& controls = At(layer).controls;
  const bool landmarks = sparse && controls.landmarks && w.scorer_w.defined();
  const Tensor at = torch::full({1, 1}, pos_, torch::TensorOptions().dtype(torch::kInt64).device(u.device()));
  const auto head = [&](const Tensor& map, int64_t n, const Tensor& norm, bool rotate) {
    Tensor y = torch::matmul(map, u).view({1, 1, n, c.head_dim});
    if (norm.defined()) y = RmsNorm(y, norm, model.norm_eps);
    return (rotate ? Rope(y, at, c.rope_theta) : y).view({n, c.head_dim});
  };
  const Tensor q = head(w.q, c.n_heads, w.q_norm, true);
  const double score = landmarks ? (torch::matmul(w.scorer_w, u) + w.scorer_b).item<double>() : 0;
  state.ring.push_back({pos_, head(w.k, c.n_kv_heads, w.k_norm, true), head(w.v, c.n_kv_heads, {}, false), score});
  if (sparse && static_cast<int64_t>(state.ring.size()) > c.window) state.ring.erase(state.ring.begin());

  std::vector<Tensor> keys, values;
  std::vector<double> bias;
  const auto see = [&](const KeyEntry& e, double b) {
    keys.push_back(e.k);
    values.push_back(e.v);
    bias.push_back(b);
  };
  for (const KeyEntry& e : state.pool)
    if (e.pos <= pos_ - c.window) see(e, -std::log1p(std::exp(-e.score)));
  for (const KeyEntry& e : state.ring) see(e, 0);
  const int64_t R = c.n_heads / c.n_kv_heads;
  const auto stacked = [&](const std::vector<Tensor>& x) {  // [A, n, Dh]
    return torch::stack(x, 1)
        .unsqueeze(1)
        .expand({c.n_kv_heads, R, -1, c.head_dim})
        .reshape({c.n_heads, -1, c.head_dim});
  };
  Tensor scores = torch::matmul(stacked(keys), q.unsqueeze(2)).squeeze(2) / std::sqrt(static_cast<double>(c.head_dim));
  if (landmarks)
    scores = scores + torch::softplus(w.landmark_scale).unsqueeze(1) * torch::tensor(bias, scores.options());
  const Tensor y = torch::matmul(torch::softmax(scores, 1).unsqueeze(1), stacked(values)).reshape({-1});
  if (landmarks && ClosesChunk()) {  // promote the best of the chunk, then evict
    const auto pinned = [&](const KeyEntry& e) { return std::ranges::binary_search(controls.pins, e.pos); };
    const auto best_first = [&](const KeyEntry& a, const KeyEntry& b) {
      if (pinned(a) != pinned(b)) return pinned(a);
      return a.score > b.score || (a.score == b.score && a.pos < b.pos);
    };
    const auto by_pos = [](const KeyEntry& a, const KeyEntry& b) { return a.pos < b.pos; };
    const auto keep = [&](std::vector<KeyEntry>& entries, int64_t n) {
      std::sort(entries.begin(), entries.end(), best_first);
      entries.resize(std::min(entries.size(), static_cast<size_t>(n)));
      std::sort(entries.begin(), entries.end(), by_pos);
    };
    std::vector<KeyEntry> chunk(state.ring.end() - model.chunk_len, state.ring.end());
    keep(chunk, c.landmarks_per_chunk + std::ranges::count_if(chunk, pinned));
    state.pool.insert(state.pool.end(), chunk.begin(), chunk.end());
    keep(state.pool, c.landmark_budget);
  }
  return torch::matmul(w.o, y);
}

// The absorbed form: scores and sums over the cached latent vectors, maps of a head on either side of them.
Tensor Stepper::Latent(const BlockWeights& weights, const Tensor& u, BlockState& state) const {
  const AttentionConfig& a = model_->config().attention;
  const LatentConfig& c = a.latent;
  const LatentWeights& w = weights.latent;
  const Tensor at = torch::full({1, 1}, pos_, torch::TensorOptions().dtype(torch::kInt64).device(u.device()));
  const auto turned = [&](const Tensor& x, int64_t n) { return Rope(x.view({1, 1, n, c.d_rope}), at, a.rope_theta); };
  const Tensor down = torch::matmul(w.kv_down, u);
  const Tensor row = torch::cat({RmsNorm(down.narrow(0, 0, c.kv_rank), w.kv_norm, LatentConfig::kNormEps),
                                 turned(down.narrow(0, c.kv_rank, c.d_rope), 1).view({-1})});
  state.latent = state.latent.defined() ? torch::cat({state.latent, row.unsqueeze(0)}) : row.unsqueeze(0);
  const Tensor q = torch::matmul(w.q_up, RmsNorm(torch::matmul(w.q_down, u), w.q_norm, LatentConfig::kNormEps))
                       .view({a.n_heads, c.d_key()});
  const auto up = w.kv_up.view({a.n_heads, c.d_nope + c.d_value, c.kv_rank}).split_with_sizes({c.d_nope, c.d_value}, 1);
  const Tensor q_latent = torch::matmul(q.narrow(1, 0, c.d_nope).unsqueeze(1), up[0]).squeeze(1);  // [A, kv_rank]
  const Tensor q_rope = turned(q.narrow(1, c.d_nope, c.d_rope).contiguous(), a.n_heads).view({a.n_heads, c.d_rope});
  const Tensor scores =
      torch::matmul(torch::cat({q_latent, q_rope}, 1), state.latent.t()) / std::sqrt(static_cast<double>(c.d_key()));
  const Tensor sums = torch::matmul(torch::softmax(scores, 1), state.latent.narrow(1, 0, c.kv_rank));
  return torch::matmul(w.o, torch::matmul(up[1], sums.unsqueeze(2)).reshape({-1}));
}

Tensor Stepper::Ffn(int layer, const BlockWeights& w, const Tensor& u, BlockState& state) const {
  const ModelConfig& c = model_->config();
  switch (c.layers[static_cast<size_t>(layer)].ffn) {
    case FfnKind::kDense: return Dense(w.dense, u);
    case FfnKind::kBlockFfn: {
      const Tensor row = u.unsqueeze(0);
      return BlockFfnDense(w.block_ffn, row, RouteBlock(c.moe, w.block_ffn, row, c.norm_eps).gates).squeeze(0);
    }
    case FfnKind::kChunkMoe: return Moe(layer, w, u, state);
    case FfnKind::kNone: break;
  }
  return torch::zeros_like(u);
}

Tensor Stepper::Moe(int layer, const BlockWeights& weights, const Tensor& u, BlockState& state) const {
  const ModelConfig& c = model_->config();
  const MoeWeights& w = weights.moe;
  if (pos_ % c.chunk_len == 0) {
    if (At(layer).router_mode.value_or(c.moe.mode) == RouterMode::kRoundRobin) {
      Batch one = Batch::OneDocumentPerRow(
          torch::zeros({1, pos_ + 1}, torch::TensorOptions().dtype(torch::kInt64).device(u.device())), c.chunk_len);
      const Layout layout = Layout::Make(one, c.chunk_len);
      const Routes all = Route(c, layer, w, u.expand({1, layout.T, -1}), layout, At(layer));
      state.routes.ids = all.ids.narrow(1, layout.n_chunks - 1, 1);
      state.routes.route_weights = all.route_weights.narrow(1, layout.n_chunks - 1, 1);
    } else {
      const Tensor z = torch::matmul(w.prev_proj, state.mean) + torch::matmul(w.first_proj, u);
      state.routes = SelectExperts(c.moe, z.view({1, 1, -1}), w.balance_bias, At(layer).controls);
    }
  }
  state.sum = state.sum + u;
  Tensor y = torch::zeros_like(u);
  const Tensor ids = state.routes.ids.view({-1}), p = state.routes.route_weights.view({-1});
  for (int64_t j = 0; j < ids.size(0); ++j) {
    const auto e = ids[j].item<int64_t>();
    y = y + p[j] * Expert(u.unsqueeze(0), w.gate_up[e], w.down[e]).squeeze(0);
  }
  if (ClosesChunk()) {
    state.mean = state.sum / static_cast<double>(c.chunk_len);
    state.sum = torch::zeros_like(state.sum);
  }
  return y;
}

Tensor Stepper::Workspace(int layer, const BlockWeights& weights, const Tensor& x, BlockState& state) const {
  const double rho = At(layer).controls.workspace_read;
  const ModelConfig& c = model_->config();
  const WorkspaceWeights& w = weights.workspace;
  const Tensor u = RmsNorm(x, w.norm, c.norm_eps);
  Tensor y = torch::zeros_like(x);
  if (rho != 0) y = rho * WorkspaceReadGate(w, u) * ReadWorkspace(c, w, u.unsqueeze(0), state.M).squeeze(0);
  // online softmax over the open chunk, one row a slot
  const Tensor logit =
      torch::matmul(w.slot_queries, torch::matmul(w.write_k, u)) / std::sqrt(static_cast<double>(c.workspace.rank)) +
      torch::dot(w.controller_w[1], u) + w.controller_b[1];
  const Tensor max = torch::maximum(state.max, logit);
  const Tensor fade = torch::exp(state.max - max), e = torch::exp(logit - max);
  state.acc = state.acc * fade.unsqueeze(1) + e.unsqueeze(1) * torch::matmul(w.write_v, u);
  state.weight = state.weight * fade + e;
  state.max = max;
  if (ClosesChunk()) {
    const Tensor proposal = state.acc / state.weight.unsqueeze(1);
    const Tensor gate = WorkspaceGate(c.workspace, w, proposal);
    state.M = (1 - gate) * state.M + gate * proposal;
    state.acc = torch::zeros_like(state.acc);
    state.weight = torch::zeros_like(state.weight);
    state.max = torch::full_like(state.max, -std::numeric_limits<double>::infinity());
  }
  return y;
}

}  // namespace hydra::nn
