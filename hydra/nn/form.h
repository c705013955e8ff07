// SPDX-License-Identifier: Apache-2.0
// Which form of an operation runs: the fused one (hydra/kernels and the loops of functions.cc, on the CPU) or its twin
// of torch operators in hydra::nn::composite, which serves every device and type. All layers ask here and nowhere else.
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>
#include <initializer_list>

namespace hydra::nn {

// The operations that have both forms, by the names of their functions.
enum class Op {
  kLinearScan,
  kCausalConvSilu,
  kRmsNorm,
  kLinearCrossEntropy,
  kGatherRows,
  kScatterAddRows,
  kAddRowsInto,
  kTopK,
  kMamba2Core,
  kSparseAttention,
  kRoutedExperts,
  kBlockExperts,
  kAttentionInfluence,
};

// Sizes that the fused form of Mamba2Core bounds; 0 for other operations.
struct BoundedSizes {
  int64_t taps = 0, scan_chunk = 0;
};

enum class Form { kFused, kComposite };

// By device, type and size of the operands; undefined ones do not count. The fused form takes tensors of the CPU, all
// of one type: fp32, or fp64 where the operation is a loop of functions.cc.
[[nodiscard]] Form ChooseForm(Op op, std::initializer_list<torch::Tensor> operands, const BoundedSizes& sizes = {});

}  // namespace hydra::nn
