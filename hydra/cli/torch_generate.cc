// SPDX-License-Identifier: Apache-2.0
// `hydralm generate`: continues a text with the training form, one token a step. Text on stdout as it comes,
// statistics on stderr.
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>

#include "hydra/cli/cli.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/cli/verbs.h"
#include "hydra/core/error.h"
#include "hydra/core/stop_strings.h"
#include "hydra/core/tokenizer.h"
#include "hydra/nn/generate.h"

namespace hydra::cli {
namespace {

struct GenerateFlags {
  ModelFlags model;
  std::string text, file;
  int64_t max_tokens = 512;
  int64_t seed = -1;
  std::vector<std::string> stops, logit_bias;
  SamplerOptions sampler;
};

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// "ID=V"
std::pair<int32_t, double> ParseBias(const std::string& text) {
  int id = 0;
  double value = 0;
  char rest = 0;
  if (std::sscanf(text.c_str(), "%d=%lf%c", &id, &value, &rest) != 2)
    throw Error(ErrorCode::kUsage, StrCat("--logit-bias ", text, ": must be ID=VALUE"));
  return {id, value};
}

nn::GenerateOptions Options(const GenerateFlags& flags, const nn::Model& model, const Tokenizer& tokenizer) {
  nn::GenerateOptions o;
  o.max_tokens = flags.max_tokens;
  o.sampler = flags.sampler;
  o.sampler.seed = flags.seed >= 0 ? static_cast<uint64_t>(flags.seed) : std::random_device{}();
  for (const std::string& bias : flags.logit_bias) o.sampler.logit_bias.push_back(ParseBias(bias));
  o.controls = ParseControls(flags.model.controls);
  if (model->config().eos_token_id) o.end_ids.push_back(*model->config().eos_token_id);
  if (tokenizer.eos_id()) o.end_ids.push_back(*tokenizer.eos_id());
  return o;
}

int RunGenerate(const GenerateFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  InstallStopSignals();
  const auto text = PromptText(verb, flags.text, flags.file);
  if (!text) throw Error(ErrorCode::kUsage, "generate: no prompt; give -p TEXT or -f FILE");
  const double start = Seconds();
  const nn::Model model = OpenModel(flags.model);
  const Tokenizer tokenizer = Tokenizer::Load(flags.model.model);
  if (tokenizer.vocab_size() > model->config().vocab_size)
    throw Error(ErrorCode::kConfig, StrCat(flags.model.model, ": tokenizer.json has ", tokenizer.vocab_size(),
                                           " tokens, config.json says vocab_size = ", model->config().vocab_size));
  const nn::GenerateOptions options = Options(flags, model, tokenizer);
  std::vector<int64_t> prompt;
  for (const int32_t id : tokenizer.Encode(*text, {.add_special = true})) prompt.push_back(id);
  const double loaded = Seconds();

  double first = 0;
  Utf8Stream utf8;
  StopStrings stops(flags.stops);
  const auto show = [](const std::string& piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  show(*text);
  const auto out = nn::Generate(model, prompt, options, [&](int64_t id) {
    if (first == 0) first = Seconds();
    if (id < tokenizer.vocab_size()) show(stops.Feed(utf8.Push(tokenizer.TokenBytes(static_cast<int32_t>(id)))));
    return !stops.stopped() && !StopRequested();
  });
  show(stops.Feed(utf8.Finish()) + stops.Finish());
  show("\n");
  if (!common.quiet) {
    const double end = Seconds(), until_first = (first > 0 ? first : end) - loaded;
    std::fprintf(stderr, "load %.2f s | prompt %zu tokens, %.1f tok/s | generated %zu tokens, %.1f tok/s | seed %llu\n",
                 loaded - start, prompt.size(), static_cast<double>(prompt.size()) / until_first, out.size(),
                 first > 0 ? static_cast<double>(out.size()) / (end - first) : 0.0,
                 static_cast<unsigned long long>(options.sampler.seed));
  }
  return StopStatus();
}

}  // namespace

void AddGenerateVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* verb = context.AddVerb(root, kGenerateVerb, "hydralm generate -m runs/demo/model -p \"In the beginning\" -n 100");
  AddModelFlags(verb, &flags->model);
  verb->add_option("-p,--prompt", flags->text, "text to continue")->type_name("TEXT");
  verb->add_option("-f,--file", flags->file, "file to continue; - = stdin")->type_name("FILE");
  verb->add_option("-n,--n-predict", flags->max_tokens, "tokens at most; -1 = to the end")->check(Range(-1, 1 << 30));
  verb->add_option("--stop", flags->stops, "end before this text; repeatable")->type_name("TEXT");
  verb->add_option("--seed", flags->seed, "random numbers; -1 = a new seed each time, printed");
  SamplerOptions& s = flags->sampler;
  verb->add_option("--repeat-penalty", s.repeat_penalty, "divides logits of recent tokens; 1 = off");
  verb->add_option("--repeat-last-n", s.repeat_last_n, "recent tokens that penalties look at");
  verb->add_option("--presence-penalty", s.presence_penalty, "off the logit of each recent token");
  verb->add_option("--frequency-penalty", s.frequency_penalty, "the same for each time it occurs");
  verb->add_option("--top-k", s.top_k, "the k best tokens; 0 = off");
  verb->add_option("--top-p", s.top_p, "the best tokens of this mass; 1 = off");
  verb->add_option("--min-p", s.min_p, "least share of the best one's probability; 0 = off");
  verb->add_option("--temp", s.temperature, "temperature; 0 = greedy");
  verb->add_option("--logit-bias", flags->logit_bias, "ID=VALUE added to a logit; repeatable")->type_name("ID=VALUE");
  context.AddQuietFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunGenerate(*flags, verb, common); });
}

}  // namespace hydra::cli
