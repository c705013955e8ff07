// SPDX-License-Identifier: Apache-2.0
// `hydralm xray`: reads a text, writes some more, and shows what each token did in the model: as a table, as JSON
// lines, as a page. Not here: what is seen (runtime/xray.h), the page (xray_page.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verb_sampling.h"
#include "hydra/cli/verbs.h"
#include "hydra/cli/xray_page.h"
#include "hydra/io/file.h"
#include "hydra/runtime/generate.h"

namespace hydra::cli {
namespace {

struct XrayFlags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string text, file, page, lines;
  int64_t max_tokens = 32;
};

// The parts of each layer, by their names.
Json PartsOf(const ModelConfig& config) {
  Json layers = Json::array();
  for (const LayerConfig& layer : config.layers) {
    Json parts = Json::array();
    if (layer.ssm) parts.push_back("ssm");
    if (layer.attention != AttentionKind::kNone) parts.push_back("sga");
    if (layer.ffn != FfnKind::kNone) parts.push_back("moe");
    if (layer.workspace) parts.push_back("workspace");
    if (layer.pkm) parts.push_back("pkm");
    layers.push_back(parts);
  }
  return layers;
}

void PrintHead() {
  fmt::print("{:>6}  {:<16} {:>7} {:>8} {:>8}  {:<24} {:<24} {}\n", "pos", "token", "nats", "MB", "ms",
             "experts by layer", "landmark read most", "read gates: workspace, product keys");
}

// What fits a line: of each kind the layers together.
void PrintLine(const XrayToken& token, const std::string& text, const std::vector<std::string>& texts) {
  std::string experts, gates;
  Weighted landmark;
  for (size_t i = 0; i < token.trace.layers.size(); ++i) {
    const LayerTrace& layer = token.trace.layers[i];
    if (!layer.experts.empty()) {
      std::string ids;
      for (const Weighted& expert : layer.experts) ids += fmt::format("{}{}", ids.empty() ? "" : "+", expert.id);
      experts += fmt::format("{}{}:{}", experts.empty() ? "" : " ", i, ids);
    }
    if (!layer.landmarks.empty() && layer.landmarks[0].weight > landmark.weight) landmark = layer.landmarks[0];
    if (!layer.slots_read.empty()) gates += fmt::format("{}w {:.2f}", gates.empty() ? "" : ", ", layer.workspace_gate);
    if (!layer.rows.empty()) gates += fmt::format("{}k {:.2f}", gates.empty() ? "" : ", ", layer.pkm_gate);
  }
  std::string read;
  if (landmark.weight > 0) {
    const auto at = static_cast<size_t>(landmark.id);
    read =
        fmt::format("{} \"{}\" {:.2f}", landmark.id, at < texts.size() ? OneLine(texts[at], 10) : "?", landmark.weight);
  }
  fmt::print("{:>6}{} {:<16} {:>7} {:>8.2f} {:>8.2f}  {:<24} {:<24} {}\n", token.trace.position,
             token.generated ? "*" : " ", OneLine(text, 16),
             std::isnan(token.entropy) ? "" : fmt::format("{:.2f}", token.entropy), token.bytes / 1e6,
             1e3 * token.seconds, experts, read, gates);
}

// Before a long text, not after it.
void CheckOutputs(const XrayFlags& flags) {
  for (const auto& [flag, file] : {std::pair("-o", &flags.page), {"--jsonl", &flags.lines}}) {
    if (file->empty()) continue;
    const auto folder = std::filesystem::path(*file).parent_path();
    if (!folder.empty() && !std::filesystem::is_directory(folder))
      throw Error(ErrorCode::kIo, fmt::format("{} {}: no such folder: {}", flag, *file, folder.string()));
  }
}

int RunXray(const XrayFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  const auto text = PromptText(verb, flags.text, flags.file);
  if (!text) throw Error(ErrorCode::kUsage, "xray: no text; give -p TEXT or -f FILE");
  CheckOutputs(flags);
  const GenerationConfig config = LoadWishes(flags.model.model);
  const SamplerOptions sampling = ResolveSampling(flags.sampling, verb, config);
  const Runner runner = OpenRunner(flags.model, {.quiet = common.quiet});
  const Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags.model);
  sampling.CheckIds(tokenizer.vocab_size());
  const std::vector<int32_t> prompt = tokenizer.Encode(*text, {.add_special = true});
  if (prompt.empty()) throw Error(ErrorCode::kUsage, "xray: the text has no tokens");
  const auto most = static_cast<int64_t>(prompt.size()) + flags.max_tokens;
  SequenceState state = runner.NewState(ApplyControls(flags.model, runner.model.config()), runner.PlanLengthOf(most));
  Sampler sampler(sampling);
  ForwardScratch scratch;
  const Generator generator{runner.model, tokenizer, *runner.pool, scratch};
  Json tokens = Json::array();
  std::vector<std::string> texts;
  std::string lines;
  const bool table = !common.json && !common.quiet;
  const auto on_xray = [&](const XrayToken& token) {
    texts.push_back(TextOfTokens(tokenizer, {&token.trace.id, 1}));
    Json one = XrayJson(token);
    one["text"] = texts.back();
    if (table) PrintLine(token, texts.back(), texts);
    if (!flags.lines.empty()) lines += one.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    tokens.push_back(std::move(one));
  };
  const GenerateOptions options{.max_tokens = flags.max_tokens,
                                .end_ids = EndIds(runner.model, config, tokenizer),
                                .cancelled = StopRequested,
                                .on_xray = on_xray,
                                .prompt_entropy = true};
  generator.Check(state, prompt, options);
  runner.Announce();
  runner.AnnouncePlan(state.plan().length);
  InstallStopSignals();
  if (table) PrintHead();
  (void)generator.Generate(state, sampler, prompt, options, {});
  if (!state.pending().empty() && state.pos() < state.layout().most_tokens && !StopRequested()) {
    // The last token that was picked is read as well, so that the X-ray has all of the text.
    const std::vector<int32_t> last(state.pending().begin(), state.pending().end());
    state.SetPending({});
    GenerateOptions end = options;
    end.max_tokens = 1;
    end.on_xray = [&](XrayToken token) {
      token.generated = flags.max_tokens > 0;
      on_xray(token);
    };
    (void)generator.Generate(state, sampler, last, end, {});
  }
  const Json xray{
      {"model", ModelName(runner.model.path())}, {"layers", PartsOf(runner.model.config())}, {"tokens", tokens}};
  if (!flags.lines.empty()) WriteFileAtomic(flags.lines, lines);
  if (!flags.page.empty()) WriteFileAtomic(flags.page, XrayPage(xray));
  if (common.json) fmt::print("{}\n", xray.dump(-1, ' ', false, Json::error_handler_t::replace));
  if (!common.quiet && !flags.page.empty()) fmt::print(stderr, "page         {}\n", flags.page);
  return StopStatus();
}

}  // namespace

void AddXrayVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<XrayFlags>();
  CLI::App* verb =
      context.AddVerb(root, kXrayVerb, "hydralm xray -m runs/demo/model -p \"In the beginning\" -o xray.html");
  AddModelFlags(verb, &flags->model);
  verb->add_option("-p,--prompt", flags->text, "text to read")->type_name("TEXT");
  verb->add_option("-f,--file", flags->file, "file to read; - = stdin")->type_name("FILE");
  verb->add_option("-n,--n-predict", flags->max_tokens, "tokens to write behind it at most; 0 = none")
      ->check(Range(0, 1 << 20));
  verb->add_option("-o,--output", flags->page, "a page with heat maps and the details of each token")
      ->type_name("FILE.html");
  verb->add_option("--jsonl", flags->lines, "a line of JSON for each token")->type_name("FILE");
  AddSamplingFlags(verb, &flags->sampling);
  AddRuntimeFlags(verb, &flags->model);
  AddMemoryFlags(verb, &flags->model);
  AddActivationFlag(verb, &flags->model);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunXray(*flags, verb, common); });
}

}  // namespace hydra::cli
