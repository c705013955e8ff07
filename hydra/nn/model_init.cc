// SPDX-License-Identifier: Apache-2.0
// Initial weights: each tensor from its own random stream, so a value depends on the seed and its place alone.
#include <ATen/Parallel.h>

#include <algorithm>

#include "hydra/base/rng.h"
#include "hydra/model/initial_value.h"
#include "hydra/nn/model.h"

namespace hydra::nn {

using torch::Tensor;

namespace {

void Fill(const ModelConfig& config, const TensorSpec& spec, uint64_t seed, uint64_t index, Tensor& host) {
  constexpr int64_t kBlock = 1 << 16;  // numbers of one stream
  const int64_t n = host.numel();
  AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "InitWeights", [&] {
    auto* out = host.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, (n + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        Rng rng(seed, (index << 32) + static_cast<uint64_t>(block));
        for (int64_t i = block * kBlock; i < std::min(n, (block + 1) * kBlock); ++i)
          out[i] = static_cast<scalar_t>(
              static_cast<float>(InitialValue(config, spec, i, rng)));  // fp32 values in fp64 models too
      }
    });
  });
}

}  // namespace

void Model::InitWeights(uint64_t seed) {
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorSpec& spec = table_.specs()[i];
    Tensor host = torch::empty(spec.shape, torch::TensorOptions().dtype(options_.dtype));
    if (spec.init == Init::kPathGates || spec.init == Init::kWsController) {  // a few set numbers, not rounded to fp32
      Rng unused(seed);
      for (int64_t k = 0; k < host.numel(); ++k) host[k] = InitialValue(config_, spec, k, unused);
    } else {
      Fill(config_, spec, seed, i, host);
    }
    tensors_[i].copy_(host);
  }
}

}  // namespace hydra::nn
