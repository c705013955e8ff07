// SPDX-License-Identifier: Apache-2.0
// Memory of one sequence: layout, fork, reset, snapshots. Saving is in state_file.cc.
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
  const auto room = [](const Controls& c) {
    return std::max(c.moe_top_k.value_or(0), static_cast<int64_t>(c.force_experts.size()));
  };
  int64_t most = std::max(config.moe.top_k, room(controls));
  for (const auto& [layer, own] : controls.layers) most = std::max(most, room(controls.Of(layer)));
  return most;
}

// None where no layer has its own.
std::vector<Controls> ByLayer(const ModelConfig& config, const Controls& controls) {
  std::vector<Controls> all;
  for (int64_t layer = 0; !controls.layers.empty() && layer < config.n_layers(); ++layer)
    all.push_back(controls.Of(layer));
  return all;
}

}  // namespace

void CheckSequenceLength(int64_t tokens) {
  if (tokens > kMaxSequenceTokens)
    throw Error(ErrorCode::kUsage,
                StrCat("a sequence of ", tokens, " tokens: at most ", kMaxSequenceTokens, " are possible"));
}

namespace {

std::shared_ptr<const StateLayout> LayoutOf(const ModelWeights& w, int64_t experts, const KvPlan& plan) {
  const LoadOptions& o = w.options;
  return std::make_shared<const StateLayout>(w.config, o.kv_dtype, o.state_dtype, o.ctx_size, experts, plan);
}

std::shared_ptr<std::byte> MemoryOf(const StateLayout& layout) {
  bool grows = false;  // then most of it may never be used
  for (const auto& block : layout.buffers)
    grows |= std::any_of(block.begin(), block.end(), [](const StateBuffer& b) { return b.growing_bytes() > 0; });
  try {
    return MapPages(layout.bytes, !grows);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kUsage, StrCat("--ctx-size: no memory for a state of ",
                                          WithCommas(static_cast<uint64_t>(layout.bytes)), " bytes"));
  }
}

// Tokens that fill the huge pages of each cache that grows by half, so that these take at most twice the memory of
// small ones; 0 where nothing grows and the state lies in huge pages anyway.
int64_t HugePagesFrom(const StateLayout& layout) {
  int64_t from = 0;
  for (const auto& block : layout.buffers)
    for (const StateBuffer& buffer : block)
      for (const StateBuffer::Head& head : buffer.heads)
        if (head.filling->grows()) from = std::max(from, std::min(head.bytes, kHugePage) / 2 / head.stride);
  return from;
}

// f(offset in the state, bytes) for all that does not grow.
template <class F>
void ForConstant(const StateLayout& layout, F&& f) {
  for (const auto& block : layout.buffers)
    for (const StateBuffer& buffer : block) {
      if (buffer.heads.empty()) f(buffer.offset, buffer.bytes);
      int64_t at = buffer.offset;
      for (const StateBuffer::Head& head : buffer.heads) {
        if (!head.filling->grows()) f(at, head.bytes);
        at += head.bytes;
      }
    }
}

struct SnapshotHead {
  int64_t pos, bytes;
  uint32_t ids_crc32, zero = 0;
};
static_assert(sizeof(SnapshotHead) == StateLayout::kSnapshotHead);

// Tokens of a snapshot that was checked.
int64_t PositionOf(std::span<const std::byte> snapshot) {
  SnapshotHead head{};
  std::memcpy(&head, snapshot.data(), sizeof(head));
  return head.pos;
}

}  // namespace

SequenceState::SequenceState(std::shared_ptr<const ModelWeights> weights, std::shared_ptr<const StateLayout> layout,
                             const Controls& controls, const KvPlan& plan)
    : weights_(std::move(weights)),
      layout_(std::move(layout)),
      data_(MemoryOf(*layout_)),
      huge_from_(HugePagesFrom(*layout_)),
      counts_(layout_->blocks.size()),
      controls_(controls),
      of_layers_(ByLayer(weights_->config, controls)),
      plan_(plan) {
  Reset();
}

SequenceState::SequenceState(const Model& model, const Controls& controls, const KvPlan& plan)
    : SequenceState((controls.Validate(model.config()), model.shared_weights()),
                    LayoutOf(model.weights(), RoomForExperts(model.config(), controls), plan), controls, plan) {}
SequenceState::~SequenceState() = default;
SequenceState::SequenceState(SequenceState&&) noexcept = default;
SequenceState& SequenceState::operator=(SequenceState&&) noexcept = default;

void SequenceState::CheckWhole() const {
  if (broken_) throw Error(ErrorCode::kUsage, "a pass over this sequence failed half way: reset or restore it");
}

void SequenceState::Reset() {
  for (const auto& block : layout_->buffers)
    for (const StateBuffer& buffer : block)
      buffer.ForUsed(0, [&](int64_t at, int64_t n) {
        if (n > 0) std::memset(data_.get() + buffer.offset + at, 0, static_cast<size_t>(n));
      });
  for (size_t i = 0; i < layout_->blocks.size(); ++i) {
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
  broken_ = false;
  ++changes_;
}

void SequenceState::SetPart(StatePart part, PartValue value) {
  CheckWhole();
  if (part == StatePart::kKv)
    throw Error(ErrorCode::kUsage, "keys and values of a sequence cannot be set to others: truncate it, or begin anew");
  const bool initial = value == PartValue::kInitial;
  for (size_t i = 0; i < layout_->blocks.size(); ++i) {
    const BlockOffsets& b = layout_->blocks[i];
    const BlockWeights& w = weights_->blocks[i];
    const auto clear = [&](int64_t offset, int64_t floats) {
      if (offset >= 0) std::fill_n(At(offset), floats, 0.0F);
    };
    if (part == StatePart::kLandmarks) counts_[i][0] = 0;
    if (part == StatePart::kMoe && b.moe_mean >= 0) {
      clear(b.moe_sum, weights_->config.d_model);
      clear(b.moe_mean, weights_->config.d_model);
      if (initial) std::ranges::copy(w.moe.init_summary, At(b.moe_mean));
    }
    if (part != StatePart::kSsm && part != StatePart::kConv && part != StatePart::kWorkspace) continue;
    for (const StateBuffer& buffer : layout_->buffers[i])
      if (buffer.part == part) std::memset(data_.get() + buffer.offset, 0, static_cast<size_t>(buffer.bytes));
    if (part != StatePart::kWorkspace || b.ws_M < 0) continue;
    if (initial) std::ranges::copy(w.workspace.init_state, At(b.ws_M));
    std::fill_n(At(b.ws_max), weights_->config.workspace.n_slots, -std::numeric_limits<float>::infinity());
  }
  ++changes_;
}

SequenceState SequenceState::Fork() const {
  SequenceState copy = CopyOf(pos());
  copy.pending_ = pending_;
  return copy;
}

SequenceState SequenceState::CopyOf(int64_t n) const {
  CheckWhole();
  SequenceState copy(weights_, layout_, controls_, plan_);
  copy.ChoosePages(n);
  for (const auto& block : layout_->buffers)
    for (const StateBuffer& buffer : block)
      buffer.ForUsed(n, [&](int64_t at, int64_t bytes) {
        std::memcpy(copy.data_.get() + buffer.offset + at, data_.get() + buffer.offset + at,
                    static_cast<size_t>(bytes));
      });
  copy.counts_ = counts_;
  copy.ids_.assign(ids_.begin(), ids_.begin() + n);
  copy.memory_ = memory_;
  return copy;
}

SequenceState SequenceState::ForkAt(std::span<const std::byte> snapshot) const {
  CheckSnapshot(snapshot);
  SequenceState copy = CopyOf(PositionOf(snapshot));
  copy.Restore(snapshot);
  return copy;
}

SequenceState SequenceState::ForkAt(int64_t n) const {
  CheckTruncate(n);
  if (n == 0) {
    SequenceState copy(weights_, layout_, controls_, plan_);
    copy.memory_ = memory_;
    return copy;
  }
  return CopyOf(n);
}

// ---- Back to an earlier position ----

int64_t SequenceState::SnapshotBytes() const { return layout_->snapshot_bytes(); }

void SequenceState::Snapshot(std::span<std::byte> out) const {
  CheckWhole();
  HYDRA_CHECK(static_cast<int64_t>(out.size()) == SnapshotBytes(), out.size(), " bytes for ", SnapshotBytes());
  const SnapshotHead head{pos(), SnapshotBytes(), Crc32(std::as_bytes(ids()))};
  std::byte* to = out.data();
  const auto put = [&](const void* from, size_t n) {
    if (n > 0) std::memcpy(to, from, n);
    to += n;
  };
  put(&head, sizeof(head));
  put(counts_.data(), counts_.size() * sizeof(counts_[0]));
  ForConstant(*layout_, [&](int64_t offset, int64_t n) { put(data_.get() + offset, static_cast<size_t>(n)); });
}

void SequenceState::CheckSnapshot(std::span<const std::byte> snapshot) const {
  SnapshotHead head{};
  if (snapshot.size() >= sizeof(head)) std::memcpy(&head, snapshot.data(), sizeof(head));
  if (static_cast<int64_t>(snapshot.size()) != SnapshotBytes() || head.bytes != SnapshotBytes() || head.pos < 0)
    throw Error(ErrorCode::kUsage,
                StrCat("a snapshot of ", snapshot.size(), " bytes: this sequence's have ", SnapshotBytes()));
  if (head.pos > pos() || Crc32(std::as_bytes(ids().first(static_cast<size_t>(head.pos)))) != head.ids_crc32)
    throw Error(ErrorCode::kUsage, StrCat("a snapshot at ", head.pos, " tokens: this sequence began otherwise"));
}

void SequenceState::Restore(std::span<const std::byte> snapshot) {
  CheckSnapshot(snapshot);
  const std::byte* from = snapshot.data() + sizeof(SnapshotHead);
  const auto take = [&](void* to, size_t n) {
    if (n > 0) std::memcpy(to, from, n);
    from += n;
  };
  take(counts_.data(), counts_.size() * sizeof(counts_[0]));
  ForConstant(*layout_, [&](int64_t offset, int64_t n) { take(data_.get() + offset, static_cast<size_t>(n)); });
  ids_.resize(static_cast<size_t>(PositionOf(snapshot)));
  pending_.clear();
  broken_ = false;
  ++changes_;
}

std::string SequenceState::WhyNotTruncate(int64_t n) const {
  for (size_t i = 0; i < layout_->buffers.size() && 0 < n && n < pos(); ++i)
    for (const StateBuffer& buffer : layout_->buffers[i]) {
      const bool can = !buffer.heads.empty() &&
                       std::all_of(buffer.heads.begin(), buffer.heads.end(),
                                   [&](const auto& h) { return h.filling->CanTruncate(pos(), n, layout_->ctx_size); });
      if (!can) return StrCat("layers.", i, ".", buffer.name);
    }
  return "";
}

bool SequenceState::CanTruncate(int64_t n) const {
  return !broken_ && 0 <= n && n <= pos() && WhyNotTruncate(n).empty();
}

void SequenceState::Truncate(int64_t n) {
  CheckTruncate(n);
  if (n == 0) return Reset();
  ids_.resize(static_cast<size_t>(n));
  pending_.clear();
  ++changes_;
}

void SequenceState::CheckTruncate(int64_t n) const {
  CheckWhole();
  HYDRA_CHECK(0 <= n && n <= pos(), "of ", pos(), " tokens the first ", n);
  if (const std::string why = WhyNotTruncate(n); !why.empty())
    throw Error(ErrorCode::kUsage,
                StrCat(why, " cannot go back from ", pos(), " to ", n, " tokens: restore a snapshot"));
}

// ---- Passes and controls ----

void SequenceState::Reserve(size_t n) {
  if (ids_.size() + n > ids_.capacity()) ids_.reserve(std::max(ids_.size() + n, 2 * ids_.capacity()));
  ChoosePages(static_cast<int64_t>(ids_.size() + n));
}

void SequenceState::ChoosePages(int64_t tokens) {
  if (huge_from_ == 0 || tokens < huge_from_) return;
  AskForHugePages(data_.get(), layout_->bytes);
  huge_from_ = 0;
}

void SequenceState::BeginPass() {
  broken_ = true;
  ++changes_;
}

void SequenceState::EndPass(std::span<const int32_t> ids) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  broken_ = false;
}

void SequenceState::SetControls(const Controls& controls) {
  CheckWhole();
  controls.Validate(weights_->config);
  if (pos() > 0) {
    for (int layer = 0; layer < weights_->config.n_layers(); ++layer)
      for (size_t i = 0; i < 3; ++i)
        if ((controls.Of(layer).path_scale[i] == 0) != (this->controls(layer).path_scale[i] == 0))
          throw Error(
              ErrorCode::kUsage,
              StrCat("--control path_scale: a path goes on or off only before the first token, this sequence has ",
                     pos()));
    const int64_t closed = pos() - pos() % weights_->config.chunk_len;
    for (const int64_t pin : controls.pins)
      if (pin < closed && !std::ranges::binary_search(controls_.pins, pin))
        throw Error(ErrorCode::kUsage, StrCat("--control pins=", pin, ": the chunk of this position is read, this ",
                                              "sequence has ", pos(), " tokens"));
    if (controls.landmarks != controls_.landmarks)
      throw Error(ErrorCode::kUsage,
                  StrCat("--control landmarks: only before the first token, this sequence has ", pos()));
  }
  Controls next = controls;  // all that can fail comes before the first change
  std::vector<Controls> of_layers = ByLayer(weights_->config, controls);
  const int64_t room = RoomForExperts(weights_->config, controls);
  if (room > layout_->moe_k) {                       // the same buffers in a wider layout
    const auto now = [&](int block, int64_t head) {  // what a head has, whatever plan_ says
      return layout_->blocks[static_cast<size_t>(block)].caches[static_cast<size_t>(head)].filling;
    };
    auto layout = LayoutOf(*weights_, room, now);
    auto memory = MemoryOf(*layout);
    for (size_t i = 0; i < layout->buffers.size(); ++i)
      for (size_t j = 0; j < layout->buffers[i].size(); ++j) {
        const StateBuffer& buffer = layout_->buffers[i][j];
        buffer.ForUsed(pos(), [&](int64_t at, int64_t n) {
          std::memcpy(memory.get() + layout->buffers[i][j].offset + at, data_.get() + buffer.offset + at,
                      static_cast<size_t>(n));
        });
      }
    layout_ = std::move(layout);
    data_ = std::move(memory);
    huge_from_ = HugePagesFrom(*layout_);
  }
  controls_ = std::move(next);
  of_layers_ = std::move(of_layers);
  ++changes_;
}

void SequenceState::SetMemory(std::shared_ptr<const MemoryOverlay> memory) {
  memory_ = std::move(memory);
  ++changes_;
}

int64_t SequenceState::bytes() const {
  int64_t growing = 0;
  for (const auto& block : layout_->buffers)
    for (const StateBuffer& buffer : block) growing += buffer.growing_bytes();
  return layout_->constant_bytes + growing;
}

int64_t SequenceState::kv_bytes() const {
  int64_t sum = 0;
  for (const auto& block : layout_->buffers)
    for (const StateBuffer& buffer : block) sum += buffer.part == StatePart::kKv ? buffer.bytes : 0;
  return sum;
}

int64_t SequenceState::BytesAt(int64_t n) const {
  int64_t bytes = layout_->constant_bytes;
  for (const auto& block : layout_->buffers)
    for (const StateBuffer& buffer : block)
      for (const StateBuffer::Head& head : buffer.heads)
        if (head.filling->grows()) bytes += std::min(n * head.stride, head.bytes);
  return bytes;
}

std::string SequenceState::PlanText() const {
  std::string text = plan_.name;
  if (!text.empty()) return text;
  for (size_t i = 0; plan_ && i < layout_->blocks.size(); ++i)
    for (const KvCacheLayout& cache : layout_->blocks[i].caches)
      text += StrCat(text.empty() ? "" : "; ", i, " ", cache.filling->Describe());
  return text;
}

}  // namespace hydra
