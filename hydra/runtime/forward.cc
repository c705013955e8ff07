// SPDX-License-Identifier: Apache-2.0
// Model: its public calls, and how a batch of segments is cut into passes (pass.h).
#include "hydra/base/error.h"
#include "hydra/runtime/pass.h"

namespace hydra {

ForwardScratch::ForwardScratch() : data_(std::make_unique<Data>()) {}
ForwardScratch::~ForwardScratch() = default;
ForwardScratch::ForwardScratch(ForwardScratch&&) noexcept = default;
ForwardScratch& ForwardScratch::operator=(ForwardScratch&&) noexcept = default;

int64_t ForwardScratch::bytes() const { return data_->bytes(); }
const PassBytes& ForwardScratch::moved() const { return data_->moved; }

Model Model::Load(const std::string& path, const LoadOptions& options, ThreadPool* pool) {
  return Model(ModelWeights::Build(OpenWeights(path), options, pool));
}
const ModelConfig& Model::config() const { return weights_->config; }
const LoadOptions& Model::options() const { return weights_->options; }
const std::string& Model::path() const { return weights_->path; }

namespace {

void CheckSegments(const ModelWeights& w, std::span<const Segment> segments) {
  const bool grows = w.config.HasAttention(AttentionKind::kFull);
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    HYDRA_CHECK(s.state != nullptr && !s.ids.empty(), "segment ", i);
    for (size_t j = 0; j < i; ++j) HYDRA_CHECK(segments[j].state != s.state, "a state twice in a batch");
    for (const int32_t id : s.ids)
      if (id < 0 || id >= w.config.vocab_size)
        throw Error(ErrorCode::kUsage, StrCat("token id ", id, ": must be 0 to ", w.config.vocab_size - 1));
    const int64_t length = s.state->pos() + static_cast<int64_t>(s.ids.size());
    CheckSequenceLength(length);
    if (grows && length > w.options.ctx_size)
      throw Error(ErrorCode::kUsage,
                  StrCat("--ctx-size ", w.options.ctx_size, ": the sequence would have ", length, " tokens"));
  }
}

}  // namespace

std::span<const float> Model::Forward(std::span<const Segment> segments, LogitsOf which, ThreadPool& pool,
                                      ForwardScratch& scratch) const {
  const ModelWeights& w = *weights_;
  CheckSegments(w, segments);
  w.CheckUnchanged();
  ForwardScratch::Data& s = scratch.data();
  const int64_t V = w.config.vocab_size;
  int64_t total = 0;
  for (const Segment& segment : segments) total += static_cast<int64_t>(segment.ids.size());
  const int64_t out_rows = which == LogitsOf::kAll    ? total
                           : which == LogitsOf::kLast ? static_cast<int64_t>(segments.size())
                                                      : 0;
  float* logits = s.logits.Get(out_rows * V);

  // Passes of at most kPassTokens rows, segments in order.
  int64_t done = 0, out = 0;
  size_t segment = 0, offset = 0;
  while (segment < segments.size()) {
    s.pieces.clear();
    s.row_ids.clear();
    int32_t* wanted = s.wanted.Get(kPassTokens);
    int64_t rows = 0, n_wanted = 0;
    while (segment < segments.size() && rows < kPassTokens) {
      const Segment& now = segments[segment];
      const int64_t left = static_cast<int64_t>(now.ids.size() - offset), T = std::min(left, kPassTokens - rows);
      s.pieces.push_back({now.state, rows, T, now.state->pos()});
      const auto ids = now.ids.subspan(offset, static_cast<size_t>(T));
      s.row_ids.insert(s.row_ids.end(), ids.begin(), ids.end());
      if (which == LogitsOf::kAll)
        for (int64_t t = 0; t < T; ++t) wanted[n_wanted++] = static_cast<int32_t>(rows + t);
      else if (which == LogitsOf::kLast && T == left)
        wanted[n_wanted++] = static_cast<int32_t>(rows + T - 1);
      rows += T;
      offset += static_cast<size_t>(T);
      if (T == left) ++segment, offset = 0;
    }
    Pass pass(w, s, s.pieces, pool);
    pass.Run();
    for (const Piece& p : s.pieces)
      p.state->Append(std::span(s.row_ids).subspan(static_cast<size_t>(p.row), static_cast<size_t>(p.T)));
    if (n_wanted > 0) pass.Logits({wanted, static_cast<size_t>(n_wanted)}, logits + out * V);
    out += n_wanted;
    done += rows;
  }
  HYDRA_CHECK(done == total && out == out_rows);
  return {logits, static_cast<size_t>(out_rows * V)};
}

std::span<const float> Model::Prefill(SequenceState& state, std::span<const int32_t> ids, ThreadPool& pool) const {
  if (ids.empty()) throw Error(ErrorCode::kUsage, "prompt: no tokens");
  const Segment segment{&state, ids};
  return Forward({&segment, 1}, LogitsOf::kLast, pool, state.scratch());
}

std::span<const float> Model::Step(SequenceState& state, int32_t id, ThreadPool& pool) const {
  return Prefill(state, {&id, 1}, pool);
}

}  // namespace hydra
