// SPDX-License-Identifier: Apache-2.0
// Speculative decoding: a drafter guesses the next tokens, one provisional pass gives the logits behind each of them,
// and the guesses that the sampler picks as well were worth a step each. The tokens are those of plain decoding, to the
// bit, whatever was guessed and however the sampler picks. Not here: the drafters (drafter.h), picking (sampler.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "hydra/runtime/drafter.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/sequence_state.h"

namespace hydra {

// What speculation did so far.
struct SpeculationStats {
  int64_t passes = 0, tokens = 0;     // of decoding, plain steps included; tokens that they gave
  int64_t plain = 0;                  // passes without a guess
  std::vector<int64_t> tried, right;  // of the guesses at each place, the first one first
  double pass_seconds = 0, draft_seconds = 0;
  PassBytes moved;  // by the drafter and the passes, those with other sequences included
  [[nodiscard]] int64_t Guessed() const;
  [[nodiscard]] int64_t Right() const;
};

// How many guesses are worth their time: from how often they were right and from what passes of each length took. What
// a try is likely to lose to guesses that are all wrong is no more than the ledger still allows, which is a small share
// of the time so far: so decoding is at most a few percent slower where no guess is right. Times are seconds; no token
// depends on them.
class SpeculationRule {
 public:
  // Up to `most` guesses a pass. `expected`: how often a guess of each kind is right, before anything is known of it.
  // `always`: as many guesses each time, whatever that costs.
  SpeculationRule(int most, const Drafter::Rates& expected, bool always = false);

  // What a guess is expected to take, until some were checked.
  void ExpectDraft(double seconds) { expected_draft_ = seconds; }
  // Whether a drafter shall look at the text now: not for the first steps, nor once in a while, so that it is known
  // what a plain step takes.
  [[nodiscard]] bool On() const;
  // Guesses of a kind to try, 0 .. most, where the drafter needs so many seconds before the first one.
  [[nodiscard]] int Choose(int kind, double seconds_before = 0) const;
  // A pass without guesses; one with some of a kind, of which the first `right` were right, and `judged` became known.
  void Plain(double seconds, double draft_seconds);
  void Tried(int kind, int guesses, int judged, int right, double seconds, double draft_seconds);

 private:
  static constexpr int kFirst = 3;                         // plain steps before all else
  static constexpr int kRefresh = 64;                      // passes after which a plain one says anew what it takes
  static constexpr double kDecay = 0.98;                   // of what is known of acceptance, a guess
  static constexpr double kShare = 0.01;                   // of the time that may be lost
  static constexpr double kAllowance = 0.4;                // plain steps that may be lost besides
  static constexpr size_t kEnough = 3;                     // times of a length that say what it takes
  static constexpr int kShortWait = 32, kLongWait = 1024;  // tokens until a kind that does not pay is tried again

  // The last times of passes of one length. Their median is what such a pass takes: a moment in which the machine was
  // busy says nothing.
  class Times {
   public:
    void Add(double seconds);
    [[nodiscard]] size_t count() const { return count_; }
    [[nodiscard]] double median() const { return median_; }

   private:
    std::array<double, 9> last_{};
    size_t count_ = 0;
    double median_ = 0;
  };
  // What is known of a kind of guess.
  struct Kind {
    struct Rate {
      double right, tried;  // decayed sums
    };
    std::vector<Rate> rates;  // [place]: how often a guess was right where those before it were
    int64_t probe_at = 0, wait = kShortWait;
  };

  // Seconds of a pass of n tokens: measured, or guessed from those that were. Until there are enough measurements the
  // guess holds if it is lower: the first pass of a length may take long, and must not be the last one.
  [[nodiscard]] double Cost(int n) const;
  [[nodiscard]] double GuessedCost(int n) const;
  // Seconds of making a guess.
  [[nodiscard]] double DraftCost() const { return draft_.count() > 0 ? draft_.median() : expected_draft_; }
  // Seconds beyond a plain step that n guesses take, all of them wrong.
  [[nodiscard]] double Risk(int n) const;
  // Tokens came; `lost` seconds beyond those of as many plain steps.
  void Count(int tokens, double seconds, double lost);

  int most_;
  bool always_;
  std::array<Kind, Drafter::kKinds> kinds_;
  std::vector<Times> costs_;  // [n] of a pass of n tokens
  Times draft_;               // of a guess
  double expected_draft_ = 0;
  double time_ = 0, lost_ = 0;
  int64_t plain_ = 0, since_plain_ = 0, tokens_ = 0;
};

// The drafter, what is kept aside and the rule of one sequence at a time.
class Speculation {
 public:
  // Up to `most` guesses a pass; `always`: as many each time, whatever that costs.
  Speculation(std::unique_ptr<Drafter> drafter, int most, bool always = false);

  [[nodiscard]] const Drafter& drafter() const { return *drafter_; }
  [[nodiscard]] const SpeculationStats& stats() const { return stats_; }
  // Memory beside that of plain decoding.
  [[nodiscard]] int64_t bytes() const { return drafter_->bytes() + (kept_ ? kept_->bytes() : 0); }
  // The drafter reads the text that decoding goes on from, as the model does, and makes a guess, so that it is known
  // what one takes.
  void ReadPrompt(std::span<const int32_t> text);

 private:
  friend class DecodeSteps;
  std::unique_ptr<Drafter> drafter_;
  int most_;
  std::optional<Provisional> kept_;
  SpeculationRule rule_;
  SpeculationStats stats_;
  double read_seconds_ = 0;  // of the drafter, for a token of a prompt
};

// The logits of one token after another. Begins where the state has read all tokens but the last one picked.
class DecodeSteps {
 public:
  // speculation: null for plain steps. All must outlive it. The memory for guesses is taken here.
  DecodeSteps(const Model& model, SequenceState& state, Speculation* speculation, ThreadPool& pool,
              ForwardScratch& scratch);
  ~DecodeSteps();
  DecodeSteps(const DecodeSteps&) = delete;
  DecodeSteps& operator=(const DecodeSteps&) = delete;

  // How many of some guesses are worth trying, from the first one on: those behind could not be picked.
  using Filter = std::function<size_t(std::span<const int32_t> guesses)>;
  void SetFilter(Filter filter) { filter_ = std::move(filter); }

  // Logits [vocab] of the token behind `picked`, until the next pass with this scratch.
  std::span<const float> Next(int32_t picked);
  // Tokens that the context still has room for.
  [[nodiscard]] int64_t Room() const { return state_.layout().most_tokens - state_.pos() - read_; }
  // The state has read all that was given to it, and nothing else.
  void End() { Settle(false); }

  // Several sequences of one model, pool and scratch: each asks Knows of what it picked until that says no; then one
  // pass reads what all of them picked, and logits() are those behind it.
  // Whether the last pass guessed this token: then logits() are those behind it.
  bool Knows(int32_t picked);
  // Each must have room for a token. Pieces of prompts may go through the same pass, behind the sequences: returned are
  // the logits that they ask for. Nothing is guessed then, since a row more costs time, and no rule learns from it.
  static std::span<const float> Pass(std::span<DecodeSteps* const> sequences, std::span<const int32_t> picked,
                                     std::span<const Segment> prompts = {});
  [[nodiscard]] std::span<const float> logits() const;

 private:
  // Takes what was read of the pass that waits into the state; `wrong`: the guess behind it is known to be.
  void Settle(bool wrong);
  enum class Guess { kMayBe, kNone };
  // What the next pass reads: `picked`, then guesses; none where none pays.
  [[nodiscard]] Segment Ask(int32_t picked, Guess guess);
  // [rows, vocab] behind what Ask gave.
  void Take(std::span<const float> logits, double seconds, const PassBytes& moved, Guess guess);

  const Model& model_;
  SequenceState& state_;
  Speculation* speculation_;
  ThreadPool& pool_;
  ForwardScratch& scratch_;
  Filter filter_;
  // The last pass.
  std::span<const float> logits_;  // [rows, vocab]
  std::vector<int32_t> ids_;       // what was picked before it, then the guesses
  int64_t read_ = 0;               // rows of it that were used, where it is provisional; 0: nothing waits
  int kind_ = 0;
  double draft_seconds_ = 0, pass_seconds_ = 0;
};

}  // namespace hydra
