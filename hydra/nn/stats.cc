// SPDX-License-Identifier: Apache-2.0
// Model::CollectStats: means over a batch that a log shows, from a second, slower walk through the blocks.
// Not here: losses, and counts that the training step has anyway (RouterOut).
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/nn/block.h"
#include "hydra/nn/functions.h"
#include "hydra/nn/model.h"

namespace hydra::nn {

using torch::Tensor;

namespace {

// Collects one batch's rows; `Add` appends "name/layer".
struct Collector {
  const ModelConfig& config;
  const Layout& layout;
  const ForwardOptions& options;
  Stats* stats;
  int layer;

  void Add(const char* name, double value) const { stats->emplace_back(StrCat(name, "/", layer), value); }
  // Mean over real tokens of x [B, T].
  [[nodiscard]] double TokenMean(const Tensor& x) const { return x.masked_select(layout.real).mean().item<double>(); }

  void Gates(const BlockWeights& w, const Tensor& u) const {
    const LayerConfig& parts = config.layers[static_cast<size_t>(layer)];
    const Tensor factors = PathFactors(w, u, options).expand({layout.B, layout.T, 3});
    if (parts.ssm) Add("gate/ssm", TokenMean(factors.select(-1, 0)));
    if (parts.attention != AttentionKind::kNone) Add("gate/attn", TokenMean(factors.select(-1, 1)));
    if (parts.ffn != FfnKind::kNone) Add("gate/ffn", TokenMean(factors.select(-1, 2)));
  }

  // Tokens after which a state has lost half, ln 2 / |dt A|: the median over tokens and heads, and a tenth from below
  // and from above.
  void HalfLife(const SsmWeights& w, const Tensor& u) const {
    const SsmConfig& c = config.ssm;
    Tensor rate;  // [B, T, heads or channels]
    if (c.kind == SsmKind::kMamba2) {
      const Tensor raw = torch::linear(u, w.in_proj.narrow(0, c.d_inner() + c.conv_dim(), c.n_heads));
      rate = SsmDt(c, raw, w.dt_bias) * torch::exp(w.A_log);
    } else {
      rate = torch::softplus(torch::linear(u, w.param_proj.narrow(0, 0, config.d_model))) * torch::exp(w.lambda_log);
    }
    const Tensor real = std::get<0>(rate.masked_select(layout.real.unsqueeze(-1)).sort());
    const auto at = [&](double share) {
      const auto i = static_cast<int64_t>(share * static_cast<double>(real.numel() - 1));
      return std::log(2.0) / real[i].item<double>();
    };
    Add("ssm/half_life", at(0.5));
    Add("ssm/half_life_p10", at(0.9));  // the fastest rates are the shortest lives
    Add("ssm/half_life_p90", at(0.1));
  }

  // Tokens from a landmark to the chunk that sees it, and the share of the pool that is filled; means over real chunks.
  void Landmarks(const AttentionWeights& w, const Tensor& u) const {
    const AttentionConfig& c = config.attention;
    const Tensor pools =
        LandmarkPools(c, torch::linear(u, w.scorer_w, w.scorer_b).squeeze(-1), layout, options.controls.pins);
    const auto chunks = static_cast<double>(layout.chunk_real.sum().item<int64_t>());
    if (!pools.defined()) return Add("landmark/use", 0);
    const Tensor seen = (pools >= 0) & layout.chunk_real.unsqueeze(-1);  // [B, n, G]
    const Tensor pos = layout.pos.reshape({-1});
    const Tensor start = layout.pos.view({layout.B, layout.n_chunks, layout.C}).select(2, 0).unsqueeze(-1);
    const Tensor age = (start - pos.index({pools.clamp_min(0)})).masked_select(seen).to(torch::kFloat64);
    Add("landmark/use", static_cast<double>(age.numel()) / chunks / static_cast<double>(c.landmark_budget));
    if (age.numel() > 0) Add("landmark/age", age.mean().item<double>());
  }

  // slot_use: share of slots that a closed chunk writes with more than 1% of their value.
  void WorkspaceGates(const WorkspaceWeights& w, const Tensor& x) const {
    const Tensor u = RmsNorm(x, w.norm, config.norm_eps);
    Add("workspace/read_gate", TokenMean(WorkspaceReadGate(w, u).squeeze(-1)));
    const Tensor gate =
        WriteWorkspace(config.workspace, w, u.view({layout.B, layout.n_chunks, layout.C, -1})).gate.squeeze(-1);
    const Tensor closed = gate.masked_select(layout.chunk_closed.unsqueeze(-1));
    if (closed.numel() == 0) return;
    Add("workspace/write_gate", closed.mean().item<double>());
    Add("workspace/slot_use", closed.gt(0.01).to(torch::kFloat64).mean().item<double>());
  }

  // rows_hit: share of the table's rows that this batch reads.
  void PkmGates(const PkmWeights& w, const Tensor& x) const {
    const Tensor u = RmsNorm(x, w.norm, config.norm_eps);
    Add("pkm/gate", TokenMean(torch::sigmoid(torch::linear(u, w.gate_w, w.gate_b)).squeeze(-1)));
    const Tensor ids = SelectRows(config, w, u.reshape({-1, config.d_model})).ids;
    const Tensor real = ids.masked_select(layout.real.view({-1, 1, 1}));
    const auto n_rows = static_cast<double>(config.pkm.n_keys * config.pkm.n_keys);
    Add("pkm/rows_hit", static_cast<double>(std::get<0>(torch::_unique(real)).numel()) / n_rows);
  }
};

}  // namespace

Stats Model::CollectStats(const Batch& batch, const ForwardOptions& options) const {
  torch::NoGradGuard no_grad;
  const Layout layout = Layout::Make(batch, config_.chunk_len);
  Stats stats;
  Tensor x = Embed(batch.ids);
  for (int i = 0; i < config_.n_layers(); ++i) {
    const LayerConfig& parts = config_.layers[static_cast<size_t>(i)];
    const BlockWeights& w = *blocks_[static_cast<size_t>(i)];
    ForwardOptions here = options;
    here.controls = options.controls.Of(i);
    const Controls& controls = here.controls;
    const Collector collect{config_, layout, here, &stats, i};
    const Tensor u = RmsNorm(x, w.norm, config_.norm_eps);
    if (config_.wiring == Wiring::kParallel) collect.Gates(w, u);
    if (parts.ssm && controls.path_scale[0] != 0) collect.HalfLife(w.ssm, u);
    if (w.attention.scorer_w.defined() && controls.path_scale[1] != 0 && controls.landmarks)
      collect.Landmarks(w.attention, u);
    ForwardOptions paths_only = here;
    paths_only.workspace = paths_only.pkm = false;
    x = RunBlock(config_, i, w, x, layout, paths_only).x;
    if (parts.workspace && here.workspace) {
      collect.WorkspaceGates(w.workspace, x);
      if (controls.workspace_read != 0) x = x + Workspace(config_, w.workspace, x, layout, controls.workspace_read);
    }
    if (parts.pkm && here.pkm && controls.pkm_read != 0) {
      collect.PkmGates(w.pkm, x);
      x = x + Pkm(config_, w.pkm, w.pkm_table, x, controls.pkm_read, layout.real_rows);
    }
  }
  return stats;
}

std::vector<Tensor> Model::CollectPools(const Batch& batch, const ForwardOptions& options) const {
  torch::NoGradGuard no_grad;
  const Layout layout = Layout::Make(batch, config_.chunk_len);
  std::vector<Tensor> pools;
  Tensor x = Embed(batch.ids);
  for (int i = 0; i < config_.n_layers(); ++i) {
    const BlockWeights& w = *blocks_[static_cast<size_t>(i)];
    const Controls controls = options.controls.Of(i);
    if (w.attention.scorer_w.defined() && controls.path_scale[1] != 0 && controls.landmarks) {
      const Tensor u = RmsNorm(x, w.norm, config_.norm_eps);
      const Tensor pool =
          LandmarkPools(config_.attention, torch::linear(u, w.attention.scorer_w, w.attention.scorer_b).squeeze(-1),
                        layout, controls.pins);
      if (pool.defined()) pools.push_back(pool);
    }
    x = RunBlock(config_, i, w, x, layout, options).x;
  }
  return pools;
}

}  // namespace hydra::nn
