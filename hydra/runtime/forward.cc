// SPDX-License-Identifier: Apache-2.0
// Model: its public calls, and how a batch of segments is cut into passes (pass.h).
#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/runtime/pass.h"

namespace hydra {

ForwardScratch::ForwardScratch() : data_(std::make_unique<Data>()) {}
ForwardScratch::~ForwardScratch() = default;
ForwardScratch::ForwardScratch(ForwardScratch&&) noexcept = default;
ForwardScratch& ForwardScratch::operator=(ForwardScratch&&) noexcept = default;

int64_t ForwardScratch::bytes() const { return data_->bytes(); }
const PassBytes& ForwardScratch::moved() const { return data_->moved; }
const ExpertUse& ForwardScratch::experts() const { return data_->experts; }

void ForwardScratch::BeginProfile(const ThreadPool& pool) { data_->clock.emplace(OwnerNames(*data_), pool); }

void ForwardScratch::SetTrace(Trace* trace) { data_->trace = trace; }
void ForwardScratch::SetRouting(const RoutingSource* routing) { data_->routing = routing; }

PassProfile ForwardScratch::EndProfile(const ThreadPool& pool) {
  HYDRA_CHECK(data_->clock, "no profile has begun");
  PassProfile profile = data_->clock->Take(pool);
  data_->clock.reset();
  return profile;
}

Model Model::Load(const std::string& path, const LoadOptions& options, ThreadPool* pool) {
  return Model(ModelWeights::Build(OpenWeights(path), options, pool));
}
const ModelConfig& Model::config() const { return weights_->config; }
const LoadOptions& Model::options() const { return weights_->options; }
const std::string& Model::path() const { return weights_->path; }

namespace {

void CheckSegments(const ModelWeights& w, std::span<const Segment> segments) {
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    HYDRA_CHECK(s.state != nullptr && !s.ids.empty(), "segment ", i);
    HYDRA_CHECK(s.kept == nullptr || static_cast<int64_t>(s.ids.size()) <= s.kept->tokens(), "segment ", i);
    for (size_t j = 0; j < i; ++j) {
      HYDRA_CHECK(segments[j].state != s.state, "a state twice in a batch");
      HYDRA_CHECK(s.kept == nullptr || segments[j].kept != s.kept, "memory of a provisional pass twice in a batch");
    }
    s.state->CheckWhole();
    for (const int32_t id : s.ids)
      if (id < 0 || id >= w.config.vocab_size)
        throw Error(ErrorCode::kUsage, StrCat("token id ", id, ": must be 0 to ", w.config.vocab_size - 1));
    const int64_t length = s.state->pos() + static_cast<int64_t>(s.ids.size());
    CheckSequenceLength(length);
    if (const int64_t most = s.state->layout().most_tokens; length > most)
      throw Error(ErrorCode::kUsage, StrCat(most == w.options.ctx_size ? "--ctx-size " : "caches of ", most,
                                            ": the sequence would have ", length, " tokens"));
  }
}

int64_t LogitRows(const Segment& s) {
  return s.logits == LogitsOf::kAll ? static_cast<int64_t>(s.ids.size()) : s.logits == LogitsOf::kLast ? 1 : 0;
}

// Cuts the next pass of at most kPassTokens rows: steps first (IsStep), each of them whole; then prompts.
void CutPass(ForwardScratch::Data& s) {
  s.pieces.clear();
  s.piece_walks.clear();
  s.row_ids.clear();
  int64_t rows = 0;
  for (const bool steps : {true, false})
    for (size_t i = 0; i < s.walks.size(); ++i) {
      const Segment& segment = *s.walks[i].segment;
      const int64_t left = s.walks[i].left(), T = std::min(left, kPassTokens - rows);
      const bool step = segment.kept != nullptr || segment.ids.size() == 1;
      if (step != steps || T == 0 || (step && T < left)) continue;
      s.pieces.push_back({segment.state, rows, T, segment.state->pos(), segment.kept});
      s.piece_walks.push_back(i);
      const auto ids = segment.ids.subspan(static_cast<size_t>(s.walks[i].done), static_cast<size_t>(T));
      s.row_ids.insert(s.row_ids.end(), ids.begin(), ids.end());
      rows += T;
    }
}

std::span<const int32_t> IdsOf(const ForwardScratch::Data& s, const Piece& p) {
  return std::span(s.row_ids).subspan(static_cast<size_t>(p.row), static_cast<size_t>(p.T));
}

// Lists the rows of the pass whose logits are wanted; returns how many.
int64_t ListWanted(ForwardScratch::Data& s) {
  int32_t *wanted = s.wanted.Get(kPassTokens), *at = s.wanted_at.Get(kPassTokens);
  int64_t n = 0;
  for (size_t i = 0; i < s.pieces.size(); ++i) {
    const Piece& p = s.pieces[i];
    const SegmentWalk& walk = s.walks[s.piece_walks[i]];
    const bool all = walk.segment->logits == LogitsOf::kAll;
    if (!all && (walk.segment->logits == LogitsOf::kNone || p.T < walk.left())) continue;
    for (int64_t t = all ? 0 : p.T - 1; t < p.T; ++t) {
      wanted[n] = static_cast<int32_t>(p.row + t);
      at[n++] = static_cast<int32_t>(walk.first_logit + (all ? walk.done + t : 0));
    }
  }
  return n;
}

void RunPass(const ModelWeights& w, ForwardScratch::Data& s, ThreadPool& pool, float* logits) {
  const int64_t n = ListWanted(s);
  for (const Piece& p : s.pieces)
    if (p.kept != nullptr) p.kept->Begin(*p.state, IdsOf(s, p));
  for (const Piece& p : s.pieces)
    if (p.kept == nullptr) p.state->BeginPass();
  Pass pass(w, s, s.pieces, pool);
  pass.Run();
  if (n > 0) pass.Logits({s.wanted.data(), static_cast<size_t>(n)}, s.wanted_at.data(), logits);
  for (size_t i = 0; i < s.pieces.size(); ++i) {
    const Piece& p = s.pieces[i];
    if (p.kept != nullptr)
      p.kept->Undo();
    else
      p.state->EndPass(IdsOf(s, p));
    s.walks[s.piece_walks[i]].done += p.T;
  }
}

// What Commit moves: recurrent and constant state of the paths that are on, new rows of caches that do not grow.
void CountCommit(const SequenceState& state, int64_t m, PassBytes& moved) {
  const auto on = [&](size_t layer, StatePart part) {
    const auto& scale = state.controls(static_cast<int>(layer)).path_scale;
    switch (part) {
      case StatePart::kSsm:
      case StatePart::kConv: return scale[0] != 0;
      case StatePart::kKv:
      case StatePart::kLandmarks: return scale[1] != 0;
      case StatePart::kMoe: return scale[2] != 0;
      case StatePart::kWorkspace: break;
    }
    return true;
  };
  const StateLayout& layout = state.layout();
  for (size_t i = 0; i < layout.blocks.size(); ++i) {
    for (const StateBuffer& buffer : layout.buffers[i])
      if (buffer.heads.empty() && on(i, buffer.part))
        moved.state_read += buffer.bytes, moved.state_written += buffer.bytes;
    for (const KvCacheLayout& cache : layout.blocks[i].caches)
      if (!cache.filling->grows() && on(i, StatePart::kKv)) moved.kv_written += m * cache.row_bytes();
  }
}

}  // namespace

std::span<const float> Model::Forward(std::span<const Segment> segments, ThreadPool& pool,
                                      ForwardScratch& scratch) const {
  const ModelWeights& w = *weights_;
  const double start = Seconds();
  CheckSegments(w, segments);
  w.CheckUnchanged();
  ForwardScratch::Data& s = scratch.data();
  const int64_t V = w.head.rows;  // the vocabulary, or what a drafter's head has of it
  s.walks.clear();
  int64_t rows = 0;
  for (const Segment& segment : segments) {
    s.walks.push_back({&segment, rows});
    rows += LogitRows(segment);
  }
  float* logits = s.logits.Get(rows * V);
  for (const Segment& segment : segments)
    if (segment.kept == nullptr) segment.state->Reserve(segment.ids.size());
  try {
    for (CutPass(s); !s.pieces.empty(); CutPass(s)) RunPass(w, s, pool, logits);
  } catch (...) {
    for (const SegmentWalk& walk : s.walks) {
      if (walk.segment->kept != nullptr)
        walk.segment->kept->Undo(), walk.segment->kept->Forget();
      else if (walk.done > 0)  // an earlier pass read some of it
        walk.segment->state->BeginPass();
    }
    throw;
  }
  if (s.clock) s.clock->AddPass(Seconds() - start);
  return {logits, static_cast<size_t>(rows * V)};
}

void Model::Commit(SequenceState& state, Provisional& kept, int64_t m, ThreadPool& pool,
                   ForwardScratch& scratch) const {
  HYDRA_CHECK(0 <= m && m <= kept.waiting(), m, " of ", kept.waiting(), " tokens");
  if (m > 0) {
    HYDRA_CHECK(kept.Fits(state), "a pass over another state, or over this one as it was before");
    state.CheckWhole();
    state.Reserve(static_cast<size_t>(m));
    state.BeginPass();
    CountCommit(state, m, scratch.data().moved);
    const ModelConfig& config = weights_->config;
    pool.For(config.n_layers(), [&](int64_t layer, int /*worker*/) {
      for (const auto& part : scratch.data().parts)
        if (part->In(config, config.layers[static_cast<size_t>(layer)]))
          part->Commit({*weights_, state, kept, static_cast<int>(layer), state.pos(), m});
    });
    state.EndPass(kept.ids().first(static_cast<size_t>(m)));
  }
  kept.Forget();
}

std::span<const float> Model::Prefill(SequenceState& state, std::span<const int32_t> ids, ThreadPool& pool,
                                      ForwardScratch& scratch) const {
  if (ids.empty()) throw Error(ErrorCode::kUsage, "prompt: no tokens");
  const Segment segment{.state = &state, .ids = ids};
  return Forward({&segment, 1}, pool, scratch);
}

std::span<const float> Model::Step(SequenceState& state, int32_t id, ThreadPool& pool, ForwardScratch& scratch) const {
  return Prefill(state, {&id, 1}, pool, scratch);
}

}  // namespace hydra
