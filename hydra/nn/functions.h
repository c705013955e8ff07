// SPDX-License-Identifier: Apache-2.0
// Own autograd functions: where torch's operators would store or copy too much. Each has a slow twin of plain torch
// operators in hydra::nn::composite, which also serves other devices than the CPU. Not here: attention (attention.h).
// Dims: B rows, T or L steps, C channels, K taps, D columns, V vocabulary.
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>

namespace hydra::nn {

// While it lives, autocast leaves this thread's operators in the type of their arguments: for what the specification
// keeps in fp32 (SSM, router, scores, softmax, norms) on a device that otherwise multiplies in bf16.
class NoAutocast {
 private:
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autocast_dispatch_keyset};
};

// First-order recurrence out_0 = 0, out_{t+1} = a_t out_t + b_t over dimension 1; both states before and after each
// step are in the result.
//   a [B, L, X, Z], b [B, L, X, Y, Z, I] -> [B, L + 1, X, Y, Z, I]; a_t[x, z] scales b's [x, :, z, :].
torch::Tensor LinearScan(const torch::Tensor& a, const torch::Tensor& b);

// silu of a causal depthwise convolution: y[t, c] = silu(bias[c] + sum_j w[c, K-1-j] x[t-j, c]); taps before
// start[t], the row offset where t's document begins, read 0.
//   x [B, T, C] (rows may be strided), w [C, K], bias [C] or undefined, start [B, T] int64 -> [B, T, C]
torch::Tensor CausalConvSilu(const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& bias,
                             const torch::Tensor& start);

// x / sqrt(mean x^2 + eps) * w over the last dimension.  x [.., n], w [n] or [g, n] when x is [.., g, n].
torch::Tensor RmsNorm(const torch::Tensor& x, const torch::Tensor& w, double eps);

// The mean over rows of the cross entropy between x w^T and the targets. Logits stand for a block of rows at a time, in
// the forward pass only: memory O(M D + V D).  x [M, D], w [V, D], targets [M] int64 in 0 .. V - 1, M >= 1 -> []
torch::Tensor LinearCrossEntropy(const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& targets);

// Rows of x by index; the gradient adds repeated rows in index order.  x [N, D], index [M] int64 -> [M, D]
torch::Tensor GatherRows(const torch::Tensor& x, const torch::Tensor& index);
// Adds rows to zeros [n_rows, D] in index order: GatherRows' transpose.  x [M, D], index [M]
torch::Tensor ScatterAddRows(const torch::Tensor& x, const torch::Tensor& index, int64_t n_rows);

// dst[index[i]] += src[i], in the order of i whatever the thread count. No gradient. src [M, D], dst [N, D].
void AddRowsInto(const torch::Tensor& src, const torch::Tensor& index, const torch::Tensor& dst);

// Indices of the k largest of the last dimension, best first; ties to the lower index. No gradient.
// scores [.., n] -> [.., k] int64.  NaN counts as the smallest.
torch::Tensor TopK(const torch::Tensor& scores, int64_t k);

// The slow twins; same arguments and results.
namespace composite {
torch::Tensor LinearScan(const torch::Tensor& a, const torch::Tensor& b);
torch::Tensor CausalConvSilu(const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& bias,
                             const torch::Tensor& start);
torch::Tensor RmsNorm(const torch::Tensor& x, const torch::Tensor& w, double eps);
torch::Tensor LinearCrossEntropy(const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& targets);
torch::Tensor GatherRows(const torch::Tensor& x, const torch::Tensor& index);
torch::Tensor ScatterAddRows(const torch::Tensor& x, const torch::Tensor& index, int64_t n_rows);
torch::Tensor TopK(const torch::Tensor& scores, int64_t k);
}  // namespace composite

}  // namespace hydra::nn
