// SPDX-License-Identifier: Apache-2.0
// One forward pass over a batch of rows: what its parts share. Internal to the runtime (forward.cc, path_*.cc,
// memories.cc). A row is one token of one sequence. Pieces are runs of rows of one sequence, at most one piece a
// sequence. A product reads all rows at once; what has state goes piece by piece. Dims: n rows of the pass, T rows of a
// piece, D d_model.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "hydra/base/buffer.h"
#include "hydra/kernels/matmul.h"
#include "hydra/kernels/ops.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/weights.h"

namespace hydra {

struct Piece {
  SequenceState* state;
  int64_t row;  // of its first token in the pass
  int64_t T;
  int64_t pos;  // of its first token in the sequence
};

// A piece of the work between two products, for one worker.
struct Task {
  enum Kind : int32_t { kSsd, kDiagonal, kAttention, kAttentionPart, kSwiGlu } kind;
  int32_t piece;
  int64_t begin, end;  // heads, channels, queries or rows
  int64_t kv, part;    // attention: KV head, block of keys
};

// A row that an expert computes, and the weight of its result.
struct Assignment {
  int32_t expert, row;
  float weight;
};

// Where the keys and values of recent positions lie: [Akv][head_rows] rows.
struct KeySource {
  const std::byte* k;
  const std::byte* v;
  int64_t head_rows;
  int64_t first;  // position of row 0; -1: a ring, position p in row p mod head_rows
  [[nodiscard]] int64_t Row(int64_t p) const { return first < 0 ? p % head_rows : p - first; }
};

struct ForwardScratch::Data {
  kernels::MatMulScratch matmul;
  Buffer<float> x, u, logits, last;                 // residual [n, D], its norm, logits, final norm
  Buffer<float> scale[3];                           // of each path: factor of each row [n]
  Buffer<float> zxbcdt, conv, dt, ssm_y;            // SSM path
  Buffer<float> q, k, v, attn_y, parts;             // attention
  Buffer<std::byte> window_k, window_v;             // ring and new rows of a piece, in order
  Buffer<float> scores, log_sigmoid;                // landmarks
  Buffer<float> hidden, expert_weight, router;      // experts: [assignments, 2F], [assignments]; scores [E]
  Buffer<int32_t> expert_rows;                      // [assignments] rows of each expert, one expert after another
  Buffer<int32_t> wanted, best;                     // rows whose logits are wanted; selections
  Buffer<float> ws_q, ws_k, ws_v, ws_mix, ws_norm;  // workspace
  Buffer<float> pkm_q, pkm_scores, pkm_o;           // product keys
  Buffer<float> small;                              // a few numbers of the calling thread
  Buffer<float> workers;                            // of each thread
  Buffer<int64_t> positions;                        // [n]
  Buffer<int32_t> active;                           // rows whose sequence has a path switched on
  std::vector<Piece> pieces;
  std::vector<Task> tasks;
  std::vector<kernels::MatMulArgs> maps;
  std::vector<Assignment> assignments;  // in the order of rows
  std::vector<int64_t> expert_begin;    // [E + 1]
  std::vector<int32_t> row_ids;         // tokens of the pass

  template <class F>
  void ForEachBuffer(F&& f) const {
    for (const auto* b :
         {&x,      &u,    &logits, &last, &scale[0], &scale[1], &scale[2], &zxbcdt,      &conv,   &dt,
          &ssm_y,  &q,    &k,      &v,    &attn_y,   &parts,    &scores,   &log_sigmoid, &hidden, &expert_weight,
          &router, &ws_q, &ws_k,   &ws_v, &ws_mix,   &ws_norm,  &pkm_q,    &pkm_scores,  &pkm_o,  &small,
          &workers})
      f(b->bytes());
    for (const auto* b : {&expert_rows, &wanted, &best, &active}) f(b->bytes());
    for (const auto* b : {&window_k, &window_v}) f(b->bytes());
    f(positions.bytes());
  }
};

// Rows of the pass on which a path runs: all, or a list where some sequence has it switched off.
struct Rows {
  const int32_t* list = nullptr;  // null: all
  int64_t n = 0;
};

class Pass {
 public:
  Pass(const ModelWeights& weights, ForwardScratch::Data& scratch, std::span<const Piece> pieces, ThreadPool& pool);
  // Embeds row_ids and runs every block; x holds the residual stream of all rows afterwards.
  void Run();
  // Final norm and head of some rows of x. rows [n] -> logits [n, V]
  void Logits(std::span<const int32_t> rows, float* logits);

 private:
  void ParallelBlock(int layer);
  void SequentialBlock(int layer);
  void ReadMemories(int layer);

  // Norm of x's rows into u.
  void Norm(const F32& weight);
  void PathScales(const BlockWeights& w);
  // Rows where path i is on.
  Rows ActiveRows(size_t path);
  [[nodiscard]] bool PathOn(const Piece& piece, size_t path) const {
    return piece.state->controls().path_scale[path] != 0;
  }

  // Products of u that a path needs; they join `maps`.
  void AddSsmInputs(const SsmWeights& w, const Rows& rows);
  void AddAttentionInputs(const AttentionWeights& w, const Rows& rows);
  void AddExpertInputs(const MoeWeights& w);
  // What happens between the products: adds tasks, or does the work where it has to be in order.
  void PrepareSsm(int layer);
  void PrepareAttention(int layer);
  void PrepareFull(int layer, int32_t piece);
  void PrepareSparseStep(int layer, int32_t piece);
  void SparsePiece(int layer, const Piece& piece);
  void RunTasks(int layer);
  void RunTask(int layer, const Task& task, float* scratch);
  void FinishSsm(int layer);
  void FinishAttention(int layer);
  // Landmark scores of a piece's rows; nothing without landmarks.
  void ScoreRows(int layer, const Piece& piece, float* scores);
  [[nodiscard]] bool SeesLandmarks(int layer, const Piece& piece) const;
  kernels::LandmarkArgs Landmarks(int layer, const Piece& piece, float* log_sigmoid);
  kernels::AttentionArgs AttentionOf(const Piece& piece);
  // Promotes the best of the chunk that ends before position `end` and evicts.
  void CloseLandmarkChunk(int layer, const Piece& piece, int64_t end, const KeySource& keys);
  // Chooses experts for the chunks of all pieces and lists their rows.
  void Route(int layer, const MoeWeights& w);
  void RouteChunk(int layer, const MoeWeights& w, const Piece& piece, int64_t t);
  void SelectExperts(const MoeWeights& w, SequenceState& state, int layer, float* z);
  // Products back into x.
  void AddOutput(const kernels::Matrix& w, const float* in, int64_t in_stride, size_t path, const Rows& rows);
  void AddExpertOutputs(const MoeWeights& w);

  void Workspace(int layer);
  void WorkspacePiece(int layer, const Piece& piece, float* scratch);
  void CloseWorkspaceChunk(int layer, SequenceState& state, float* gate);
  void Pkm(int layer);

  void Products() {
    if (!s_.maps.empty()) kernels::MatMul(s_.maps, act_, pool_, s_.matmul);
    s_.maps.clear();
  }
  // f(begin, end) over rows, on all threads where the work is worth it.
  template <class F>
  void ForRows(int64_t rows, int64_t rows_per_task, F&& f) {
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    pool_.For(tasks, [&](int64_t i, int) { f(i * rows_per_task, std::min(rows, (i + 1) * rows_per_task)); });
  }
  [[nodiscard]] const BlockWeights& Block(int layer) const { return w_.blocks[static_cast<size_t>(layer)]; }
  [[nodiscard]] const LayerConfig& Layer(int layer) const { return c_.layers[static_cast<size_t>(layer)]; }
  static const BlockOffsets& At(SequenceState& state, int layer) {
    return state.layout().blocks[static_cast<size_t>(layer)];
  }

  const ModelWeights& w_;
  const ModelConfig& c_;
  ForwardScratch::Data& s_;
  std::span<const Piece> pieces_;
  ThreadPool& pool_;
  kernels::ActType act_;
  int64_t n_ = 0;        // rows
  int64_t longest_ = 0;  // rows of the longest piece
  Rows rows_[3];         // of each path
};

}  // namespace hydra
