// SPDX-License-Identifier: Apache-2.0
// Product-key memory: the best rows of a large table. Formulas: specs/hydra.md 6.
// Dims: n rows, Hp heads, nk sub-keys, dk half key, dv value, kp rows of each head.
#include <cmath>

#include "hydra/runtime/memory_overlay.h"
#include "hydra/runtime/part.h"

namespace hydra {
namespace {

class ProductKeys final : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "product keys"; }
  [[nodiscard]] ModelPart TracedAs() const override { return ModelPart::kPkm; }
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override { return layer.pkm; }
  [[nodiscard]] const F32& NormOf(const BlockWeights& block) const override { return block.pkm.norm; }
  [[nodiscard]] int64_t bytes() const override {
    return query_.bytes() + scores_.bytes() + values_.bytes() + gate_.bytes();
  }
  // Best of the halves, their sums, the shares of the best pairs, a table row; then three lists of kp ids.
  [[nodiscard]] int64_t ScratchFloats() const override {
    const int64_t kp = pkm().top_k;
    return 2 * kp + kp * kp + kp + pkm().d_value + 3 * kp;
  }

  // Round 0: queries and their norm; 1: scores of the sub-keys, then the rows.
  bool AddRound(int round, Round& out) override {
    if (round > 1) return false;
    const PkmConfig& c = pkm();
    const int64_t n = pass_->n;
    if (round == 0) {
      out.products.push_back(OfInput(block().pkm.query, query_.Get(n * width())));
      constexpr int64_t kRows = 16;
      AddTasks(out, kNorm, 0, n, kRows);
      return true;
    }
    float* scores = scores_.Get(n * tables() * c.n_keys);
    for (int64_t i = 0; i < tables(); ++i)
      out.products.push_back({.w = block().pkm.sub_keys[static_cast<size_t>(i)],
                              .x = query_.data() + i * c.d_key,
                              .y = scores + i * c.n_keys,
                              .T = n,
                              .x_stride = width(),
                              .y_stride = tables() * c.n_keys,
                              .steps = pass_->steps});
    CountWeights({&block().pkm.query_norm, &block().pkm.gate});
    const kernels::Matrix& table = pass_->weights.pkm_table;
    pass_->moved->weights += n * c.n_heads * c.top_k * RowBytes(table.type, table.cols);
    values_.Get(n * c.d_value);
    gate_.Get(n);
    for (size_t i = 0; i < pieces().size(); ++i) AddTasks(out, kRead, static_cast<int32_t>(i), pieces()[i].T, 1);
    return true;
  }

  void Run(const Task& task, float* scratch) override {
    if (task.kind == kRead) {
      const Piece& p = pieces()[static_cast<size_t>(task.piece)];
      for (int64_t t = task.begin; t < task.end; ++t) Read(p, p.row + t, scratch);
      return;
    }
    float* q = query_.data() + task.begin * width();
    kernels::RmsNorm({.x = q,
                      .w = block().pkm.query_norm.data(),
                      .y = q,
                      .T = task.end - task.begin,
                      .D = width(),
                      .groups = tables(),
                      .eps = static_cast<float>(config().norm_eps)});
  }

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products.push_back(IntoStream(block().pkm.value, values_.data(), pkm().d_value));
    products.back().row_scale = gate_.data();
  }

 private:
  enum Kind : int32_t { kNorm, kRead };

  [[nodiscard]] const PkmConfig& pkm() const { return config().pkm; }
  [[nodiscard]] int64_t tables() const { return 2 * pkm().n_heads; }
  [[nodiscard]] int64_t width() const { return tables() * pkm().d_key; }

  void Read(const Piece& p, int64_t row, float* scratch) {
    const PkmConfig& c = pkm();
    const int64_t nk = c.n_keys, kp = c.top_k, dv = c.d_value, D = config().d_model;
    float *half = scratch, *sums = half + 2 * kp, *share = sums + kp * kp, *value = share + kp;
    auto* first = reinterpret_cast<int32_t*>(value + dv);
    int32_t *second = first + kp, *pair = second + kp;
    float* out = values_.data() + row * dv;
    std::fill_n(out, dv, 0.0F);
    const MemoryOverlay* memory = p.state->memory().get();
    for (int64_t h = 0; h < c.n_heads; ++h) {
      const float* s = scores_.data() + (row * tables() + 2 * h) * nk;
      kernels::TopK(s, nk, kp, first, half);
      kernels::TopK(s + nk, nk, kp, second, half + kp);
      for (int64_t i = 0; i < kp; ++i)
        for (int64_t j = 0; j < kp; ++j) sums[i * kp + j] = half[i] + half[kp + j];
      kernels::TopK(sums, kp * kp, kp, pair, share);
      kernels::Softmax({.x = share, .y = share, .T = 1, .D = kp});
      for (int64_t i = 0; i < kp; ++i) {
        const int64_t id = static_cast<int64_t>(first[pair[i] / kp]) * nk + second[pair[i] % kp];
        kernels::DecodeMatrixRow(pass_->weights.pkm_table, id, value);
        if (memory != nullptr)
          if (const float* delta = memory->Find(id)) kernels::Axpy(1, delta, value, dv);
        kernels::Axpy(share[i], value, out, dv);
        if (pass_->trace != nullptr) pass_->trace->At(row, layer_).rows.push_back({id, share[i]});
      }
    }
    const float gate = kernels::Dot(block().pkm.gate.data(), pass_->u + row * D, D) + block().pkm.gate_bias;
    gate_.data()[row] = 1 / (1 + std::exp(-gate)) * static_cast<float>(p.state->controls(layer_).pkm_read);
    if (pass_->trace == nullptr) return;
    LayerTrace& trace = pass_->trace->At(row, layer_);
    trace.pkm_gate = gate_.data()[row];
    trace.rows = Heaviest(std::move(trace.rows), trace.rows.size());
  }

  Buffer<float> query_, scores_, values_, gate_;  // [n, width], [n, tables, nk], [n, dv], [n]
};

}  // namespace

std::unique_ptr<Part> MakeProductKeys() { return std::make_unique<ProductKeys>(); }

}  // namespace hydra
