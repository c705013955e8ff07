// SPDX-License-Identifier: Apache-2.0
// One forward pass from the embedding to the logits: walks the blocks and merges the rounds of their parts. Internal to
// the runtime. Not here: what a part computes (part.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/runtime/part.h"
#include "hydra/runtime/profile.h"

namespace hydra {

// A segment on its way through the passes.
struct SegmentWalk {
  const Segment* segment;
  int64_t first_logit;  // row of the segment's first logits
  int64_t done = 0;     // tokens read
  [[nodiscard]] int64_t left() const { return static_cast<int64_t>(segment->ids.size()) - done; }
};

struct ForwardScratch::Data {
  kernels::MatMulScratch matmul;
  std::vector<std::unique_ptr<Part>> parts = MakeParts();
  std::vector<Part*> group, began, going;  // parts of one norm; those that have rows; those with rounds left
  Round round;
  Buffer<float> x, u, last, logits;   // residual [n, D], its norm; final norm of the wanted rows, their logits
  Buffer<float> scale[3], packed[3];  // of each path: factors of all rows, and of its active rows [n]
  Buffer<int32_t> active[3];          // rows whose sequence has a path on, where not all have
  Buffer<int32_t> wanted, wanted_at;  // rows whose logits are wanted, ascending, and which logits they are
  Buffer<int64_t> positions;          // [n]
  Buffer<float> workers;              // scratch of each thread
  PassBytes moved;
  ExpertUse experts;
  const RoutingSource* routing = nullptr;  // in the place of BlockFFN's routers
  std::optional<PassClock> clock;          // while a profile is taken
  Trace* trace = nullptr;                  // told what each pass does
  Buffer<float> before;                    // the stream before a part adds to it, for the trace
  std::vector<SegmentWalk> walks;
  std::vector<Piece> pieces;
  std::vector<size_t> piece_walks;  // of each piece
  std::vector<int32_t> row_ids;     // tokens of the pass

  [[nodiscard]] int64_t bytes() const;
};

// Owners of time beside the parts: behind them in a profile.
enum class Owner { kNorms, kEmbedding, kHead };
// What a profile calls the parts and those.
[[nodiscard]] std::vector<std::string> OwnerNames(const ForwardScratch::Data& scratch);

class Pass {
 public:
  Pass(const ModelWeights& weights, ForwardScratch::Data& scratch, std::span<const Piece> pieces, ThreadPool& pool);
  // Embeds row_ids and runs every block; x holds the residual stream of all rows afterwards.
  void Run();
  // Final norm and head of some rows of x, ascending: row rows[i] gives row at[i] of the logits.
  void Logits(std::span<const int32_t> rows, const int32_t* at, float* logits);

 private:
  void RunBlock(int layer);
  // Parts that read the same norm of x: their rounds side by side, then all that they add to x.
  void RunGroup(int layer, std::span<Part* const> group);
  // u = norm(x), and in a parallel block the factors of the paths: a_i gamma_i g_i of each row, gamma = 2 sigmoid(W u +
  // b) with a controller, else 1.
  void NormAndScales(int layer, const F32& norm);
  void Scales(int layer, const Piece& piece, int64_t begin, int64_t end);
  [[nodiscard]] Share ShareOf(int layer, const Part& part);
  // For the trace: tokens of the pass; gates of a layer; what a part's outputs add to the stream, which is what all
  // outputs together would add, to the bit.
  void TraceTokens();
  void TraceGates(int layer);
  void TraceOutput(int layer, Part& part);
  void TraceStream(int layer);
  // The products from `first` on are of a part.
  void SetOwner(size_t first, const Part* part);
  [[nodiscard]] size_t OwnerOf(const Part* part) const;
  [[nodiscard]] size_t OwnerOf(Owner owner) const { return s_.parts.size() + static_cast<size_t>(owner); }
  void RunRound();
  void Products();
  // f(begin, end) over rows, on all threads where the work is worth it.
  template <class F>
  void ForRows(size_t owner, int64_t rows, int64_t rows_per_task, F&& f) {
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    pool_.For(tasks, [&](int64_t i, int worker) {
      Time(worker, owner, [&] { f(i * rows_per_task, std::min(rows, (i + 1) * rows_per_task)); });
    });
  }
  // f() is a task for an owner; its time is added up while a profile is taken.
  template <class F>
  void Time(int worker, size_t owner, F&& f) {
    if (s_.clock)
      s_.clock->Time(worker, owner, f);
    else
      f();
  }
  // Products of all that is owned, as a profile counts them.
  [[nodiscard]] kernels::MatMulOptions ProductOptions() const {
    return {act_, w_.tuning.tuning, s_.clock ? s_.clock->products() : kernels::TaskTimes()};
  }

  const ModelWeights& w_;
  const ModelConfig& c_;
  ForwardScratch::Data& s_;
  ThreadPool& pool_;
  kernels::ActType act_;
  PassView view_;
};

}  // namespace hydra
