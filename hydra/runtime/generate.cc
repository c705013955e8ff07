// SPDX-License-Identifier: Apache-2.0
// The loop of generation over one sequence.
#include "hydra/runtime/generate.h"

#include <algorithm>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/runtime/stop_strings.h"

namespace hydra {
namespace {

bool Cancelled(const GenerateOptions& options) { return options.cancelled && options.cancelled(); }

// New tokens that the context has room for.
int64_t Room(const SequenceState& state) { return state.layout().most_tokens - state.pos(); }

// A trace for the passes of a scope.
class TracedScratch {
 public:
  TracedScratch(ForwardScratch& scratch, Trace* trace) : scratch_(scratch) { scratch_.SetTrace(trace); }
  ~TracedScratch() { scratch_.SetTrace(nullptr); }
  TracedScratch(const TracedScratch&) = delete;
  TracedScratch& operator=(const TracedScratch&) = delete;

 private:
  ForwardScratch& scratch_;
};

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength: return "length";
    case FinishReason::kContext: return "context";
    case FinishReason::kEnd: return "end_token";
    case FinishReason::kStop: return "stop_string";
    case FinishReason::kComplete: return "complete";
    case FinishReason::kCancelled: return "cancelled";
  }
  return "";
}

Utf8Stream Generator::TailOf(const SequenceState& state) const {
  constexpr size_t kMostBytes = 4;  // of a character
  std::vector<int32_t> ids(state.ids().end() - std::min<std::ptrdiff_t>(state.pos(), kMostBytes), state.ids().end());
  ids.insert(ids.end(), state.pending().begin(), state.pending().end());
  Utf8Stream stream;
  for (const int32_t id : ids)  // a token has a byte at least; an id beyond the tokenizer's means nothing
    (void)stream.Push(id < tokenizer.vocab_size() ? tokenizer.TokenBytes(id) : std::string_view(" "));
  return stream;
}

void Generator::TellXray(Trace& trace, const GenerateOptions& options, std::span<const float> logits, bool generated,
                         double seconds, const PassBytes& moved) const {
  const auto n = static_cast<double>(trace.tokens().size());
  const auto V = static_cast<size_t>(model.config().vocab_size);
  const size_t rows = logits.size() / V, without = trace.tokens().size() - rows;
  for (size_t i = 0; i < trace.tokens().size(); ++i) {
    XrayToken token{.trace = trace.tokens()[i],
                    .generated = generated,
                    .bytes = static_cast<double>(moved.total()) / n,
                    .seconds = seconds / n};
    if (i >= without) token.entropy = Entropy(logits.subspan((i - without) * V, V));
    options.on_xray(token);
  }
  trace.Clear();
}

bool Generator::ReadPrompt(SequenceState& state, std::span<const int32_t> prompt, const GenerateOptions& options,
                           Trace& trace, std::span<const float>* logits) const {
  const auto V = static_cast<size_t>(model.config().vocab_size);
  const bool all = options.on_xray && options.prompt_entropy;
  while (!prompt.empty()) {
    if (Cancelled(options)) return false;
    const auto piece = prompt.first(std::min<size_t>(kPassTokens, prompt.size()));  // between passes a stop is obeyed
    prompt = prompt.subspan(piece.size());
    const PassBytes before = scratch.moved();
    const double start = Seconds();
    const Segment segment{&state, piece, all ? LogitsOf::kAll : prompt.empty() ? LogitsOf::kLast : LogitsOf::kNone};
    *logits = model.Forward({&segment, 1}, pool, scratch);
    if (options.on_xray) TellXray(trace, options, *logits, false, Seconds() - start, scratch.moved() - before);
    if (all) *logits = logits->last(V);
  }
  return true;
}

void Generator::Check(const SequenceState& state, std::span<const int32_t> prompt,
                      const GenerateOptions& options) const {
  const int64_t n = static_cast<int64_t>(state.pending().size() + prompt.size());
  if (n == 0) throw Error(ErrorCode::kUsage, "the prompt has no tokens");
  if (n > Room(state))
    throw Error(ErrorCode::kUsage,
                StrCat("prompt: ", n, " tokens after ", state.pos(), ": --ctx-size is ", model.options().ctx_size));
  for (const int32_t id : prompt)
    if (id < 0 || id >= model.config().vocab_size)
      throw Error(ErrorCode::kUsage, StrCat("prompt: token id ", id, ": must be 0 to ", model.config().vocab_size - 1));
  (void)StopStrings(options.stops);
}

GenerateResult Generator::Generate(SequenceState& state, Sampler& sampler, std::span<const int32_t> prompt,
                                   const GenerateOptions& options, const OnText& on_text) const {
  Check(state, prompt, options);
  std::vector<int32_t> input(state.pending().begin(), state.pending().end());
  input.insert(input.end(), prompt.begin(), prompt.end());
  StopStrings stops(options.stops);
  Utf8Stream utf8 = options.continues && prompt.empty() ? TailOf(state) : Utf8Stream();
  GenerateResult result;
  const auto show = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (on_text) on_text(text);
  };

  state.SetPending({});
  if (options.max_tokens == 0) {  // nothing will be picked: the logits after the last token are for the next call
    state.SetPending({input.back()});
    input.pop_back();
  }
  for (const int32_t id : prompt) sampler.Accept(id);
  const int64_t before = state.pos();
  const double start = Seconds();
  std::span<const float> logits;
  Trace trace;
  const TracedScratch traced(scratch, options.on_xray ? &trace : nullptr);
  Speculation* const speculation = options.on_xray ? nullptr : options.speculation;
  if (speculation != nullptr && options.max_tokens != 0) {  // before the model: it has the same scratch
    std::vector<int32_t> text(state.ids().begin(), state.ids().end());
    text.insert(text.end(), input.begin(), input.end());
    speculation->ReadPrompt(text);
  }
  const bool read = ReadPrompt(state, input, options, trace, &logits);
  result.prompt_tokens = state.pos() - before;
  DecodeSteps steps(model, state, speculation, pool, scratch);
  const double prefilled = Seconds();
  result.prefill_seconds = prefilled - start;
  if (!read) {
    std::vector<int32_t> rest(input.begin() + result.prompt_tokens, input.end());
    rest.insert(rest.end(), state.pending().begin(), state.pending().end());
    state.SetPending(std::move(rest));
    result.reason = FinishReason::kCancelled;
    return result;
  }
  // A model's vocabulary may be padded beyond its tokenizer's: those ids mean nothing.
  const auto vocab = static_cast<size_t>(std::min<int64_t>(tokenizer.vocab_size(), model.config().vocab_size));
  if (options.grammar != nullptr)
    steps.SetFilter([&](std::span<const int32_t> ids) { return options.grammar->Admitted(ids); });
  while (options.max_tokens < 0 || static_cast<int64_t>(result.ids.size()) < options.max_tokens) {
    if (!state.pending().empty()) {  // all but the first time
      if (Cancelled(options)) {
        result.reason = FinishReason::kCancelled;
        break;
      }
      if (steps.Room() < 1) {
        result.reason = FinishReason::kContext;
        break;
      }
      const int32_t last = state.pending()[0];
      state.SetPending({});
      const PassBytes before = scratch.moved();
      const double asked = Seconds();
      logits = steps.Next(last);
      if (options.on_xray) TellXray(trace, options, logits, true, Seconds() - asked, scratch.moved() - before);
      ++result.steps;
    }
    const int32_t id = options.grammar == nullptr ? sampler.Pick(logits.first(vocab))
                                                  : sampler.Pick(logits.first(vocab), options.grammar->Mask().words());
    state.SetPending({id});
    if (std::find(options.end_ids.begin(), options.end_ids.end(), id) != options.end_ids.end()) {
      result.reason = FinishReason::kEnd;
      break;
    }
    if (options.grammar != nullptr) options.grammar->Accept(id);
    result.ids.push_back(id);
    show(stops.Feed(utf8.Push(tokenizer.TokenBytes(id))));
    if (stops.stopped()) {
      result.reason = FinishReason::kStop;
      break;
    }
    if (options.grammar != nullptr && options.grammar->is_over()) {
      result.reason = FinishReason::kComplete;
      break;
    }
  }
  steps.End();
  const bool goes_on = options.to_be_continued && result.reason != FinishReason::kEnd;
  if (!stops.stopped()) {
    const std::string rest = goes_on ? "" : stops.Feed(utf8.Finish());
    show(rest + stops.Finish());
  }
  result.decode_seconds = Seconds() - prefilled;
  return result;
}

}  // namespace hydra
