// SPDX-License-Identifier: Apache-2.0
// Workspace memory: slots that every token reads and that are written when a chunk closes.
// Formulas: specs/hydra.md 5. Dims: n rows, S slots, r rank, Sw slots written.
#include <cmath>
#include <limits>

#include "hydra/runtime/part.h"

namespace hydra {
namespace {

float Sigmoid(float v) { return 1 / (1 + std::exp(-v)); }

class Workspace final : public Part {
 public:
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
      out.products.push_back({.w = w.read_k_t, .x = query_.data(), .y = mix_.Get(n * r), .T = n});
      for (size_t i = 0; i < pieces().size(); ++i) out.tasks.push_back({this, kTokens, static_cast<int32_t>(i)});
    } else {
      out.products.push_back({.w = w.read_v, .x = mix_.data(), .y = read_.Get(n * r), .T = n});
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

 private:
  enum Kind : int32_t { kGates, kTokens };

  void Gates(const Piece& p, int64_t begin, int64_t end) {
    const WorkspaceWeights& w = block().workspace;
    const int64_t D = config().d_model;
    for (int64_t row = p.row + begin; row < p.row + end; ++row) {
      const float* u = pass_->u + row * D;
      gate_.data()[row] = static_cast<float>(p.state->controls().workspace_read) *
                          Sigmoid(kernels::Dot(w.controller.data(), u, D) + w.controller_bias[0]);
      write_gate_.data()[row] = kernels::Dot(w.controller.data() + D, u, D) + w.controller_bias[1];
    }
  }

  void NormSlots(SequenceState& state, const BlockOffsets& at, float* normed) const {
    kernels::RmsNorm({.x = state.At(at.ws_M),
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
    SequenceState& state = *p.state;
    const BlockOffsets& at = At(p);
    const float scale = 1 / std::sqrt(static_cast<float>(r));
    float *normed = scratch, *scores = scratch + S * r;
    float *acc = state.At(at.ws_acc), *sum = state.At(at.ws_sum), *max = state.At(at.ws_max);
    NormSlots(state, at, normed);
    for (int64_t t = 0; t < p.T; ++t) {
      const int64_t row = p.row + t;
      float* query = mix_.data() + row * r;
      for (int64_t i = 0; i < S; ++i) scores[i] = kernels::Dot(normed + i * r, query, r);
      kernels::Softmax({.x = scores, .y = scores, .T = 1, .D = S, .scale = scale});
      std::fill_n(query, r, 0.0F);  // the mix takes its place
      for (int64_t i = 0; i < S; ++i) kernels::Axpy(scores[i], normed + i * r, query, r);

      const float iota = write_gate_.data()[row];
      const float *key = key_.data() + row * r, *value = value_.data() + row * r;
      for (int64_t i = 0; i < S; ++i) {
        const float logit = kernels::Dot(w.slot_queries.data() + i * r, key, r) * scale + iota;
        if (logit > max[i]) {
          const float fade = std::exp(max[i] - logit);  // 0 at a chunk's first token
          for (int64_t j = 0; j < r; ++j) acc[i * r + j] *= fade;
          sum[i] *= fade;
          max[i] = logit;
        }
        const float e = std::exp(logit - max[i]);
        kernels::Axpy(e, value, acc + i * r, r);
        sum[i] += e;
      }
      if ((p.pos + t + 1) % config().chunk_len != 0) continue;
      CloseChunk(state, at, scores);
      NormSlots(state, at, normed);
    }
  }

  // M = (1 - gamma) M + gamma u with u the softmax mean and gamma open for the Sw best slots. gate [2 S]
  void CloseChunk(SequenceState& state, const BlockOffsets& at, float* gate) const {
    const WorkspaceWeights& w = block().workspace;
    const int64_t r = config().workspace.rank, S = config().workspace.n_slots,
                  Sw = std::min(config().workspace.write_slots, S);
    float *M = state.At(at.ws_M), *acc = state.At(at.ws_acc), *sum = state.At(at.ws_sum), *max = state.At(at.ws_max);
    for (int64_t i = 0; i < S; ++i) {
      for (int64_t j = 0; j < r; ++j) acc[i * r + j] /= sum[i];
      gate[i] = kernels::Dot(w.write_gate.data(), acc + i * r, r) + w.write_gate_bias[static_cast<size_t>(i)];
    }
    auto* open = reinterpret_cast<int32_t*>(gate + S);
    kernels::TopK(gate, S, Sw, open, nullptr);
    for (int64_t n = 0; n < Sw; ++n) {
      const int64_t i = open[n];
      const float g = Sigmoid(gate[i]);
      for (int64_t j = 0; j < r; ++j) M[i * r + j] = (1 - g) * M[i * r + j] + g * acc[i * r + j];
    }
    std::fill_n(acc, S * r, 0.0F);
    std::fill_n(sum, S, 0.0F);
    std::fill_n(max, S, -std::numeric_limits<float>::infinity());
  }

  Buffer<float> query_, key_, value_;  // [n, r]
  Buffer<float> mix_, read_;           // [n, r]: queries of the slots, then the mixed slots; their values
  Buffer<float> gate_, write_gate_;    // [n]
};

}  // namespace

std::unique_ptr<Part> MakeWorkspace() { return std::make_unique<Workspace>(); }

}  // namespace hydra
