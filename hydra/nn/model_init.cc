// SPDX-License-Identifier: Apache-2.0
// Initial weights: each tensor from its own random stream, so a value depends on the seed and its place alone.
#include <ATen/Parallel.h>

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/nn/model.h"

namespace hydra::nn {

using torch::Tensor;

namespace {

double LogUniform(Rng& rng, double low, double high) {
  return std::exp(std::log(low) + rng.Uniform() * (std::log(high) - std::log(low)));
}

// The next value of a tensor drawn number by number.
double Draw(const ModelConfig& config, const TensorSpec& spec, Rng& rng) {
  const SsmConfig& ssm = config.ssm;
  switch (spec.init) {
    case Init::kNormal: return spec.init_arg * rng.Normal();
    case Init::kUniform: return spec.init_arg * (2 * rng.Uniform() - 1);
    case Init::kConstant: return spec.init_arg;
    case Init::kALog: return std::log(ssm.A_init[0] + rng.Uniform() * (ssm.A_init[1] - ssm.A_init[0]));
    case Init::kDtBias: {  // softplus of it is dt
      const double dt = std::max(LogUniform(rng, ssm.dt_min, ssm.dt_max), ssm.dt_floor);
      return dt + std::log(-std::expm1(-dt));
    }
    case Init::kLambdaLog: return std::log(LogUniform(rng, 1e-3, 1.0) / std::log(2.0));
    case Init::kPathGates:
    case Init::kWsController: break;
  }
  throw std::logic_error("an Init that is not drawn number by number");
}

void Fill(const ModelConfig& config, const TensorSpec& spec, uint64_t seed, uint64_t index, Tensor& host) {
  constexpr int64_t kBlock = 1 << 16;  // numbers of one stream
  const int64_t n = host.numel();
  AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "InitWeights", [&] {
    auto* out = host.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, (n + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        Rng rng(seed, (index << 32) + static_cast<uint64_t>(block));
        for (int64_t i = block * kBlock; i < std::min(n, (block + 1) * kBlock); ++i)
          out[i] =
              static_cast<scalar_t>(static_cast<float>(Draw(config, spec, rng)));  // fp32 values in fp64 models too
      }
    });
  });
}

}  // namespace

void ModelImpl::InitWeights(uint64_t seed) {
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorSpec& spec = table_.specs()[i];
    Tensor host = torch::empty(spec.shape, torch::TensorOptions().dtype(options_.dtype));
    if (spec.init == Init::kPathGates) {
      for (int64_t p = 0; p < 3; ++p) host[p] = config_.path_gates_init[static_cast<size_t>(p)];
    } else if (spec.init == Init::kWsController) {
      host[0] = spec.init_arg;
      host[1] = 0;
    } else {
      Fill(config_, spec, seed, i, host);
    }
    tensors_[i].copy_(host);
  }
}

}  // namespace hydra::nn
