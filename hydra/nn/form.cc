// SPDX-License-Identifier: Apache-2.0
// The choice between the fused and the composite form of an operation. Not here: the forms.
#include "hydra/nn/form.h"

#include "hydra/kernels/train_mamba.h"

namespace hydra::nn {
namespace {

// The kernels of hydra/kernels are fp32; the loops of functions.cc are templates over the type.
bool HasF64(Op op) {
  switch (op) {
    case Op::kMamba2Core:
    case Op::kSparseAttention:
    case Op::kAttentionInfluence:
    case Op::kRoutedExperts: return false;
    default: return true;
  }
}

}  // namespace

Form ChooseForm(Op op, std::initializer_list<torch::Tensor> operands, const BoundedSizes& sizes) {
  const torch::Tensor* first = nullptr;
  for (const torch::Tensor& x : operands) {
    if (!x.defined()) continue;
    if (!x.device().is_cpu()) return Form::kComposite;
    const auto type = x.scalar_type();
    if (type != torch::kFloat32 && !(type == torch::kFloat64 && HasF64(op))) return Form::kComposite;
    if (first != nullptr && type != first->scalar_type()) return Form::kComposite;
    if (first == nullptr) first = &x;
  }
  if (first == nullptr || first->numel() == 0) return Form::kComposite;  // nothing to compute
  if (sizes.taps > kernels::kMambaTaps || sizes.scan_chunk > kernels::kMambaChunk) return Form::kComposite;
  return Form::kFused;
}

}  // namespace hydra::nn
