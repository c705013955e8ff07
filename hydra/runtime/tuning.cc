// SPDX-License-Identifier: Apache-2.0
// Measuring ways to read weights.
#include "hydra/runtime/tuning.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <span>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/runtime/speed.h"
#include "hydra/runtime/weights.h"

namespace hydra {
namespace {

using kernels::MatMulArgs;
using kernels::Tuning;

constexpr double kSeconds = 0.04;                     // so that loading takes at most 50 ms longer
constexpr int64_t kLeastBytes = int64_t{8} << 20;     // a smaller model stays in the caches
constexpr int64_t kStretchBytes = int64_t{16} << 20;  // read by a candidate before the next one's turn
constexpr int64_t kWarmBytes = int64_t{256} << 20;    // read first, if there are as many: what was just written is slow
constexpr int64_t kListedBytes = int64_t{512} << 20;  // of a model's matrices: what there is time to read
constexpr size_t kMostRounds = 7, kLeastRounds = 5;
constexpr double kGain = 1.03;
constexpr double kThreadsGain = 1.1;        // else one busy moment would leave a thread out for ever
constexpr const char* kMethod = "streams";  // choices that were measured in another way are not taken
constexpr std::ptrdiff_t kForgiven = 4;     // one of so many rounds may have met a busy moment

// Products of one token with a model's matrices as a pass lists them: what reads the same input in one call.
class Reader {
 public:
  Reader(const ModelWeights& weights, ThreadPool& pool) : act_(weights.act()), pool_(pool) {
    int64_t widest = 0, rows = 0;
    weights.ForEachMatrix([&](const std::string& part, const kernels::Matrix& w) {
      if (bytes_ >= kListedBytes || part == "embedding" || part == "product-key table") return;  // rows here and there
      widest = std::max(widest, w.cols);
      const bool alone =
          part.ends_with("out") || part.ends_with("down") || calls_.empty() || calls_.back().back().w.cols != w.cols;
      if (alone) calls_.emplace_back();
      calls_.back().push_back({.w = w, .T = 1});
      rows += w.rows;
      bytes_ += kernels::MatrixBytes(w);
    });
    x_.resize(static_cast<size_t>(widest));
    y_.resize(static_cast<size_t>(rows));
    Rng rng(1);
    for (float& x : x_) x = static_cast<float>(rng.Normal());
    float* y = y_.data();
    for (auto& call : calls_)
      for (MatMulArgs& map : call) map.x = x_.data(), map.y = y, y += map.w.rows;
  }
  [[nodiscard]] int64_t bytes() const { return bytes_; }
  [[nodiscard]] int64_t read() const { return read_; }

  // Reads on from where the last stretch ended, as a pass does: one call behind the other, the first ones behind the
  // last ones. Another way to read between two calls would take, or spare, the next one what was asked for ahead.
  void Stretch(Candidate& candidate) {
    int64_t bytes = 0;
    const double start = Seconds();
    while (bytes < kStretchBytes) {
      const auto& call = calls_[next_++ % calls_.size()];
      kernels::MatMul(call, {act_, candidate.tuning}, pool_, scratch_);
      for (const MatMulArgs& map : call) bytes += kernels::MatrixBytes(map.w);
    }
    read_ += bytes;
    candidate.rates.push_back(static_cast<double>(bytes) / (Seconds() - start));
  }

 private:
  kernels::ActType act_;
  ThreadPool& pool_;
  kernels::MatMulScratch scratch_;
  std::vector<std::vector<MatMulArgs>> calls_;
  std::vector<float> x_, y_;
  int64_t bytes_ = 0, read_ = 0;  // of all calls; by all stretches
  size_t next_ = 0;               // call
};

// Ways to read that machines differ in, the default first.
std::vector<Candidate> WaysToRead() {
  std::vector<Candidate> ways;
  for (const auto& [streams, ahead] :
       {std::pair<int64_t, int64_t>{1, 0}, {1, 1024}, {1, 4096}, {1, 8192}, {kernels::kStreams, 2048}})
    ways.push_back({Tuning{.ahead = ahead, .streams = streams}});
  return ways;
}

// A tuning with all of its threads, and with half of them.
std::vector<Candidate> WithThreads(const Tuning& tuning, int all) {
  std::vector<Candidate> ways{{tuning}, {tuning}};
  ways.back().tuning.threads = (all + 1) / 2;
  return ways;
}

}  // namespace

Chosen ChooseFastest(const std::vector<Candidate>& candidates, double gain) {
  std::vector<double> medians;
  for (const Candidate& candidate : candidates) medians.push_back(Summarise(candidate.rates).median);
  const auto best = static_cast<size_t>(std::ranges::max_element(medians) - medians.begin());
  if (best == 0 || medians[best] < gain * medians[0]) return {0, true};
  const std::vector<double>& rates = candidates[best].rates;
  const auto slower = std::ranges::count_if(rates, [&](double rate) { return rate <= medians[0]; });
  return {best, slower <= std::max<std::ptrdiff_t>(1, std::ssize(rates) / kForgiven)};
}

std::optional<TuningChoice> MeasureTuning(const ModelWeights& weights, ThreadPool& pool, double seconds) {
  Reader reader(weights, pool);
  if (reader.bytes() < kLeastBytes) return std::nullopt;
  TuningChoice choice{.clear = true};
  // What lies in a file is mapped meanwhile, which the first pass is spared.
  Candidate warm{};
  while (reader.read() < std::min(reader.bytes(), kWarmBytes)) reader.Stretch(warm);
  const double start = Seconds(), deadline = start + seconds;
  // Chooses among candidates; false where the time was up before they could be told apart.
  const auto settle = [&](std::vector<Candidate> candidates, double gain) {
    const size_t n = candidates.size();
    size_t turns = 0;
    for (; turns < n * kMostRounds && Seconds() < deadline; ++turns)
      reader.Stretch(candidates[(turns + turns / n) % n]);  // each round begins with another one
    if (turns < n * kLeastRounds) return false;
    const Chosen chosen = ChooseFastest(candidates, gain);
    choice.tuning = candidates[chosen.index].tuning;
    choice.clear = choice.clear && chosen.clear;
    return true;
  };
  // The threads stay as they are where the time is up.
  choice.clear = settle(WaysToRead(), kGain) && choice.clear;
  if (const int all = pool.threads(); all > 1) (void)settle(WithThreads(choice.tuning, all), kThreadsGain);
  choice.about = StrCat("measured in ", static_cast<int>((Seconds() - start) * 1e3 + 0.5), " ms");
  return choice;
}

std::string Describe(const Tuning& tuning, int threads) {
  return StrCat(tuning.streams, tuning.streams == 1 ? " stream" : " streams", " a thread, ",
                tuning.ahead > 0 ? StrCat("asks ", tuning.ahead, " bytes ahead") : "asks for nothing ahead", ", ",
                tuning.threads > 0 ? tuning.threads : threads, " threads");
}

TuningChoice ChooseTuning(const ModelWeights& weights, const TuneOptions& options, ThreadPool& pool) {
  if (options.mode == TuneMode::kOff) return {.about = "not measured"};
  const std::string key = TuningKey(weights, options.machine, pool.threads());
  if (options.mode == TuneMode::kOn && !options.file.empty())
    if (const auto kept = ReadTuning(options.file, key)) return {*kept, true, "kept in " + options.file};
  std::optional<TuningChoice> choice = MeasureTuning(weights, pool, kSeconds);
  if (!choice) return {.about = "not measured: the model is small"};
  if (!choice->clear) {
    choice->about += "; not kept: the measurements differed too much";
  } else if (!options.file.empty()) {
    try {
      KeepTuning(options.file, key, choice->tuning);
      choice->about += ", kept in " + options.file;
    } catch (const Error& error) {
      choice->about += StrCat("; not kept: ", error.what());
    }
  }
  return *choice;
}

std::string TuningKey(const ModelWeights& weights, const std::string& machine, int threads) {
  std::map<std::string, int64_t> matrices;
  weights.ForEachMatrix([&](const std::string&, const kernels::Matrix& w) {
    ++matrices[StrCat(Info(w.type).name, w.packed ? " panels " : " rows ", w.rows, "x", w.cols)];
  });
  std::string key = StrCat(kMethod, "; ", machine, "; ", weights.target, "; ", threads, " threads");
  for (const auto& [matrix, count] : matrices) key += StrCat("; ", count, " ", matrix);
  return key;
}

}  // namespace hydra
