// SPDX-License-Identifier: Apache-2.0
// The slow twins of functions.cc in plain torch operators: oracles of the tests, and the path of other devices.
#include "hydra/nn/torch.h"

#include <limits>

#include "hydra/nn/functions.h"

namespace hydra::nn::composite {

using torch::Tensor;

// Doubling spans (Hillis-Steele): element t stands for out -> A_t out + B_t over the last 2^i steps.
Tensor LinearScan(const Tensor& a, const Tensor& b) {
  const int64_t L = b.size(1);
  Tensor A = a.unsqueeze(3).unsqueeze(5), out = b;  // [B, L, X, 1, Z, 1]
  for (int64_t span = 1; span < L; span *= 2) {
    const Tensor late = A.narrow(1, span, L - span);
    out = torch::cat({out.narrow(1, 0, span), late * out.narrow(1, 0, L - span) + out.narrow(1, span, L - span)}, 1);
    A = torch::cat({A.narrow(1, 0, span), late * A.narrow(1, 0, L - span)}, 1);
  }
  return torch::cat({torch::zeros_like(b.narrow(1, 0, 1)), out}, 1);
}

Tensor CausalConvSilu(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& start) {
  const int64_t T = x.size(1), K = w.size(1);
  const Tensor t = torch::arange(T, start.options());
  Tensor y = bias.defined() ? bias.expand_as(x) : torch::zeros_like(x);
  for (int64_t j = 0; j < std::min(K, T); ++j) {
    const Tensor past = torch::constant_pad_nd(x.narrow(1, 0, T - j), {0, 0, j, 0});
    const Tensor seen = (t - j).unsqueeze(0).ge(start).unsqueeze(-1);
    y = y + torch::where(seen, past, torch::zeros({}, x.options())) * w.select(1, K - 1 - j);
  }
  return torch::silu(y);
}

Tensor RmsNorm(const Tensor& x, const Tensor& w, double eps) {
  const Tensor wide = x.to(w.scalar_type());
  return wide * torch::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps) * w;
}

Tensor LinearCrossEntropy(const Tensor& x, const Tensor& w, const Tensor& targets) {
  const Tensor logits = torch::linear(x, w);  // under autocast bf16
  return torch::cross_entropy_loss(logits.to(w.scalar_type()), targets);
}

Tensor GatherRows(const Tensor& x, const Tensor& index) { return x.index_select(0, index); }

Tensor ScatterAddRows(const Tensor& x, const Tensor& index, int64_t n_rows) {
  return torch::zeros({n_rows, x.size(1)}, x.options()).index_add(0, index, x);
}

Tensor TopK(const Tensor& scores, int64_t k) {
  const Tensor clean =
      torch::nan_to_num(scores.detach(), -std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity());
  return std::get<1>(clean.sort(/*stable=*/true, /*dim=*/-1, /*descending=*/true)).narrow(-1, 0, k).contiguous();
}

}  // namespace hydra::nn::composite
