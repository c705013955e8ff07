// SPDX-License-Identifier: Apache-2.0
// The rule of how many guesses are tried, and the steps that try them.
#include "hydra/runtime/speculation.h"

#include <algorithm>
#include <numeric>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"

namespace hydra {

// ---- What it did ----

int64_t SpeculationStats::Guessed() const { return std::accumulate(tried.begin(), tried.end(), int64_t{0}); }
int64_t SpeculationStats::Right() const { return std::accumulate(right.begin(), right.end(), int64_t{0}); }

// ---- How many guesses ----

SpeculationRule::SpeculationRule(int most, const Drafter::Rates& expected, bool always)
    : most_(most), always_(always), costs_(static_cast<size_t>(most) + 2) {
  HYDRA_CHECK(most >= 1);
  constexpr double kWeight = 2;  // tries that the expectation counts for
  for (size_t kind = 0; kind < kinds_.size(); ++kind)
    kinds_[kind].rates.assign(static_cast<size_t>(most), {kWeight * expected[kind], kWeight});
}

void SpeculationRule::Times::Add(double seconds) {
  last_[count_++ % last_.size()] = seconds;
  auto sorted = last_;
  const auto end = sorted.begin() + static_cast<int64_t>(std::min(count_, sorted.size()));
  const auto middle = sorted.begin() + (end - sorted.begin()) / 2;
  std::nth_element(sorted.begin(), middle, end);
  median_ = *middle;
}

double SpeculationRule::Cost(int n) const {
  const Times& times = costs_[static_cast<size_t>(n)];
  const double one = costs_[1].median(), measured = std::max(times.median(), one);
  if (n == 1 || times.count() >= kEnough) return measured;
  return times.count() == 0 ? GuessedCost(n) : std::min(measured, GuessedCost(n));
}

double SpeculationRule::GuessedCost(int n) const {
  // A pass is a reading of the weights and arithmetic for each token: a line through the nearest that is known.
  constexpr double kSlope = 0.08;  // of a plain step, for a token, where no other length was measured
  const double one = costs_[1].median();
  for (int d = 1; d <= most_; ++d)
    for (const int near : {n - d, n + d}) {
      if (near <= 1 || near > most_ + 1) continue;
      const Times& times = costs_[static_cast<size_t>(near)];
      if (times.count() > 0) return one + (std::max(times.median(), one) - one) * (n - 1) / (near - 1);
    }
  return one + kSlope * one * (n - 1);
}

double SpeculationRule::Risk(int n) const { return Cost(n + 1) - Cost(1) + n * DraftCost(); }

bool SpeculationRule::On() const { return always_ || (plain_ >= kFirst && since_plain_ < kRefresh); }

int SpeculationRule::Choose(int kind, double seconds_before) const {
  if (always_) return most_;
  const Kind& known = kinds_[static_cast<size_t>(kind)];
  const double left = kAllowance * Cost(1) + kShare * time_ - lost_;
  const double doubt = 1 - known.rates[0].right / known.rates[0].tried;  // that all guesses are wrong
  double all = 1, tokens = 1, best = 1 / Cost(1);
  int chosen = 0;
  bool can_pay = draft_.count() < kEnough;  // if all guesses were right
  for (int n = 1; n <= most_; ++n) can_pay = can_pay || (n + 1) * Cost(1) > Cost(n + 1) + n * DraftCost();
  for (int n = 1; n <= most_ && doubt * (seconds_before + Risk(n)) <= left; ++n) {
    const Kind::Rate& rate = known.rates[static_cast<size_t>(n - 1)];
    all *= rate.right / rate.tried;
    tokens += all;
    const double speed = tokens / (Cost(n + 1) + n * DraftCost());
    if (speed > best) best = speed, chosen = n;
  }
  return chosen == 0 && can_pay && tokens_ >= known.probe_at && doubt * (seconds_before + Risk(1)) <= left ? 1 : chosen;
}

void SpeculationRule::Plain(double seconds, double draft_seconds) {
  ++plain_;
  since_plain_ = 0;
  costs_[1].Add(seconds);
  Count(1, seconds + draft_seconds, draft_seconds);
}

void SpeculationRule::Tried(int kind, int guesses, int judged, int right, double seconds, double draft_seconds) {
  ++since_plain_;
  Kind& known = kinds_[static_cast<size_t>(kind)];
  for (int i = 0; i < judged; ++i) {  // what stands behind a wrong one says nothing
    Kind::Rate& rate = known.rates[static_cast<size_t>(i)];
    rate = {kDecay * rate.right + (i < right ? 1 : 0), kDecay * rate.tried + 1};
  }
  costs_[static_cast<size_t>(guesses) + 1].Add(seconds);
  draft_.Add(draft_seconds / guesses);
  const double cost = std::min(seconds, 2 * Cost(guesses + 1));  // the machine may have been busy
  Count(1 + right, seconds + draft_seconds, cost + draft_seconds - (1 + right) * Cost(1));
  if (right > 0) {
    known.wait = kShortWait;
    known.probe_at = tokens_;
  } else if (judged > 0) {
    known.probe_at = tokens_ + known.wait;
    known.wait = std::min(2 * known.wait, int64_t{kLongWait});
  }
}

void SpeculationRule::Count(int tokens, double seconds, double lost) {
  tokens_ += tokens;
  time_ += seconds;
  lost_ = std::max(lost_ + lost, 0.0);  // what was won before is not for losing now
}

// ---- Steps ----

Speculation::Speculation(std::unique_ptr<Drafter> drafter, int most, bool always)
    : drafter_(std::move(drafter)), most_(most), rule_(most, drafter_->expected(), always) {
  HYDRA_CHECK(most >= 1 && most < kProvisionalTokens, most);
  stats_.tried.resize(static_cast<size_t>(most));
  stats_.right.resize(static_cast<size_t>(most));
}

void Speculation::ReadPrompt(std::span<const int32_t> text) {
  const double start = Seconds();
  (void)drafter_->Look(text);
  const auto tokens = static_cast<double>(std::max<int64_t>(drafter_->behind(), 1));
  drafter_->Read(text);
  const double read = Seconds();
  read_seconds_ = (read - start) / tokens;
  if (drafter_->Look(text) >= 0) (void)drafter_->Draft(1);
  rule_.ExpectDraft(Seconds() - read);
}

DecodeSteps::DecodeSteps(const Model& model, SequenceState& state, Speculation* speculation, ThreadPool& pool,
                         ForwardScratch& scratch)
    : model_(model), state_(state), speculation_(speculation), pool_(pool), scratch_(scratch) {
  if (speculation_ != nullptr && !speculation_->kept_) speculation_->kept_.emplace(state_, speculation_->most_ + 1);
}

DecodeSteps::~DecodeSteps() {
  try {
    End();
  } catch (...) {  // the state is marked
  }
}

std::span<const float> DecodeSteps::logits() const {
  const auto V = static_cast<size_t>(model_.config().vocab_size);
  return logits_.subspan(static_cast<size_t>(std::max<int64_t>(read_ - 1, 0)) * V, V);
}

std::span<const float> DecodeSteps::Next(int32_t picked) {
  if (!Knows(picked)) {
    DecodeSteps* const self = this;
    Pass({&self, 1}, {&picked, 1});
  }
  return logits();
}

bool DecodeSteps::Knows(int32_t picked) {
  if (read_ == 0 || read_ == static_cast<int64_t>(ids_.size()) || ids_[static_cast<size_t>(read_)] != picked)
    return false;
  ++read_;
  return true;
}

std::span<const float> DecodeSteps::Pass(std::span<DecodeSteps* const> sequences, std::span<const int32_t> picked,
                                         std::span<const Segment> prompts) {
  HYDRA_CHECK(!sequences.empty() && sequences.size() == picked.size());
  const DecodeSteps& any = *sequences[0];
  const Guess guess = prompts.empty() ? Guess::kMayBe : Guess::kNone;
  std::vector<Segment> segments;
  for (size_t i = 0; i < sequences.size(); ++i) segments.push_back(sequences[i]->Ask(picked[i], guess));
  segments.insert(segments.end(), prompts.begin(), prompts.end());
  const PassBytes before = any.scratch_.moved();
  const double start = Seconds();
  auto logits = any.model_.Forward(segments, any.pool_, any.scratch_);
  const double seconds = Seconds() - start;
  const PassBytes moved = any.scratch_.moved() - before;
  for (DecodeSteps* one : sequences) {
    const size_t n = one->ids_.size() * static_cast<size_t>(any.model_.config().vocab_size);
    one->Take(logits.first(n), seconds, moved, guess);
    logits = logits.subspan(n);
  }
  return logits;
}

Segment DecodeSteps::Ask(int32_t picked, Guess guess) {
  Settle(true);
  ids_.assign(1, picked);
  draft_seconds_ = 0;
  if (speculation_ != nullptr && guess == Guess::kMayBe && speculation_->rule_.On()) {
    const PassBytes before = scratch_.moved();
    const double start = Seconds();
    std::vector<int32_t> text(state_.ids().begin(), state_.ids().end());
    text.push_back(picked);
    Drafter& drafter = *speculation_->drafter_;
    kind_ = drafter.Look(text);
    const double behind = static_cast<double>(drafter.behind()) * speculation_->read_seconds_;
    int n = kind_ < 0 ? 0 : speculation_->rule_.Choose(kind_, behind);
    n = static_cast<int>(std::min<int64_t>(n, Room() - 1));
    if (n > 0) {
      auto guesses = drafter.Draft(n);
      if (filter_) guesses = guesses.first(std::min(guesses.size(), filter_(guesses)));
      ids_.insert(ids_.end(), guesses.begin(), guesses.end());
    }
    draft_seconds_ = Seconds() - start;
    speculation_->stats_.moved += scratch_.moved() - before;
  }
  Segment segment{.state = &state_, .ids = ids_, .logits = LogitsOf::kAll};
  if (ids_.size() > 1) segment.kept = &*speculation_->kept_;
  return segment;
}

void DecodeSteps::Take(std::span<const float> logits, double seconds, const PassBytes& moved, Guess guess) {
  logits_ = logits;
  if (speculation_ == nullptr) return;
  SpeculationStats& stats = speculation_->stats_;
  stats.moved += moved;
  if (ids_.size() > 1) {
    read_ = 1;
    pass_seconds_ = seconds;
    return;
  }
  if (guess == Guess::kMayBe) speculation_->rule_.Plain(seconds, draft_seconds_);
  ++stats.passes, ++stats.tokens, ++stats.plain;
  stats.pass_seconds += seconds, stats.draft_seconds += draft_seconds_;
}

void DecodeSteps::Settle(bool wrong) {
  if (read_ == 0) return;
  const auto m = read_;
  read_ = 0;
  const PassBytes before = scratch_.moved();
  const double start = Seconds();
  model_.Commit(state_, *speculation_->kept_, m, pool_, scratch_);
  pass_seconds_ += Seconds() - start;
  SpeculationStats& stats = speculation_->stats_;
  const int guesses = static_cast<int>(ids_.size()) - 1, right = static_cast<int>(m) - 1;
  const int judged = std::min(guesses, right + (wrong ? 1 : 0));
  speculation_->rule_.Tried(kind_, guesses, judged, right, pass_seconds_, draft_seconds_);
  ++stats.passes, stats.tokens += m;
  for (int i = 0; i < judged; ++i) {
    ++stats.tried[static_cast<size_t>(i)];
    if (i < right) ++stats.right[static_cast<size_t>(i)];
  }
  stats.pass_seconds += pass_seconds_, stats.draft_seconds += draft_seconds_;
  stats.moved += scratch_.moved() - before;
}

}  // namespace hydra
