// SPDX-License-Identifier: Apache-2.0
// Timed passes.
#include "hydra/runtime/speed.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/model/accounting.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/weights.h"

namespace hydra {
namespace {

bool Routed(const ModelConfig& config) {
  return config.HasFfn(FfnKind::kChunkMoe) || config.HasFfn(FfnKind::kBlockFfn) || config.HasPkm();
}

}  // namespace

SpeedRunner::SpeedRunner(const Model& model, const SpeedTest& test, ThreadPool& pool)
    : model_(model), test_(test), pool_(pool) {
  HYDRA_CHECK(test.tokens() > 0 && test.depth >= 0, "an empty test");
  base_.reserve(static_cast<size_t>(test.batch));
  if (test.plant) {
    const ModelConfig& config = model.config();
    routing_ = std::make_unique<MarkovRouting>(config.n_layers(), config.moe.n_experts, test.length(), *test.plant);
    scratch_.SetRouting(routing_.get());
  }
  Rng rng(1);
  for (int64_t b = 0; b < test.batch; ++b) {
    std::vector<int32_t>& ids = ids_.emplace_back(static_cast<size_t>(test.length()));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(model.config().vocab_size)));
    // Where no token changes what another sequence reads of the weights, all hold the same text, read once.
    const bool same = b > 0 && test.depth > 0 && !Routed(model.config());
    SequenceState& state =
        same ? base_.emplace_back(base_.front().Fork()) : base_.emplace_back(model, Controls{}, test.plan);
    if (test.provisional > 0) kept_.emplace_back(state, test.provisional);
    if (test.depth == 0 || same) continue;
    const Segment segment{&state, std::span<const int32_t>(ids).first(static_cast<size_t>(test.depth)),
                          LogitsOf::kNone};
    model.Forward({&segment, 1}, pool, scratch_);
  }
  constexpr int64_t kWarmUp = 16;  // pages, branch tables, threads; prompts want their whole scratch
  Pass(test.prompt, std::min(test.generate, kWarmUp));
}

int64_t SpeedRunner::kv_bytes() const {
  return std::accumulate(base_.begin(), base_.end(), int64_t{0},
                         [](int64_t sum, const SequenceState& state) { return sum + state.kv_bytes(); });
}

double SpeedRunner::Run() { return Pass(test_.prompt, test_.generate); }

PassProfile SpeedRunner::Profile() {
  scratch_.BeginProfile(pool_);
  (void)Run();
  return scratch_.EndProfile(pool_);
}

double SpeedRunner::Pass(int64_t prompt, int64_t steps) {
  std::vector<SequenceState> states;
  std::vector<Segment> segments;
  states.reserve(base_.size());
  for (const SequenceState& state : base_) segments.push_back({&states.emplace_back(state.Fork()), {}});
  for (size_t b = 0; b < kept_.size(); ++b) segments[b].logits = LogitsOf::kAll, segments[b].kept = &kept_[b];
  Rng luck(1);
  // Reads n tokens and takes those that a draft had right; returns how many.
  passes_ = 0;
  const auto feed = [&](int64_t offset, int64_t n) {
    ++passes_;
    for (size_t b = 0; b < segments.size(); ++b)
      segments[b].ids =
          std::span<const int32_t>(ids_[b]).subspan(static_cast<size_t>(test_.depth + offset), static_cast<size_t>(n));
    (void)model_.Forward(segments, pool_, scratch_);
    if (kept_.empty()) return n;
    int64_t m = 1;
    while (m < n && (test_.accept == 1 || luck.Uniform() < test_.accept)) ++m;
    for (size_t b = 0; b < kept_.size(); ++b) model_.Commit(states[b], kept_[b], m, pool_, scratch_);
    return m;
  };
  const PassBytes before = scratch_.moved();
  const ExpertUse experts_before = scratch_.experts();
  const double start = Seconds();
  if (prompt > 0) {
    (void)feed(0, prompt);
  } else {
    const int64_t most = std::max<int64_t>(1, test_.provisional);
    for (int64_t i = 0; i < steps;) i += feed(i, std::min(most, steps - i));
  }
  const double seconds = Seconds() - start;
  moved_ = scratch_.moved() - before;
  experts_ = scratch_.experts() - experts_before;
  return seconds;
}

DecodeTime TimeDecode(const Model& model, std::span<const int32_t> prompt, int64_t tokens, int64_t vocab,
                      Speculation* speculation, ThreadPool& pool, ForwardScratch& scratch) {
  SequenceState state(model);
  DecodeTime out;
  if (speculation != nullptr) speculation->ReadPrompt(prompt);  // before the model: they may share the scratch
  int32_t id = BestId(model.Prefill(state, prompt, pool, scratch), vocab);
  DecodeSteps steps(model, state, speculation, pool, scratch);
  const double start = Seconds();
  for (int64_t i = 0; i < tokens; ++i) {
    id = BestId(steps.Next(id), vocab);
    out.ids.push_back(id);
  }
  steps.End();
  out.seconds = Seconds() - start;
  return out;
}

double CountTokenFlops(const ModelConfig& config, const SpeedTest& test) {
  if (test.prompt == 0) return 0;
  const auto before = [&](int64_t tokens) {
    return tokens > 0 ? MeanForwardFlops(config, tokens, test.plan) * static_cast<double>(tokens) : 0.0;
  };
  const auto prompt = static_cast<double>(test.prompt);
  const double head = 2.0 * static_cast<double>(config.vocab_size * config.d_model);
  return (before(test.length()) - before(test.depth) - head * (prompt - 1)) / prompt;
}

Summary Summarise(std::vector<double> values) {
  Summary s;
  if (values.empty()) return s;
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  s.min = values.front();
  s.max = values.back();
  s.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  const size_t middle = values.size() / 2;
  s.median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  for (const double v : values) s.sd += (v - s.mean) * (v - s.mean);
  s.sd = values.size() > 1 ? std::sqrt(s.sd / (n - 1)) : 0;
  return s;
}

}  // namespace hydra
