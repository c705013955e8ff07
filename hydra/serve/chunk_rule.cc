// SPDX-License-Identifier: Apache-2.0
// Sizes of pieces by what they took.
#include "hydra/serve/chunk_rule.h"

#include <algorithm>
#include <cstdlib>

namespace hydra::serve {
namespace {

void Learn(double& known, double seconds, double decay) {
  known = known == 0 ? seconds : decay * known + (1 - decay) * seconds;
}

}  // namespace

ChunkRule::ChunkRule(int slots, double gap) : gap_(gap), plain_(static_cast<size_t>(slots) + 1) {}

double ChunkRule::Plain(int writing) const {
  const int most = static_cast<int>(plain_.size()) - 1;
  for (int d = 0; d <= most; ++d)
    for (const int near : {writing - d, writing + d})
      if (1 <= near && near <= most && plain_[static_cast<size_t>(near)] > 0) return plain_[static_cast<size_t>(near)];
  return 0;
}

// A size that was never tried is thought to take as much more than the next smaller one as it has more tokens: it takes
// less, so that the sizes are climbed one by one.
int64_t ChunkRule::Largest(const std::array<double, kSizes.size()>& took, double seconds, int64_t unknown) {
  int64_t best = kSizes[0];
  double before = 0;  // of a token of the last size that is known
  for (size_t i = 0; i < kSizes.size(); ++i) {
    const auto n = static_cast<double>(kSizes[i]);
    const double expected = took[i] > 0 ? took[i] : before * n;
    if (took[i] > 0) before = took[i] / n;
    if (expected == 0 ? kSizes[i] <= unknown : expected <= seconds) best = kSizes[i];
  }
  return best;
}

// What changed for a size (the prompt's depth, the machine) has changed for the others too: a short prompt behind a
// long one must not be read by the pieces that were right at the long one's end.
void ChunkRule::LearnOne(std::array<double, kSizes.size()>& took, size_t size, double seconds) {
  const double before = took[size];
  Learn(took[size], seconds, kDecay);
  if (before == 0) return;
  for (size_t other = 0; other < took.size(); ++other)
    if (other != size) took[other] *= took[size] / before;
}

int64_t ChunkRule::Choose(int writing) const {
  constexpr int64_t kFirst = 16, kFirstAlone = 128;  // where nothing is known
  if (writing == 0) return Largest(alone_, kLongest, kFirstAlone);
  const double plain = Plain(writing);
  if (plain == 0) return kFirst;
  return Largest(beside_, (gap_ - 1) * plain, kFirst);
}

void ChunkRule::Measured(int writing, int64_t tokens, double seconds) {
  if (tokens == 0) {
    if (1 <= writing && writing < static_cast<int>(plain_.size()))
      Learn(plain_[static_cast<size_t>(writing)], seconds, kDecay);
    return;
  }
  // The last piece of a prompt has any length: it tells of the nearest size, as that size would have taken.
  const auto size = std::ranges::min_element(kSizes, {}, [&](int64_t n) { return std::abs(n - tokens); });
  const auto i = static_cast<size_t>(size - kSizes.begin());
  const double scale = static_cast<double>(*size) / static_cast<double>(tokens);
  if (writing == 0) return LearnOne(alone_, i, seconds * scale);
  if (const double plain = Plain(writing); plain > 0)
    LearnOne(beside_, i, std::max(seconds - plain, plain / 100) * scale);
}

}  // namespace hydra::serve
