// SPDX-License-Identifier: Apache-2.0
// Activation checkpointing of one block: forward without a graph, backward runs it again with one.
#include <vector>

#include "hydra/nn/block.h"

namespace hydra::nn {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// What a second run needs; it outlives the forward pass.
struct BlockCall : torch::CustomClassHolder {
  BlockCall(const ModelConfig& c, int i, const BlockWeights& w, const Layout& l, const ForwardOptions& o)
      : config(&c), layer(i), weights(w), layout(l), options(o) {}
  [[nodiscard]] BlockOut Run(const Tensor& x) const { return RunBlock(*config, layer, weights, x, layout, options); }

  const ModelConfig* config;  // the model's own
  int layer;
  BlockWeights weights;
  Layout layout;
  ForwardOptions options;
  std::vector<bool> has;  // of the terms, load and in_set: whether the forward pass gave them
};

// Gradients of the weights are added to them by the inner backward pass; x's is returned.
struct RecomputedBlockFn : torch::autograd::Function<RecomputedBlockFn> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const c10::intrusive_ptr<BlockCall>& call) {
    const BlockOut out = call->Run(x);  // apply() has switched gradients off
    ctx->save_for_backward({x});
    ctx->saved_data["call"] = c10::IValue::make_capsule(call);
    // x, the terms that there are, then what has no gradient.
    variable_list results{out.x}, fixed;
    call->has.clear();
    for (const Tensor& term : out.router.terms) {
      call->has.push_back(term.defined());
      if (term.defined()) results.push_back(term);
    }
    for (const Tensor& count : {out.router.load, out.router.in_set}) {
      call->has.push_back(count.defined());
      if (count.defined()) fixed.push_back(count);
    }
    ctx->mark_non_differentiable(fixed);
    results.insert(results.end(), fixed.begin(), fixed.end());
    return results;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto call = c10::static_intrusive_pointer_cast<BlockCall>(ctx->saved_data["call"].toCapsule());
    const Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_(true);
    torch::AutoGradMode with_grad(true);
    const BlockOut out = call->Run(x);
    variable_list outputs{out.x}, output_grads{grads[0]};
    size_t result = 1;
    for (const Tensor& term : out.router.terms) {
      if (!term.defined()) continue;
      if (term.requires_grad()) {
        outputs.push_back(term);
        output_grads.push_back(grads[result]);
      }
      ++result;
    }
    torch::autograd::backward(outputs, output_grads);
    return {x.grad(), Tensor()};
  }
};

}  // namespace

BlockOut RecomputedBlock(const ModelConfig& config, int layer, const BlockWeights& w, const Tensor& x,
                         const Layout& layout, const ForwardOptions& options) {
  const auto call = c10::make_intrusive<BlockCall>(config, layer, w, layout, options);
  const auto out = RecomputedBlockFn::apply(x, call);
  BlockOut result;
  result.x = out[0];
  size_t next = 1;
  for (size_t i = 0; i < kRouterTerms; ++i)
    if (call->has[i]) result.router.terms[i] = out[next++];
  if (call->has[kRouterTerms]) result.router.load = out[next++];
  if (call->has[kRouterTerms + 1]) result.router.in_set = out[next++];
  return result;
}

}  // namespace hydra::nn
