// SPDX-License-Identifier: Apache-2.0
// The dense SwiGLU feed-forward of a sequential block. Dims: n rows, D d_model, F d_ff.
#include "hydra/runtime/part.h"

namespace hydra {
namespace {

class Dense final : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "dense FFN"; }
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.ffn == FfnKind::kDense;
  }
  [[nodiscard]] const F32& NormOf(const BlockWeights& block) const override { return block.dense.norm; }
  [[nodiscard]] int64_t bytes() const override { return hidden_.bytes(); }

  bool AddRound(int round, Round& out) override {
    if (round > 0) return false;
    const DenseWeights& w = block().dense;
    const int64_t F = config().d_ff;
    float* hidden = hidden_.Get(pass_->n * 2 * F);
    for (const auto& [matrix, y] : {std::pair{&w.gate, hidden}, std::pair{&w.up, hidden + F}}) {
      out.products.push_back(OfInput(*matrix, y));
      out.products.back().y_stride = 2 * F;
    }
    constexpr int64_t kRows = 8;
    AddTasks(out, 0, 0, pass_->n, kRows);
    return true;
  }

  void Run(const Task& task, float* /*scratch*/) override {
    const int64_t F = config().d_ff;
    float* h = hidden_.data() + task.begin * 2 * F;
    kernels::SwiGlu(
        {.gate = h, .up = h + F, .y = h, .T = task.end - task.begin, .F = F, .stride = 2 * F, .y_stride = 2 * F});
  }

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products.push_back(IntoStream(block().dense.down, hidden_.data(), 2 * config().d_ff));
  }

 private:
  Buffer<float> hidden_;  // [n, 2F]: gate and up, then gate's half is their SwiGLU
};

}  // namespace

std::unique_ptr<Part> MakeDense() { return std::make_unique<Dense>(); }

}  // namespace hydra
