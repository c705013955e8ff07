// SPDX-License-Identifier: Apache-2.0
// Every tensor of a model, from its config: name, shape, dtype, weight decay, initial value. The only place that
// spells a tensor name; the trainer, readers, writers and the accounting walk it. Source: specs/hydra.md 9.2.
// Dims: V vocab, D d_model, H heads, N state, G groups, K taps, A/Akv attention heads, Dh head_dim, E experts,
// F d_expert or d_ff, S slots, r rank, Hp/n/dk/dv product keys.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hydra/model/config.h"

namespace hydra {

// What a tensor is for; with the layer it identifies a tensor in every family. One line for each part of a block.
// clang-format off
enum class TensorRole {
  kEmbedding, kHead, kPkmTable, kFinalNorm,                                        // of the model, layer = -1
  kBlockNorm, kPathGates, kControllerWeight, kControllerBias,                      // of a block
  kSsmInProj, kSsmConvWeight, kSsmConvBias, kSsmALog, kSsmD, kSsmDtBias, kSsmNorm, kSsmOutProj,
  kDiagonalParamProj, kDiagonalLambdaLog, kDiagonalSkipProj,
  kAttnQ, kAttnK, kAttnV, kAttnO, kAttnQBias, kAttnKBias, kAttnVBias, kAttnQNorm, kAttnKNorm,
  kLandmarkScorerWeight, kLandmarkScorerBias, kLandmarkScale,
  kLatentQDown, kLatentQNorm, kLatentQUp, kLatentKvDown, kLatentKvNorm, kLatentKvUp,  // latent attention
  kFfnNorm, kFfnGate, kFfnUp, kFfnDown,                                            // dense SwiGLU
  kBlockRouter, kBlockRouterScale, kBlockUp, kBlockDown,                           // BlockFFN
  kRouterPrev, kRouterFirst, kRouterInitSummary, kRouterBalanceBias, kExpertGateUp, kExpertDown,
  kWsNorm, kWsMemoryNorm, kWsReadQ, kWsWriteK, kWsWriteV, kWsReadK, kWsReadV, kWsOut, kWsSlotQueries, kWsInitState,
  kWsWriteGateWeight, kWsWriteGateBias, kWsControllerWeight, kWsControllerBias,
  kPkmNorm, kPkmQueryProj, kPkmQueryNorm, kPkmSubKeys, kPkmValueProj, kPkmGateWeight, kPkmGateBias,
};
// clang-format on

// The rows of the parameter tables of specs/hydra.md 8; dense is the controls' SwiGLU.
enum class Component {
  kEmbedding,
  kSsm,
  kBlockNorms,
  kAttention,
  kMoe,
  kDense,
  kBlockFfn,
  kWorkspace,
  kPkmSite,
  kPkmTable,
  kFinalNorm,
};
[[nodiscard]] const char* ComponentName(Component component);

// Initial values, specs/hydra.md 2.5, 2.6, 3, 5, 6.
enum class Init {
  kNormal,        // N(0, arg)
  kUniform,       // U(-arg, arg)
  kConstant,      // arg
  kPathGates,     // path_gates_init
  kALog,          // log of U(A_init)
  kDtBias,        // inverse softplus of log-uniform dt
  kLambdaLog,     // log(delta / ln 2), delta log-uniform in [1e-3, 1]
  kWsController,  // bias of the workspace controller: (arg, 0)
};

struct TensorSpec {
  TensorRole role;
  int layer;  // -1: of the model
  std::string name;
  std::vector<int64_t> shape;
  DType dtype;  // on disk; kF32 where fixed, else the config's
  bool weight_decay;
  bool parameter;  // false: a buffer, saved but not counted and not optimised
  Component component;
  Init init;
  double init_arg;
  bool matmul;  // stored in the config's dtype, and may be quantised; else f32 in every model
  [[nodiscard]] int64_t size() const { return NumElements(shape); }
};

// How the numbers of a tensor in a file lie: in the table's order (there may be a dimension more), experts before rows
// ([E, D, de] for the down matrix [D, E de]), or transposed.
enum class StoredOrder { kTable, kExpertsFirst, kTransposed };

// Another name, shape and order that files of other writers have a tensor in.
struct OtherForm {
  std::string name;
  std::vector<int64_t> shape;
  StoredOrder order;
};
// For matrices of BlockFFN's experts in the published family (specs/blockffn.md 3); none for other tensors.
[[nodiscard]] std::vector<OtherForm> OtherForms(const ModelConfig& config, const TensorSpec& spec);

class TensorTable {
 public:
  explicit TensorTable(const ModelConfig& config);

  // Calls found(spec) for each tensor in order, without a table: a config of some bytes may have 10^5 tensors, so who
  // reads a stranger's file looks first whether it has them all.
  static void ForEach(const ModelConfig& config, const std::function<void(const TensorSpec&)>& found);

  [[nodiscard]] const std::vector<TensorSpec>& specs() const& { return specs_; }
  const std::vector<TensorSpec>& specs() && = delete;  // a loop over a temporary's would read freed memory
  // nullptr when the model has no such tensor.
  [[nodiscard]] const TensorSpec* Find(TensorRole role, int layer = -1) const;
  [[nodiscard]] const TensorSpec* FindName(std::string_view name) const;

 private:
  std::vector<TensorSpec> specs_;
  std::unordered_map<std::string, size_t> by_name_;
  std::unordered_map<int64_t, size_t> by_role_;
};

}  // namespace hydra
