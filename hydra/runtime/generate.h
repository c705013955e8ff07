// SPDX-License-Identifier: Apache-2.0
// Text from a model, token by token: reads a prompt, picks, decodes, stops. Silent: text leaves through a callback.
// Not here: picking (runtime/sampler.h), templates of chats (text/chat_template.h), printing (hydra/cli).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/base/utf8.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/speculation.h"
#include "hydra/runtime/xray.h"
#include "hydra/text/grammar_mask.h"
#include "hydra/text/tokenizer.h"

namespace hydra {

enum class FinishReason {
  kLength,     // max_tokens
  kContext,    // the context is full
  kEnd,        // an end token
  kStop,       // a stop string
  kComplete,   // the grammar is at its end
  kCancelled,  // `cancelled` said so
};
// "length", "context", "end_token", "stop_string", "complete", "cancelled": what --json says.
[[nodiscard]] const char* FinishReasonName(FinishReason reason);

struct GenerateOptions {
  int64_t max_tokens = 512;           // -1 = until another reason
  std::vector<int32_t> end_ids{};     // the text ends before one of them
  std::vector<std::string> stops{};   // ... and before one of these
  std::function<bool()> cancelled{};  // asked before each token and each piece of the prompt
  // A text in several calls. A character that the state's tokens begin is finished by the new text, where there is no
  // prompt between them; one that is begun at the end is left to the next call, where nothing ends the text for good.
  // Else what is begun and not finished becomes U+FFFD.
  bool continues = false, to_be_continued = false;
  // Guesses of the next tokens, which change none; null: plain steps.
  Speculation* speculation = nullptr;
  // Holds the new text to a grammar from where it is, with the end_ids as its own; null: anything. Tokens that it
  // forbids are never picked, and no guess is made of them; the text ends where the grammar is at its end.
  GrammarMatcher* grammar = nullptr;
  // Called with each token when the model has read it, which the last one picked is not. No guesses are made then.
  std::function<void(const XrayToken&)> on_xray{};
  bool prompt_entropy = false;  // for on_xray, of the prompt's tokens too: logits of all of them
};

struct GenerateResult {
  std::vector<int32_t> ids;  // new tokens, without the end token
  std::string text;          // all that the callback was given
  FinishReason reason = FinishReason::kLength;
  int64_t prompt_tokens = 0;  // read, pending ones of the state included
  double prefill_seconds = 0;
  int64_t steps = 0;  // tokens read after the prompt: decode_seconds is theirs, sampling included
  double decode_seconds = 0;
};

// What all calls for one model share. Pool and scratch are used by one call at a time.
struct Generator {
  const Model& model;
  const Tokenizer& tokenizer;
  ThreadPool& pool;
  ForwardScratch& scratch;
  // Gets text as it comes: valid UTF-8, never a part of a character.
  using OnText = std::function<void(std::string_view)>;

  // Throws kUsage where prompt, context and options do not fit: what Generate would throw before it reads anything.
  void Check(const SequenceState& state, std::span<const int32_t> prompt, const GenerateOptions& options) const;
  // Reads the state's pending tokens and the prompt (together at least one), then writes. The sampler is told of the
  // prompt's tokens. On return the state has read all tokens but the last, which is pending: the next call, or a file
  // saved from the state, goes on exactly there. An end token is pending too. Cancelled in the prompt, what the state
  // has not read of it is pending, so nothing of it is lost.
  GenerateResult Generate(SequenceState& state, Sampler& sampler, std::span<const int32_t> prompt,
                          const GenerateOptions& options, const OnText& on_text) const;
  // A stream that has been given the last bytes of the state's text: it holds a character that they begin and do not
  // finish.
  [[nodiscard]] Utf8Stream TailOf(const SequenceState& state) const;

 private:
  // What the passes since the last call did, to options.on_xray. logits: of their last token, or of all.
  void TellXray(Trace& trace, const GenerateOptions& options, std::span<const float> logits, bool generated,
                double seconds, const PassBytes& moved) const;
  // False when cancelled before the end of it.
  bool ReadPrompt(SequenceState& state, std::span<const int32_t> prompt, const GenerateOptions& options, Trace& trace,
                  std::span<const float>* logits) const;
};

}  // namespace hydra
