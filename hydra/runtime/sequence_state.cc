// SPDX-License-Identifier: Apache-2.0
// Memory of one sequence: layout, fork, reset. Saving is in state_file.cc.
#include "hydra/runtime/sequence_state.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "hydra/base/error.h"
#include "hydra/base/pages.h"
#include "hydra/io/file.h"
#include "hydra/runtime/weights.h"

namespace hydra {
namespace {

int64_t RoomForExperts(const ModelConfig& config, const Controls& controls) {
  return std::max(
      {config.moe.top_k, controls.moe_top_k.value_or(0), static_cast<int64_t>(controls.force_experts.size())});
}

}  // namespace

void CheckSequenceLength(int64_t tokens) {
  if (tokens > kMaxSequenceTokens)
    throw Error(ErrorCode::kUsage,
                StrCat("a sequence of ", tokens, " tokens: at most ", kMaxSequenceTokens, " are possible"));
}

SequenceState::SequenceState(std::shared_ptr<const ModelWeights> weights, const Controls& controls)
    : weights_(std::move(weights)), controls_(controls) {
  controls_.Validate(weights_->config);
  const LoadOptions& o = weights_->options;
  layout_ = std::make_shared<const StateLayout>(weights_->config, o.kv_dtype, o.state_dtype, o.ctx_size,
                                                RoomForExperts(weights_->config, controls_));
  Allocate();
  Reset();
}

SequenceState::SequenceState(const Model& model, const Controls& controls)
    : SequenceState(model.shared_weights(), controls) {}
SequenceState::~SequenceState() = default;
SequenceState::SequenceState(SequenceState&&) noexcept = default;
SequenceState& SequenceState::operator=(SequenceState&&) noexcept = default;

void SequenceState::Allocate() {
  bool grows = false;  // then most of it may never be used
  for (const auto& block : layout_->buffers)
    grows |= std::any_of(block.begin(), block.end(), [](const StateBuffer& b) { return b.growing_heads > 0; });
  try {
    data_ = MapPages(layout_->bytes, !grows);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kUsage, StrCat("--ctx-size: no memory for a state of ",
                                          WithCommas(static_cast<uint64_t>(layout_->bytes)), " bytes"));
  }
  counts_.assign(layout_->blocks.size(), {0, 0});
}

void SequenceState::Reset() {
  for (size_t i = 0; i < layout_->blocks.size(); ++i) {
    for (const StateBuffer& buffer : layout_->buffers[i])
      if (buffer.growing_heads == 0) std::memset(data_.get() + buffer.offset, 0, static_cast<size_t>(buffer.bytes));
    const BlockOffsets& b = layout_->blocks[i];
    const BlockWeights& w = weights_->blocks[i];
    if (b.moe_mean >= 0) std::copy(w.moe.init_summary.begin(), w.moe.init_summary.end(), At(b.moe_mean));
    if (b.ws_M >= 0) {
      std::copy(w.workspace.init_state.begin(), w.workspace.init_state.end(), At(b.ws_M));
      std::fill_n(At(b.ws_max), weights_->config.workspace.n_slots, -std::numeric_limits<float>::infinity());
    }
    counts_[i] = {0, 0};
  }
  ids_.clear();
  pending_.clear();
}

SequenceState SequenceState::Fork() const {
  SequenceState copy(weights_, controls_);
  for (size_t i = 0; i < layout_->blocks.size(); ++i)
    for (const StateBuffer& buffer : layout_->buffers[i]) {
      if (buffer.growing_heads == 0)
        std::memcpy(copy.data_.get() + buffer.offset, data_.get() + buffer.offset, static_cast<size_t>(buffer.bytes));
      const int64_t head = buffer.growing_heads > 0 ? buffer.bytes / buffer.growing_heads : 0;
      for (int64_t h = 0; h < buffer.growing_heads; ++h)
        std::memcpy(copy.data_.get() + buffer.offset + h * head, data_.get() + buffer.offset + h * head,
                    static_cast<size_t>(head / layout_->ctx_size * pos()));
    }
  copy.counts_ = counts_;
  copy.ids_ = ids_;
  copy.pending_ = pending_;
  return copy;
}

void SequenceState::SetControls(const Controls& controls) {
  controls.Validate(weights_->config);
  if (pos() > 0) {
    for (size_t i = 0; i < 3; ++i)
      if ((controls.path_scale[i] == 0) != (controls_.path_scale[i] == 0))
        throw Error(
            ErrorCode::kUsage,
            StrCat("--control path_scale: a path goes on or off only before the first token, this sequence has ",
                   pos()));
    if (controls.landmarks != controls_.landmarks)
      throw Error(ErrorCode::kUsage,
                  StrCat("--control landmarks: only before the first token, this sequence has ", pos()));
  }
  const int64_t room = RoomForExperts(weights_->config, controls);
  if (room <= layout_->moe_k) {
    controls_ = controls;
    return;
  }
  // More experts than there is room for: the same buffers in a wider layout.
  const auto from = std::move(data_);
  const auto old = layout_;
  const auto counts = counts_;
  layout_ = std::make_shared<const StateLayout>(weights_->config, old->kv, old->state, old->ctx_size, room);
  Allocate();
  counts_ = counts;
  for (size_t i = 0; i < old->buffers.size(); ++i)
    for (size_t j = 0; j < old->buffers[i].size(); ++j)
      std::memcpy(data_.get() + layout_->buffers[i][j].offset, from.get() + old->buffers[i][j].offset,
                  static_cast<size_t>(old->buffers[i][j].bytes));
  controls_ = controls;
}

int64_t SequenceState::bytes() const {
  int64_t growing = 0;
  for (const auto& block : layout_->buffers)
    for (const StateBuffer& buffer : block) growing += buffer.growing_heads > 0 ? buffer.bytes : 0;
  return layout_->constant_bytes + growing;
}

ForwardScratch& SequenceState::scratch() {
  if (!scratch_) scratch_ = std::make_unique<ForwardScratch>();
  return *scratch_;
}

}  // namespace hydra
