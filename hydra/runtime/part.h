// SPDX-License-Identifier: Apache-2.0
// One forward pass over a batch of rows, and the parts that a block of it is made of. Internal to the runtime
// (forward.cc, part_*.cc). A row is one token of one sequence. Pieces are runs of rows of one sequence, at most one
// piece a sequence. A product reads all rows at once; what has state goes piece by piece. A new kind of part is a file
// part_NAME.cc and its line in MakeParts. Dims: n rows of the pass, T rows of a piece, D d_model.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "hydra/base/buffer.h"
#include "hydra/kernels/matmul.h"
#include "hydra/kernels/ops.h"
#include "hydra/runtime/kv_cache.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/trace.h"
#include "hydra/runtime/weights.h"

namespace hydra {

struct Piece {
  SequenceState* state;
  int64_t row;  // of its first token in the pass
  int64_t T;
  int64_t pos;                  // of its first token in the sequence
  Provisional* kept = nullptr;  // a provisional piece leaves its state as it was, and what would change it here
};

// Whether each row of a piece gets the bits that it would get in a pass of its own; steps and provisional pieces come
// first in a pass.
inline bool IsStep(const Piece& piece) { return piece.T == 1 || piece.kept != nullptr; }

// What all parts of a pass may know.
struct PassView {
  const ModelWeights& weights;
  const ModelConfig& config;
  std::span<const Piece> pieces;
  int64_t n;                               // rows
  int64_t longest;                         // rows of the longest piece
  int64_t steps;                           // the first rows, each of which gets the bits of a pass of its own
  int threads;                             // that run tasks
  const int64_t* positions;                // [n] of each row in its sequence
  float* x;                                // [n, D] the residual stream
  const float* u;                          // [n, D] its norm, which the parts of a group read
  PassBytes* moved;                        // what the pass reads and writes; products are counted by the pass
  ExpertUse* experts;                      // what BlockFFN's layers run
  Trace* trace;                            // told what each row does; null: nobody asks
  const RoutingSource* routing = nullptr;  // plants BlockFFN's active sets; null: the router says them
};

// Rows on which a part runs, and the factors of what it adds to x.
struct Share {
  int path = -1;                  // index of Controls::path_scale that can switch it off; -1: always on
  const int32_t* list = nullptr;  // the rows, ascending; null: all
  int64_t n = 0, steps = 0;       // how many; how many of them are the pass' steps
  const float* by_row = nullptr;  // [rows of the pass]; null: 1
  const float* packed = nullptr;  // [n] the same, of the rows in the list; null: 1
};

// The first m tokens of a provisional pass, which go into a layer's state.
struct Accepted {
  const ModelWeights& weights;
  SequenceState& state;
  const Provisional& kept;
  int layer;
  int64_t pos, m;  // position of the first, how many
  [[nodiscard]] const ModelConfig& config() const { return weights.config; }
  [[nodiscard]] const BlockWeights& block() const { return weights.blocks[static_cast<size_t>(layer)]; }
  [[nodiscard]] const BlockOffsets& at() const { return state.layout().blocks[static_cast<size_t>(layer)]; }
  [[nodiscard]] const KeptOffsets& kept_at() const { return kept.offsets(layer); }
  // A kept buffer.
  template <class T = float>
  [[nodiscard]] T* Kept(int64_t offset) const {
    return kept.At<T>(offset);
  }
  [[nodiscard]] bool On(int path) const {
    return path < 0 || state.controls(layer).path_scale[static_cast<size_t>(path)] != 0;
  }
};

class Part;

// A piece of the work after a round's products, for one worker. Parts give the fields their own meaning.
struct Task {
  Part* part = nullptr;
  int32_t kind = 0, piece = 0;
  int64_t begin = 0, end = 0;  // heads, channels, queries or rows
  int64_t head = 0, slot = 0;
  int64_t cost = 0;  // what it takes, where a part puts its longest tasks first
};

// What is done between two barriers: products of weights, then tasks.
struct Round {
  std::vector<kernels::MatMulArgs> products;
  std::vector<Task> tasks;
};

// A kind of part: one computation on the rows of a pass, with working memory of its own. Begin, then rounds 0, 1, ...
// until AddRound says that there is no more; parts of one group go side by side, so a round is asked for when the one
// before it has run. The products of AddOutput come last, those of all parts of the group together.
class Part {
 public:
  Part() = default;
  virtual ~Part() = default;
  // What a person calls it.
  [[nodiscard]] virtual const char* Name() const = 0;
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  // Does this layer have the part?
  [[nodiscard]] virtual bool In(const ModelConfig& config, const LayerConfig& layer) const = 0;
  // The norm of x that it reads: parts of one norm are one group.
  [[nodiscard]] virtual const F32& NormOf(const BlockWeights& block) const { return block.norm; }
  // Index of the path (Controls::path_scale, gates) that it is in a parallel block; -1: none.
  [[nodiscard]] virtual int Path() const { return -1; }
  // What a trace calls its output.
  [[nodiscard]] virtual ModelPart TracedAs() const {
    return Path() < 0 ? ModelPart::kMoe : static_cast<ModelPart>(Path());
  }

  void Begin(const PassView& pass, int layer, const Share& share) {
    pass_ = &pass;
    layer_ = layer;
    share_ = share;
    Start();
  }
  virtual bool AddRound(int round, Round& out) = 0;
  virtual void Run(const Task& task, float* scratch) = 0;
  virtual void AddOutput(std::vector<kernels::MatMulArgs>& /*products*/) {}
  // Moves a layer's state on by tokens of a provisional pass, as so many steps would, from what was kept. Several
  // layers may run at once.
  virtual void Commit(const Accepted& /*tokens*/) const {}
  // Floats that Run wants as scratch.
  [[nodiscard]] virtual int64_t ScratchFloats() const { return 0; }
  // Working memory held.
  [[nodiscard]] virtual int64_t bytes() const = 0;

 protected:
  virtual void Start() {}

  [[nodiscard]] const ModelConfig& config() const { return pass_->config; }
  [[nodiscard]] const BlockWeights& block() const { return pass_->weights.blocks[static_cast<size_t>(layer_)]; }
  [[nodiscard]] std::span<const Piece> pieces() const { return pass_->pieces; }
  [[nodiscard]] const BlockOffsets& At(const Piece& piece) const {
    return piece.state->layout().blocks[static_cast<size_t>(layer_)];
  }
  [[nodiscard]] const KeptOffsets& KeptAt(const Piece& piece) const { return piece.kept->offsets(layer_); }
  // A cache of a piece's state.
  [[nodiscard]] KvCache Cache(const Piece& piece, int64_t head) const {
    return {At(piece).caches[static_cast<size_t>(head)], piece.state->At<std::byte>(0)};
  }
  // Whether the controls of a piece leave the part's path on.
  [[nodiscard]] bool On(const Piece& piece) const {
    return share_.path < 0 || piece.state->controls(layer_).path_scale[static_cast<size_t>(share_.path)] != 0;
  }
  // y = W u of the share's rows; y [n, rows of W] by row of the pass.
  [[nodiscard]] kernels::MatMulArgs OfInput(const kernels::Matrix& w, float* y) const {
    return {.w = w,
            .x = pass_->u,
            .y = y,
            .T = share_.n,
            .x_rows = share_.list,
            .y_rows = share_.list,
            .steps = share_.steps};
  }
  // x += factor W in, of the share's rows; in [n, columns of W].
  [[nodiscard]] kernels::MatMulArgs IntoStream(const kernels::Matrix& w, const float* in, int64_t in_stride) const {
    return {.w = w,
            .x = in,
            .y = pass_->x,
            .T = share_.n,
            .x_stride = in_stride,
            .y_stride = config().d_model,
            .x_rows = share_.list,
            .y_rows = share_.list,
            .row_scale = share_.packed,
            .accumulate = true,
            .steps = share_.steps};
  }
  // Counts small tensors as read.
  void CountWeights(std::initializer_list<const F32*> tensors) const {
    for (const F32* tensor : tensors) pass_->moved->weights += static_cast<int64_t>(tensor->size() * sizeof(float));
  }
  // Counts the piece's buffers of a kind as read, and as written unless the piece is provisional.
  void CountState(const Piece& piece, StatePart kind) const {
    for (const StateBuffer& buffer : piece.state->layout().buffers[static_cast<size_t>(layer_)]) {
      if (buffer.part != kind) continue;
      pass_->moved->state_read += buffer.bytes;
      if (piece.kept == nullptr) pass_->moved->state_written += buffer.bytes;
    }
  }
  // Tasks of a kind over [0, n) in equal cuts of at most `most`.
  void AddTasks(Round& out, int32_t kind, int32_t piece, int64_t n, int64_t most) {
    for (int64_t i = 0; i < n; i += most)
      out.tasks.push_back({.part = this, .kind = kind, .piece = piece, .begin = i, .end = std::min(n, i + most)});
  }

  const PassView* pass_ = nullptr;
  int layer_ = 0;
  Share share_;
};

// Every kind of part, in the order in which a block runs them.
[[nodiscard]] std::vector<std::unique_ptr<Part>> MakeParts();

[[nodiscard]] std::unique_ptr<Part> MakeMamba2();
[[nodiscard]] std::unique_ptr<Part> MakeDiagonal();
[[nodiscard]] std::unique_ptr<Part> MakeFullAttention();
[[nodiscard]] std::unique_ptr<Part> MakeSparseAttention();
[[nodiscard]] std::unique_ptr<Part> MakeLatentAttention();
[[nodiscard]] std::unique_ptr<Part> MakeChunkExperts();
[[nodiscard]] std::unique_ptr<Part> MakeBlockFfn();
[[nodiscard]] std::unique_ptr<Part> MakeDense();
[[nodiscard]] std::unique_ptr<Part> MakeWorkspace();
[[nodiscard]] std::unique_ptr<Part> MakeProductKeys();

}  // namespace hydra
