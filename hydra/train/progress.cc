// SPDX-License-Identifier: Apache-2.0
// The lines that a run shows and logs.
#include <cmath>
#include <cstdio>
#include <string>

#include "hydra/io/file.h"
#include "hydra/train/trainer.h"

namespace hydra::train {
namespace {

std::string Format(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// 75 -> "1:15", 3675 -> "1:01:15".
std::string Duration(double seconds) {
  const auto whole = static_cast<long long>(std::max(0.0, seconds) + 0.5);
  char text[64];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  }
  return text;
}

}  // namespace

std::string StepLine(const StepReport& r) {
  std::string line = StrCat("step ", r.step, "/", r.total_steps,
                            r.targets > 0 ? " | loss " + Format("%.3f", r.loss) : std::string(" | no targets"));
  if (!std::isnan(r.bpb)) line += " | bpb " + Format("%.3f", r.bpb);
  line += " | lr " + Format("%.1e", r.lr) + " | " + WithCommas(static_cast<uint64_t>(r.tok_per_sec)) + " tok/s";
  if (r.mfu > 0) line += " | mfu " + Format("%.2f", r.mfu);
  line += " | eta " + Duration(r.eta_seconds);
  if (r.skipped > 0) line += StrCat(" | skipped ", r.skipped);
  return line;
}

std::string LrJumpLine(int64_t step, double was, double is) {
  return StrCat(
      "step ", step, ": the learning rate rises from ", Format("%.1e", was), " to ", Format("%.1e", is),
      ", as the run's length or schedule differs from the checkpoint's: the loss may rise for a while; a lower "
      "--lr avoids it");
}

std::string EvalLine(const EvalReport& r) {
  std::string line = StrCat("step ", r.step, "/", r.total_steps, " | val loss ", Format("%.4f", r.loss));
  if (!std::isnan(r.bpb)) line += " | val bpb " + Format("%.4f", r.bpb);
  return line + (r.best ? " | best" : "");
}

}  // namespace hydra::train
