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
  int layer = 0;

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

  // Median over tokens and heads of the tokens after which a state has lost half: ln 2 / |dt A|.
  void HalfLife(const SsmWeights& w, const Tensor& u) const {
    const SsmConfig& c = config.ssm;
    Tensor rate;  // [B, T, heads or channels]
    if (c.kind == SsmKind::kMamba2) {
      const Tensor raw = torch::linear(u, w.in_proj.narrow(0, c.d_inner() + c.conv_dim(), c.n_heads));
      rate = SsmDt(c, raw, w.dt_bias) * torch::exp(w.A_log);
    } else {
      rate = torch::softplus(torch::linear(u, w.param_proj.narrow(0, 0, config.d_model))) * torch::exp(w.lambda_log);
    }
    const Tensor real = rate.masked_select(layout.real.unsqueeze(-1));
    Add("ssm/half_life", std::log(2.0) / real.median().item<double>());
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
  Collector collect{config_, layout, options, &stats};
  ForwardOptions paths_only = options;
  paths_only.workspace = paths_only.pkm = false;
  Tensor x = torch::embedding(at(TensorRole::kEmbedding), batch.ids);
  for (int i = 0; i < config_.n_layers(); ++i) {
    const LayerConfig& parts = config_.layers[static_cast<size_t>(i)];
    const BlockWeights& w = *blocks_[static_cast<size_t>(i)];
    collect.layer = i;
    const Tensor u = RmsNorm(x, w.norm, config_.norm_eps);
    if (config_.wiring == Wiring::kParallel) collect.Gates(w, u);
    if (parts.ssm && options.controls.path_scale[0] != 0) collect.HalfLife(w.ssm, u);
    x = RunBlock(config_, i, w, x, layout, paths_only).x;
    if (parts.workspace && options.workspace) {
      collect.WorkspaceGates(w.workspace, x);
      if (options.controls.workspace_read != 0)
        x = x + Workspace(config_, w.workspace, x, layout, options.controls.workspace_read);
    }
    if (parts.pkm && options.pkm && options.controls.pkm_read != 0) {
      collect.PkmGates(w.pkm, x);
      x = x + Pkm(config_, w.pkm, w.pkm_table, x, options.controls.pkm_read, layout.real_rows);
    }
  }
  return stats;
}

}  // namespace hydra::nn
