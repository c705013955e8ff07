// SPDX-License-Identifier: Apache-2.0
// Draws of the initial distributions.
#include "hydra/model/initial_value.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"

namespace hydra {
namespace {

double LogUniform(Rng& rng, double low, double high) {
  return std::exp(std::log(low) + rng.Uniform() * (std::log(high) - std::log(low)));
}

}  // namespace

double InitialValue(const ModelConfig& config, const TensorSpec& spec, int64_t i, Rng& rng) {
  const SsmConfig& ssm = config.ssm;
  switch (spec.init) {
    case Init::kNormal: return spec.init_arg * rng.Normal();
    case Init::kUniform: return spec.init_arg * (2 * rng.Uniform() - 1);
    case Init::kConstant: return spec.init_arg;
    case Init::kPathGates: return config.path_gates_init.at(static_cast<size_t>(i));
    case Init::kALog: return std::log(ssm.A_init[0] + rng.Uniform() * (ssm.A_init[1] - ssm.A_init[0]));
    case Init::kDtBias: {  // softplus of it is dt
      const double dt = std::max(LogUniform(rng, ssm.dt_min, ssm.dt_max), ssm.dt_floor);
      return dt + std::log(-std::expm1(-dt));
    }
    case Init::kLambdaLog: return std::log(LogUniform(rng, 1e-3, 1.0) / std::log(2.0));
    case Init::kWsController: return i == 0 ? spec.init_arg : 0;
  }
  HYDRA_CHECK(false, "init of ", spec.name);
  return 0;
}

}  // namespace hydra
