// SPDX-License-Identifier: Apache-2.0
// `hydralm generate`: continues a text. The text on stdout as it comes, all else on stderr. Not here: the loop
// (runtime/generate.h).
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verb_sampling.h"
#include "hydra/cli/verb_speculation.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/runtime/pins.h"
#include "hydra/text/grammar_mask.h"
#include "hydra/text/json_schema.h"

namespace hydra::cli {
namespace {

struct GenerateFlags {
  ModelFlags model;
  SamplingFlags sampling;
  SpeculationFlags speculation;
  std::string text, file, load, save, json_schema;
  int64_t max_tokens = 512;
  std::vector<std::string> stops, pins;
};

SequenceState SavedState(const GenerateFlags& flags, const Runner& runner) {
  SequenceState state = runner.LoadState(flags.load);
  state.SetControls(ApplyControls(flags.model, runner.model.config(), state.controls()));  // the others stay
  return state;
}

// A state that is to be saved may go on to the end of the context, whatever this prompt needs of it.
int64_t TokensAtMost(const GenerateFlags& flags, size_t prompt) {
  if (!flags.save.empty() || flags.max_tokens < 0) return -1;
  return static_cast<int64_t>(prompt) + flags.max_tokens;
}

// What is read before the new text; it may be empty where the saved state has a token to go on from.
std::vector<int32_t> PromptIds(const GenerateFlags& flags, const std::optional<std::string>& text,
                               const Tokenizer& tokenizer, const SequenceState* saved) {
  const bool begins = saved == nullptr || (saved->pos() == 0 && saved->pending().empty());
  std::vector<int32_t> prompt;
  if (text) prompt = tokenizer.Encode(*text, {.add_special = begins});
  if (prompt.empty() && (saved == nullptr || saved->pending().empty()))
    throw Error(ErrorCode::kUsage, flags.load.empty()
                                       ? fmt::format("generate: {}the prompt has no tokens",
                                                     flags.file.empty() ? "" : "-f " + flags.file + ": ")
                                       : fmt::format("generate: {} ends with its prompt: give -p TEXT", flags.load));
  return prompt;
}

// Pins of --pin: texts where the prompt has them.
void Pin(const GenerateFlags& flags, std::span<const int32_t> prompt, const Tokenizer& tokenizer,
         const ModelConfig& config, SequenceState* state) {
  if (flags.pins.empty()) return;
  std::vector<int64_t> pins = PinnedPositions(flags.pins, config);
  for (const std::string& text : PinnedTexts(flags.pins)) {
    const int64_t first = state->pos() + static_cast<int64_t>(state->pending().size());
    const std::vector<int64_t> found = PositionsOf(text, prompt, first, tokenizer);
    if (found.empty())
      throw Error(ErrorCode::kUsage,
                  fmt::format("--pin \"{}\": the prompt does not have this text", OneLine(text, 40)));
    pins.insert(pins.end(), found.begin(), found.end());
  }
  state->SetControls(WithPins(state->controls(), pins));
}

// Why the text ended, for people.
std::string EndText(const GenerateResult& result, const GenerateFlags& flags, const SequenceState& state,
                    const Generator& generator) {
  switch (result.reason) {
    case FinishReason::kLength: return fmt::format("length: -n {}", flags.max_tokens);
    case FinishReason::kContext: return fmt::format("context full: --ctx-size {}", generator.model.options().ctx_size);
    case FinishReason::kStop: return "stop string";
    case FinishReason::kComplete: return fmt::format("complete: --json-schema {}", flags.json_schema);
    case FinishReason::kCancelled: return "interrupted";
    case FinishReason::kEnd: break;
  }
  const int32_t id = state.pending().back();
  return fmt::format("end token {} (id {})",
                     id < generator.tokenizer.vocab_size() ? OneLine(generator.tokenizer.TokenText(id)) : "", id);
}

// What --json-schema says; null without.
std::shared_ptr<const Grammar> ReadGrammar(const GenerateFlags& flags) {
  constexpr uint64_t kMostBytes = uint64_t{16} << 20;
  if (flags.json_schema.empty()) return nullptr;
  const Json schema = ParseJson(ReadFile(flags.json_schema, kMostBytes), flags.json_schema);
  return std::make_shared<const Grammar>(JsonSchemaGrammar(schema, flags.json_schema));
}

std::unique_ptr<GrammarMatcher> MakeMatcher(std::shared_ptr<const Grammar> grammar, const Model& model,
                                            const Tokenizer& tokenizer, const std::vector<int32_t>& end_ids) {
  if (grammar == nullptr) return nullptr;
  auto trie = std::make_shared<const TokenTrie>(tokenizer, model.config().vocab_size);
  return std::make_unique<GrammarMatcher>(std::make_shared<GrammarMasks>(std::move(grammar), std::move(trie)), end_ids);
}

void PrintJson(const std::string& prompt, const GenerateResult& r, const SamplerOptions& sampling,
               const Speculation* speculation, const Json& plan) {
  Json json = {{"prompt", prompt},
               {"text", r.text},
               {"finish_reason", FinishReasonName(r.reason)},
               {"prompt_tokens", r.prompt_tokens},
               {"tokens", r.ids.size()}};
  if (sampling.temperature > 0) json["seed"] = sampling.seed;
  json["prefill_seconds"] = r.prefill_seconds;
  json["decode_seconds"] = r.decode_seconds;
  if (speculation != nullptr) json["speculation"] = SpeculationJson(*speculation);
  if (!plan.is_null()) json["plan"] = plan;
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void PrintStatistics(const GenerateResult& r, double load_seconds, uint64_t seed, double temperature) {
  const auto rate = [](int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0.0; };
  fmt::print(stderr, "load {:.2f} s | prompt {} tokens, {:.1f} tok/s | generated {} tokens, {:.1f} tok/s{}\n",
             load_seconds, r.prompt_tokens, rate(r.prompt_tokens, r.prefill_seconds), r.ids.size(),
             rate(r.steps, r.decode_seconds), temperature > 0 ? fmt::format(" | seed {}", seed) : " | greedy");
}

int RunGenerate(const GenerateFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  const auto text = PromptText(verb, flags.text, flags.file);
  if (!text && flags.load.empty())
    throw Error(ErrorCode::kUsage, "generate: no prompt; give -p TEXT, -f FILE or --state-load FILE");
  for (const auto& [flag, file] : {std::pair("--state-save", &flags.save), {"--state-load", &flags.load}})
    if (verb->count(flag) > 0 && file->empty())
      throw Error(ErrorCode::kUsage, fmt::format("{}: needs the name of a file: it is empty", flag));
  // Before a long answer, not after it.
  if (const auto folder = std::filesystem::path(flags.save).parent_path();
      !folder.empty() && !std::filesystem::is_directory(folder))
    throw Error(ErrorCode::kIo, fmt::format("--state-save {}: no such folder: {}", flags.save, folder.string()));
  const std::shared_ptr<const Grammar> grammar = ReadGrammar(flags);
  const GenerationConfig config = LoadWishes(flags.model.model);
  const SamplerOptions sampling = ResolveSampling(flags.sampling, verb, config);
  const double start = Seconds();
  const Runner runner =
      OpenRunner(flags.model, {.quiet = common.quiet, .provisional = flags.speculation.provisional()});
  const Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags.model);
  sampling.CheckIds(tokenizer.vocab_size());
  std::optional<SequenceState> saved;
  if (!flags.load.empty()) saved.emplace(SavedState(flags, runner));
  const double loaded = Seconds();

  const std::vector<int32_t> prompt = PromptIds(flags, text, tokenizer, saved ? &*saved : nullptr);
  SequenceState state = saved ? std::move(*saved)
                              : runner.NewState(ApplyControls(flags.model, runner.model.config()),
                                                runner.PlanLengthOf(TokensAtMost(flags, prompt.size())));
  WarnOfTwoBos(tokenizer, prompt);
  Pin(flags, prompt, tokenizer, runner.model.config(), &state);
  Sampler sampler(sampling);
  for (const int32_t id : state.ids()) sampler.Accept(id);
  for (const int32_t id : state.pending()) sampler.Accept(id);
  ForwardScratch scratch;
  const auto draft = OpenDraftModel(flags.speculation, flags.model, runner.model, tokenizer, *runner.pool);
  const auto speculation = MakeSpeculation(flags.speculation, runner.model, draft.get(), *runner.pool, scratch);
  const Generator generator{runner.model, tokenizer, *runner.pool, scratch};
  const std::vector<int32_t> end_ids = EndIds(runner.model, config, tokenizer);
  const auto matcher = MakeMatcher(grammar, runner.model, tokenizer, end_ids);
  const GenerateOptions options{.max_tokens = flags.max_tokens,
                                .end_ids = end_ids,
                                .stops = flags.stops,
                                .cancelled = StopRequested,
                                .continues = !flags.load.empty(),
                                .to_be_continued = !flags.save.empty(),
                                .speculation = speculation.get(),
                                .grammar = matcher.get()};
  generator.Check(state, prompt, options);
  runner.Announce();
  if (!common.quiet) fmt::print(stderr, "{}", DrafterMemory(speculation.get(), draft.get()));
  runner.AnnouncePlan(state.plan().length);
  if (common.verbose && !common.quiet) fmt::print(stderr, "sampling     {}\n", SamplingText(sampling));
  InstallStopSignals();
  // A character that the state has begun ends where another text begins.
  const std::string shown = prompt.empty() ? "" : generator.TailOf(state).Finish() + *text;
  if (!common.json && matcher == nullptr) Show(shown);  // a text that is held to a schema parses by itself
  const GenerateResult result =
      generator.Generate(state, sampler, prompt, options, common.json ? Generator::OnText() : Show);
  if (!common.json) Show("\n");
  if (matcher && result.reason != FinishReason::kComplete && !matcher->can_end())
    PrintWarnings({fmt::format("--json-schema {}: the text ends before it is complete", flags.json_schema)});
  if (!flags.save.empty()) state.Save(flags.save);
  if (common.json) {
    const Json plan =
        runner.plan ? runner.plan.About(state.plan().length, runner.model.options().kv_dtype) : Json(nullptr);
    PrintJson(shown, result, sampling, speculation.get(), plan);
  }
  if (common.quiet) return StopStatus();
  fmt::print(stderr, "end          {}\n", EndText(result, flags, state, generator));
  PrintStatistics(result, loaded - start, sampling.seed, sampling.temperature);
  if (speculation) fmt::print(stderr, "speculation  {}\n", SpeculationText(*speculation));
  return StopStatus();
}

}  // namespace

void AddGenerateVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* verb =
      context.AddVerb(root, kGenerateVerb, "hydralm generate -m runs/demo/model -p \"In the beginning\" -n 100");
  AddModelFlags(verb, &flags->model);
  verb->add_option("-p,--prompt", flags->text, "text to continue")->type_name("TEXT");
  verb->add_option("-f,--file", flags->file, "file to continue; - = stdin")->type_name("FILE");
  verb->add_option("-n,--n-predict", flags->max_tokens, "tokens at most; -1 = to the end")->check(Range(-1, 1 << 30));
  verb->add_option("--stop", flags->stops, "end before this text; repeatable")->type_name("TEXT");
  verb->add_option("--state-save", flags->save, "keep the sequence in a file")->type_name("FILE");
  verb->add_option("--state-load", flags->load, "go on from such a file; a prompt is read after it")->type_name("FILE");
  verb->add_option("--json-schema", flags->json_schema, "write JSON that fits this schema")->type_name("FILE");
  AddPinFlag(verb, &flags->pins);
  AddSamplingFlags(verb, &flags->sampling);
  AddSpeculationFlags(verb, &flags->speculation);
  AddRuntimeFlags(verb, &flags->model);
  AddMemoryFlags(verb, &flags->model);
  AddActivationFlag(verb, &flags->model);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunGenerate(*flags, verb, common); });
}

}  // namespace hydra::cli
