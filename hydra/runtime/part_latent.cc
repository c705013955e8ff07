// SPDX-License-Identifier: Apache-2.0
// Latent attention, absorbed: what is cached of a token is one small vector for all heads, which is key and value at
// once; queries are brought to it, and the sums of it back to values (specs/blockffn.md 2). Not here: the expanded
// form, which is trained (nn/attention.cc). Dims: n rows, A heads, Rq q_rank, Rk kv_rank, Dn d_nope, Dr d_rope, Dl
// d_value.
#include <algorithm>
#include <cmath>

#include "hydra/runtime/part_attention.h"

namespace hydra {
namespace {

class LatentAttention final : public CachedAttention {
 public:
  [[nodiscard]] const char* Name() const override { return "latent attention"; }
  [[nodiscard]] bool In(const ModelConfig& /*config*/, const LayerConfig& layer) const override {
    return layer.attention == AttentionKind::kLatent;
  }
  [[nodiscard]] int64_t bytes() const override {
    return CachedAttention::bytes() + q_down_.bytes() + q_heads_.bytes() + values_.bytes();
  }

  // Round 0 makes the small vectors, 1 the heads' queries, 2 brings those to the cached vectors; then they attend; the
  // last round makes values. What a few rows need beside products is done on the calling thread, where a round of tasks
  // would cost more.
  bool AddRound(int round, Round& out) override {
    constexpr int64_t kFewRows = 8;
    const bool at_once = pass_->n <= kFewRows;
    const LatentWeights& w = block().attention.latent;
    if (round == 0) {
      AddKeys(out);
      if (at_once) out.tasks.resize(first_task_);
      return true;
    }
    if (round == 1) {
      if (at_once) ForPieces([&](const Piece& p) { Rotate(p, 0, p.T); });
      const int64_t width = heads() * latent().d_key();
      out.products.push_back(OfRows(w.q_up, q_down_.data(), latent().q_rank, q_heads_.Get(pass_->n * width), width));
      return true;
    }
    if (round == 2) {
      q_.Get(pass_->n * heads() * shape_.Dk);
      for (int64_t h = 0; h < heads(); ++h)
        out.products.push_back(OfRows(w.key[static_cast<size_t>(h)], q_heads_.data() + h * latent().d_key(),
                                      heads() * latent().d_key(), q_.data() + h * shape_.Dk, heads() * shape_.Dk));
      constexpr int64_t kRows = 16;
      for (size_t i = 0; i < pieces().size(); ++i) {
        if (!On(pieces()[i])) continue;
        if (at_once)
          TurnQueries(pieces()[i].row, pieces()[i].T);
        else
          AddTasks(out, kTurn, static_cast<int32_t>(i), pieces()[i].T, kRows);
      }
      return true;
    }
    if (Attend(out)) return true;
    if (made_values_) return false;
    made_values_ = true;
    AddValues(out);
    return true;
  }

  void Run(const Task& task, float* scratch) override {
    if (task.kind != kTurn) return CachedAttention::Run(task, scratch);
    TurnQueries(pieces()[static_cast<size_t>(task.piece)].row + task.begin, task.end - task.begin);
  }

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products.push_back(IntoStream(block().attention.o, values_.data(), heads() * latent().d_value));
  }

 protected:
  // Groups of a few heads, which widen a key once for all of them, and as many groups as keep every thread busy.
  [[nodiscard]] Shape ShapeOf() const override {
    constexpr int64_t kMostHeads = 4;
    int64_t of_group = 1;
    for (int64_t h = kMostHeads; h > 1 && of_group == 1; --h)
      if (heads() % h == 0 && heads() / h % pass_->threads == 0) of_group = h;
    return {.heads = heads(),
            .groups = heads() / of_group,
            .caches = 1,
            .Dk = latent().cache_width(),
            .Dv = latent().kv_rank,
            .scale = 1 / std::sqrt(static_cast<float>(latent().d_key()))};
  }
  void Start() override {
    CachedAttention::Start();
    made_values_ = false;
  }

  void AddKeys(Round& out) override {
    const LatentWeights& w = block().attention.latent;
    out.products.push_back(OfInput(w.q_down, q_down_.Get(pass_->n * latent().q_rank)));
    out.products.push_back(OfInput(w.kv_down, k_.Get(pass_->n * latent().cache_width())));
    y_.Get(pass_->n * heads() * shape_.Dv);
    CountWeights({&w.q_norm, &w.kv_norm});
    first_task_ = out.tasks.size();
    AddRotations(out);
  }

  // Norms of both small vectors; the turned part of the key; the row of the cache.
  void Rotate(const Piece& p, int64_t begin, int64_t end) override {
    const LatentConfig& c = latent();
    const LatentWeights& w = block().attention.latent;
    const int64_t row = p.row + begin, T = end - begin, width = c.cache_width();
    const auto norm = [&](float* x, const F32& weight, int64_t D, int64_t stride) {
      kernels::RmsNorm({.x = x,
                        .w = weight.data(),
                        .y = x,
                        .T = T,
                        .D = D,
                        .x_stride = stride,
                        .y_stride = stride,
                        .eps = static_cast<float>(LatentConfig::kNormEps)});
    };
    norm(q_down_.data() + row * c.q_rank, w.q_norm, c.q_rank, c.q_rank);
    norm(k_.data() + row * width, w.kv_norm, c.kv_rank, width);
    Turn(k_.data() + row * width + c.kv_rank, row, T, {.heads = 1, .stride = width});
    const KvDtype dtype = p.state->layout().kv;
    for (int64_t t = begin; t < end; ++t)
      kernels::StoreKvRow(dtype, k_.data() + (p.row + t) * width, width, NewKey(p, 0, t));
  }

 private:
  static constexpr int32_t kTurn = 100;  // beside the kinds of CachedAttention

  [[nodiscard]] const LatentConfig& latent() const { return attention().latent; }
  [[nodiscard]] int64_t heads() const { return attention().n_heads; }
  template <class F>
  void ForPieces(F&& f) const {
    for (const Piece& p : pieces())
      if (On(p)) f(p);
  }
  // y = W x of the share's rows, by row of the pass.
  [[nodiscard]] kernels::MatMulArgs OfRows(const kernels::Matrix& w, const float* x, int64_t x_stride, float* y,
                                           int64_t y_stride) const {
    return {.w = w,
            .x = x,
            .y = y,
            .T = share_.n,
            .x_stride = x_stride,
            .y_stride = y_stride,
            .x_rows = share_.list,
            .y_rows = share_.list,
            .steps = share_.steps};
  }
  // RoPE over the Dr numbers of `heads` heads, Dk apart, in T rows from `row` on.
  struct TurnShape {
    int64_t heads, stride;
  };
  void Turn(float* x, int64_t row, int64_t T, const TurnShape& shape) const {
    kernels::Rope({.x = x,
                   .pos = pass_->positions + row,
                   .inv_freq = pass_->weights.inv_freq.data(),
                   .T = T,
                   .heads = shape.heads,
                   .Dh = latent().d_rope,
                   .x_stride = shape.stride,
                   .interleaved = pass_->weights.rope_interleaved,
                   .head_stride = shape_.Dk});
  }
  // The heads' parts with a position, turned, behind the parts that the key maps make.
  void TurnQueries(int64_t row, int64_t T) {
    const LatentConfig& c = latent();
    for (int64_t t = row; t < row + T; ++t)
      for (int64_t h = 0; h < heads(); ++h)
        std::copy_n(q_heads_.data() + (t * heads() + h) * c.d_key() + c.d_nope, c.d_rope,
                    q_.data() + (t * heads() + h) * shape_.Dk + c.kv_rank);
    Turn(q_.data() + row * heads() * shape_.Dk + c.kv_rank, row, T, {.heads = heads(), .stride = heads() * shape_.Dk});
  }
  void AddValues(Round& out) {
    const int64_t width = heads() * latent().d_value;
    float* values = values_.Get(pass_->n * width);
    for (int64_t h = 0; h < heads(); ++h)
      out.products.push_back(OfRows(block().attention.latent.values[static_cast<size_t>(h)], y_.data() + h * shape_.Dv,
                                    heads() * shape_.Dv, values + h * latent().d_value, width));
  }

  Buffer<float> q_down_, q_heads_, values_;  // [n, Rq], [n, A, Dn + Dr], [n, A, Dl]
  size_t first_task_ = 0;
  bool made_values_ = false;
};

}  // namespace

std::unique_ptr<Part> MakeLatentAttention() { return std::make_unique<LatentAttention>(); }

}  // namespace hydra
