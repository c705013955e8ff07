// SPDX-License-Identifier: Apache-2.0
// A model ready to run: config and weights mapped from disk, immutable, shared by threads; and its forward pass.
// Not here: what a sequence carries (sequence_state.h), sampling (runtime/sampler.h), text (text/tokenizer.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/kernels/matmul.h"
#include "hydra/model/accounting.h"
#include "hydra/model/config.h"
#include "hydra/runtime/offload.h"
#include "hydra/runtime/tuning.h"
#include "hydra/tensor/weight_type.h"

namespace hydra {

class Provisional;    // provisional.h
struct PassProfile;   // profile.h
class Trace;          // trace.h
class RoutingSource;  // routing_source.h
class SequenceState;
struct ModelWeights;  // weights.h

// --act. auto: q8 where weights are quantised, else bf16 where some are bf16 and the processor multiplies them, else
// f32.
enum class Activations { kAuto, kF32, kBF16, kQ8 };

struct LoadOptions {
  int64_t ctx_size = 8192;  // tokens that full attention's cache holds; 0 = the model's own length
  KvDtype kv_dtype = KvDtype::kF16;
  StateDtype state_dtype = StateDtype::kF32;
  Activations act = Activations::kAuto;
  bool pack = true;    // repack weights for the current SIMD level where that pays
  TuneOptions tune{};  // for the threads of the pool that loads
  // A file that the packed copies are kept in and mapped from, for models larger than memory; "": in memory.
  std::string offload{};
  AskAhead ask_ahead = AskAhead::kRouted;
};

// Which of a segment's positions need logits.
enum class LogitsOf { kLast, kAll, kNone };

// One sequence's new tokens in a forward pass.
struct Segment {
  SequenceState* state;
  std::span<const int32_t> ids;  // at least one
  LogitsOf logits = LogitsOf::kLast;
  // A provisional pass: the state stays as it is, and Commit takes as many of the tokens as are wanted. Each token's
  // logits are those of a step alone, to the bit. At most kept->tokens() ids.
  Provisional* kept = nullptr;
};

// Bytes that passes moved between memory and processor if nothing were cached longer than a round: counted where the
// work is listed, from what it reads. A matrix counts once a round in which a row needs it, a row of a table once a
// use, keys and values once for each tile of queries that reads them.
struct PassBytes {
  int64_t weights = 0;
  int64_t state_read = 0, state_written = 0;  // recurrent and constant state, landmarks' scores
  int64_t kv_read = 0, kv_written = 0;        // rows of keys and values
  int64_t key_tiles = 0;  // no bytes: tiles of 64 queries and 64 keys of a KV head that prompts have read and computed
  [[nodiscard]] int64_t total() const { return weights + state_read + state_written + kv_read + kv_written; }
  [[nodiscard]] PassBytes operator-(const PassBytes& o) const {
    return {weights - o.weights, state_read - o.state_read, state_written - o.state_written,
            kv_read - o.kv_read, kv_written - o.kv_written, key_tiles - o.key_tiles};
  }
  PassBytes& operator+=(const PassBytes& o) {
    weights += o.weights, state_read += o.state_read, state_written += o.state_written;
    kv_read += o.kv_read, kv_written += o.kv_written, key_tiles += o.key_tiles;
    return *this;
  }
  bool operator==(const PassBytes&) const = default;
};

// What passes ran of BlockFFN's experts, summed over its layers.
struct ExpertUse {
  int64_t layers = 0, read = 0;    // experts that there are, and whose weights were read, each once a pass
  int64_t tokens = 0, active = 0;  // the same for each token: experts that there are, and that it runs
  [[nodiscard]] ExpertUse operator-(const ExpertUse& o) const {
    return {layers - o.layers, read - o.read, tokens - o.tokens, active - o.active};
  }
  // Shares that were read a pass and run a token; 1 of a model without such layers.
  [[nodiscard]] double ReadShare() const {
    return layers > 0 ? static_cast<double>(read) / static_cast<double>(layers) : 1;
  }
  [[nodiscard]] double ActiveShare() const {
    return tokens > 0 ? static_cast<double>(active) / static_cast<double>(tokens) : 1;
  }
};

// Working memory of forward passes; grows to the largest pass and is then reused. One for each concurrent caller.
class ForwardScratch {
 public:
  ForwardScratch();
  ~ForwardScratch();
  ForwardScratch(ForwardScratch&&) noexcept;
  ForwardScratch& operator=(ForwardScratch&&) noexcept;
  [[nodiscard]] int64_t bytes() const;
  // Of all passes with this scratch so far.
  [[nodiscard]] const PassBytes& moved() const;
  [[nodiscard]] const ExpertUse& experts() const;
  // From BeginProfile to EndProfile passes with this scratch, and nothing else, run on the pool.
  void BeginProfile(const ThreadPool& pool);
  [[nodiscard]] PassProfile EndProfile(const ThreadPool& pool);
  // From here on passes tell it what they did; null: nothing is told.
  void SetTrace(Trace* trace);
  // From here on passes take BlockFFN's active sets from it, which must outlive them; null: from the router.
  void SetRouting(const RoutingSource* routing);
  struct Data;
  [[nodiscard]] Data& data() { return *data_; }

 private:
  std::unique_ptr<Data> data_;
};

// Cheap to copy; the weights are shared. Safe to use from several threads, each with its own pool, scratch and states.
class Model {
 public:
  // A model folder, a .gguf or a .safetensors file. Throws Error naming file, field or tensor.
  [[nodiscard]] static Model Load(const std::string& path, const LoadOptions& options = {}, ThreadPool* pool = nullptr);
  explicit Model(std::shared_ptr<const ModelWeights> weights) : weights_(std::move(weights)) {}

  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] const LoadOptions& options() const;  // ctx_size resolved
  [[nodiscard]] const ModelWeights& weights() const { return *weights_; }
  [[nodiscard]] const std::shared_ptr<const ModelWeights>& shared_weights() const { return weights_; }
  [[nodiscard]] const std::string& path() const;

  // Reads all tokens of every segment after what its state holds and moves the states on. Returns logits,
  // [rows, vocab]: those that each segment asks for, in the order of the segments; they live in `scratch` until its
  // next use. Long prompts go in pieces, which changes no result beyond rounding. Throws kUsage for an id outside the
  // vocabulary, a sequence longer than its caches allow or a state that is broken, kIo where a file of the model was
  // written to, all before any state changes. Any other exception leaves the states of which some tokens were read
  // marked (SequenceState::broken), those of provisional segments as they were.
  std::span<const float> Forward(std::span<const Segment> segments, ThreadPool& pool, ForwardScratch& scratch) const;
  // Takes the first m tokens of a provisional pass over `state` into it, as m steps would to the bit, from what was
  // kept: no weight matrix is read. The others are forgotten. m = 0 forgets all. The state must not have changed since,
  // nor had another provisional pass.
  void Commit(SequenceState& state, Provisional& kept, int64_t m, ThreadPool& pool, ForwardScratch& scratch) const;

  // One sequence. Logits [vocab] of the last token.
  std::span<const float> Prefill(SequenceState& state, std::span<const int32_t> ids, ThreadPool& pool,
                                 ForwardScratch& scratch) const;
  std::span<const float> Step(SequenceState& state, int32_t id, ThreadPool& pool, ForwardScratch& scratch) const;

 private:
  std::shared_ptr<const ModelWeights> weights_;
};

}  // namespace hydra
