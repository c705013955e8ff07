// SPDX-License-Identifier: Apache-2.0
// What a caller asks of the engine, and the handle through which texts come back while they are written. Not here: how
// requests are run (engine.h), what HTTP makes of them (api_*.h).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/model/controls.h"
#include "hydra/runtime/generate.h"
#include "hydra/runtime/memory_overlay.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/xray.h"
#include "hydra/text/grammar_mask.h"

namespace hydra::serve {

// One text to write.
struct TextRequest {
  std::vector<int32_t> prompt{};     // at least one id
  std::vector<int64_t> borders{};    // positions in the prompt where a message ends, ascending
  int64_t max_tokens = 0;            // 0: the prompt is only read
  std::vector<int32_t> end_ids{};    // the text ends before one of them
  std::vector<std::string> stops{};  // ... and before one of these
  SamplerOptions sampling{};
  Controls controls{};
  std::shared_ptr<const MemoryOverlay> memory{};
  std::unique_ptr<GrammarMatcher> grammar{};  // that the text is held to, with the end_ids as its own; null: to none
  std::string owner{};                        // whose cached prefixes it may use, and who may use its own
  std::optional<SequenceState> base{};        // a saved sequence; the prompt begins with all its tokens
  int logprobs = -1;                          // >= 0: of each token, and this many of the most probable in its place
  bool prompt_logprobs = false;  // of the prompt's tokens too; nothing of the prompt is then taken from a cache
  bool end_logprob = false;      // the end token is among the tokens too, where logprobs are asked for
  bool trace = false;            // what each new token did in the model
  bool speculate = true;         // where the engine can
  bool keep_state = false;       // the sequence comes back with the end
};

// A token as it was picked, or as it stood in the prompt.
struct PickedToken {
  int32_t id = 0;
  int64_t position = 0;              // in the sequence
  double logprob = 0;                // where asked for; NaN for the first token of a prompt
  std::vector<TokenLogprob> best{};  // the most probable ones in its place
  bool guessed = false;              // a drafter had guessed it
  bool in_prompt = false;
};

// How a text ended and what it took.
struct TextEnd {
  FinishReason reason = FinishReason::kLength;
  int error_status = 0;  // HTTP's, where it failed; 0: it did not
  std::string error{};
  int64_t prompt_tokens = 0, cached_tokens = 0;  // of the prompt; those that were not computed again
  int64_t new_tokens = 0;                        // written, without the end token
  int64_t guessed = 0, accepted = 0;             // tokens that a drafter guessed; those that were right
  double queue_seconds = 0, prompt_seconds = 0, write_seconds = 0;
  std::shared_ptr<SequenceState> state{};  // with keep_state
};

// What came of a text since the last piece.
struct TextPiece {
  int text = 0;         // which of the job's
  std::string words{};  // whole characters
  std::vector<PickedToken> tokens{};
  std::vector<XrayToken> traces{};  // of tokens that the model has read by now: the last one picked comes later
  std::optional<TextEnd> end{};
};

// Texts that were asked for together. Thread-safe; the engine and one caller share it.
class Job {
 public:
  // Beyond this many pieces that nobody has taken, the engine lets the text wait.
  static constexpr size_t kMostWaiting = 256;

  explicit Job(std::vector<TextRequest> texts);

  // For the caller. The next piece; nothing where none came in `seconds`. After the last text's end there is none.
  [[nodiscard]] std::optional<TextPiece> Take(double seconds);
  void Cancel() { cancelled_.store(true); }

  // For the engine.
  [[nodiscard]] bool cancelled() const { return cancelled_.load(); }
  [[nodiscard]] std::vector<TextRequest>& texts() { return texts_; }
  [[nodiscard]] bool Full() const;
  void Give(TextPiece piece);
  [[nodiscard]] double asked() const { return asked_; }  // when, on the clock of Seconds()

 private:
  std::vector<TextRequest> texts_;
  const double asked_;
  std::atomic<bool> cancelled_{false};
  mutable std::mutex mutex_;
  std::condition_variable came_;
  std::deque<TextPiece> pieces_;
};

}  // namespace hydra::serve
