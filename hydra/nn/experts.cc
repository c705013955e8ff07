// SPDX-License-Identifier: Apache-2.0
// The products of routed experts as one autograd function on the CPU in fp32, and its slow twin in torch operators,
// which also serves other devices and types. Kept for the backward pass: each row's gate and up, nothing else of its
// size. Not here: routing (moe.cc). Dims as in moe.h; N tokens, M routed rows, K route weights.
#include <ATen/Parallel.h>

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/kernels/train_swiglu.h"
#include "hydra/nn/form.h"
#include "hydra/nn/functions.h"
#include "hydra/nn/moe.h"

namespace hydra::nn {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// f(args of some rows) over all rows.
template <class F>
void ForRows(const kernels::SwiGluTrainArgs& a, const F& f) {
  at::parallel_for(0, a.M, 16, [&](int64_t begin, int64_t end) {
    kernels::SwiGluTrainArgs part = a;
    part.M = end - begin;
    part.gate_up += begin * 2 * a.F, part.p += begin, part.y += begin * a.F;
    if (a.dy != nullptr) part.dy += begin * a.F, part.dgate_up += begin * 2 * a.F, part.dp += begin;
    f(part);
  });
}

struct RoutedExpertsFn : torch::autograd::Function<RoutedExpertsFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& u_in, const Tensor& weights, const Tensor& gate_up,
                        const Tensor& down, const Tensor& rows, const Tensor& places,
                        const std::vector<int64_t>& n_rows) {
    const Tensor u = u_in.contiguous();
    const int64_t M = rows.size(0), F = down.size(2);
    const Tensor h = torch::empty({M, 2 * F}, u.options()), p = weights.index_select(0, places),
                 out = torch::zeros_like(u);
    int64_t at = 0;
    for (size_t e = 0; e < n_rows.size(); at += n_rows[e++]) {
      const int64_t m = n_rows[e], expert = static_cast<int64_t>(e);
      if (m == 0) continue;
      const Tensor of_expert = rows.narrow(0, at, m), y = torch::empty({m, F}, u.options());
      Tensor to = h.narrow(0, at, m);
      at::mm_out(to, u.index_select(0, of_expert), gate_up[expert].t());
      ForRows(
          {.gate_up = to.data_ptr<float>(), .p = p.data_ptr<float>() + at, .y = y.data_ptr<float>(), .M = m, .F = F},
          kernels::SwiGluTrain);
      AddRowsInto(torch::mm(y, down[expert].t()), of_expert, out);
    }
    ctx->save_for_backward({u, gate_up, down, rows, places, h, p});
    ctx->saved_data["n_rows"] = n_rows;
    ctx->saved_data["weights"] = weights.size(0);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto s = ctx->get_saved_variables();
    const Tensor &u = s[0], &gate_up = s[1], &down = s[2], &rows = s[3], &places = s[4], &h = s[5], &p = s[6];
    const std::vector<int64_t> n_rows = ctx->saved_data["n_rows"].toIntVector();
    const Tensor dout = grads[0].contiguous(), du = torch::zeros_like(u), dp = torch::empty_like(p);
    const Tensor dgate_up = torch::zeros_like(gate_up), ddown = torch::zeros_like(down);
    const int64_t F = down.size(2);
    int64_t at = 0;
    for (size_t e = 0; e < n_rows.size(); at += n_rows[e++]) {
      const int64_t m = n_rows[e], expert = static_cast<int64_t>(e);
      if (m == 0) continue;
      const Tensor of_expert = rows.narrow(0, at, m), dy = dout.index_select(0, of_expert),
                   da = torch::mm(dy, down[expert]);
      const Tensor y = torch::empty_like(da), dh = torch::empty({m, 2 * F}, u.options());
      ForRows({.gate_up = h.data_ptr<float>() + at * 2 * F,
               .p = p.data_ptr<float>() + at,
               .y = y.data_ptr<float>(),
               .M = m,
               .F = F,
               .dy = da.data_ptr<float>(),
               .dgate_up = dh.data_ptr<float>(),
               .dp = dp.data_ptr<float>() + at},
              kernels::SwiGluTrainBackward);
      Tensor to_down = ddown[expert], to_gate_up = dgate_up[expert];
      at::mm_out(to_down, dy.t(), y);
      at::mm_out(to_gate_up, dh.t(), u.index_select(0, of_expert));
      AddRowsInto(torch::mm(dh, gate_up[expert]), of_expert, du);
    }
    const Tensor dweights = torch::zeros({ctx->saved_data["weights"].toInt(), 1}, p.options());
    AddRowsInto(dp.unsqueeze(1), places, dweights);
    return {du, dweights.view({-1}), dgate_up, ddown, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor RoutedExperts(const Tensor& u, const Tensor& weights, const Tensor& gate_up, const Tensor& down,
                     const Tensor& rows, const Tensor& places, const std::vector<int64_t>& n_rows) {
  HYDRA_CHECK(u.dim() == 2 && weights.dim() == 1 && rows.sizes() == places.sizes(), "u ", u.sizes(), " rows ",
              rows.sizes());
  if (ChooseForm(Op::kRoutedExperts, {u, weights, gate_up, down}) != Form::kFused)
    return composite::RoutedExperts(u, weights, gate_up, down, rows, places, n_rows);
  return RoutedExpertsFn::apply(u, weights, gate_up, down, rows, places, n_rows);
}

Tensor Expert(const Tensor& rows, const Tensor& gate_up, const Tensor& down) {
  const auto halves = torch::linear(rows, gate_up).chunk(2, -1);
  return torch::linear(torch::silu(halves[0]) * halves[1], down);
}

Tensor composite::RoutedExperts(const Tensor& u, const Tensor& weights, const Tensor& gate_up, const Tensor& down,
                                const Tensor& rows, const Tensor& places, const std::vector<int64_t>& n_rows) {
  const auto inputs = nn::GatherRows(u, rows).split_with_sizes(n_rows);
  const auto gate_ups = gate_up.unbind(0), downs = down.unbind(0);
  std::vector<Tensor> outputs;
  for (size_t e = 0; e < n_rows.size(); ++e)
    if (n_rows[e] > 0) outputs.push_back(Expert(inputs[e], gate_ups[e], downs[e]));
  if (outputs.empty()) return torch::zeros_like(u);
  const Tensor p = nn::GatherRows(weights.unsqueeze(1), places);
  return nn::ScatterAddRows(torch::cat(outputs).to(p.scalar_type()) * p, rows, u.size(0));
}

}  // namespace hydra::nn
