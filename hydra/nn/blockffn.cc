// SPDX-License-Identifier: Apache-2.0
// The layer in two forms, and its losses. Dims as in blockffn.h; M tokens of an expert.
#include "hydra/nn/blockffn.h"

#include <vector>

#include "hydra/base/error.h"
#include "hydra/nn/form.h"
#include "hydra/nn/functions.h"

namespace hydra::nn {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

constexpr double kEps = 1e-5;  // of the chunk loss

// Tokens of each expert, ascending, experts one after another.
struct TokenLists {
  Tensor tokens;                  // [M of all] int64
  std::vector<int64_t> n_tokens;  // [E]
};

TokenLists ListsOf(const Tensor& active) {
  const Tensor of_expert = active.t().contiguous();  // [E, N]
  const Tensor counts = of_expert.sum(1).to(torch::kCPU, torch::kInt64).contiguous();
  const int64_t* n = counts.const_data_ptr<int64_t>();
  return {of_expert.nonzero().select(1, 1).contiguous(), {n, n + counts.numel()}};
}

// Kept for the backward pass: what comes in, and each listed token's up.
struct ListsFn : torch::autograd::Function<ListsFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gates, const Tensor& up,
                        const Tensor& down, const Tensor& tokens, const std::vector<int64_t>& n_tokens) {
    const int64_t F = down.size(1) / gates.size(1);
    const Tensor h = torch::empty({tokens.size(0), F}, x.options()), y = torch::zeros_like(x);
    int64_t at = 0;
    for (int64_t e = 0; e < gates.size(1); at += n_tokens[static_cast<size_t>(e++)]) {
      const int64_t M = n_tokens[static_cast<size_t>(e)];
      if (M == 0) continue;
      const Tensor listed = tokens.narrow(0, at, M);
      Tensor of_expert = h.narrow(0, at, M);
      at::mm_out(of_expert, x.index_select(0, listed), up.narrow(0, e * F, F).t());
      const Tensor gate = gates.select(1, e).index_select(0, listed).unsqueeze(1).to(x.scalar_type());
      AddRowsInto(torch::mm(torch::silu(of_expert).mul_(gate), down.narrow(1, e * F, F).t()), listed, y);
    }
    ctx->save_for_backward({x, gates, up, down, tokens, h});
    ctx->saved_data["n_tokens"] = n_tokens;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto s = ctx->get_saved_variables();
    const Tensor &x = s[0], &gates = s[1], &up = s[2], &down = s[3], &tokens = s[4], &h = s[5];
    const std::vector<int64_t> n_tokens = ctx->saved_data["n_tokens"].toIntVector();
    const Tensor dy = grads[0].contiguous(), dx = torch::zeros_like(x), dgates = torch::zeros_like(gates);
    const Tensor dup = torch::zeros_like(up), ddown = torch::zeros_like(down);
    const int64_t F = down.size(1) / gates.size(1);
    int64_t at = 0;
    for (int64_t e = 0; e < gates.size(1); at += n_tokens[static_cast<size_t>(e++)]) {
      const int64_t M = n_tokens[static_cast<size_t>(e)];
      if (M == 0) continue;
      const Tensor listed = tokens.narrow(0, at, M), of_expert = h.narrow(0, at, M);
      const Tensor gate = gates.select(1, e).index_select(0, listed).unsqueeze(1).to(x.scalar_type());
      const Tensor dlisted = dy.index_select(0, listed), activation = torch::silu(of_expert);
      const Tensor dproduct = torch::mm(dlisted, down.narrow(1, e * F, F));  // of activation * gate
      ddown.narrow(1, e * F, F).copy_(torch::mm(dlisted.t(), activation * gate));
      dgates.select(1, e).index_copy_(0, listed, (dproduct * activation).sum(1).to(gates.scalar_type()));
      const Tensor dh = at::silu_backward(dproduct * gate, of_expert);
      dup.narrow(0, e * F, F).copy_(torch::mm(dh.t(), x.index_select(0, listed)));
      AddRowsInto(torch::mm(dh, up.narrow(0, e * F, F)), listed, dx);
    }
    return {dx, dgates, dup, ddown, Tensor(), Tensor()};
  }
};

}  // namespace

BlockRoutes RouteBlock(const MoeConfig& config, const BlockFfnWeights& w, const Tensor& x, double eps) {
  const NoAutocast fp32;
  BlockRoutes routes;
  routes.raw = torch::linear(x.to(w.router.scalar_type()), w.router);
  if (config.routing == BlockRouting::kTopK) {
    const Tensor share = torch::softmax(routes.raw, -1), best = TopK(share.detach(), config.top_k);
    routes.active = torch::zeros_like(share, torch::kBool).scatter_(-1, best, true);
    const Tensor kept = share * routes.active;
    routes.gates = kept / kept.sum(-1, true);
    return routes;
  }
  const Tensor positive = torch::relu(routes.raw);
  routes.active = routes.raw.detach() > 0;
  if (config.routing == BlockRouting::kRelu) routes.active = routes.active & (w.router_scale.detach() != 0);
  routes.gates = config.routing == BlockRouting::kRelu ? RmsNorm(positive, w.router_scale, eps) : positive;
  return routes;
}

Tensor BlockFfnDense(const BlockFfnWeights& w, const Tensor& x, const Tensor& gates) {
  const Tensor h = torch::silu(torch::linear(x, w.up));
  const auto E = gates.size(-1);
  auto shape = x.sizes().vec();
  shape.back() = E;
  shape.push_back(-1);
  return torch::linear((h.view(shape) * gates.unsqueeze(-1).to(h.scalar_type())).view_as(h), w.down);
}

Tensor BlockFfnLists(const BlockFfnWeights& w, const Tensor& x, const BlockRoutes& routes) {
  const int64_t E = routes.raw.size(-1);
  const TokenLists lists = ListsOf(routes.active.reshape({-1, E}));
  return ListsFn::apply(x.reshape({-1, x.size(-1)}).contiguous(), routes.gates.reshape({-1, E}), w.up, w.down,
                        lists.tokens, lists.n_tokens)
      .view_as(x);
}

Tensor BlockFfn(const BlockFfnWeights& w, const Tensor& x, const BlockRoutes& routes) {
  constexpr double kDense = 0.5;  // active share from which all experts at once are quicker
  const bool lists = ChooseForm(Op::kBlockExperts, {x, w.up, w.down}) == Form::kFused &&
                     routes.active.to(torch::kFloat32).mean().item<double>() < kDense;
  return lists ? BlockFfnLists(w, x, routes) : BlockFfnDense(w, x, routes.gates);
}

Tensor LocalityLoss(const Tensor& raw, const Layout& layout, double alpha) {
  const NoAutocast fp32;
  const int64_t T = layout.T;
  const Tensor pair = layout.real.narrow(1, 0, T - 1) & layout.real.narrow(1, 1, T - 1) &
                      (layout.seq.narrow(1, 0, T - 1) == layout.seq.narrow(1, 1, T - 1));
  const Tensor left = raw.narrow(1, 0, T - 1) * alpha, right = raw.narrow(1, 1, T - 1) * alpha;
  const Tensor each = torch::logaddexp(torch::zeros_like(left), left) - left * torch::sigmoid(right);
  const Tensor n = pair.sum().clamp_min(1) * raw.size(-1);
  return (each * pair.unsqueeze(-1)).sum() / n;
}

Tensor ChunkLoss(const Tensor& raw, const Layout& layout, int64_t chunk) {
  const NoAutocast fp32;
  const int64_t E = raw.size(-1);
  // Chunks of all rows are numbered in the order of their first tokens; pads follow the chunk before them and add
  // nothing to it.
  const Tensor begins = (layout.real & (layout.pos.remainder(chunk) == 0)).reshape({-1});
  const Tensor number = (begins.cumsum(0) - 1).clamp_min(0);
  const int64_t n_chunks = begins.sum().item<int64_t>();
  HYDRA_CHECK(n_chunks > 0, "a batch without tokens");
  const Tensor positive = torch::relu(raw).reshape({-1, E});
  const Tensor share = positive / (positive.sum(-1, true) + kEps);
  const Tensor unused = torch::log(1 - share + kEps) * layout.real.reshape({-1, 1});
  const Tensor sums = torch::zeros({n_chunks, E}, unused.options()).index_add(0, number, unused);
  return (1 - torch::exp(sums)).mean();
}

RouterLosses LossesOfBlock(const MoeConfig& config, const BlockRoutes& routes, const Layout& layout,
                           const ForwardOptions& options) {
  const NoAutocast fp32;
  const auto asked = [&](RouterTerm term) { return options.router_coefs[TermIndex(term)].value_or(0) != 0; };
  const auto E = static_cast<double>(config.n_experts);
  const Tensor real = layout.real.unsqueeze(-1);
  const Tensor n_real = layout.real.sum().to(routes.gates.scalar_type());
  RouterLosses out;
  out.load = (routes.active & real).sum({0, 1}).to(routes.gates.scalar_type());
  if (asked(RouterTerm::kLocality))
    out.terms[TermIndex(RouterTerm::kLocality)] = LocalityLoss(routes.raw, layout, options.locality_alpha);
  if (asked(RouterTerm::kChunk))
    out.terms[TermIndex(RouterTerm::kChunk)] = ChunkLoss(routes.raw, layout, options.sparsity_chunk);
  if (config.routing == BlockRouting::kTopK) {
    const Tensor mean = (torch::softmax(routes.raw, -1) * real).sum({0, 1}) / n_real;
    out.terms[TermIndex(RouterTerm::kBalance)] = E * (out.load / out.load.sum() * mean).sum();
  }
  if (!asked(RouterTerm::kSize)) return out;
  const Tensor sums = (torch::relu(routes.raw) * real).sum({0, 1});  // [E]
  out.terms[TermIndex(RouterTerm::kSize)] =
      config.routing == BlockRouting::kReluPlain
          ? E / (n_real.square() * static_cast<double>(config.top_k)) * (sums * out.load).sum()
          : sums.sum() / (n_real * E);
  return out;
}

}  // namespace hydra::nn
