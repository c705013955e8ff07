// SPDX-License-Identifier: Apache-2.0
// The chain of filters behind Sampler::Pick, over (id, logit) pairs in fp64.
#include "hydra/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>

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

void Sampler::ApplyPenalties(std::vector<Candidate>& all) const {
  for (const auto& [id, bias] : options_.logit_bias)
    if (id >= 0 && static_cast<size_t>(id) < all.size()) all[static_cast<size_t>(id)].logit += bias;
  std::map<int32_t, int> counts;
  for (const int32_t id : recent_) ++counts[id];
  for (const auto& [id, count] : counts) {
    if (id < 0 || static_cast<size_t>(id) >= all.size()) continue;
    double& logit = all[static_cast<size_t>(id)].logit;
    logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    logit -= options_.presence_penalty + count * options_.frequency_penalty;
  }
}

// `best` is sorted, best first; at least one candidate stays. Top-p looks at what top-k left, min-p at the best.
void Sampler::Truncate(std::vector<Candidate>& best) const {
  if (options_.top_p < 1) {
    double total = 0, mass = 0;
    for (const Candidate& c : best) total += std::exp(c.logit - best[0].logit);
    size_t n = 0;
    while (n < best.size() && mass < options_.top_p * total) mass += std::exp(best[n++].logit - best[0].logit);
    best.resize(std::max<size_t>(n, 1));
  }
  if (options_.min_p > 0) {
    const double floor = best[0].logit + std::log(options_.min_p);
    while (best.size() > 1 && best.back().logit < floor) best.pop_back();
  }
}

int32_t Sampler::Pick(std::span<const float> logits) {
  std::vector<Candidate> all;
  all.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) throw Error(ErrorCode::kData, StrCat("logit of token ", i, " is NaN"));
    all.push_back({static_cast<int32_t>(i), logits[i]});
  }
  ApplyPenalties(all);
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  size_t n = all.size();
  if (options_.temperature == 0)
    n = 1;
  else if (options_.top_k > 0)
    n = std::min(n, static_cast<size_t>(options_.top_k));
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(n), all.end(), better);
  all.resize(n);
  if (all.empty() || !std::isfinite(all[0].logit)) throw Error(ErrorCode::kData, "no logit is finite");
  int32_t picked = all[0].id;
  if (options_.temperature > 0) {
    Truncate(all);
    double total = 0;
    for (const Candidate& c : all) total += std::exp((c.logit - all[0].logit) / options_.temperature);
    double left = rng_.Uniform() * total;
    picked = all.back().id;  // where rounding leaves something over
    for (const Candidate& c : all) {
      left -= std::exp((c.logit - all[0].logit) / options_.temperature);
      if (left < 0) {
        picked = c.id;
        break;
      }
    }
  }
  Accept(picked);
  return picked;
}

}  // namespace hydra
