// SPDX-License-Identifier: Apache-2.0
// What a model reads: rows of packed documents, and the switches of one forward pass.
// Not here: how rows are made from a corpus (hydra/train/batches.h).
// Dims: B rows, T tokens a row (a multiple of C), C chunk_len, n = T / C, A heads, Akv key heads, Dh head_dim, G pool.
#pragma once

#include "hydra/nn/torch.h"

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "hydra/model/attention_plan.h"
#include "hydra/model/config.h"
#include "hydra/model/controls.h"

namespace hydra::nn {

// Each document starts at a row offset that is a multiple of C and is padded to one (specs/hydra.md 7).
struct Batch {
  torch::Tensor ids;      // [B, T] int64
  torch::Tensor targets;  // [B, T] int64, the next token, -100 on pads and last tokens; may be undefined
  torch::Tensor seq_idx;  // [B, T] int64, document number in the row, -1 for pads
  torch::Tensor pos;      // [B, T] int64, position in the document; pads count on
  torch::Tensor domain;   // [B, T] int64, of the document: its place in MoeConfig::domains, -1 none; may be undefined

  // Rows of one document each, all of ids' length, padded right to a multiple of chunk_len. ids [B, n] int64.
  [[nodiscard]] static Batch OneDocumentPerRow(const torch::Tensor& ids, int64_t chunk_len);
  // One row of several documents, each padded to a multiple of chunk_len; the row to row_len when that is > 0.
  [[nodiscard]] static Batch Pack(const std::vector<std::vector<int64_t>>& documents, int64_t chunk_len,
                                  int64_t row_len = 0);
  // Rows below one another; all of equal length.
  [[nodiscard]] static Batch Stack(const std::vector<Batch>& rows);
  [[nodiscard]] Batch To(torch::Device device) const;
};

// Called by each product-key memory with the rows that its tokens read [N, Hp, kp] and the gates of the reads [N, 1].
using PkmWatch = std::function<void(const torch::Tensor& rows, const torch::Tensor& gates)>;

// Called by each BlockFFN layer with the experts that are active [B, T, E] bool.
using RouteWatch = std::function<void(int layer, const torch::Tensor& active)>;

// What attention of a block computed: positions are turned in, `out` is before its projection. In the graph of
// autograd.
struct AttentionSeen {
  torch::Tensor q, k, v, out;              // [B, T, A, Dh], [B, T, Akv, Dh] twice, [B, T, A, Dh]
  torch::Tensor log_sigma, lambda, pools;  // [B, T], [A], [B, n, G] rows; undefined without landmarks
  int64_t window = 0;                      // of sparse attention; 0: every token before
};
// Called by each full or sparse attention before it goes on.
using AttentionWatch = std::function<void(const AttentionSeen& seen)>;

// Terms of the loss that a layer's routing has, each a scalar.
enum class RouterTerm {
  kBalance,   // of chunk experts and top-k: 1 when uniform; gradient through the mean probabilities only
  kZ,         // of chunk experts: squares of logsumexp
  kDomain,    // of chunk experts, with labels
  kLocality,  // of BlockFFN: neighbouring tokens use the same experts
  kChunk,     // of BlockFFN: few experts within a chunk of tokens
  kSize,      // of BlockFFN: mean of max(raw, 0), an L1 norm
};
inline constexpr size_t kRouterTerms = 6;
// Undefined where a layer, or a model, has no such term.
using RouterTermValues = std::array<torch::Tensor, kRouterTerms>;
// None: the config's coefficient; where the config has none the term is not computed.
using RouterCoefs = std::array<std::optional<double>, kRouterTerms>;
[[nodiscard]] constexpr size_t TermIndex(RouterTerm term) { return static_cast<size_t>(term); }

// What one forward pass may change. Defaults: the model as trained.
struct ForwardOptions {
  Controls controls = {};             // of specs/hydra.md 4, as the runtime takes them
  bool workspace = true, pkm = true;  // false: the site is not there at all
  std::optional<RouterMode> router_mode = {};
  RouterCoefs router_coefs = {};  // of the terms of the loss that routers have; else the config's
  double locality_alpha = 100;    // of kLocality
  int64_t sparsity_chunk = 64;    // tokens of kChunk's chunks
  torch::Tensor ssm_resets = {};  // [B, T] bool: SSM paths forget what was before these tokens; undefined: none
  const PkmWatch* pkm_watch = nullptr;
  const RouteWatch* route_watch = nullptr;
  const AttentionWatch* attention_watch = nullptr;
  bool checkpoint_blocks = false;  // training: recompute each block in the backward pass
  // Spans of heads in the place of what the config says, by masks; null: none. The rules see plan_length.
  const AttentionPlan* plan = nullptr;
  int64_t plan_length = 0;
  HeadSpans head_spans = HeadSpans::kRing;
};

}  // namespace hydra::nn
