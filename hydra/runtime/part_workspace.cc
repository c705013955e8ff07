// SPDX-License-Identifier: Apache-2.0
// Workspace memory: slots that every token reads and that are written when a chunk closes.
// Formulas: specs/hydra.md 5. Dims: n rows, S slots, r rank, Sw slots written.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/runtime/part.h"

namespace hydra {
namespace {

float Sigmoid(float v) { return 1 / (1 + std::exp(-v)); }

class Workspace final : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "workspace"; }
  [[nodiscard]] ModelPart TracedAs() const override { return ModelPart::kWorkspace; }
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override { return layer.workspace; }
  [[nodiscard]] const F32& NormOf(const BlockWeights& block) const override { return block.workspace.norm; }
  [[nodiscard]] int64_t ScratchFloats() const override {
    return config().workspace.n_slots * (config().workspace.rank + 4);
  }
  [[nodiscard]] int64_t bytes() const override {
    int64_t sum = 0;
    for (const auto* b : {&query_, &key_, &value_, &mix_, &read_, &gate_, &write_gate_}) sum += b->bytes();
    return sum;
  }

  // Round 0: queries, keys, values and the gates; 1: queries of the slots, then token by token; 2: values read.
  // (W_q u) . (W_kr R_i) = (W_kr^T W_q u) . R_i: r x r for each token in the place of S x r x r for each chunk.
  bool AddRound(int round, Round& out) override {
    if (round > 2) return false;
    const WorkspaceWeights& w = block().workspace;
    const int64_t n = pass_->n, r = config().workspace.rank;
    if (round == 0) {
      out.products.push_back(OfInput(w.read_q, query_.Get(n * r)));
      out.products.push_back(OfInput(w.write_k, key_.Get(n * r)));
      out.products.push_back(OfInput(w.write_v, value_.Get(n * r)));
      CountWeights(
          {&w.memory_norm, &w.slot_queries, &w.write_gate, &w.write_gate_bias, &w.controller, &w.controller_bias});
      for (const Piece& p : pieces()) CountState(p, StatePart::kWorkspace);
      gate_.Get(n);
      write_gate_.Get(n);
      constexpr int64_t kRows = 32;
      for (size_t i = 0; i < pieces().size(); ++i) AddTasks(out, kGates, static_cast<int32_t>(i), pieces()[i].T, kRows);
    } else if (round == 1) {
      out.products.push_back(
          {.w = w.read_k_t, .x = query_.data(), .y = mix_.Get(n * r), .T = n, .steps = pass_->steps});
      for (size_t i = 0; i < pieces().size(); ++i) out.tasks.push_back({this, kTokens, static_cast<int32_t>(i)});
    } else {
      out.products.push_back({.w = w.read_v, .x = mix_.data(), .y = read_.Get(n * r), .T = n, .steps = pass_->steps});
    }
    return true;
  }

  void Run(const Task& task, float* scratch) override {
    const Piece& p = pieces()[static_cast<size_t>(task.piece)];
    task.kind == kGates ? Gates(p, task.begin, task.end) : Tokens(p, scratch);
  }

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products.push_back(IntoStream(block().workspace.out, read_.data(), config().workspace.rank));
    products.back().row_scale = gate_.data();
  }

  void Commit(const Accepted& a) const override {
    const int64_t S = a.config().workspace.n_slots, r = a.config().workspace.rank;
    const Slots slots = InState(a.state, a.layer);
    const KeptOffsets& kept = a.kept_at();
    int64_t chunk = 0;
    for (int64_t t = 0; t < a.m; ++t) {
      AddToChunk(slots, a.Kept(kept.write_logits) + t * S, a.Kept(kept.write_values) + t * r, S, r);
      if ((a.pos + t + 1) % a.config().chunk_len != 0) continue;
      std::copy_n(a.Kept(kept.slots) + chunk++ * S * r, S * r, slots.M);
      OpenChunk(slots, S, r);
    }
  }

 private:
  enum Kind : int32_t { kGates, kTokens };

  void Gates(const Piece& p, int64_t begin, int64_t end) {
    const WorkspaceWeights& w = block().workspace;
    const int64_t D = config().d_model;
    for (int64_t row = p.row + begin; row < p.row + end; ++row) {
      const float* u = pass_->u + row * D;
      gate_.data()[row] = static_cast<float>(p.state->controls(layer_).workspace_read) *
                          Sigmoid(kernels::Dot(w.controller.data(), u, D) + w.controller_bias[0]);
      write_gate_.data()[row] = kernels::Dot(w.controller.data() + D, u, D) + w.controller_bias[1];
    }
  }

  // What a sequence carries of a block's workspace: the slots, and the open chunk's online softmax.
  struct Slots {
    float *M, *acc;    // [S, r]
    float *sum, *max;  // [S]
  };
  static Slots InState(SequenceState& state, int layer) {
    const BlockOffsets& at = state.layout().blocks[static_cast<size_t>(layer)];
    return {state.At(at.ws_M), state.At(at.ws_acc), state.At(at.ws_sum), state.At(at.ws_max)};
  }
  // A copy of the state's for a provisional piece.
  [[nodiscard]] Slots Copied(const Piece& p) const {
    const int64_t S = config().workspace.n_slots, r = config().workspace.rank;
    const Slots from = InState(*p.state, layer_);
    float* memory = p.kept->At(KeptAt(p).workspace);
    const Slots to{memory, memory + S * r, memory + 2 * S * r, memory + 2 * S * r + S};
    std::copy_n(from.M, S * r, to.M);
    std::copy_n(from.acc, S * r, to.acc);
    std::copy_n(from.sum, S, to.sum);
    std::copy_n(from.max, S, to.max);
    return to;
  }

  void NormSlots(const Slots& slots, float* normed) const {
    kernels::RmsNorm({.x = slots.M,
                      .w = block().workspace.memory_norm.data(),
                      .y = normed,
                      .T = config().workspace.n_slots,
                      .D = config().workspace.rank,
                      .eps = static_cast<float>(config().norm_eps)});
  }

  // Token by token: reads the slots as the last closed chunk left them, adds itself to the open chunk's online softmax,
  // closes the chunk at its end. scratch: R(M) [S, r], scores [S], three rows of [S].
  void Tokens(const Piece& p, float* scratch) {
    const WorkspaceWeights& w = block().workspace;
    const int64_t r = config().workspace.rank, S = config().workspace.n_slots;
    const Slots slots = p.kept == nullptr ? InState(*p.state, layer_) : Copied(p);
    const float scale = 1 / std::sqrt(static_cast<float>(r));
    float *normed = scratch, *scores = scratch + S * r;
    int64_t chunk = 0;
    NormSlots(slots, normed);
    for (int64_t t = 0; t < p.T; ++t) {
      const int64_t row = p.row + t;
      float* query = mix_.data() + row * r;
      for (int64_t i = 0; i < S; ++i) scores[i] = kernels::Dot(normed + i * r, query, r);
      kernels::Softmax({.x = scores, .y = scores, .T = 1, .D = S, .scale = scale});
      if (pass_->trace != nullptr) TraceRead(row, scores);
      std::fill_n(query, r, 0.0F);  // the mix takes its place
      for (int64_t i = 0; i < S; ++i) kernels::Axpy(scores[i], normed + i * r, query, r);

      const float* value = value_.data() + row * r;
      for (int64_t i = 0; i < S; ++i)
        scores[i] =
            kernels::Dot(w.slot_queries.data() + i * r, key_.data() + row * r, r) * scale + write_gate_.data()[row];
      AddToChunk(slots, scores, value, S, r);
      if (p.kept != nullptr) {
        std::copy_n(scores, S, p.kept->At(KeptAt(p).write_logits) + t * S);
        std::copy_n(value, r, p.kept->At(KeptAt(p).write_values) + t * r);
      }
      if ((p.pos + t + 1) % config().chunk_len != 0) continue;
      const int64_t written = Write(slots, scores);
      if (pass_->trace != nullptr) TraceWrite(row, scores, written);
      if (p.kept != nullptr) std::copy_n(slots.M, S * r, p.kept->At(KeptAt(p).slots) + chunk++ * S * r);
      OpenChunk(slots, S, r);
      NormSlots(slots, normed);
    }
  }

  // Each slot's share of a token's value, by its logit [S].
  static void AddToChunk(const Slots& slots, const float* logits, const float* value, int64_t S, int64_t r) {
    for (int64_t i = 0; i < S; ++i) {
      float *acc = slots.acc + i * r, &sum = slots.sum[i], &max = slots.max[i];
      if (logits[i] > max) {
        const float fade = std::exp(max - logits[i]);  // 0 at a chunk's first token
        for (int64_t j = 0; j < r; ++j) acc[j] *= fade;
        sum *= fade;
        max = logits[i];
      }
      const float e = std::exp(logits[i] - max);
      kernels::Axpy(e, value, acc, r);
      sum += e;
    }
  }
  static void OpenChunk(const Slots& slots, int64_t S, int64_t r) {
    std::fill_n(slots.acc, S * r, 0.0F);
    std::fill_n(slots.sum, S, 0.0F);
    std::fill_n(slots.max, S, -std::numeric_limits<float>::infinity());
  }

  static constexpr size_t kTraced = 8;  // slots of a token

  void TraceRead(int64_t row, const float* share) const {
    std::vector<Weighted> slots;
    for (int64_t i = 0; i < config().workspace.n_slots; ++i) slots.push_back({i, share[i]});
    LayerTrace& trace = pass_->trace->At(row, layer_);
    trace.slots_read = Heaviest(std::move(slots), kTraced);
    trace.workspace_gate = gate_.data()[row];
  }
  // gate [2 S] as Write leaves it.
  void TraceWrite(int64_t row, const float* gate, int64_t written) const {
    std::vector<Weighted> slots;
    const auto* open = reinterpret_cast<const int32_t*>(gate + config().workspace.n_slots);
    for (int64_t n = 0; n < written; ++n) slots.push_back({open[n], Sigmoid(gate[open[n]])});
    pass_->trace->At(row, layer_).slots_written = Heaviest(std::move(slots), kTraced);
  }

  // M = (1 - gamma) M + gamma u with u the softmax mean and gamma open for the Sw best slots, whose number it returns.
  // gate [2 S]: logits of gamma, then the slots that are open.
  int64_t Write(const Slots& slots, float* gate) const {
    const WorkspaceWeights& w = block().workspace;
    const int64_t r = config().workspace.rank, S = config().workspace.n_slots,
                  Sw = std::min(config().workspace.write_slots, S);
    float *M = slots.M, *acc = slots.acc;
    for (int64_t i = 0; i < S; ++i) {
      for (int64_t j = 0; j < r; ++j) acc[i * r + j] /= slots.sum[i];
      gate[i] = kernels::Dot(w.write_gate.data(), acc + i * r, r) + w.write_gate_bias[static_cast<size_t>(i)];
    }
    auto* open = reinterpret_cast<int32_t*>(gate + S);
    kernels::TopK(gate, S, Sw, open, nullptr);
    for (int64_t n = 0; n < Sw; ++n) {
      const int64_t i = open[n];
      const float g = Sigmoid(gate[i]);
      for (int64_t j = 0; j < r; ++j) M[i * r + j] = (1 - g) * M[i * r + j] + g * acc[i * r + j];
    }
    return Sw;
  }

  Buffer<float> query_, key_, value_;  // [n, r]
  Buffer<float> mix_, read_;           // [n, r]: queries of the slots, then the mixed slots; their values
  Buffer<float> gate_, write_gate_;    // [n]
};

}  // namespace

std::unique_ptr<Part> MakeWorkspace() { return std::make_unique<Workspace>(); }

}  // namespace hydra
