// SPDX-License-Identifier: Apache-2.0
// Looks into the buffers of a state.
#include "hydra/runtime/state_view.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "hydra/runtime/weights.h"
#include "hydra/tensor/dtype.h"

namespace hydra {
namespace {

double Norm(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return std::sqrt(sum);
}

int64_t* BytesOf(LayerView& view, StatePart part) {
  switch (part) {
    case StatePart::kSsm: return &view.ssm_bytes;
    case StatePart::kConv: return &view.conv_bytes;
    case StatePart::kKv: return &view.kv_bytes;
    case StatePart::kLandmarks: return &view.landmark_bytes;
    case StatePart::kMoe: return &view.moe_bytes;
    case StatePart::kWorkspace: return &view.workspace_bytes;
  }
  return nullptr;
}

double SsmNorm(SequenceState& state, const StateBuffer& buffer) {
  if (buffer.dtype == DType::kF32) return Norm(state.At(buffer.offset), buffer.bytes / 4);
  const auto n = buffer.bytes / 2;  // bf16: the upper half of an f32
  std::vector<float> values(static_cast<size_t>(n));
  const auto* from = state.At<uint16_t>(buffer.offset);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(&values[static_cast<size_t>(i)], &bits, sizeof bits);
  }
  return Norm(values.data(), n);
}

std::vector<SlotView> Slots(SequenceState& state, const BlockOffsets& at, const BlockWeights& weights,
                            const WorkspaceConfig& config) {
  std::vector<SlotView> slots;
  std::vector<float> moved(static_cast<size_t>(config.rank));
  for (int64_t i = 0; i < config.n_slots; ++i) {
    const float* slot = state.At(at.ws_M) + i * config.rank;
    const float* initial = weights.workspace.init_state.data() + i * config.rank;
    std::transform(slot, slot + config.rank, initial, moved.begin(), std::minus<>());
    slots.push_back({static_cast<float>(Norm(slot, config.rank)), static_cast<float>(Norm(moved.data(), config.rank))});
  }
  return slots;
}

}  // namespace

std::vector<LayerView> ViewState(SequenceState& state) {
  const ModelWeights& weights = state.weights();
  std::vector<LayerView> views;
  for (int layer = 0; layer < weights.config.n_layers(); ++layer) {
    const auto i = static_cast<size_t>(layer);
    const BlockOffsets& at = state.layout().blocks[i];
    LayerView view;
    for (const StateBuffer& buffer : state.layout().buffers[i]) {
      *BytesOf(view, buffer.part) += buffer.UsedBytes(state.pos());
      if (buffer.offset == at.ssm) view.ssm_norm = SsmNorm(state, buffer);
    }
    if (!at.caches.empty()) {
      std::vector<RowRange> ranges;
      at.caches[0].filling->AddRanges(state.pos(), ranges);
      for (const RowRange& range : ranges) view.kv_positions += range.n;
    }
    for (int32_t n = 0; at.pool_pos >= 0 && n < state.pool_size(layer); ++n)
      view.landmarks.push_back({state.At<int32_t>(at.pool_pos)[n], state.At(at.pool_scores)[n]});
    std::ranges::sort(view.landmarks, {}, &LandmarkView::position);
    if (at.moe_ids >= 0)
      view.experts.assign(state.At<int32_t>(at.moe_ids), state.At<int32_t>(at.moe_ids) + state.route_count(layer));
    if (at.ws_M >= 0) view.slots = Slots(state, at, weights.blocks[i], weights.config.workspace);
    views.push_back(std::move(view));
  }
  return views;
}

}  // namespace hydra
