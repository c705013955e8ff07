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
    case Op::kRoutedExperts: return false;
    default: return true;
  }
}

}  // namespace

FormChoice ChooseForm(Op op, std::initializer_list<torch::Tensor> operands, const BoundedSizes& sizes) {
  const torch::Tensor* first = nullptr;
  for (const torch::Tensor& x : operands) {
    if (!x.defined()) continue;
    if (!x.device().is_cpu()) return {false, "a device other than the CPU"};
    const auto type = x.scalar_type();
    if (type != torch::kFloat32 && !(type == torch::kFloat64 && HasF64(op)))
      return {false, "a type that the kernels lack"};
    if (first != nullptr && type != first->scalar_type()) return {false, "operands of several types"};
    if (first == nullptr) first = &x;
  }
  if (first == nullptr || first->numel() == 0) return {false, "nothing to compute"};
  if (sizes.taps > kernels::kMambaTaps) return {false, "more taps than the kernels have"};
  if (sizes.scan_chunk > kernels::kMambaChunk) return {false, "a longer scan_chunk than the kernels have"};
  return {true, "operands that the kernels take"};
}

}  // namespace hydra::nn
