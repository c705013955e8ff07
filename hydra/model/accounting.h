// SPDX-License-Identifier: Apache-2.0
// What a model costs, from its config alone: parameters, FLOPs, bytes of weights, state, KV and training.
// Not here: measured numbers (bench/), text (hydra/cli/verb_inspect.cc). Source: specs/hydra.md 8 and 10.
// FLOPs: 2 per multiply-add. Bytes are of one sequence unless said. Dims as in tensor_table.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/model/config.h"
#include "hydra/model/kv_filling.h"
#include "hydra/model/tensor_table.h"
#include "hydra/tensor/cache_dtype.h"

namespace hydra {

inline constexpr int64_t kF32Bytes = 4;

// Tokens that the runtime reads in one pass; longer prompts are cut into passes.
inline constexpr int64_t kPassTokens = 512;
// Tokens that one sequence may have: positions of landmarks are stored in 32 bits.
inline constexpr int64_t kMaxSequenceTokens = int64_t{1} << 31;

struct ComponentParams {
  Component component;
  int64_t total;   // parameters, buffers not counted
  int64_t active;  // those that one token uses
};

struct ParamCounts {
  std::vector<ComponentParams> by_component;  // in table order of first appearance; components without tensors left out
  int64_t total = 0;
  int64_t active = 0;  // total - unchosen experts - PKM table + rows read; an untied embedding counts once, as the head
  int64_t buffers = 0;                                  // saved, but not parameters: balance_bias
  [[nodiscard]] int64_t Of(Component component) const;  // total; 0 when the model has none
};
[[nodiscard]] ParamCounts CountParams(const ModelConfig& config);

enum class FlopForm { kScan, kStep };  // all tokens at once; one token after another

struct Flops {
  int64_t linear = 0;     // matrix products of the weights
  int64_t attention = 0;  // scores and sums over keys
  int64_t scan = 0;       // the SSM recurrence
  int64_t workspace = 0;  // slots read and written
  [[nodiscard]] int64_t total() const { return linear + attention + scan + workspace; }
};
// Forward FLOPs of one token with `ctx` tokens before and at it: full attention sees ctx keys, sparse attention its
// window and the landmarks that ctx tokens promote; with a plan each head its own span. From ctx = C Gm / m on, Hydra's
// numbers are those of specs/hydra.md 10.
[[nodiscard]] Flops FlopsPerToken(const ModelConfig& config, int64_t ctx, FlopForm form, const KvPlan& plan = nullptr);
// Forward FLOPs of one token, scan form, averaged over a causal document of `tokens` tokens with the keys each sees.
[[nodiscard]] double MeanForwardFlops(const ModelConfig& config, int64_t tokens, const KvPlan& plan = nullptr);

// The same for many documents of up to `longest` tokens, summed: a token of a short document asks for less attention
// than one of a long document. Made once, then cheap for each document.
class DocumentFlops {
 public:
  DocumentFlops(const ModelConfig& config, int64_t longest);
  // Of a whole document of `tokens` tokens, 1 to longest: tokens * MeanForwardFlops.
  [[nodiscard]] double operator()(int64_t tokens) const;

 private:
  double per_token_, per_key_;  // without attention; of a query and a key in one layer
  double full_layers_, sparse_layers_;
  std::vector<double> sparse_keys_;  // [longest + 1] keys seen by the first t tokens together in one layer
};

// The decode state of a sequence that does not grow (specs/hydra.md 10), without position and control values.
struct StateBytes {
  int64_t ssm = 0;        // recurrence, state dtype
  int64_t conv = 0;       // last K-1 raw rows, f32
  int64_t kv = 0;         // window and landmark keys and values, KV dtype
  int64_t landmarks = 0;  // scores f32 and positions i32
  int64_t moe = 0;        // sum, summary, ids, weights
  int64_t workspace = 0;  // slots and the open chunk's online softmax
  [[nodiscard]] int64_t total() const { return ssm + conv + kv + landmarks + moe + workspace; }
};
[[nodiscard]] StateBytes CountState(const ModelConfig& config, KvDtype kv, StateDtype state = StateDtype::kF32);
// KV of full attention: what one more token adds. 0 for models without it.
[[nodiscard]] int64_t KvBytesPerToken(const ModelConfig& config, KvDtype kv);

// Bytes of one tensor; the default is the table's dtype, a loaded file gives its own.
using TensorBytes = std::function<int64_t(const TensorSpec&)>;
[[nodiscard]] int64_t DefaultTensorBytes(const TensorSpec& spec);

[[nodiscard]] int64_t WeightBytes(const TensorTable& table, const TensorBytes& bytes = DefaultTensorBytes);
// Weights that one decode step of `batch` sequences reads: all but the experts that nobody chose (the expected union
// of `batch` independent uniform choices; exact at batch 1), PKM rows not hit, and untied embedding rows not looked up.
// Of BlockFFN's experts the share `active` that the step's tokens run together; routers are f32, and the absorbed key
// maps of latent attention have 16 bits where their tensor is quantised.
[[nodiscard]] int64_t StepWeightBytes(const ModelConfig& config, const TensorTable& table, int64_t batch,
                                      const TensorBytes& bytes = DefaultTensorBytes, double active = 1);

// Memory of running `batch` sequences of `ctx` tokens.
struct RunOptions {
  int64_t ctx = 8192;
  int64_t batch = 1;
  KvDtype kv = KvDtype::kF16;
  StateDtype state = StateDtype::kF32;
  int64_t threads = 1;      // each has scratch of its own
  bool int8 = false;        // products round their inputs to int8, as those of quantised weights do
  int64_t provisional = 0;  // tokens of provisional passes, for speculation; 0: none
  KvPlan plan = nullptr;    // what heads keep in the place of what the config says
  double active = 1;        // share of BlockFFN's experts that a decode step reads: 1 - TLS, or 1 - CLS_batch
};
struct RunBytes {
  int64_t weights = 0;
  int64_t state = 0;           // of all sequences
  int64_t kv = 0;              // of all sequences at ctx; with a plan its rings, whatever ctx is
  int64_t kv_per_token = 0;    // of one sequence; 0 with a plan
  int64_t snapshot = 0;        // of one: a copy of the constant state, with the position
  int64_t scratch = 0;         // working memory of one pass, of all threads; logits of a row for each sequence
  int64_t provisional = 0;     // what provisional passes keep, of all sequences
  int64_t read_per_token = 0;  // a decode step's weights, state and KV at ctx, divided by batch
  // What must be had: one snapshot for each sequence that has constant state.
  [[nodiscard]] int64_t total(int64_t batch) const {
    return weights + state + kv + batch * snapshot + scratch + provisional;
  }
};
[[nodiscard]] RunBytes CountRun(const ModelConfig& config, const RunOptions& options,
                                const TensorBytes& bytes = DefaultTensorBytes);

// Memory of training on one device.
struct TrainMemoryOptions {
  int64_t tokens = 8192;           // of one micro-batch
  bool checkpoint_blocks = false;  // keep a block's input only and recompute the rest in the backward pass
  bool factored_moments = false;   // Adafactor in the place of AdamW
};
struct TrainMemory {
  int64_t weights = 0;      // f32 masters and buffers
  int64_t gradients = 0;    // f32; of the PKM table only the rows that the micro-batch can hit
  int64_t moments = 0;      // f32: AdamW two each, Adafactor one a row and a column; steps of the PKM table's rows
  int64_t activations = 0;  // an estimate: see accounting_train.cc
  [[nodiscard]] int64_t total() const { return weights + gradients + moments + activations; }
};
[[nodiscard]] TrainMemory CountTrainMemory(const ModelConfig& config, const TrainMemoryOptions& options);

// Does a run fit into `have` bytes, and if not, the one flag that mends it ("" when none does).
struct Fit {
  int64_t have = 0, need = 0;
  bool ok = false;
  std::string advice;
};
[[nodiscard]] Fit CheckFit(const ModelConfig& config, const RunOptions& options, int64_t have,
                           const TensorBytes& bytes = DefaultTensorBytes);

}  // namespace hydra
