// SPDX-License-Identifier: Apache-2.0
// Comparisons of speed.
#include "hydra/eval/evidence_speed.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/model/accounting.h"
#include "hydra/nn/model.h"
#include "hydra/nn/model_io.h"

namespace hydra::eval {
namespace {

constexpr int kSpeedVersion = 2;
constexpr double kQuiet = 0.05;  // share of the processors' time that others may take
constexpr int kTries = 3;

// The folder of a model with random weights, made where it is missing. Cells that share `context.models` run one after
// another.
std::string ModelFolder(const std::string& model, EvidenceSize size, const CellContext& context) {
  const std::string folder = StrCat(context.models, "/", SizeName(size), "-", model);
  const ModelConfig config = EvidenceModel(model, size);
  // The config is written last.
  if (std::filesystem::exists(folder + "/config.json") && LoadConfig(folder) == config) return folder;
  MakeDirs(folder);
  nn::Model made(config, {.initialise = false});
  made.InitWeights(1);
  nn::SaveModel(folder, made, "");
  return folder;
}

// What a cell takes on a machine of 200 GFLOP/s and 20 GB/s, with a warm-up before each process's first sample.
double CellSeconds(const ModelConfig& config, const SpeedShape& shape, const SpeedTurns& turns) {
  constexpr double kFlops = 2e11, kBytes = 2e10, kStart = 1;
  const auto batch = static_cast<double>(shape.batch), repeats = static_cast<double>(turns.repeats);
  const double prompt = batch * PromptFlops(config, std::max<int64_t>(1, shape.tokens())) / kFlops;
  double process = kStart + prompt;  // the warm-up, or the tokens before the steps
  if (shape.prefill()) {
    process += repeats * prompt;
  } else {
    const double bytes = static_cast<double>(StepWeightBytes(config, TensorTable(config), shape.batch)) +
                         batch * static_cast<double>(KvBytesPerToken(config, KvDtype::kF16) * shape.depth);
    process += repeats * static_cast<double>(shape.generate) * bytes / kBytes;
  }
  return static_cast<double>(turns.rounds) * process;
}

std::vector<double> NumbersOf(const Json& list) {
  std::vector<double> numbers;
  for (const Json& value : list) numbers.push_back(value.get<double>());
  return numbers;
}

}  // namespace

Cell SpeedCell(const std::string& name, const std::vector<std::string>& models, EvidenceSize size,
               const SpeedShape& shape, const SpeedTurns& turns) {
  Cell cell{.name = name,
            .settings = {{"version", kSpeedVersion},
                         {"size", SizeName(size)},
                         {"models", models},
                         {"prompt", shape.prompt},
                         {"generate", shape.generate},
                         {"depth", shape.depth},
                         {"batch", shape.batch},
                         {"rounds", turns.rounds},
                         {"repeats", turns.repeats}},
            .needs = {},
            .alone = true};
  for (const std::string& model : models) cell.seconds += CellSeconds(EvidenceModel(model, size), shape, turns);
  return cell;
}

Json RunSpeedCell(const Cell& cell, CellContext& context) {
  const Json& s = cell.settings;
  const EvidenceSize size = ParseSize(s["size"].get<std::string>());
  const auto models = s["models"].get<std::vector<std::string>>();
  const auto rounds = s["rounds"].get<int64_t>();
  // A test of the machinery runs beside other tests.
  const double quiet = size == EvidenceSize::kSmoke ? std::numeric_limits<double>::infinity() : kQuiet;
  Json samples = Json::object(), peaks = Json::object(), voids = Json::array();
  for (const std::string& model : models) samples[model] = Json::array();
  for (int64_t round = 0; round < rounds; ++round) {
    context.progress(round, rounds);
    std::vector<std::vector<double>> of_models;
    bool noisy = true;
    for (int tried = 0; tried < kTries && noisy; ++tried) {
      of_models.clear();
      noisy = false;
      for (const std::string& model : models) {
        context.check();
        const auto number = [&](const char* key) { return StrCat(s[key].get<int64_t>()); };
        const BenchResult made = context.bench({"-m", ModelFolder(model, size, context), "-p", number("prompt"), "-n",
                                                number("generate"), "-d", number("depth"), "-b", number("batch"), "-r",
                                                number("repeats"), "-t", StrCat(context.threads)});
        if (!made.rows.is_array() || made.rows.size() != 1 || !made.rows[0].contains("samples"))
          throw Error(ErrorCode::kFormat, StrCat("hydralm bench: ", JsonExcerpt(made.rows), ": must be one row"));
        of_models.push_back(NumbersOf(made.rows[0]["samples"]));
        peaks[model] = std::max(peaks.value(model, int64_t{0}), made.peak_bytes);
        noisy = noisy || made.others_share > quiet;
      }
    }
    for (size_t i = 0; i < models.size(); ++i) {
      if (rounds > 1) of_models[i] = {Median(of_models[i])};
      for (const double sample : of_models[i]) samples[models[i]].push_back(sample);
    }
    for (size_t i = 0; i < of_models[0].size(); ++i) voids.push_back(noisy);
  }
  return {{"samples", samples}, {"peak_bytes", peaks}, {"void", voids}, {"threads", context.threads}};
}

std::vector<double> SpeedSamples(const CellResults& results, const std::string& cell, const std::string& model) {
  const auto found = results.find(cell);
  if (found == results.end() || !found->second.contains("samples") || !found->second["samples"].contains(model))
    return {};
  std::vector<double> kept;
  const std::vector<double> all = NumbersOf(found->second["samples"][model]);
  for (size_t i = 0; i < all.size(); ++i)
    if (found->second["void"][i] == false) kept.push_back(all[i]);
  return kept;
}

std::vector<double> SpeedRatios(const CellResults& results, const std::string& cell, const std::string& above,
                                const std::string& below) {
  std::vector<double> a = SpeedSamples(results, cell, above);
  const std::vector<double> b = SpeedSamples(results, cell, below);
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) a[i] /= b[i];
  return a.size() == b.size() ? a : std::vector<double>{};
}

Evidence SpeedEvidence(const CellResults& results, const std::string& cell, const std::string& above,
                       const std::string& below) {
  constexpr size_t kLeast = 3;
  Evidence evidence;
  const std::vector<double> ratios = SpeedRatios(results, cell, above, below);
  if (ratios.size() >= kLeast) {
    evidence.interval = MedianOf(ratios);
    if (ratios.size() < 6) evidence.note = StrCat(ratios.size(), " samples: from the smallest to the largest");
  } else if (results.contains(cell)) {
    evidence.note = "void: the machine was not quiet";
  }
  return evidence;
}

std::optional<double> PeakBytes(const CellResults& results, const std::string& cell, const std::string& model) {
  const auto found = results.find(cell);
  if (found == results.end() || !found->second["peak_bytes"].contains(model)) return std::nullopt;
  return found->second["peak_bytes"][model].get<double>();
}

double PromptFlops(const ModelConfig& config, int64_t tokens) {
  const double head = 2.0 * static_cast<double>(config.vocab_size * config.d_model);
  return MeanForwardFlops(config, tokens) * static_cast<double>(tokens) - head * static_cast<double>(tokens - 1);
}

}  // namespace hydra::eval
