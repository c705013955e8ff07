// SPDX-License-Identifier: Apache-2.0
// A text from its prompt to its end.
#include "hydra/serve/running_text.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"

namespace hydra::serve {

RunningText::RunningText(const EngineParts& parts, std::shared_ptr<Job> job, int text, Start start)
    : parts_(parts),
      job_(std::move(job)),
      text_(text),
      request_(job_->texts()[static_cast<size_t>(text)]),
      sequence_(std::move(start.sequence)),
      ids_(sequence_->state.ids().begin(), sequence_->state.ids().end()),
      snapshot_every_(start.snapshot_every),
      last_snapshot_(sequence_->state.pos()),
      vocab_(std::min<int64_t>(parts.tokenizer.vocab_size(), parts.model.config().vocab_size)),
      sampler_(request_.sampling),
      writer_(parts.tokenizer, request_.stops),
      speculation_(std::move(start.speculation)),
      started_(Seconds()) {
  const auto rest = std::span<const int32_t>(request_.prompt).subspan(static_cast<size_t>(start.prompt_pos));
  const int64_t moved = sequence_->state.pos() - start.prompt_pos;  // a text that was spelled otherwise
  for (int64_t& border : request_.borders) border += moved;
  ids_.insert(ids_.end(), rest.begin(), rest.end());
  prompt_tokens_ = goal_ = static_cast<int64_t>(ids_.size());
  HYDRA_CHECK(!rest.empty());
  sequence_->prompt_tokens = prompt_tokens_;
  for (const int32_t id : ids_) sampler_.Accept(id);
  if (snapshot_every_ > 0) {
    sequence_->TakeSnapshot();
    places_ = PlacesOfSnapshots(snapshot_every_);
  }
  counts_.prompt_tokens = prompt_tokens_;
  counts_.cached_tokens = sequence_->state.pos();
  counts_.queue_seconds = started_ - job_->asked();
  piece_.text = text_;
  if (request_.prompt_logprobs) {
    PickedToken first{.id = ids_[0], .logprob = std::numeric_limits<double>::quiet_NaN(), .in_prompt = true};
    piece_.tokens.push_back(first);
  }
}

// Multiples of `every`, and ends of messages that are not close behind another place; the last two always, since the
// next turn or another answer begin there.
std::vector<int64_t> RunningText::PlacesOfSnapshots(int64_t every) const {
  std::vector<int64_t> places;
  const int64_t begin = sequence_->state.pos();
  for (int64_t at = (begin / every + 1) * every; at < prompt_tokens_; at += every) places.push_back(at);
  int64_t before = begin;
  const auto& borders = request_.borders;
  for (size_t i = 0; i < borders.size(); ++i) {
    const bool last = i + 2 >= borders.size();
    if (borders[i] <= begin || borders[i] >= prompt_tokens_ || (!last && borders[i] - before < every / 4)) continue;
    places.push_back(borders[i]);
    before = borders[i];
  }
  std::ranges::sort(places);
  places.erase(std::unique(places.begin(), places.end()), places.end());
  return places;
}

// ---- Reading ----

Segment RunningText::NextPiece(int64_t most) {
  SequenceState& state = sequence_->state;
  int64_t end = std::min(goal_, state.pos() + most);
  const auto place = std::ranges::upper_bound(places_, state.pos());
  if (place != places_.end()) end = std::min(end, *place);
  const auto first = static_cast<size_t>(state.pos());
  const bool picks = end == goal_ && goal_ == static_cast<int64_t>(ids_.size()) && request_.max_tokens > 0;
  const bool all = request_.prompt_logprobs && first < static_cast<size_t>(prompt_tokens_);
  return {.state = &state,
          .ids = std::span<const int32_t>(ids_).subspan(first, static_cast<size_t>(end) - first),
          .logits = all     ? LogitsOf::kAll
                    : picks ? LogitsOf::kLast
                            : LogitsOf::kNone};
}

void RunningText::AddPromptLogprobs(std::span<const float> logits, int64_t first) {
  const auto V = static_cast<size_t>(parts_.model.config().vocab_size);
  for (size_t row = 0; row * V < logits.size(); ++row) {
    const int64_t at = first + static_cast<int64_t>(row) + 1;  // of the token that this row speaks of
    if (at >= prompt_tokens_) return;
    if (at <= told_) continue;  // it is read again
    told_ = at;
    const Logprobs given(logits.subspan(row * V, V));
    PickedToken token{.id = ids_[static_cast<size_t>(at)], .position = at, .in_prompt = true};
    token.logprob = given.Of(token.id);
    token.best = given.Best(request_.logprobs, vocab_);
    piece_.tokens.push_back(std::move(token));
  }
}

void RunningText::TookPiece(std::span<const float> logits) {
  SequenceState& state = sequence_->state;
  if (std::ranges::binary_search(places_, state.pos())) {
    sequence_->TakeSnapshot();
    last_snapshot_ = state.pos();
  }
  const auto V = static_cast<size_t>(parts_.model.config().vocab_size);
  if (request_.prompt_logprobs && !logits.empty())
    AddPromptLogprobs(logits, state.pos() - static_cast<int64_t>(logits.size() / V));
  traces_.clear();
  if (LeftToRead() > 0) return;
  reading_ = false;
  counts_.prompt_seconds = Seconds() - started_;
  if (goal_ < static_cast<int64_t>(ids_.size())) return BeginWriting();  // it was read again: the next one is picked
  if (request_.max_tokens == 0) return End(FinishReason::kLength);
  parts_.metrics.Observe(Metrics::Time::kFirstToken, Seconds() - job_->asked());
  if (Pick(logits.last(V))) BeginWriting();
}

void RunningText::BeginWriting() {
  if (speculation_) speculation_->ReadPrompt(sequence_->state.ids());
  steps_ =
      std::make_unique<DecodeSteps>(parts_.model, sequence_->state, speculation_.get(), parts_.pool, parts_.scratch);
  if (request_.grammar)
    steps_->SetFilter([this](std::span<const int32_t> ids) { return request_.grammar->Admitted(ids); });
}

// ---- Writing ----

std::span<const uint64_t> RunningText::Allowed() {
  if (!request_.grammar) return {};
  try {
    return request_.grammar->Mask().words();
  } catch (const Error& error) {  // the vocabulary has nothing that fits: no fault of the model's numbers
    throw Error(ErrorCode::kUsage, error.what());
  }
}

bool RunningText::Pick(std::span<const float> logits) {
  const int32_t id = sampler_.Pick(logits.first(static_cast<size_t>(vocab_)), Allowed());
  const double now = Seconds();
  if (picked_at_ > 0) parts_.metrics.Observe(Metrics::Time::kBetweenTokens, now - picked_at_);
  picked_at_ = now;
  PickedToken token{.id = id, .position = static_cast<int64_t>(ids_.size())};
  if (request_.logprobs >= 0) {
    const Logprobs given(logits);
    token.logprob = given.Of(id);
    token.best = given.Best(request_.logprobs, vocab_);
  }
  ids_.push_back(id);
  if (std::ranges::find(request_.end_ids, id) != request_.end_ids.end()) {
    End(FinishReason::kEnd);
    if (request_.logprobs >= 0 && request_.end_logprob) piece_.tokens.push_back(std::move(token));
    return false;
  }
  if (request_.grammar) request_.grammar->Accept(id);
  ++counts_.new_tokens;
  const bool more = counts_.new_tokens < request_.max_tokens;
  token.guessed = more && steps_ != nullptr && steps_->Knows(id);
  const bool known = token.guessed;
  writer_.Add(std::move(token), &piece_);
  if (writer_.stopped()) {
    End(FinishReason::kStop);
    return false;
  }
  if (request_.grammar && request_.grammar->is_over()) {
    End(FinishReason::kComplete);
    return false;
  }
  if (!more) {
    End(FinishReason::kLength);
    return false;
  }
  last_known_ = known;
  return true;
}

void RunningText::TellTrace(std::span<const float> logits, const PassShare& share) {
  // What was read last: the token before the one that is picked now.
  const auto found = traces_.find(static_cast<int64_t>(ids_.size()) - 1);
  if (found == traces_.end()) return;
  piece_.traces.push_back({.trace = std::move(found->second),
                           .generated = true,
                           .entropy = Entropy(logits),
                           .bytes = share.bytes,
                           .seconds = share.seconds});
  traces_.erase(found);
}

void RunningText::TookStep(const PassShare& share) {
  do {
    if (request_.trace) TellTrace(steps_->logits(), share);
    if (!Pick(steps_->logits())) break;
  } while (last_known_);
  traces_.clear();
  SnapshotWhereDue();
}

void RunningText::AddTraces(std::span<const TokenTrace> traces) {
  for (const TokenTrace& trace : traces)
    if (trace.sequence == &sequence_->state) traces_[trace.position] = trace;
}

void RunningText::SnapshotWhereDue() {
  if (snapshot_every_ == 0 || ended() || sequence_->state.pos() - last_snapshot_ < snapshot_every_) return;
  sequence_->TakeSnapshot();
  last_snapshot_ = sequence_->state.pos();
}

// ---- Ends ----

void RunningText::End(FinishReason reason) {
  if (ended()) return;
  end_ = reason;
  // Before the client hears of the end, so that who asks for the metrics then finds the text in them.
  parts_.metrics.Add(Metrics::Count::kGeneratedTokens, static_cast<double>(counts_.new_tokens));
  writer_.Finish(&piece_);
  if (steps_) steps_->End();
  if (speculation_) {
    counts_.guessed = speculation_->stats().Guessed();
    counts_.accepted = speculation_->stats().Right();
    parts_.metrics.Add(Metrics::Count::kDraftTokens, static_cast<double>(counts_.guessed));
    parts_.metrics.Add(Metrics::Count::kAcceptedTokens, static_cast<double>(counts_.accepted));
  }
  const double written = Seconds() - started_ - counts_.prompt_seconds;
  counts_.write_seconds = reading_ ? 0 : written;
  if (counts_.new_tokens > 1)
    parts_.metrics.Observe(Metrics::Time::kPerToken, written / static_cast<double>(counts_.new_tokens - 1));
}

void RunningText::Fail(int status, const std::string& why) {
  spoiled_ = true;
  counts_.error_status = status;
  counts_.error = why;
  try {
    End(FinishReason::kCancelled);
  } catch (const std::exception&) {  // the state is spoiled as it is
  }
}

void RunningText::Deliver() {
  if (ended()) {
    counts_.reason = *end_;
    if (request_.keep_state && !spoiled_) counts_.state = std::make_shared<SequenceState>(std::move(sequence_->state));
    piece_.end = counts_;
  }
  if (piece_.words.empty() && piece_.tokens.empty() && piece_.traces.empty() && !piece_.end) return;
  job_->Give(std::exchange(piece_, {.text = text_}));
}

std::unique_ptr<CachedSequence> RunningText::TakeSequence() {
  steps_.reset();
  if (spoiled_ || request_.keep_state || sequence_->state.broken()) return nullptr;
  return std::move(sequence_);
}

void RunningText::ReadAgain() {
  suspect = true;
  const bool picked = !reading_ || goal_ < static_cast<int64_t>(ids_.size());
  if (!sequence_->state.broken()) return;
  steps_.reset();
  SequenceState& old = sequence_->state;
  if (!sequence_->snapshots.empty()) {
    old.Restore(*sequence_->snapshots.back().bytes);
  } else {
    SequenceState fresh(parts_.model, old.controls(), old.plan());
    fresh.SetMemory(old.memory());
    old = std::move(fresh);
  }
  goal_ = static_cast<int64_t>(ids_.size()) - (picked ? 1 : 0);
  reading_ = true;
  parts_.metrics.Add(Metrics::Count::kReplayedTokens, static_cast<double>(LeftToRead()));
}

}  // namespace hydra::serve
