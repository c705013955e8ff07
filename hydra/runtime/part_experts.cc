// SPDX-License-Identifier: Apache-2.0
// Chunk-routed experts: routes at chunk starts, one gathered product for each chosen expert.
// Formulas: specs/hydra.md 4. Dims: n rows, E experts, F d_expert, k experts of a chunk, C chunk_len, D d_model.
#include <algorithm>
#include <limits>

#include "hydra/kernels/blockffn.h"
#include "hydra/runtime/part.h"

namespace hydra {
namespace {

// What a sequence carries of a block's routing: the open chunk's sum of u, the mean of the one before, and its experts.
struct Routing {
  float *sum, *mean;  // [D]
  int32_t* ids;       // [count]
  float* weights;
  int32_t* count;
};

// Adds u [D] to the open chunk of C tokens; its last token makes the mean that routes the next one.
void AddToChunk(const Routing& r, const float* u, int64_t D, int64_t C, bool last) {
  kernels::Axpy(1, u, r.sum, D);
  for (int64_t d = 0; last && d < D; ++d) r.mean[d] = r.sum[d] / static_cast<float>(C), r.sum[d] = 0;
}

class ChunkExperts final : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "chunk experts"; }
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.ffn == FfnKind::kChunkMoe;
  }
  [[nodiscard]] int Path() const override { return 2; }
  [[nodiscard]] int64_t ScratchFloats() const override { return 2 * config().moe.n_experts; }
  [[nodiscard]] int64_t bytes() const override {
    return hidden_.bytes() + row_weights_.bytes() + lists_.bytes() + row_experts_.bytes() + counts_.bytes() +
           few_.bytes();
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
    lists_.ForEach([&](int64_t e) {
      products.push_back({.w = block().moe.down[static_cast<size_t>(e)],
                          .x = hidden_.data() + lists_.begin(e) * 2 * F,
                          .y = pass_->x,
                          .T = lists_.count(e),
                          .x_stride = 2 * F,
                          .y_stride = config().d_model,
                          .y_rows = lists_.rows(e),
                          .row_scale = lists_.weights(e),
                          .accumulate = true,
                          .steps = lists_.CountBelow(e, pass_->steps)});
    });
  }

  void Commit(const Accepted& a) const override {
    if (!a.On(Path())) return;
    const int64_t D = a.config().d_model, C = a.config().chunk_len, k = a.state.layout().moe_k;
    const Routing r = InState(a.state, a.layer);
    const KeptOffsets& kept = a.kept_at();
    int64_t chunk = 0;
    for (int64_t t = 0; t < a.m; ++t) {
      if ((a.pos + t) % C == 0) {
        *r.count = a.Kept<int32_t>(kept.route_counts)[chunk];
        std::copy_n(a.Kept<int32_t>(kept.route_ids) + chunk * k, *r.count, r.ids);
        std::copy_n(a.Kept(kept.route_weights) + chunk * k, *r.count, r.weights);
        ++chunk;
      }
      AddToChunk(r, a.Kept(kept.u) + t * D, D, C, (a.pos + t + 1) % C == 0);
    }
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

  static Routing InState(SequenceState& state, int layer) {
    const BlockOffsets& at = state.layout().blocks[static_cast<size_t>(layer)];
    return {state.At(at.moe_sum), state.At(at.moe_mean), state.At<int32_t>(at.moe_ids), state.At(at.moe_weights),
            &state.route_count(layer)};
  }
  // A copy of the state's for a provisional piece; `count` is where its count goes.
  [[nodiscard]] Routing Copied(const Piece& p, int32_t* count) const {
    const int64_t D = config().d_model, k = p.state->layout().moe_k;
    const Routing from = InState(*p.state, layer_);
    float* memory = p.kept->At(KeptAt(p).moe);
    const Routing to{memory, memory + D, reinterpret_cast<int32_t*>(memory + 2 * D), memory + 2 * D + k, count};
    std::copy_n(from.sum, D, to.sum);
    std::copy_n(from.mean, D, to.mean);
    std::copy_n(from.ids, *from.count, to.ids);
    std::copy_n(from.weights, *from.count, to.weights);
    *count = *from.count;
    return to;
  }

  // S_c = top-k of z + bias, or what the controls force; weights are the softmax of z / tau over the chosen. z [2 E]
  void Select(const Controls& controls, const Routing& r, float* z) const {
    const MoeConfig& c = config().moe;
    const int64_t E = c.n_experts;
    int64_t k = 0;
    if (!controls.force_experts.empty()) {
      for (const int64_t e : controls.force_experts) r.ids[k++] = static_cast<int32_t>(e);
    } else {
      float* score = z + E;
      for (int64_t e = 0; e < E; ++e) {
        const auto i = static_cast<size_t>(e);
        score[e] = z[e] + block().moe.balance_bias[i] +
                   (controls.expert_bias.empty() ? 0 : static_cast<float>(controls.expert_bias[i]));
      }
      for (const int64_t e : controls.ban_experts) score[e] = -std::numeric_limits<float>::infinity();
      k = std::min(controls.moe_top_k.value_or(c.top_k), E - static_cast<int64_t>(controls.ban_experts.size()));
      kernels::TopK(score, E, k, r.ids, nullptr);
    }
    const auto tau = static_cast<float>(controls.router_temperature.value_or(c.temperature));
    for (int64_t j = 0; j < k; ++j) r.weights[j] = z[r.ids[j]];
    kernels::Softmax({.x = r.weights, .y = r.weights, .T = 1, .D = k, .scale = 1 / tau});
    *r.count = static_cast<int32_t>(k);
  }

  // The experts of the chunk that starts at row t of the piece.
  void RouteChunk(const Piece& p, int64_t t, const Routing& r, float* z) const {
    const MoeConfig& c = config().moe;
    const Controls& controls = p.state->controls(layer_);
    const int64_t E = c.n_experts, D = config().d_model;
    if (c.mode == RouterMode::kRoundRobin) {
      const int64_t k = controls.moe_top_k.value_or(c.top_k), chunk = (p.pos + t) / config().chunk_len;
      for (int64_t j = 0; j < k; ++j) {
        r.ids[j] = static_cast<int32_t>((chunk + layer_ + j * E / k) % E);
        r.weights[j] = 1 / static_cast<float>(k);
      }
      *r.count = static_cast<int32_t>(k);
      return;
    }
    const float* u = pass_->u + (p.row + t) * D;
    for (int64_t e = 0; e < E; ++e)
      z[e] = kernels::Dot(block().moe.prev.data() + e * D, r.mean, D) +
             kernels::Dot(block().moe.first.data() + e * D, u, D);
    Select(controls, r, z);
  }

  // Experts and weights of each row; sums of u over each chunk, whose mean routes the next one.
  void RoutePiece(const Piece& p, float* z) {
    int32_t count = 0;
    const Routing r = p.kept == nullptr ? InState(*p.state, layer_) : Copied(p, &count);
    const int64_t D = config().d_model, C = config().chunk_len;
    int64_t chunk = 0;
    for (int64_t t = 0; t < p.T; ++t) {
      if ((p.pos + t) % C == 0) {
        RouteChunk(p, t, r, z);
        if (p.kept != nullptr) KeepRoute(p, chunk++, r);
      }
      const int64_t row = p.row + t;
      counts_.data()[row] = *r.count;
      for (int32_t j = 0; j < *r.count; ++j) {
        row_experts_.data()[row * k_max_ + j] = r.ids[j];
        row_weights_.data()[row * k_max_ + j] = r.weights[j] * (share_.by_row == nullptr ? 1 : share_.by_row[row]);
      }
      if (pass_->trace != nullptr)
        for (int32_t j = 0; j < *r.count; ++j)
          pass_->trace->At(row, layer_).experts.push_back({r.ids[j], r.weights[j]});
      AddToChunk(r, pass_->u + row * D, D, C, (p.pos + t + 1) % C == 0);
    }
    if (p.kept != nullptr) std::copy_n(pass_->u + p.row * D, p.T * D, p.kept->At(KeptAt(p).u));
  }
  void KeepRoute(const Piece& p, int64_t chunk, const Routing& r) const {
    const KeptOffsets& kept = KeptAt(p);
    const int64_t k = p.state->layout().moe_k;
    p.kept->At<int32_t>(kept.route_counts)[chunk] = *r.count;
    std::copy_n(r.ids, *r.count, p.kept->At<int32_t>(kept.route_ids) + chunk * k);
    std::copy_n(r.weights, *r.count, p.kept->At(kept.route_weights) + chunk * k);
  }

  void ListByExpert() {
    lists_.Build(config().moe.n_experts, [&](auto&& f) {
      for (int64_t row = 0; row < pass_->n; ++row)
        for (int64_t i = row * k_max_; i < row * k_max_ + counts_.data()[row]; ++i)
          f(row, row_experts_.data()[i], row_weights_.data()[i]);
    });
  }

  void AddExperts(Round& out) {
    const int64_t F = config().moe.d_expert;
    float* hidden = hidden_.Get(lists_.total() * 2 * F);
    lists_.ForEach([&](int64_t e) {
      out.products.push_back({.w = block().moe.gate_up[static_cast<size_t>(e)],
                              .x = pass_->u,
                              .y = hidden + lists_.begin(e) * 2 * F,
                              .T = lists_.count(e),
                              .x_rows = lists_.rows(e),
                              .steps = lists_.CountBelow(e, pass_->steps)});
    });
    constexpr int64_t kRows = 16;
    AddTasks(out, kSwiGlu, 0, lists_.total(), kRows);
  }

  int64_t k_max_ = 1;
  Buffer<int32_t> row_experts_, counts_;  // [n, k_max], [n]
  Buffer<float> row_weights_, few_;       // [n, k_max], scratch of rows that are routed at once
  kernels::ExpertLists lists_;            // rows and weights of each expert
  Buffer<float> hidden_;                  // [all listed rows, 2F]
};

}  // namespace

std::unique_ptr<Part> MakeChunkExperts() { return std::make_unique<ChunkExperts>(); }

}  // namespace hydra
