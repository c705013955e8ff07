// SPDX-License-Identifier: Apache-2.0
// The head and its loss as one autograd function: logits live for a block of rows at a time, and the gradients are made
// in the forward pass, while they are there. The slow twin is in functions_composite.cc.
// Dims: M rows, D columns, V vocabulary.
#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/nn/form.h"
#include "hydra/nn/functions.h"

namespace hydra::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kLogits = 1 << 20;  // numbers held at once
constexpr int64_t kLeastRows = 256;   // of a block, so that large vocabularies still give whole products

struct LinearCrossEntropyFn : torch::autograd::Function<LinearCrossEntropyFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& w, const Tensor& targets,
                        bool with_gradients) {
    const Tensor x = x_in.contiguous();
    const int64_t M = x.size(0), block = std::max(kLeastRows, kLogits / w.size(0));
    Tensor dx, dw;
    if (with_gradients) dx = torch::empty_like(x), dw = torch::zeros_like(w);
    double sum = 0;
    for (int64_t i = 0; i < M; i += block) {
      const int64_t n = std::min(block, M - i);
      const Tensor rows = x.narrow(0, i, n), target = targets.narrow(0, i, n).unsqueeze(1);
      Tensor p = torch::log_softmax(torch::mm(rows, w.t()), 1);  // [n, V]
      sum -= p.gather(1, target).sum(torch::kFloat64).item<double>();
      if (!with_gradients) continue;
      p.exp_();  // of the sum over logits: p - 1 at the target
      p.scatter_add_(1, target, torch::full({n, 1}, -1, p.options()));
      Tensor to = dx.narrow(0, i, n);
      at::mm_out(to, p, w);
      dw.addmm_(p.t(), rows);
    }
    if (with_gradients) ctx->save_for_backward({dx, dw});
    ctx->saved_data["M"] = M;
    return torch::full({}, sum / static_cast<double>(M), x.options());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor scale = grads[0] / ctx->saved_data["M"].toInt();
    return {saved[0] * scale, saved[1] * scale, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor LinearCrossEntropy(const Tensor& x, const Tensor& w, const Tensor& targets) {
  HYDRA_CHECK(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1) && targets.sizes() == x.sizes().slice(0, 1) &&
                  x.size(0) > 0,
              "x ", x.sizes(), " w ", w.sizes(), " targets ", targets.sizes());
  if (ChooseForm(Op::kLinearCrossEntropy, {x, w}) != Form::kFused) return composite::LinearCrossEntropy(x, w, targets);
  return LinearCrossEntropyFn::apply(x, w, targets,
                                     torch::GradMode::is_enabled() && (x.requires_grad() || w.requires_grad()));
}

}  // namespace hydra::nn
