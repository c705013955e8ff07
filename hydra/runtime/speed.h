// SPDX-License-Identifier: Apache-2.0
// Measures a model's speed: prompts and steps at a depth, for a batch; and where the time goes.
// Tokenising and sampling are not part of it. Silent. Not here: tables (cli/verb_bench.cc), single kernels (bench/),
// the memory (read_meter.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/profile.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/routing_source.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/speculation.h"

namespace hydra {

// One measurement: with prompt > 0 reading so many tokens at once, else `generate` steps of one token, or the same in
// provisional passes of `provisional` tokens, of which the first is taken, and of the others as many as a draft would
// be right: each with probability `accept` where those before it were.
struct SpeedTest {
  int64_t prompt = 0, generate = 0, provisional = 0;
  int64_t depth = 0;      // tokens that each sequence holds before
  int64_t batch = 1;      // sequences
  KvPlan plan = nullptr;  // of each sequence
  double accept = 1;
  std::optional<MarkovRouting::Options> plant = {};  // in the place of BlockFFN's routers
  [[nodiscard]] int64_t tokens() const { return (prompt > 0 ? prompt : generate) * batch; }
  [[nodiscard]] int64_t length() const { return depth + (prompt > 0 ? prompt : generate); }
};

// Runs one test again and again, each time from the same states. The model must outlive it.
class SpeedRunner {
 public:
  // Reads `depth` random tokens and warms up.
  SpeedRunner(const Model& model, const SpeedTest& test, ThreadPool& pool);
  // Seconds of one repetition; copying the states is not among them.
  double Run();
  // Where the time of one more repetition goes.
  PassProfile Profile();
  // What passes moved, and ran of BlockFFN's experts, in the last repetition.
  [[nodiscard]] const PassBytes& moved() const { return moved_; }
  // Bytes that one of them read, on average.
  [[nodiscard]] int64_t pass_bytes() const { return (moved_.weights + moved_.state_read + moved_.kv_read) / passes_; }
  // Keys and values that the sequences of a repetition hold room for.
  [[nodiscard]] int64_t kv_bytes() const;
  [[nodiscard]] const ExpertUse& experts() const { return experts_; }

 private:
  double Pass(int64_t prompt, int64_t steps);

  const Model& model_;
  SpeedTest test_;
  ThreadPool& pool_;
  std::unique_ptr<const RoutingSource> routing_;  // of the scratch; null: the model's own
  ForwardScratch scratch_;
  std::vector<SequenceState> base_;        // at `depth`
  std::vector<Provisional> kept_;          // of each sequence, for provisional passes
  std::vector<std::vector<int32_t>> ids_;  // of each sequence, random
  PassBytes moved_;
  int64_t passes_ = 1;
  ExpertUse experts_;
};

// Greedy decoding of `tokens` tokens after a prompt, with guesses or, where there is no speculation, without.
struct DecodeTime {
  double seconds = 0;        // of the steps; reading the prompt is not among them
  std::vector<int32_t> ids;  // what was decoded
};
[[nodiscard]] DecodeTime TimeDecode(const Model& model, std::span<const int32_t> prompt, int64_t tokens, int64_t vocab,
                                    Speculation* speculation, ThreadPool& pool, ForwardScratch& scratch);

// Floating-point operations of a token of a prompt, on average: products, scores, scan, workspace; the head's only for
// the last one. 0 for steps.
[[nodiscard]] double CountTokenFlops(const ModelConfig& config, const SpeedTest& test);

struct Summary {
  double mean = 0, sd = 0, median = 0, min = 0, max = 0;
};
[[nodiscard]] Summary Summarise(std::vector<double> values);

}  // namespace hydra
