// SPDX-License-Identifier: Apache-2.0
// Counts by token.
#include "hydra/model/sparsity.h"

#include <algorithm>
#include <limits>

#include "hydra/base/error.h"

namespace hydra {
namespace {

double Quotient(double above, double below) {
  return below > 0 ? above / below : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

SparsityCounter::SparsityCounter(int64_t n_experts)
    : n_experts_(n_experts),
      histogram_(static_cast<size_t>(n_experts) + 1, 0),
      used_at_(static_cast<size_t>(n_experts), 0) {
  for (Window& window : windows_) window.used.assign(static_cast<size_t>(n_experts), 0);
}

void SparsityCounter::BeginDocument() {
  for (Window& window : windows_) {
    std::ranges::fill(window.used, uint8_t{0});
    window.n = window.active = 0;
    window.valid = true;
  }
  last_.clear();
}

void SparsityCounter::Add(std::span<const uint8_t> active, bool valid) {
  HYDRA_CHECK(static_cast<int64_t>(active.size()) == n_experts_, active.size(), " experts");
  int64_t n = 0, kept = 0, before = 0;
  for (size_t e = 0; e < active.size(); ++e) {
    const bool now = active[e] != 0, earlier = !last_.empty() && last_[e] != 0;
    n += now, before += earlier, kept += now && earlier;
  }
  if (valid) {
    ++tokens_;
    active_ += n;
    ++histogram_[static_cast<size_t>(n)];
    for (size_t e = 0; e < active.size(); ++e)
      if (active[e] != 0) used_at_[e] = tokens_;
    if (before > 0 && last_valid_) {
      reuse_ += static_cast<double>(kept) / static_cast<double>(before);
      ++pairs_;
    }
  }
  last_.assign(active.begin(), active.end());
  last_valid_ = valid;
  for (size_t i = 0; i < windows_.size(); ++i) {
    Window& window = windows_[i];
    for (size_t e = 0; e < active.size(); ++e) window.used[e] |= static_cast<uint8_t>(active[e] != 0);
    window.active += n;
    window.valid = window.valid && valid;
    if (++window.n < kWindows[i]) continue;
    if (window.valid) {
      ++window.windows;
      window.used_sum += std::ranges::count(window.used, uint8_t{1});
      window.active_sum += window.active;
    }
    std::ranges::fill(window.used, uint8_t{0});
    window.n = window.active = 0;
    window.valid = true;
  }
}

const SparsityCounter::Window& SparsityCounter::At(int64_t window) const {
  const auto* const at = std::ranges::find(kWindows, window);
  HYDRA_CHECK(at != kWindows.end(), "windows of ", window);
  return windows_[static_cast<size_t>(at - kWindows.begin())];
}

double SparsityCounter::token_sparsity() const {
  return 1 - Quotient(static_cast<double>(active_), static_cast<double>(tokens_ * n_experts_));
}

double SparsityCounter::chunk_sparsity(int64_t window) const {
  const Window& of = At(window);
  return 1 - Quotient(static_cast<double>(of.used_sum), static_cast<double>(of.windows * n_experts_));
}

double SparsityCounter::union_growth(int64_t window) const {
  const Window& of = At(window);
  return Quotient(static_cast<double>(of.used_sum * window), static_cast<double>(of.active_sum));
}

double SparsityCounter::reuse() const { return Quotient(reuse_, static_cast<double>(pairs_)); }

int64_t SparsityCounter::dead(int64_t tokens) const {
  if (tokens_ < tokens) return 0;
  return std::ranges::count_if(used_at_, [&](int64_t at) { return at <= tokens_ - tokens; });
}

}  // namespace hydra
