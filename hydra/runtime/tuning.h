// SPDX-License-Identifier: Apache-2.0
// How this machine likes to read a model's weights: measured when the model is loaded, on its own matrices, and kept
// for the next start. No choice moves a bit of a result. Not here: what the choices do (kernels/matmul.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/kernels/matmul.h"

namespace hydra {

struct ModelWeights;

enum class TuneMode {
  kOff,    // the same on every machine
  kOn,     // what was kept, else measured
  kAgain,  // measured, whatever was kept
};

struct TuneOptions {
  TuneMode mode = TuneMode::kOff;
  std::string file{};     // where choices are kept; empty: nowhere
  std::string machine{};  // what tells this machine from others that share the file
};

struct TuningChoice {
  kernels::Tuning tuning{};
  bool clear = false;   // the measurements agreed, so that it may be kept
  std::string about{};  // for a person: how it came about
};

// Never fails: what cannot be read or kept is said in `about`, and the model runs with what was measured or without.
[[nodiscard]] TuningChoice ChooseTuning(const ModelWeights& weights, const TuneOptions& options, ThreadPool& pool);

// "4 streams a thread, asks 2048 bytes ahead, 2 threads"
[[nodiscard]] std::string Describe(const kernels::Tuning& tuning, int threads);

// ---- The parts of it ----

// A way to read weights, and how fast it was: bytes a second of each round.
struct Candidate {
  kernels::Tuning tuning;
  std::vector<double> rates{};
};
// The fastest by the median of its rounds; the first one, which is the way without a choice, unless another is `gain`
// times as fast. `clear`: the rounds of the one chosen, all but one or a quarter, are faster than the median of the
// first.
struct Chosen {
  size_t index;
  bool clear;
};
[[nodiscard]] Chosen ChooseFastest(const std::vector<Candidate>& candidates, double gain);

// Reads the weights once, 256 MB at most, then measures for at most `seconds` (checked every few megabytes). Nothing
// where the model is too small to matter.
[[nodiscard]] std::optional<TuningChoice> MeasureTuning(const ModelWeights& weights, ThreadPool& pool, double seconds);

// What a choice holds for: a machine, a SIMD level, so many threads, matrices of these types and sizes.
[[nodiscard]] std::string TuningKey(const ModelWeights& weights, const std::string& machine, int threads);
// The choice kept under a key; nothing where there is none, or the file is not one of ours.
[[nodiscard]] std::optional<kernels::Tuning> ReadTuning(const std::string& file, const std::string& key);
// Keeps a choice, the newest 100 in all. Throws Error(kIo).
void KeepTuning(const std::string& file, const std::string& key, const kernels::Tuning& tuning);

}  // namespace hydra
