// SPDX-License-Identifier: Apache-2.0
// The published diagonal state-space model: two products, a recurrence of each channel. Formulas: specs/hydra.md 2.6.
#include "hydra/runtime/part.h"

namespace hydra {
namespace {

class Diagonal final : public Part {
 public:
  [[nodiscard]] bool In(const ModelConfig& config, const LayerConfig& layer) const override {
    return layer.ssm && config.ssm.kind == SsmKind::kDiagonal;
  }
  [[nodiscard]] int Path() const override { return 0; }
  [[nodiscard]] int64_t bytes() const override { return params_.bytes() + y_.bytes(); }

  // Round 0: parameters, skip product, recurrence; 1: into the stream, as there is no output product.
  bool AddRound(int round, Round& out) override {
    if (round > 1) return false;
    const int64_t D = config().d_model;
    if (round == 0) {
      out.products.push_back(OfInput(block().ssm.param_proj, params_.Get(pass_->n * 4 * D)));
      out.products.push_back(OfInput(block().ssm.skip_proj, y_.Get(pass_->n * D)));
      CountWeights({&block().ssm.lambda});
    }
    const auto n = static_cast<int64_t>(pieces().size());
    const int64_t cuts = std::min<int64_t>(D, (pass_->threads + n - 1) / n);
    for (size_t i = 0; i < pieces().size(); ++i) {
      const auto piece = static_cast<int32_t>(i);
      if (!On(pieces()[i])) continue;
      if (round == 0) CountState(pieces()[i], StatePart::kSsm);
      constexpr int64_t kRows = 16;
      if (round == 1) AddTasks(out, kAdd, piece, pieces()[i].T, kRows);
      for (int64_t cut = 0; round == 0 && cut < cuts; ++cut)
        out.tasks.push_back({this, kScan, piece, D * cut / cuts, D * (cut + 1) / cuts});
    }
    return true;
  }

  void Run(const Task& task, float* /*scratch*/) override {
    const Piece& p = pieces()[static_cast<size_t>(task.piece)];
    const int64_t D = config().d_model;
    if (task.kind == kScan) {
      kernels::Diagonal({.params = params_.data() + p.row * 4 * D,
                         .lambda = block().ssm.lambda.data(),
                         .state = p.state->At(At(p).ssm),
                         .y = y_.data() + p.row * D,
                         .T = p.T,
                         .D = D,
                         .d0 = task.begin,
                         .d1 = task.end,
                         .accumulate = true});
      return;
    }
    for (int64_t t = p.row + task.begin; t < p.row + task.end; ++t)
      kernels::Axpy(share_.by_row == nullptr ? 1 : share_.by_row[t], y_.data() + t * D, pass_->x + t * D, D);
  }

 private:
  enum Kind : int32_t { kScan, kAdd };

  Buffer<float> params_, y_;  // [n, 4 D], [n, D]
};

}  // namespace

std::unique_ptr<Part> MakeDiagonal() { return std::make_unique<Diagonal>(); }

}  // namespace hydra
