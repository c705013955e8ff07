// SPDX-License-Identifier: Apache-2.0
// Whole runs of a tiny model for the tests of this folder, and what two runs must have in common to be one. Not
// installed, not used by the library.
#pragma once

#include <gtest/gtest.h>
#include "hydra/nn/torch.h"

#include <string>
#include <utility>
#include <vector>

#include "hydra/train/metrics_log.h"
#include "hydra/train/testing.h"
#include "hydra/train/trainer.h"

namespace hydra::train::testing {

// Twelve steps with everything on: accumulation, batch and row schedules, small windows so that guards act.
inline TrainerOptions Options(const std::string& folder, const std::vector<std::string>& settings = {}) {
  std::vector<std::string> all = {"optim.steps=12",
                                  "optim.batch_rows=[[0, 2], [0.5, 3]]",
                                  "optim.seq_len=[[0, 32], [8, 64]]",
                                  "optim.accum=2",
                                  "optim.lr=1e-2",
                                  "optim.warmup_steps=3",
                                  "optim.seed=5",
                                  "log.every=5",
                                  "log.peak_flops=1e9",
                                  "checkpoint.every=6",
                                  "eval.every=4",
                                  "eval.tokens=512",
                                  "guard.window=4",
                                  "guard.max_skip_share=0.5"};
  all.insert(all.end(), settings.begin(), settings.end());
  return {.run = ParseRunConfig("", "test", all),
          .model = TinyConfig(),
          .train = TinyCorpus(1),
          .val = TinyCorpus(2, 6),
          .token_bytes = std::vector<int32_t>(64, 2),
          .folder = folder,
          .tokenizer_path = "",
          .init = "",
          .device = {},
          .env = {},
          .callbacks = {},
          .after_backward = {}};
}

inline std::vector<std::pair<std::string, torch::Tensor>> AllTensors(Trainer& trainer) {
  auto out = trainer.OptimiserState();
  for (const auto& [spec, tensor] : trainer.model().Tensors()) out.emplace_back(spec->name, tensor);
  return out;
}

// Rows without what a clock or the machine decides.
inline std::vector<std::string> Rows(const std::string& path) {
  std::vector<std::string> out;
  for (const MetricsRow& row : ReadMetrics(path)) {
    std::string text = StrCat(row.step, " ", row.tokens, " ", row.flops);
    for (const auto& [name, value] : row.values)
      if (name != "train/tok_per_sec" && name != "train/mfu" && name != "train/step_ms" && name != "train/data_ms" &&
          name != "train/other_ms" && name != "train/mem_bytes")
        text += StrCat(" ", name, "=", nlohmann::json(value).dump());
    out.push_back(text);
  }
  return out;
}

inline nlohmann::ordered_json WithoutClock(nlohmann::ordered_json state) {
  for (const char* key : {"seconds", "interval.seconds", "interval.data_seconds"}) state.erase(key);
  return state;
}

inline void ExpectSameRun(Trainer& a, Trainer& b, const std::string& folder_a, const std::string& folder_b) {
  const auto x = AllTensors(a), y = AllTensors(b);
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) EXPECT_TRUE(SameBits(x[i].second, y[i].second)) << x[i].first;
  EXPECT_EQ(WithoutClock(a.StateJson()).dump(), WithoutClock(b.StateJson()).dump());
  for (const char* file : {"/train.jsonl", "/val.jsonl"})
    EXPECT_EQ(Rows(folder_a + file), Rows(folder_b + file)) << file;
}

}  // namespace hydra::train::testing
