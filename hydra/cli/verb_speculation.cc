// SPDX-License-Identifier: Apache-2.0
// Opens drafters for the verbs of hydralm and says what came of their guesses.
#include "hydra/cli/verb_speculation.h"

#include <fmt/format.h>

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/io/file.h"
#include "hydra/runtime/drafter.h"
#include "hydra/runtime/weights.h"

namespace hydra::cli {
namespace {

// Guesses are ids: both models must mean the same by each.
void CheckSameTokens(const std::string& path, const Tokenizer& theirs, const Tokenizer& ours) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kUsage, fmt::format("--spec {}: its tokenizer is another one: {}", path, why));
  };
  if (theirs.vocab_size() != ours.vocab_size())
    refuse(fmt::format("it has {} tokens, the model's {}", theirs.vocab_size(), ours.vocab_size()));
  for (int32_t id = 0; id < ours.vocab_size(); ++id)
    if (theirs.TokenBytes(id) != ours.TokenBytes(id))
      refuse(fmt::format("token {} is \"{}\" there and \"{}\" here", id, OneLine(theirs.TokenBytes(id), 40),
                         OneLine(ours.TokenBytes(id), 40)));
}

// "0-3,8" behind self: as ascending numbers.
std::vector<int64_t> ParseLayers(const std::string& drafter, int64_t n_layers) {
  std::vector<int64_t> layers;
  const std::string where = "--spec " + drafter;
  const auto number = [&](std::string_view text) { return ParseWholeNumber(text, 0, n_layers - 1, where); };
  std::string_view rest = drafter;
  rest.remove_prefix(std::string_view("self:").size());
  while (true) {
    const size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    const size_t dash = part.find('-');
    const int64_t first = number(part.substr(0, dash));
    const int64_t last = dash == std::string_view::npos ? first : number(part.substr(dash + 1));
    if (last < first)
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: layers {} to {} are none: the second must not be the smaller", where, first, last));
    for (int64_t layer = first; layer <= last; ++layer) layers.push_back(layer);
    if (comma == std::string_view::npos) return layers;
    rest.remove_prefix(comma + 1);
  }
}

double Ratio(int64_t a, int64_t b) { return b > 0 ? static_cast<double>(a) / static_cast<double>(b) : 0; }

double BytesPerToken(const SpeculationStats& stats) { return Ratio(stats.moved.total(), stats.tokens); }

}  // namespace

void AddSpeculationFlags(CLI::App* verb, SpeculationFlags* flags) {
  verb->add_option("--spec", flags->drafter,
                   "guess tokens ahead: off, ngram, self (without experts; self:0-5,9 only layers of "
                   "BlockFFN) or a smaller model")
      ->type_name("DRAFTER");
  verb->add_option("--spec-n", flags->most, "guesses of a pass at most")->check(Range(1, kProvisionalTokens - 1));
}

std::unique_ptr<Model> OpenDraftModel(const SpeculationFlags& flags, const ModelFlags& model_flags, const Model& model,
                                      const Tokenizer& tokenizer, ThreadPool& pool) {
  if (flags.drafter.empty()) throw Error(ErrorCode::kUsage, "--spec: must be off, ngram, self or a model: it is empty");
  if (!flags.on() || flags.drafter == "ngram") return nullptr;
  if (flags.self() && SelfDraftsByLayers(model.config())) {
    SelfDraftOptions options;
    if (flags.drafter != "self") options.layers = ParseLayers(flags.drafter, model.config().n_layers());
    return std::make_unique<Model>(SelfDraftModel(model, options));
  }
  if (flags.self() && flags.drafter != "self")
    throw Error(ErrorCode::kUsage,
                fmt::format("--spec {}: only BlockFFN's drafter has layers to choose", flags.drafter));
  if (flags.self()) return nullptr;
  ModelFlags theirs = model_flags;
  theirs.model = flags.drafter;
  theirs.controls.clear();
  theirs.control_profile.clear();
  theirs.budget.clear();
  theirs.pre.clear();
  auto draft = std::make_unique<Model>(
      OpenBeside(theirs, {.quiet = true, .ctx = model.options().ctx_size, .provisional = 2 * (flags.most + 1)}, pool));
  CheckSameTokens(flags.drafter, LoadTokenizer(flags.drafter), tokenizer);
  return draft;
}

std::unique_ptr<Speculation> MakeSpeculation(const SpeculationFlags& flags, const Model& model, const Model* draft,
                                             ThreadPool& pool, ForwardScratch& scratch) {
  if (!flags.on()) return nullptr;
  const int most = static_cast<int>(flags.most);
  const auto by_model = [&](const std::string& name, const Model& guesses, const Controls& controls) {
    const int64_t vocab = std::min(model.config().vocab_size, guesses.weights().head.rows);
    return std::make_unique<ModelDrafter>(name, guesses, controls, most, vocab, pool, scratch);
  };
  std::unique_ptr<Drafter> drafter;
  if (draft != nullptr)
    drafter = by_model(flags.self() ? flags.drafter : ModelName(flags.drafter), *draft, Controls());
  else if (flags.self())
    drafter = by_model("self", model, SelfDraftControls(model.config()));
  else
    drafter = std::make_unique<NgramDrafter>();
  return std::make_unique<Speculation>(std::move(drafter), most);
}

std::string DrafterMemory(const Speculation* speculation, const Model* draft) {
  if (speculation == nullptr || speculation->drafter().name() == "ngram") return "";
  std::string weights;
  const int64_t bytes = draft == nullptr ? 0 : draft->weights().file_bytes + draft->weights().copied_bytes;
  if (bytes > 0) weights = fmt::format("{} of weights, ", MiB(bytes));  // a part of the model has none of its own
  return fmt::format("drafter      {}: {}{} of state and passes (MiB)\n", speculation->drafter().name(), weights,
                     MiB(speculation->drafter().bytes()));
}

std::string SpeculationText(const Speculation& speculation) {
  const SpeculationStats& stats = speculation.stats();
  std::string text = fmt::format("{}: {} tokens in {} passes, {:.2f} a pass", speculation.drafter().name(),
                                 stats.tokens, stats.passes, Ratio(stats.tokens, stats.passes));
  std::string rates, tried;
  for (size_t i = 0; i < stats.tried.size() && stats.tried[i] > 0; ++i) {
    rates += fmt::format(" {:.2f}", Ratio(stats.right[i], stats.tried[i]));
    tried += fmt::format(" {}", stats.tried[i]);
  }
  text += rates.empty() ? "; no guesses" : fmt::format("; right{} of{} guesses by place", rates, tried);
  return text + fmt::format("; {:.1f} MB a token", BytesPerToken(stats) / 1e6);
}

Json SpeculationJson(const Speculation& speculation) {
  const SpeculationStats& stats = speculation.stats();
  return {{"drafter", speculation.drafter().name()},
          {"tokens", stats.tokens},
          {"passes", stats.passes},
          {"plain_passes", stats.plain},
          {"tried", stats.tried},
          {"right", stats.right},
          {"tokens_per_pass", Ratio(stats.tokens, stats.passes)},
          {"bytes_per_token", BytesPerToken(stats)},
          {"pass_seconds", stats.pass_seconds},
          {"draft_seconds", stats.draft_seconds},
          {"bytes", speculation.bytes()}};
}

}  // namespace hydra::cli
