// SPDX-License-Identifier: Apache-2.0
// Activation checkpointing of one block: forward without a graph, backward runs it again with one.
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
};

// Gradients of the weights are added to them by the inner backward pass; x's is returned.
struct RecomputedBlockFn : torch::autograd::Function<RecomputedBlockFn> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const c10::intrusive_ptr<BlockCall>& call) {
    const BlockOut out = call->Run(x);  // apply() has switched gradients off
    ctx->save_for_backward({x});
    ctx->saved_data["call"] = c10::IValue::make_capsule(call);
    const RouterLosses& router = out.router;
    if (!router.load.defined()) return {out.x};
    if (!router.domain.defined()) {
      ctx->mark_non_differentiable({router.load});
      return {out.x, router.balance, router.z, router.load};
    }
    ctx->mark_non_differentiable({router.load, router.in_set});
    return {out.x, router.balance, router.z, router.load, router.domain, router.in_set};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto call = c10::static_intrusive_pointer_cast<BlockCall>(ctx->saved_data["call"].toCapsule());
    const Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_(true);
    torch::AutoGradMode with_grad(true);
    const BlockOut out = call->Run(x);
    variable_list outputs{out.x}, output_grads{grads[0]};
    if (out.router.load.defined() && out.router.balance.requires_grad()) {
      outputs.insert(outputs.end(), {out.router.balance, out.router.z});
      output_grads.insert(output_grads.end(), {grads[1], grads[2]});
      if (out.router.domain.defined()) {
        outputs.push_back(out.router.domain);
        output_grads.push_back(grads[4]);
      }
    }
    torch::autograd::backward(outputs, output_grads);
    return {x.grad(), Tensor()};
  }
};

}  // namespace

BlockOut RecomputedBlock(const ModelConfig& config, int layer, const BlockWeights& w, const Tensor& x,
                         const Layout& layout, const ForwardOptions& options) {
  const auto out = RecomputedBlockFn::apply(x, c10::make_intrusive<BlockCall>(config, layer, w, layout, options));
  BlockOut result;
  result.x = out[0];
  if (out.size() > 1) result.router = {out[1], out[2], out[3], {}, {}};
  if (out.size() > 4) result.router.domain = out[4], result.router.in_set = out[5];
  return result;
}

}  // namespace hydra::nn
