// SPDX-License-Identifier: Apache-2.0
// The published diagonal state-space model: two products, a recurrence of each channel. Formulas: specs/hydra.md 2.6.
#include <algorithm>
#include <cmath>

#include "hydra/runtime/part.h"

namespace hydra {
namespace {

class Diagonal final : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "diagonal SSM"; }
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
    if (task.kind == kScan) return Scan(p, task.begin, task.end);
    for (int64_t t = p.row + task.begin; t < p.row + task.end; ++t) {
      const float factor = share_.by_row == nullptr ? 1 : share_.by_row[t];
      const float* y = y_.data() + t * D;
      kernels::Axpy(factor, y, pass_->x + t * D, D);
      if (pass_->trace == nullptr) continue;
      pass_->trace->At(t, layer_).size[static_cast<size_t>(TracedAs())] =
          std::abs(factor) * std::sqrt(kernels::Dot(y, y, D));
    }
  }

  void Commit(const Accepted& a) const override {
    if (!a.On(Path())) return;
    const KeptOffsets& kept = a.kept_at();
    Recur(a.block(), a.Kept(kept.params), a.state.At(a.at().ssm), a.Kept(kept.y), a.m, a.config().d_model, 0,
          a.config().d_model);
  }

 private:
  enum Kind : int32_t { kScan, kAdd };

  // The channels [begin, end) over T tokens; y gets +=.
  static void Recur(const BlockWeights& block, const float* params, float* state, float* y, int64_t T, int64_t D,
                    int64_t begin, int64_t end) {
    kernels::Diagonal({.params = params,
                       .lambda = block.ssm.lambda.data(),
                       .state = state,
                       .y = y,
                       .T = T,
                       .D = D,
                       .d0 = begin,
                       .d1 = end,
                       .accumulate = true});
  }

  void Scan(const Piece& p, int64_t begin, int64_t end) {
    const int64_t D = config().d_model;
    const float* params = params_.data() + p.row * 4 * D;
    float* state = p.state->At(At(p).ssm);
    if (p.kept != nullptr) {
      float *copy = p.kept->At(KeptAt(p).ssm_state), *kept = p.kept->At(KeptAt(p).params);
      std::copy(state + begin, state + end, copy + begin);
      state = copy;
      for (int64_t i = 0; i < 4 * p.T; ++i)
        std::copy(params + i * D + begin, params + i * D + end, kept + i * D + begin);
    }
    Recur(block(), params, state, y_.data() + p.row * D, p.T, D, begin, end);
  }

  Buffer<float> params_, y_;  // [n, 4 D], [n, D]
};

}  // namespace

std::unique_ptr<Part> MakeDiagonal() { return std::make_unique<Diagonal>(); }

}  // namespace hydra
