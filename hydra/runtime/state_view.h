// SPDX-License-Identifier: Apache-2.0
// What a sequence's state holds, for people: sizes, norms, slots, landmarks. Not here: how it is changed
// (sequence_state.h), printing (hydra/cli/verb_state.cc).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/runtime/sequence_state.h"

namespace hydra {

struct SlotView {
  float norm = 0, moved = 0;  // Euclidean lengths: of the slot, of its difference from the initial value
};
struct LandmarkView {
  int64_t position = 0;
  float score = 0;
};
struct LayerView {
  int64_t ssm_bytes = 0, conv_bytes = 0, kv_bytes = 0, landmark_bytes = 0, moe_bytes = 0, workspace_bytes = 0;
  double ssm_norm = 0;                  // of the recurrent state; 0 without one
  int64_t kv_positions = 0;             // that the first KV head's cache holds
  std::vector<LandmarkView> landmarks;  // by position
  std::vector<int32_t> experts;         // of the open chunk
  std::vector<SlotView> slots;
};

[[nodiscard]] std::vector<LayerView> ViewState(SequenceState& state);

}  // namespace hydra
