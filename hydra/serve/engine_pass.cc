// SPDX-License-Identifier: Apache-2.0
// One pass of the engine: who takes part, how much of the prompts goes along, and what happens when it fails.
#include <algorithm>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/serve/engine.h"
#include "hydra/serve/status.h"

namespace hydra::serve {
namespace {

constexpr int64_t kPromptLogitRows = 64;  // of one pass, where the logits of all tokens of a prompt are wanted
constexpr uint64_t kTrimEach = 16;        // passes between two looks at what snapshots take
constexpr uint64_t kOldestTurn = 4;       // every so many passes the oldest prompt comes first, else the shortest

}  // namespace

std::vector<RunningText*> Engine::Writing() const {
  std::vector<RunningText*> texts;
  for (const auto& slot : slots_)
    if (slot && !slot->reading() && !slot->job().Full()) texts.push_back(slot.get());
  return texts;
}

// In the order in which their prompts get their share of a pass: short ones are soon done, and long ones get on too.
std::vector<RunningText*> Engine::Reading() const {
  std::vector<RunningText*> texts;
  for (const auto& slot : slots_)
    if (slot && slot->reading() && !slot->job().Full()) texts.push_back(slot.get());
  std::ranges::sort(texts, {}, &RunningText::LeftToRead);
  if (texts.size() > 1 && passes_ % kOldestTurn == 0) {
    const auto oldest = std::ranges::min_element(texts, {}, &RunningText::started);
    std::rotate(texts.begin(), oldest, oldest + 1);
  }
  return texts;
}

std::vector<Segment> Engine::Pieces(std::vector<RunningText*>* reading, int64_t tokens) {
  std::vector<Segment> pieces;
  std::vector<RunningText*> taken;
  for (RunningText* text : *reading) {
    if (tokens <= 0) break;
    const int64_t most = text->request().prompt_logprobs ? std::min(tokens, kPromptLogitRows) : tokens;
    pieces.push_back(text->NextPiece(most));
    taken.push_back(text);
    tokens -= static_cast<int64_t>(pieces.back().ids.size());
  }
  *reading = std::move(taken);
  return pieces;
}

void Engine::Pass() {
  std::vector<RunningText*> writing = Writing(), reading = Reading();
  // After a failure those that took part run alone, so that the one that fails again is known.
  for (const std::vector<RunningText*>& list : {writing, reading})
    for (RunningText* text : list)
      if (text->suspect) {
        const bool reads = text->reading();
        writing.assign(reads ? 0 : 1, text);
        reading.assign(reads ? 1 : 0, text);
        return RunPass(std::move(writing), std::move(reading));
      }
  if (!writing.empty() || !reading.empty()) RunPass(std::move(writing), std::move(reading));
}

void Engine::RunPass(std::vector<RunningText*> writing, std::vector<RunningText*> reading) {
  ++passes_;
  const double start = Seconds();
  const int64_t room = kPassTokens - static_cast<int64_t>(writing.size());
  const std::vector<Segment> pieces =
      Pieces(&reading, std::min(room, chunks_.Choose(static_cast<int>(writing.size()))));
  int64_t prompt_tokens = 0;
  for (const Segment& piece : pieces) prompt_tokens += static_cast<int64_t>(piece.ids.size());
  std::vector<DecodeSteps*> steps;
  std::vector<int32_t> picked;
  bool trace = false;
  for (RunningText* text : writing) {
    steps.push_back(&text->steps());
    picked.push_back(text->picked());
    trace |= text->request().trace;
  }
  std::vector<RunningText*> all = writing;
  all.insert(all.end(), reading.begin(), reading.end());
  const PassBytes before = scratch_.moved();
  std::span<const float> logits;
  trace_.Clear();
  scratch_.SetTrace(trace ? &trace_ : nullptr);
  try {
    if (options_.on_pass) options_.on_pass(all.size());
    logits = steps.empty() ? model_.Forward(pieces, pool_, scratch_) : DecodeSteps::Pass(steps, picked, pieces);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;  // the model's file was written to: nobody can go on
    return PassFailed(all, error.what());
  } catch (const std::exception& error) {
    return PassFailed(all, error.what());
  }
  const PassBytes moved = scratch_.moved() - before;
  const double seconds = Seconds() - start;
  const auto rows = static_cast<double>(std::max<size_t>(trace_.tokens().size(), 1));
  const PassShare share{seconds / rows, static_cast<double>(moved.total()) / rows};
  const auto V = static_cast<size_t>(model_.config().vocab_size);
  for (size_t i = 0; i < reading.size(); ++i) {
    const Segment& piece = pieces[i];
    const size_t n = piece.logits == LogitsOf::kAll ? piece.ids.size() : piece.logits == LogitsOf::kLast ? 1 : 0;
    reading[i]->suspect = false;
    Guarded(*reading[i], [&] { reading[i]->TookPiece(logits.first(n * V)); });
    logits = logits.subspan(n * V);
  }
  for (RunningText* text : writing) {
    text->suspect = false;
    if (text->request().trace) text->AddTraces(trace_.tokens());
    Guarded(*text, [&] { text->TookStep(share); });
  }
  CountPass(moved, writing);
  if (passes_ % kTrimEach == 0) cache_.Trim(Running());
  chunks_.Measured(static_cast<int>(writing.size()), prompt_tokens, Seconds() - start);
}

void Engine::PassFailed(std::span<RunningText* const> texts, const std::string& why) {
  if (texts.size() == 1) return texts[0]->Fail(kServerError, why);
  for (RunningText* text : texts) Guarded(*text, [&] { text->ReadAgain(); });
}

void Engine::TextFailed(RunningText& text, const std::exception& error) {
  const auto* known = dynamic_cast<const Error*>(&error);
  if (known != nullptr && known->code() == ErrorCode::kData) {  // a logit that is not finite
    metrics_.Add(Metrics::Count::kNanResets);
    cache_.Forget(text.request().owner, text.sequence().state.ids());
  }
  text.Fail(kServerError, error.what());
}

void Engine::CountPass(const PassBytes& moved, std::span<RunningText* const> writing) {
  metrics_.Add(Metrics::Count::kWeightBytes, static_cast<double>(moved.weights));
  metrics_.Add(Metrics::Count::kKvBytes, static_cast<double>(moved.kv_read));
  const ModelConfig& config = model_.config();
  if (!config.HasFfn(FfnKind::kChunkMoe)) return;
  for (RunningText* text : writing) {
    SequenceState& state = text->sequence().state;
    if (text->ended() || state.pos() % config.chunk_len != 1) continue;  // its first token chose the experts
    for (int layer = 0; layer < config.n_layers(); ++layer)
      if (config.layers[static_cast<size_t>(layer)].ffn == FfnKind::kChunkMoe)
        metrics_.ObserveExperts(state.route_count(layer));
  }
}

}  // namespace hydra::serve
