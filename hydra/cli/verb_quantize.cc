// SPDX-License-Identifier: Apache-2.0
// `hydralm quantize`: a GGUF file with smaller weights; of a preset with random ones, to see what a size costs.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_convert_files.h"
#include "hydra/cli/verbs.h"
#include "hydra/convert/quantize.h"
#include "hydra/convert/random_model.h"
#include "hydra/io/json.h"

namespace hydra::cli {
namespace {

struct QuantizeFlags {
  std::string source, preset, target, pre, type = "q8_0";
};

// A preset's model as nobody trained it, in bf16.
WeightSource OpenPreset(const std::string& preset, std::vector<std::string>* /*warnings*/) {
  return RandomWeights(Preset(preset), {.type = WeightType::kBF16});
}

// The tensors whose values changed most, worst first.
std::vector<TensorChange> WorstChanges(const ConvertReport& report) {
  constexpr size_t kShown = 5;
  std::vector<TensorChange> all = report.changes;
  std::ranges::stable_sort(all, std::ranges::greater(), &TensorChange::error);
  all.resize(std::min(all.size(), kShown));
  return all;
}

int RunQuantize(const QuantizeFlags& flags, const CommonFlags& common) {
  if (!flags.target.empty() && !flags.target.ends_with(".gguf"))
    throw Error(ErrorCode::kUsage, StrCat("-o ", flags.target, ": quantised weights go into a .gguf file"));
  const QuantRecipe recipe = *ParseQuantRecipe(flags.type);
  if (flags.source.empty() == flags.preset.empty())
    throw Error(ErrorCode::kUsage, "quantize: give a model, or --preset in its place");
  const bool random = !flags.preset.empty();
  const WeightSource source = random ? OpenSource(flags.preset, flags.target, TargetKind::kGguf, OpenPreset)
                                     : OpenSource(flags.source, flags.target, TargetKind::kGguf, OpenWeights);
  const TypeOfTensor type_of = [&](const TensorSpec& spec) { return QuantisedType(source.config, spec, recipe); };
  const ConvertReport report = random ? WriteModelGguf(source, flags.target, type_of, {})
                                      : WriteGgufModel(source, flags.target, type_of, flags.pre);
  const auto worst = WorstChanges(report);
  const std::string note = ExpertDownNote(source.config, recipe);
  const double share =
      static_cast<double>(report.bytes_after) / static_cast<double>(std::max<int64_t>(report.bytes_before, 1));
  if (common.json) {
    nlohmann::ordered_json json = ReportJson(flags.target, report);
    json["type"] = flags.type;
    json["tensors"] = report.written;
    if (!note.empty()) json["note"] = note;
    for (const TensorChange& c : worst)
      json["worst"].push_back(
          {{"name", c.name}, {"from", Info(c.from).name}, {"to", Info(c.to).name}, {"error", c.error}});
    fmt::print("{}\n", DumpJson(json));
    return kDone;
  }
  fmt::print("{}: {} tensors; {} ({:.1f}%)\n", flags.target, report.written, BytesText(report), 100 * share);
  const auto is_k = [](const TensorChange& c) { return c.to == WeightType::kQ4_K; };
  if (flags.type == "q4_k_m" && std::none_of(report.changes.begin(), report.changes.end(), is_k))
    fmt::print("  no tensor is Q4_K: it takes rows of a multiple of 256, those of this model are in Q8_0\n");
  if (!note.empty()) fmt::print("  {}\n", note);
  if (share > 1) fmt::print("  larger than before: {} holds more bits than the file's types\n", flags.type);
  for (const TensorChange& c : worst)
    fmt::print("  {:<44} {} -> {}  relative error {:.4f}\n", c.name, Info(c.from).name, Info(c.to).name, c.error);
  return kDone;
}

}  // namespace

void AddQuantizeVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<QuantizeFlags>();
  CLI::App* verb = context.AddVerb(root, kQuantizeVerb, "hydralm quantize runs/demo/model -o nano-q8.gguf --type q8_0");
  verb->add_option("SOURCE", flags->source, "model folder, .gguf or .safetensors file")->type_name("PATH");
  verb->add_option("--preset", flags->preset, "in its place a model by name with random weights, without a tokenizer")
      ->type_name("NAME");
  verb->add_option("-o,--output", flags->target, "the .gguf file to write")->required()->type_name("FILE.gguf");
  verb->add_option("--type", flags->type, "q8_0, q4_0, q4_1 or q4_k_m (Q4_K, with Q6_K where it matters)")
      ->check(CLI::IsMember({"q8_0", "q4_0", "q4_1", "q4_k_m"}));
  AddPreFlag(verb, &flags->pre);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunQuantize(*flags, common); });
}

}  // namespace hydra::cli
