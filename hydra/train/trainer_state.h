// SPDX-License-Identifier: Apache-2.0
// state.json of a checkpoint: all that decides the rest of a run, weights and moments apart.
// Not here: files (checkpoint.h), what the parts mean (packing.h, guard.h, experts.h).
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <string>

#include "hydra/io/json.h"
#include "hydra/train/batches.h"

namespace hydra::train {

[[nodiscard]] constexpr std::array<double, nn::kRouterTerms> NoTerms() {
  std::array<double, nn::kRouterTerms> none{};
  none.fill(std::numeric_limits<double>::quiet_NaN());
  return none;
}
// "moe/balance_loss": the name of a term in logs.
[[nodiscard]] const char* RouterTermSeries(nn::RouterTerm term);

// Sums since the last row of the log. Kept in checkpoints, so that a row spans a resume.
struct TrainInterval {
  int64_t steps = 0, finite = 0, tokens = 0;  // finite: steps whose losses are in the sums
  double loss = 0, lm = 0, flops = 0;
  std::array<double, nn::kRouterTerms> terms = NoTerms();  // NaN: none so far
  double seconds = 0, data_seconds = 0;
  void Add(const TrainInterval& step);
};

struct TrainState {
  int64_t step = 0, tokens = 0;  // done so far
  double seconds = 0, flops = 0;
  int64_t seed = 0;
  std::string data;    // Corpus::Fingerprint
  std::string config;  // text of config.json
  std::string run;     // text of run.toml
  int64_t val_step = -1;
  double val_loss = std::numeric_limits<double>::quiet_NaN(), val_bpb = std::numeric_limits<double>::quiet_NaN();
  TrainInterval interval;
  nlohmann::ordered_json loader, guard, experts;
  std::map<std::string, double> watched;  // newest values of the series that the stage's watches look at
  std::string rng;                        // torch's CPU generator, hexadecimal

  [[nodiscard]] nlohmann::ordered_json ToJson() const;
  // Throws kFormat or kConfig naming `where` and the field.
  [[nodiscard]] static TrainState FromJson(const nlohmann::ordered_json& json, const std::string& where);
};

[[nodiscard]] std::string SaveTorchRng();
void RestoreTorchRng(const std::string& text, const std::string& where);

// Bytes of text that the targets of a step stand for; token_bytes has an entry for each id.
[[nodiscard]] double TargetBytes(const StepBatches& batches, const std::vector<int32_t>& token_bytes);

}  // namespace hydra::train
