// SPDX-License-Identifier: Apache-2.0
// The chain of filters behind Sampler::Pick, over (id, logit) pairs in fp64.
#include "hydra/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "hydra/base/error.h"
#include "hydra/base/number.h"

namespace hydra {

void SamplerOptions::Validate() const {
  const auto require = [](bool ok, const char* flag, double value, const char* rule) {
    CheckNumber(value, flag);
    if (!ok) throw Error(ErrorCode::kUsage, StrCat(flag, " ", value, ": ", rule));
  };
  require(repeat_penalty > 0, "--repeat-penalty", repeat_penalty, "must be positive");
  require(repeat_last_n >= 0, "--repeat-last-n", static_cast<double>(repeat_last_n), "must be 0 or more");
  CheckNumber(presence_penalty, "--presence-penalty");
  CheckNumber(frequency_penalty, "--frequency-penalty");
  require(top_k >= 0, "--top-k", static_cast<double>(top_k), "must be 0 (off) or more");
  require(top_p > 0 && top_p <= 1, "--top-p", top_p, "must be above 0 and at most 1");
  require(min_p >= 0 && min_p <= 1, "--min-p", min_p, "must be 0 to 1");
  require(temperature >= 0, "--temp", temperature, "must be 0 (greedy) or more");
  for (const auto& [id, bias] : logit_bias) CheckNumber(bias, StrCat("--logit-bias ", id));
}

void SamplerOptions::CheckIds(int64_t vocab) const {
  for (const auto& [id, bias] : logit_bias)
    if (id < 0 || id >= vocab)
      throw Error(ErrorCode::kUsage, StrCat("--logit-bias ", id, "=", bias, ": the id must be 0 to ", vocab - 1));
}

int32_t BestId(std::span<const float> logits, int64_t vocab) {
  const auto known = logits.first(std::min(logits.size(), static_cast<size_t>(vocab)));
  return static_cast<int32_t>(std::ranges::max_element(known) - known.begin());
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), rng_(options.seed) { options_.Validate(); }

void Sampler::Accept(int32_t id) {
  recent_.push_back(id);
  if (static_cast<int64_t>(recent_.size()) > options_.repeat_last_n) recent_.pop_front();
}

void Sampler::ApplyPenalties(std::span<const float> logits) {
  changed_.clear();
  std::map<int32_t, double> values;
  const auto value = [&](int32_t id) -> double* {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) return nullptr;
    return &values.emplace(id, logits[static_cast<size_t>(id)]).first->second;
  };
  for (const auto& [id, bias] : options_.logit_bias)
    if (double* logit = value(id)) *logit += bias;
  const bool none = options_.repeat_penalty == 1 && options_.presence_penalty == 0 && options_.frequency_penalty == 0;
  std::map<int32_t, int> counts;
  if (!none)
    for (const int32_t id : recent_) ++counts[id];
  for (const auto& [id, count] : counts)
    if (double* logit = value(id)) {
      *logit = *logit > 0 ? *logit / options_.repeat_penalty : *logit * options_.repeat_penalty;
      *logit -= options_.presence_penalty + count * options_.frequency_penalty;
    }
  for (const auto& [id, logit] : values) changed_.push_back({id, logit});
}

namespace {

bool Allowed(std::span<const uint64_t> allowed, size_t id) {
  return allowed.empty() || (allowed[id / 64] >> (id % 64) & 1) != 0;
}

}  // namespace

// A vocabulary has tens of thousands of tokens, of which a few are wanted: a heap of the n best so far, the worst of
// them on top, is passed by almost all others after one comparison.
void Sampler::Select(std::span<const float> logits, std::span<const uint64_t> allowed, size_t n) {
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  best_.clear();
  const auto add = [&](const Candidate& candidate) {
    if (best_.size() == n) {
      if (!better(candidate, best_.front())) return;
      std::pop_heap(best_.begin(), best_.end(), better);
      best_.pop_back();
    }
    best_.push_back(candidate);
    if (n < logits.size()) std::push_heap(best_.begin(), best_.end(), better);
  };
  size_t id = 0;
  for (size_t next = 0; next <= changed_.size(); ++next) {
    const size_t end = next < changed_.size() ? static_cast<size_t>(changed_[next].id) : logits.size();
    for (; id < end; ++id) {
      if (best_.size() == n && !(logits[id] > best_.front().logit)) continue;  // equal ones have a higher id
      if (Allowed(allowed, id)) add({static_cast<int32_t>(id), logits[id]});
    }
    if (next == changed_.size()) break;
    if (Allowed(allowed, id)) add(changed_[next]);
    ++id;
  }
  std::sort(best_.begin(), best_.end(), better);
}

// best_ is sorted, best first; at least one candidate stays. Top-p looks at what top-k left, min-p at the best.
void Sampler::Truncate() {
  if (options_.top_p < 1) {
    double total = 0, mass = 0;
    for (const Candidate& c : best_) total += std::exp(c.logit - best_[0].logit);
    size_t n = 0;
    while (n < best_.size() && mass < options_.top_p * total) mass += std::exp(best_[n++].logit - best_[0].logit);
    best_.resize(std::max<size_t>(n, 1));
  }
  if (options_.min_p > 0) {
    const double floor = best_[0].logit + std::log(options_.min_p);
    while (best_.size() > 1 && best_.back().logit < floor) best_.pop_back();
  }
}

int32_t Sampler::Pick(std::span<const float> logits, std::span<const uint64_t> allowed) {
  HYDRA_CHECK(allowed.empty() || allowed.size() * 64 >= logits.size(), allowed.size(), " words");
  bool nan = false;
  for (const float logit : logits) nan |= logit != logit;
  for (size_t i = 0; nan && i < logits.size(); ++i)
    if (std::isnan(logits[i])) throw Error(ErrorCode::kData, StrCat("logit of token ", i, " is NaN"));
  ApplyPenalties(logits);
  size_t n = logits.size();
  if (options_.temperature == 0)
    n = 1;
  else if (options_.top_k > 0)
    n = std::min(n, static_cast<size_t>(options_.top_k));
  Select(logits, allowed, n);
  if (best_.empty() || !std::isfinite(best_[0].logit)) throw Error(ErrorCode::kData, "no logit is finite");
  int32_t picked = best_[0].id;
  if (options_.temperature > 0) {
    Truncate();
    double total = 0;
    for (const Candidate& c : best_) total += std::exp((c.logit - best_[0].logit) / options_.temperature);
    double left = rng_.Uniform() * total;
    picked = best_.back().id;  // where rounding leaves something over
    for (const Candidate& c : best_) {
      left -= std::exp((c.logit - best_[0].logit) / options_.temperature);
      if (left < 0) {
        picked = c.id;
        break;
      }
    }
  }
  Accept(picked);
  return picked;
}

Logprobs::Logprobs(std::span<const float> logits) : logits_(logits) {
  const double most = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - most);
  log_sum_ = most + std::log(sum);
}

std::vector<TokenLogprob> Logprobs::Best(int64_t n, int64_t vocab) const {
  const auto known = static_cast<int32_t>(std::min<int64_t>(vocab, static_cast<int64_t>(logits_.size())));
  std::vector<int32_t> ids(static_cast<size_t>(known));
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + static_cast<std::ptrdiff_t>(std::min<int64_t>(n, known));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits_[static_cast<size_t>(a)], y = logits_[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  std::vector<TokenLogprob> best;
  for (auto id = ids.begin(); id != end; ++id) best.push_back({*id, Of(*id)});
  return best;
}

}  // namespace hydra
