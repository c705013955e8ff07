// SPDX-License-Identifier: Apache-2.0
// One text in a slot of the engine: its sequence, what of its prompt is read, what it wrote, how it ends. Not here:
// passes over several of them, the cache that its sequence comes from and goes to (engine.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/speculation.h"
#include "hydra/serve/job.h"
#include "hydra/serve/metrics.h"
#include "hydra/serve/prefix_cache.h"
#include "hydra/serve/text_writer.h"
#include "hydra/text/tokenizer.h"

namespace hydra::serve {

// What all texts of an engine share; all must outlive it.
struct EngineParts {
  const Model& model;
  const Tokenizer& tokenizer;
  ThreadPool& pool;
  ForwardScratch& scratch;
  Metrics& metrics;
};

// What a pass did, for the traces of its tokens: in equal shares.
struct PassShare {
  double seconds = 0, bytes = 0;
};

// Not thread-safe: the engine's thread alone.
class RunningText {
 public:
  struct Start {
    std::unique_ptr<CachedSequence> sequence;
    int64_t prompt_pos = 0;                    // tokens of the prompt that the sequence stands for
    std::unique_ptr<Speculation> speculation;  // null: plain steps
    int64_t snapshot_every = 0;                // tokens; 0: none are taken
  };
  RunningText(const EngineParts& parts, std::shared_ptr<Job> job, int text, Start start);

  // ---- Reading ----
  [[nodiscard]] bool reading() const { return reading_; }
  [[nodiscard]] int64_t LeftToRead() const { return goal_ - sequence_->state.pos(); }
  // At most `most` of the tokens that are to be read next, up to the next place of a snapshot.
  [[nodiscard]] Segment NextPiece(int64_t most);
  // The pass has read that piece. logits: those it asked for.
  void TookPiece(std::span<const float> logits);

  // ---- Writing ----
  // It has picked a token and waits for what comes behind it.
  [[nodiscard]] DecodeSteps& steps() { return *steps_; }
  [[nodiscard]] int32_t picked() const { return ids_.back(); }
  // A pass has read it: picks on from its logits, and from those of guesses that were right.
  void TookStep(const PassShare& share);
  [[nodiscard]] bool HasRoom() const { return steps_->Room() >= 1; }

  // ---- Ends ----
  [[nodiscard]] bool ended() const { return end_.has_value(); }
  void End(FinishReason reason);
  void Fail(int status, const std::string& why);
  // What came of it goes to the job: pieces while it runs, and the end. To be called after each pass.
  void Deliver();
  // The sequence, whole, for the cache; null where the text keeps or has spoiled it.
  [[nodiscard]] std::unique_ptr<CachedSequence> TakeSequence();

  // A pass with it failed: its tokens are read again, into a new state where the old one is broken.
  void ReadAgain();
  bool suspect = false;  // it was in a pass that failed, and has not yet run alone

  [[nodiscard]] Job& job() { return *job_; }
  [[nodiscard]] const std::shared_ptr<Job>& shared_job() const { return job_; }
  [[nodiscard]] int text() const { return text_; }
  [[nodiscard]] TextRequest& request() { return request_; }
  [[nodiscard]] CachedSequence& sequence() { return *sequence_; }
  [[nodiscard]] const CachedSequence& sequence() const { return *sequence_; }
  [[nodiscard]] bool speculating() const { return speculation_ != nullptr; }
  [[nodiscard]] const TextEnd& counts() const { return counts_; }
  [[nodiscard]] double started() const { return started_; }
  // Rows of a trace that are of this sequence.
  void AddTraces(std::span<const TokenTrace> traces);

 private:
  [[nodiscard]] std::vector<int64_t> PlacesOfSnapshots(int64_t every) const;
  void AddPromptLogprobs(std::span<const float> logits, int64_t first);
  // The tokens that may come next, as Sampler::Pick wants them.
  [[nodiscard]] std::span<const uint64_t> Allowed();
  // Picks a token behind what was read. False where the text ended with it.
  bool Pick(std::span<const float> logits);
  void TellTrace(std::span<const float> logits, const PassShare& share);
  void SnapshotWhereDue();
  void BeginWriting();

  EngineParts parts_;
  std::shared_ptr<Job> job_;
  int text_;
  TextRequest& request_;
  std::unique_ptr<CachedSequence> sequence_;
  std::vector<int32_t> ids_;  // of the text: what the sequence began with, the rest of the prompt, what was picked
  int64_t prompt_tokens_;     // the first of ids_
  int64_t goal_;              // tokens to be read before writing goes on
  bool reading_ = true;
  int64_t told_ = 0;  // the last token of the prompt whose logprob was given
  int64_t snapshot_every_, last_snapshot_;
  std::vector<int64_t> places_;  // where the prompt is cut for snapshots, ascending
  int64_t vocab_;
  Sampler sampler_;
  TextWriter writer_;
  std::unique_ptr<Speculation> speculation_;
  std::unique_ptr<DecodeSteps> steps_;
  bool last_known_ = false;               // the last pass had guessed what was picked last
  std::map<int64_t, TokenTrace> traces_;  // of tokens that were read, by position
  TextPiece piece_;
  std::optional<FinishReason> end_;
  TextEnd counts_;
  bool spoiled_ = false;
  double started_, picked_at_ = 0;
};

}  // namespace hydra::serve
