// SPDX-License-Identifier: Apache-2.0
// From masks of a pass to counters.
#include "hydra/nn/sparsity.h"

#include <utility>

namespace hydra::nn {

void AddSparsity(const Model& model, const Batch& batch, ForwardOptions options, SparsityByLayer* counters) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor seq = batch.seq_idx.to(torch::kCPU).contiguous(), pos = batch.pos.to(torch::kCPU).contiguous();
  const int64_t* seq_of = seq.const_data_ptr<int64_t>();
  const int64_t* pos_of = pos.const_data_ptr<int64_t>();
  const RouteWatch watch = [&](int layer, const torch::Tensor& active) {
    const torch::Tensor mask = active.to(torch::kCPU, torch::kUInt8).contiguous();
    const auto E = static_cast<size_t>(mask.size(-1));
    SparsityCounter& counter = counters->try_emplace(layer, static_cast<int64_t>(E)).first->second;
    for (int64_t t = 0; t < seq.numel(); ++t) {
      if (seq_of[t] < 0) continue;  // pads end a document
      if (pos_of[t] == 0) counter.BeginDocument();
      counter.Add({mask.const_data_ptr<uint8_t>() + static_cast<size_t>(t) * E, E});
    }
    counter.BeginDocument();
  };
  options.route_watch = &watch;
  (void)model.Forward(batch, options);
}

SparsityByLayer CountSparsity(const Model& model, const Batch& batch, ForwardOptions options) {
  SparsityByLayer counters;
  AddSparsity(model, batch, std::move(options), &counters);
  return counters;
}

}  // namespace hydra::nn
