// SPDX-License-Identifier: Apache-2.0
// Chunk-routed experts: routes at chunk starts, one gathered product for each chosen expert.
// Formulas: specs/hydra.md 4. Dims: n rows, E experts, F d_expert, k experts of a chunk, C chunk_len, D d_model.
#include <limits>

#include "hydra/runtime/part.h"

namespace hydra {
namespace {

class ChunkExperts final : public Part {
 public:
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.ffn == FfnKind::kChunkMoe;
  }
  [[nodiscard]] int Path() const override { return 2; }
  [[nodiscard]] int64_t ScratchFloats() const override { return 2 * config().moe.n_experts; }
  [[nodiscard]] int64_t bytes() const override {
    return hidden_.bytes() + weight_.bytes() + row_weights_.bytes() + rows_.bytes() + row_experts_.bytes() +
           counts_.bytes() + few_.bytes();
  }

  // Round 0 routes the rows of each piece, 1 runs their experts. A few rows are routed at once, on the calling thread,
  // so that their products share the other parts' first round.
  bool AddRound(int round, Round& out) override {
    constexpr int64_t kFewRows = 8;
    const bool at_once = pass_->n <= kFewRows;
    if (round > (at_once ? 0 : 1)) return false;
    if (round == 0) Reserve();
    if (!at_once && round == 0) {
      for (size_t i = 0; i < pieces().size(); ++i)
        if (On(pieces()[i])) out.tasks.push_back({this, kRoute, static_cast<int32_t>(i)});
      return true;
    }
    if (at_once)
      for (const Piece& p : pieces())
        if (On(p)) RoutePiece(p, few_.Get(ScratchFloats()));
    ListByExpert();
    AddExperts(out);
    return true;
  }

  void Run(const Task& task, float* scratch) override {
    if (task.kind == kRoute) return RoutePiece(pieces()[static_cast<size_t>(task.piece)], scratch);
    const int64_t F = config().moe.d_expert;
    float* h = hidden_.data() + task.begin * 2 * F;
    kernels::SwiGlu(
        {.gate = h, .up = h + F, .y = h, .T = task.end - task.begin, .F = F, .stride = 2 * F, .y_stride = 2 * F});
  }

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    const int64_t F = config().moe.d_expert;
    ForExperts([&](size_t e, int64_t begin, int64_t n) {
      products.push_back({.w = block().moe.down[e],
                          .x = hidden_.data() + begin * 2 * F,
                          .y = pass_->x,
                          .T = n,
                          .x_stride = 2 * F,
                          .y_stride = config().d_model,
                          .y_rows = rows_.data() + begin,
                          .row_scale = weight_.data() + begin,
                          .accumulate = true});
    });
  }

 private:
  enum Kind : int32_t { kRoute, kSwiGlu };

  void Reserve() {
    k_max_ = 1;
    CountReads();
    for (const Piece& p : pieces()) k_max_ = std::max(k_max_, p.state->layout().moe_k);
    row_experts_.Get(pass_->n * k_max_);
    row_weights_.Get(pass_->n * k_max_);
    std::fill_n(counts_.Get(pass_->n), pass_->n, 0);
  }

  // The router is read where a chunk starts.
  void CountReads() const {
    const int64_t C = config().chunk_len;
    for (const Piece& p : pieces()) {
      if (!On(p)) continue;
      CountState(p, StatePart::kMoe);
      const int64_t starts = (p.pos + p.T + C - 1) / C - (p.pos + C - 1) / C;
      for (int64_t i = 0; config().moe.mode != RouterMode::kRoundRobin && i < starts; ++i)
        CountWeights({&block().moe.prev, &block().moe.first, &block().moe.balance_bias});
    }
  }

  // S_c = top-k of z + bias, or what the controls force; weights are the softmax of z / tau over the chosen. z [2 E]
  void Select(SequenceState& state, const BlockOffsets& at, float* z) const {
    const MoeConfig& c = config().moe;
    const Controls& controls = state.controls();
    const int64_t E = c.n_experts;
    int32_t* ids = state.At<int32_t>(at.moe_ids);
    float* weights = state.At(at.moe_weights);
    int64_t k = 0;
    if (!controls.force_experts.empty()) {
      for (const int64_t e : controls.force_experts) ids[k++] = static_cast<int32_t>(e);
    } else {
      float* score = z + E;
      for (int64_t e = 0; e < E; ++e) {
        const auto i = static_cast<size_t>(e);
        score[e] = z[e] + block().moe.balance_bias[i] +
                   (controls.expert_bias.empty() ? 0 : static_cast<float>(controls.expert_bias[i]));
      }
      for (const int64_t e : controls.ban_experts) score[e] = -std::numeric_limits<float>::infinity();
      k = std::min(controls.moe_top_k.value_or(c.top_k), E - static_cast<int64_t>(controls.ban_experts.size()));
      kernels::TopK(score, E, k, ids, nullptr);
    }
    const auto tau = static_cast<float>(controls.router_temperature.value_or(c.temperature));
    for (int64_t j = 0; j < k; ++j) weights[j] = z[ids[j]];
    kernels::Softmax({.x = weights, .y = weights, .T = 1, .D = k, .scale = 1 / tau});
    state.route_count(layer_) = static_cast<int32_t>(k);
  }

  // The experts of the chunk that starts at row t of the piece.
  void RouteChunk(const Piece& p, int64_t t, float* z) const {
    const MoeConfig& c = config().moe;
    SequenceState& state = *p.state;
    const BlockOffsets& at = At(p);
    const int64_t E = c.n_experts, D = config().d_model;
    if (c.mode == RouterMode::kRoundRobin) {
      const int64_t k = state.controls().moe_top_k.value_or(c.top_k), chunk = (p.pos + t) / config().chunk_len;
      for (int64_t j = 0; j < k; ++j) {
        state.At<int32_t>(at.moe_ids)[j] = static_cast<int32_t>((chunk + layer_ + j * E / k) % E);
        state.At(at.moe_weights)[j] = 1 / static_cast<float>(k);
      }
      state.route_count(layer_) = static_cast<int32_t>(k);
      return;
    }
    const float *u = pass_->u + (p.row + t) * D, *mean = state.At(at.moe_mean);
    for (int64_t e = 0; e < E; ++e)
      z[e] =
          kernels::Dot(block().moe.prev.data() + e * D, mean, D) + kernels::Dot(block().moe.first.data() + e * D, u, D);
    Select(state, at, z);
  }

  // Experts and weights of each row; sums of u over each chunk, whose mean routes the next one.
  void RoutePiece(const Piece& p, float* z) {
    SequenceState& state = *p.state;
    const BlockOffsets& at = At(p);
    const int64_t D = config().d_model, C = config().chunk_len;
    float *sum = state.At(at.moe_sum), *mean = state.At(at.moe_mean);
    for (int64_t t = 0; t < p.T; ++t) {
      if ((p.pos + t) % C == 0) RouteChunk(p, t, z);
      const int64_t row = p.row + t;
      counts_.data()[row] = state.route_count(layer_);
      for (int32_t j = 0; j < state.route_count(layer_); ++j) {
        row_experts_.data()[row * k_max_ + j] = state.At<int32_t>(at.moe_ids)[j];
        row_weights_.data()[row * k_max_ + j] =
            state.At(at.moe_weights)[j] * (share_.by_row == nullptr ? 1 : share_.by_row[row]);
      }
      kernels::Axpy(1, pass_->u + row * D, sum, D);
      if ((p.pos + t + 1) % C != 0) continue;
      for (int64_t d = 0; d < D; ++d) mean[d] = sum[d] / static_cast<float>(C), sum[d] = 0;
    }
  }

  // Rows and weights, expert after expert, in the order of rows.
  void ListByExpert() {
    const auto E = static_cast<size_t>(config().moe.n_experts);
    const auto each = [&](auto&& f) {
      for (int64_t row = 0; row < pass_->n; ++row)
        for (int64_t j = 0; j < counts_.data()[row]; ++j) f(row, row * k_max_ + j);
    };
    begin_.assign(E + 1, 0);
    each([&](int64_t, int64_t i) { ++begin_[static_cast<size_t>(row_experts_.data()[i]) + 1]; });
    for (size_t e = 0; e < E; ++e) begin_[e + 1] += begin_[e];
    next_.assign(begin_.begin(), begin_.end() - 1);
    rows_.Get(begin_[E]);
    weight_.Get(begin_[E]);
    each([&](int64_t row, int64_t i) {
      const int64_t to = next_[static_cast<size_t>(row_experts_.data()[i])]++;
      rows_.data()[to] = static_cast<int32_t>(row);
      weight_.data()[to] = row_weights_.data()[i];
    });
  }

  template <class F>
  void ForExperts(F&& f) const {
    for (size_t e = 0; e + 1 < begin_.size(); ++e)
      if (begin_[e + 1] > begin_[e]) f(e, begin_[e], begin_[e + 1] - begin_[e]);
  }

  void AddExperts(Round& out) {
    const int64_t F = config().moe.d_expert, n = begin_.back();
    float* hidden = hidden_.Get(n * 2 * F);
    ForExperts([&](size_t e, int64_t begin, int64_t count) {
      out.products.push_back({.w = block().moe.gate_up[e],
                              .x = pass_->u,
                              .y = hidden + begin * 2 * F,
                              .T = count,
                              .x_rows = rows_.data() + begin});
    });
    constexpr int64_t kRows = 16;
    AddTasks(out, kSwiGlu, 0, n, kRows);
  }

  int64_t k_max_ = 1;
  Buffer<int32_t> row_experts_, counts_;  // [n, k_max], [n]
  Buffer<float> row_weights_, few_;       // [n, k_max], scratch of rows that are routed at once
  std::vector<int64_t> begin_, next_;     // [E + 1] where each expert's assignments begin; [E]
  Buffer<int32_t> rows_;                  // [assignments]
  Buffer<float> weight_, hidden_;         // [assignments], [assignments, 2F]
};

}  // namespace

std::unique_ptr<Part> MakeChunkExperts() { return std::make_unique<ChunkExperts>(); }

}  // namespace hydra
