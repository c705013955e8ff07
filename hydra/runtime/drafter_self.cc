// SPDX-License-Identifier: Apache-2.0
// Models that guess for themselves with a part of their weights. Not here: the guesses (drafter_model.cc).
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/runtime/drafter.h"
#include "hydra/runtime/weights.h"

namespace hydra {
namespace {

// The rows of a head's first tokens: panels hold rows in groups, one after the other.
kernels::Matrix FirstRows(kernels::Matrix head, int64_t rows) {
  head.rows = std::min(head.rows, rows);
  return head;
}

std::vector<int64_t> LayersOf(const ModelConfig& config, std::vector<int64_t> layers) {
  if (layers.empty())
    for (int64_t i = 0; i < config.n_layers(); ++i) layers.push_back(i);
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto refuse = [&](const std::string& rule) {
      throw Error(ErrorCode::kUsage, StrCat("--spec self: layer ", layers[i], ": ", rule));
    };
    if (layers[i] < 0 || layers[i] >= config.n_layers()) refuse(StrCat("must be 0 to ", config.n_layers() - 1));
    if (i > 0 && layers[i] <= layers[i - 1]) refuse("layers must ascend");
  }
  return layers;
}

}  // namespace

bool SelfDraftsByLayers(const ModelConfig& config) {
  return config.wiring == Wiring::kSequential && config.HasFfn(FfnKind::kBlockFfn);
}

Controls SelfDraftControls(const ModelConfig& config) {
  const auto is_beside = [](const LayerConfig& layer) {
    return layer.attention != AttentionKind::kNone || layer.ffn != FfnKind::kNone || layer.workspace || layer.pkm;
  };
  if (config.wiring != Wiring::kParallel || !config.HasSsm())
    throw Error(ErrorCode::kUsage,
                "--spec self: this model has no path that could guess alone: its blocks do not run an SSM in parallel "
                "with others");
  if (std::ranges::none_of(config.layers, is_beside))
    throw Error(ErrorCode::kUsage, "--spec self: the SSM path is all that this model has, so it is no cheaper alone");
  Controls controls;
  controls.path_scale = {1, 0, 0};
  controls.workspace_read = controls.pkm_read = 0;
  return controls;
}

Model SelfDraftModel(const Model& model, const SelfDraftOptions& options) {
  const ModelWeights& from = model.weights();
  HYDRA_CHECK(SelfDraftsByLayers(from.config));
  const std::vector<int64_t> layers = LayersOf(from.config, options.layers);
  auto out = std::make_shared<ModelWeights>();
  out->config = from.config;
  out->options = from.options;
  out->path = StrCat(from.path, ", ", layers.size(), " layers without experts");
  out->target = from.target;
  out->rope_interleaved = from.rope_interleaved;
  out->inv_freq = from.inv_freq;
  out->embedding = from.embedding;
  out->head = FirstRows(from.head, options.tokens);
  out->final_norm = from.final_norm;
  out->quantised = from.quantised;
  out->tuning = from.tuning;
  out->keep = model.shared_weights();  // whose matrices these are
  out->source = from.source;
  // What a block adds keeps its factor, which the config takes from the number of layers.
  out->config.scale_depth *=
      std::sqrt(static_cast<double>(layers.size()) / static_cast<double>(from.config.n_layers()));
  out->config.layers.clear();
  for (const int64_t i : layers) {
    const auto at = static_cast<size_t>(i);
    out->config.layers.push_back(from.config.layers[at]);
    out->config.layers.back().ffn = FfnKind::kNone;
    BlockWeights& block = out->blocks.emplace_back();
    block.norm = from.blocks[at].norm;
    block.attention = from.blocks[at].attention;
  }
  return Model(std::move(out));
}

}  // namespace hydra
