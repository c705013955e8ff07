// SPDX-License-Identifier: Apache-2.0
// The choice among plans.
#include "hydra/moa/answer_rows.h"

#include <cmath>

namespace hydra::moa {

std::optional<size_t> ChooseAnswerRow(std::span<const AnswerRow> rows) {
  std::optional<size_t> best;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i].counts && (!best || rows[i].loss < rows[*best].loss)) best = i;
  if (!best) return best;
  const double most = rows[*best].loss + rows[*best].error;
  size_t chosen = *best;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i].counts && rows[i].loss <= most && rows[i].predicted < rows[chosen].predicted) chosen = i;
  return std::isinf(rows[chosen].predicted) ? best : chosen;
}

}  // namespace hydra::moa
