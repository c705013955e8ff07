// SPDX-License-Identifier: Apache-2.0
// Routing by chunk, and which rows each expert gets. Not here: the products (experts.cc). Dims as in moe.h; M rows
// gathered for all experts.
#include "hydra/nn/moe.h"

#include <limits>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/nn/functions.h"

namespace hydra::nn {

using torch::Tensor;

namespace {

// S_c = {(c + layer + floor(j E / k)) mod E, j < k}, weights 1 / k.
Routes RoundRobin(const MoeConfig& config, int layer, const Tensor& u, const Layout& layout, int64_t k) {
  const int64_t E = config.n_experts;
  const Tensor j = torch::arange(k, layout.pos.options());
  const Tensor offset = (j * E).div(k, "floor") + layer;
  Routes r;
  r.ids = (layout.chunk_number.unsqueeze(-1) + offset).remainder(E);
  r.route_weights = torch::full({layout.B, layout.n_chunks, k}, 1.0 / static_cast<double>(k), u.options());
  return r;
}

// Real rows of each expert, experts one after another: row of u, place of its weight in route_weights' flat form.
struct Assignment {
  Tensor rows, weights;         // [M] int64
  std::vector<int64_t> n_rows;  // [E]
};

Assignment Assign(const Routes& routes, const Layout& layout, int64_t n_experts) {
  const Tensor ids = routes.ids.to(torch::kCPU).contiguous(), real = layout.real.to(torch::kCPU).contiguous();
  const int64_t k = ids.size(2), n_chunks = layout.B * layout.n_chunks, C = layout.C;
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const bool* is_real = real.const_data_ptr<bool>();
  std::vector<std::vector<int64_t>> places(static_cast<size_t>(n_experts));  // of each expert: chunk * k + slot
  for (int64_t i = 0; i < n_chunks * k; ++i)
    if (is_real[i / k * C]) places[static_cast<size_t>(id[i])].push_back(i);
  std::vector<int64_t> rows, weights;
  Assignment out;
  for (const auto& of_expert : places) {
    const size_t before = rows.size();
    for (const int64_t place : of_expert)
      for (int64_t t = place / k * C; t < (place / k + 1) * C && is_real[t]; ++t) {
        rows.push_back(t);
        weights.push_back(place);
      }
    out.n_rows.push_back(static_cast<int64_t>(rows.size() - before));
  }
  const auto tensor = [&](const std::vector<int64_t>& v) {
    return torch::tensor(v, torch::kInt64).to(layout.pos.device());
  };
  out.rows = tensor(rows);
  out.weights = tensor(weights);
  return out;
}

// Which experts are of a domain's set [n + 1, E] bool; the last row, which -1 takes, has all.
Tensor DomainSets(const MoeConfig& config, const torch::Device& device) {
  const auto n = static_cast<int64_t>(config.domains.size());
  Tensor sets = torch::zeros({n + 1, config.n_experts}, torch::kBool);
  for (int64_t i = 0; i < n; ++i)
    for (const int64_t expert : config.domains[static_cast<size_t>(i)].experts) sets[i][expert] = true;
  sets[n] = true;
  return sets.to(device);
}

void AddDomainLoss(const MoeConfig& config, const Routes& routes, const Layout& layout, const Tensor& log_probability,
                   RouterLosses* out) {
  const Tensor domain = layout.chunk_domain;
  const Tensor sets = DomainSets(config, domain.device());
  const Tensor own = sets.index({domain.remainder(sets.size(0))});  // [B, n, E]; -1 is the last row
  const Tensor labelled = layout.chunk_real & (domain >= 0);
  const Tensor chosen = own.gather(2, routes.ids) & labelled.unsqueeze(-1);
  out->in_set =
      torch::stack({chosen.sum(), labelled.sum() * routes.ids.size(2)}).to(routes.route_weights.scalar_type());
  constexpr double kOutside = -1e30;  // not -inf: its gradient is no number
  const Tensor inside = torch::logsumexp(log_probability.masked_fill(~own, kOutside), {-1});
  out->terms[TermIndex(RouterTerm::kDomain)] = -(inside * labelled).sum() / layout.chunk_real.sum();
}

}  // namespace

Routes SelectExperts(const MoeConfig& config, const Tensor& router_logits, const Tensor& balance_bias,
                     const Controls& controls) {
  const int64_t E = config.n_experts;
  const double tau = controls.router_temperature.value_or(config.temperature);
  Routes r;
  r.router_logits = router_logits;
  if (!controls.force_experts.empty()) {
    const Tensor forced = torch::tensor(controls.force_experts, torch::kInt64).to(router_logits.device());
    auto shape = router_logits.sizes().vec();
    shape.back() = forced.numel();
    r.ids = forced.expand(shape).contiguous();
  } else {
    Tensor score = router_logits.detach() + balance_bias;
    if (!controls.expert_bias.empty())
      score = score + torch::tensor(controls.expert_bias, torch::kFloat64).to(score.options());
    for (const int64_t e : controls.ban_experts) score.select(-1, e).fill_(-std::numeric_limits<double>::infinity());
    const int64_t left = E - static_cast<int64_t>(controls.ban_experts.size());
    r.ids = TopK(score, std::min(controls.moe_top_k.value_or(config.top_k), left));
  }
  r.route_weights = torch::softmax(router_logits.gather(-1, r.ids) / tau, -1);
  return r;
}

Routes Route(const ModelConfig& config, int layer, const MoeWeights& w, const Tensor& u, const Layout& layout,
             const ForwardOptions& options) {
  if (options.router_mode.value_or(config.moe.mode) == RouterMode::kRoundRobin)
    return RoundRobin(config.moe, layer, u, layout, options.controls.moe_top_k.value_or(config.moe.top_k));
  const NoAutocast fp32;
  const Tensor chunks = u.view({layout.B, layout.n_chunks, layout.C, -1}).to(w.prev_proj.scalar_type());
  const Tensor before = torch::constant_pad_nd(chunks.mean(2).narrow(1, 0, layout.n_chunks - 1), {0, 0, 1, 0});
  const Tensor summary = torch::where(layout.chunk_first.unsqueeze(-1), w.init_summary, before);
  const Tensor z = torch::linear(summary, w.prev_proj) + torch::linear(chunks.select(2, 0), w.first_proj);
  return SelectExperts(config.moe, z, w.balance_bias, options.controls);
}

Tensor ApplyExperts(const MoeWeights& w, const Tensor& u, const Routes& routes, const Layout& layout) {
  const Assignment assignment = Assign(routes, layout, w.gate_up.size(0));
  return RoutedExperts(u.reshape({layout.B * layout.T, u.size(-1)}), routes.route_weights.reshape({-1}), w.gate_up,
                       w.down, assignment.rows, assignment.weights, assignment.n_rows)
      .view_as(u);
}

RouterLosses LossesOfRouter(const MoeConfig& config, const Routes& routes, const Layout& layout,
                            const ForwardOptions& options) {
  const Tensor real = layout.chunk_real.to(routes.route_weights.scalar_type());
  const Tensor n_real = real.sum();
  RouterLosses out;
  out.load = torch::zeros({layout.B, layout.n_chunks, config.n_experts}, real.options())
                 .scatter_(2, routes.ids, 1.0)
                 .mul_(real.unsqueeze(-1))
                 .sum({0, 1});
  if (!routes.router_logits.defined()) {
    out.terms[TermIndex(RouterTerm::kBalance)] = out.terms[TermIndex(RouterTerm::kZ)] =
        torch::zeros({}, real.options());
    return out;
  }
  const double tau = options.controls.router_temperature.value_or(config.temperature);
  const Tensor log_probability = torch::log_softmax(routes.router_logits / tau, -1);
  if (layout.chunk_domain.defined()) AddDomainLoss(config, routes, layout, log_probability, &out);
  const Tensor probability = torch::softmax(routes.router_logits / tau, -1);
  const Tensor mean_probability = (probability * real.unsqueeze(-1)).sum({0, 1}) / n_real;  // P_e
  const Tensor share = out.load / out.load.sum();                                           // f_e
  out.terms[TermIndex(RouterTerm::kBalance)] = static_cast<double>(config.n_experts) * (share * mean_probability).sum();
  out.terms[TermIndex(RouterTerm::kZ)] = (torch::logsumexp(routes.router_logits, {-1}).square() * real).sum() / n_real;
  return out;
}

}  // namespace hydra::nn
