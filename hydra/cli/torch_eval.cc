// SPDX-License-Identifier: Apache-2.0
// `hydralm eval`: loss, perplexity and bits per byte of a model folder on held-out shards or a text file, and the
// loss by position in the document. Not here: how they are computed (eval/perplexity.h).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/cli/verbs.h"
#include "hydra/eval/control_losses.h"
#include "hydra/eval/domain_losses.h"
#include "hydra/eval/expert_sparsity.h"
#include "hydra/eval/perplexity.h"
#include "hydra/eval/word_accuracy.h"
#include "hydra/io/file.h"

namespace hydra::cli {
namespace {

struct EvalFlags {
  ModelFlags model;
  std::string task = "ppl", data, file, output, split = "val";
  int64_t ctx = 0, max_tokens = 0;
  TextFlags special;
};

std::string Joined(const std::vector<std::string>& words, const char* between) {
  std::string text;
  for (const std::string& word : words) text += StrCat(text.empty() ? "" : between, word);
  return text;
}

void PrintTable(const eval::PerplexityResult& result) {
  std::printf("loss %.4f nats a token | perplexity %.3f | %.4f bits per byte\n", result.loss(), result.perplexity(),
              result.bits_per_byte());
  const auto count = [](int64_t n) { return WithCommas(static_cast<uint64_t>(n)); };
  const bool all = result.sums.documents == result.documents;
  std::printf("%s tokens predicted, %s bytes, %s documents, context %s\n\n", count(result.sums.tokens).c_str(),
              count(result.sums.bytes).c_str(),
              (all ? count(result.documents) : count(result.sums.documents) + " of " + count(result.documents)).c_str(),
              count(result.ctx).c_str());
  std::printf("%-14s %10s %8s\n", "position", "tokens", "loss");
  for (const train::PositionBucket& bucket : result.sums.by_position)
    std::printf("%-14s %10s %8.4f\n", StrCat(bucket.begin, " - ", bucket.end - 1).c_str(),
                WithCommas(static_cast<uint64_t>(bucket.tokens)).c_str(), bucket.loss());
}

// Writes the table of --budget, by default into the model's folder.
int EvalControls(const EvalFlags& flags, nn::Model& model, const Tokenizer& tokenizer, eval::PerplexityOptions options,
                 const CommonFlags& common) {
  constexpr int64_t kTokens = 32768;
  if (options.max_tokens == 0) options.max_tokens = kTokens;
  const std::string path = flags.output.empty() ? ControlTablePath(flags.model.model) : flags.output;
  const bool table = !common.quiet && !common.json;
  if (table) std::printf("| controls | active parameters | bits per byte |\n| --- | ---: | ---: |\n");
  const ControlTable made =
      eval::MeasureControls(model, tokenizer, flags.data, flags.split, options, [&](const ControlTable::Row& row) {
        if (!table) return;
        std::printf("| %s | %s | %.4f |\n", ControlsText(row.controls).c_str(),
                    WithCommas(static_cast<uint64_t>(row.active)).c_str(), row.loss);
        std::fflush(stdout);
      });
  made.Save(path);
  if (common.json)
    std::puts(ReadFile(path).c_str());
  else if (!common.quiet)
    std::fprintf(stderr, "table        %s: hydralm generate --budget N takes the best that fits\n", path.c_str());
  return kDone;
}

// A column for each set that is forced.
int EvalDomains(const EvalFlags& flags, nn::Model& model, const Tokenizer& tokenizer, eval::PerplexityOptions options,
                const CommonFlags& common) {
  const std::vector<ExpertDomain>& domains = model.config().moe.domains;
  const bool table = !common.quiet && !common.json;
  if (table) {
    std::string head = "| documents of | tokens | in their set | by chance | nothing forced |", line = "| --- |";
    for (const ExpertDomain& domain : domains) head += StrCat(" set of ", OneLine(domain.name, 24), " |");
    for (size_t i = 0; i < 4 + domains.size(); ++i) line += " ---: |";
    std::printf("%s\n%s\n", head.c_str(), line.c_str());
  }
  const auto rows =
      eval::MeasureDomains(model, tokenizer, flags.data, flags.split, options, [&](const eval::DomainLosses& row) {
        if (!table) return;
        std::printf("| %s | %s | %.3f | %.3f | %.4f |", OneLine(row.domain, 24).c_str(),
                    WithCommas(static_cast<uint64_t>(row.tokens)).c_str(), row.in_set, row.chance, row.free);
        for (const double loss : row.forced) std::printf(" %.4f |", loss);
        std::printf("\n");
        std::fflush(stdout);
      });
  if (!common.json) return kDone;
  Json list = Json::array();
  for (const eval::DomainLosses& row : rows) {
    Json forced = Json::object();
    for (size_t i = 0; i < domains.size(); ++i) forced[domains[i].name] = row.forced[i];
    list.push_back({{"domain", row.domain},
                    {"documents", row.documents},
                    {"tokens", row.tokens},
                    {"in_set", row.in_set},
                    {"chance", row.chance},
                    {"bits_per_byte", row.free},
                    {"forced", forced}});
  }
  std::puts(Json{{"domains", list}}.dump().c_str());
  return kDone;
}

// A line for each layer, then their mean.
int EvalSparsity(const EvalFlags& flags, nn::Model& model, const Tokenizer& tokenizer,
                 const eval::PerplexityOptions& options, const CommonFlags& common) {
  constexpr int64_t kDeadAfter = 1'000'000;
  const nn::SparsityByLayer counted = eval::MeasureSparsity(model, tokenizer, flags.data, flags.split, options);
  std::vector<std::string> head{"layer", "TLS"};
  for (const int64_t window : SparsityCounter::kWindows) head.push_back(StrCat("CLS_", window));
  head.insert(head.end(), {"reuse", "union of 8", "dead"});
  std::vector<double> means(head.size() - 1, 0);
  std::vector<std::vector<double>> rows;
  for (const auto& [layer, counter] : counted) {
    std::vector<double> row{counter.token_sparsity()};
    for (const int64_t window : SparsityCounter::kWindows) row.push_back(counter.chunk_sparsity(window));
    row.insert(row.end(), {counter.reuse(), counter.union_growth(8), static_cast<double>(counter.dead(kDeadAfter))});
    for (size_t i = 0; i < row.size(); ++i) means[i] += row[i] / static_cast<double>(counted.size());
    rows.push_back(std::move(row));
  }
  if (common.json) {
    Json layers = Json::array();
    const auto json_of = [&](const std::vector<double>& row) {
      Json json = Json::object();
      for (size_t i = 0; i < row.size(); ++i) json[head[i + 1]] = std::isfinite(row[i]) ? Json(row[i]) : Json();
      return json;
    };
    size_t at = 0;
    for (const auto& [layer, counter] : counted) {
      layers.push_back(json_of(rows[at++]));
      layers.back()["layer"] = layer;
      layers.back()["tokens"] = counter.tokens();
      layers.back()["active_experts"] = counter.histogram();
    }
    std::puts(Json{{"layers", layers}, {"mean", json_of(means)}}.dump().c_str());
    return kDone;
  }
  if (common.quiet) return kDone;
  std::string line = "|";
  for (size_t i = 0; i < head.size(); ++i) line += " ---: |";
  std::printf("| %s |\n%s\n", Joined(head, " | ").c_str(), line.c_str());
  const auto print = [&](const std::string& name, const std::vector<double>& row) {
    std::printf("| %s |", name.c_str());
    for (size_t i = 0; i + 1 < row.size(); ++i) std::printf(std::isfinite(row[i]) ? " %.4f |" : " |", row[i]);
    std::printf(" %g |\n", row.back());
  };
  size_t at = 0;
  for (const auto& [layer, counter] : counted) print(std::to_string(layer), rows[at++]);
  print("mean", means);
  return kDone;
}

int EvalWords(const EvalFlags& flags, nn::Model& model, const Tokenizer& tokenizer,
              const eval::PerplexityOptions& options, const CommonFlags& common) {
  const eval::WordAccuracy made = eval::MeasureWords(model, tokenizer, flags.data, flags.split, options);
  if (common.json) {
    std::puts(
        Json{{"words", made.words}, {"right", made.right}, {"accuracy", made.accuracy()}, {"chance", made.chance()}}
            .dump()
            .c_str());
  } else {
    std::printf("%s of %s words predicted whole: %.4f (%.4f by always saying the commonest)\n",
                WithCommas(static_cast<uint64_t>(made.right)).c_str(),
                WithCommas(static_cast<uint64_t>(made.words)).c_str(), made.accuracy(), made.chance());
  }
  return kDone;
}

int RunEval(const EvalFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  if (const std::vector<std::string> known{"ppl", "controls", "domains", "sparsity", "words"};
      std::ranges::find(known, flags.task) == known.end())
    throw Error(ErrorCode::kUsage, StrCat("eval: unknown task ", flags.task, DidYouMean(flags.task, known), ": ",
                                          Joined(known, ", "), " are known"));
  if (flags.task != "ppl" && !flags.file.empty())
    throw Error(ErrorCode::kUsage, StrCat("eval ", flags.task, ": give --data DIR"));
  if (flags.task != "controls" && !flags.output.empty())
    throw Error(ErrorCode::kUsage, "eval: -o is for eval controls");
  if (flags.data.empty() == flags.file.empty())
    throw Error(ErrorCode::kUsage, "eval: give either --data DIR (made by hydralm data build) or -f FILE (a text)");
  if (flags.split != "train" && flags.split != "val")
    throw Error(ErrorCode::kUsage, StrCat("eval: --split ", flags.split, ": must be train or val"));
  if (flags.file.empty()) RefuseTextFlags(verb, "is for -f; shards are tokens already");
  nn::Model model = OpenModel(flags.model);
  const Tokenizer tokenizer = LoadTokenizer(flags.model.model, flags.model.pre);
  const eval::PerplexityOptions options{.ctx = flags.ctx,
                                        .max_tokens = flags.max_tokens,
                                        .text = flags.special.Options(),
                                        .device = train::ResolveDevice(flags.model.device),
                                        .forward = {.controls = ApplyControls(flags.model, model.config())}};
  if (flags.task == "controls" && options.forward.controls != Controls())
    throw Error(ErrorCode::kUsage, "eval controls: measures settings of its own: leave --control and its like out");
  if (flags.task == "controls") return EvalControls(flags, model, tokenizer, options, common);
  if (flags.task == "sparsity") return EvalSparsity(flags, model, tokenizer, options, common);
  if (flags.task == "words") return EvalWords(flags, model, tokenizer, options, common);
  if (flags.task == "domains") return EvalDomains(flags, model, tokenizer, options, common);
  const eval::PerplexityResult result =
      flags.file.empty() ? eval::EvaluateShards(model, tokenizer, flags.data, flags.split, options)
                         : eval::EvaluateText(model, tokenizer, ReadText(flags.file), flags.file, options);
  if (!std::isfinite(result.loss()))
    throw Error(ErrorCode::kData, StrCat(flags.model.model, ": its loss is ", result.loss(),
                                         ": a number of its weights is not finite, or grows beyond all bounds"));
  if (common.json) {
    std::puts(eval::ToJson(result).dump().c_str());
  } else {
    PrintTable(result);
  }
  return kDone;
}

}  // namespace

void AddEvalVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* verb = context.AddVerb(root, kEvalVerb, "hydralm eval -m runs/nano/model --data data/nano");
  verb->add_option(
          "task,--task", flags->task,
          "ppl: loss, perplexity, bits per byte; controls: the loss of each setting of controls, for --budget;\n"
          "domains: the loss of each domain with each set of experts; sparsity: of BlockFFN's layers;\n"
          "words: the share of words that are predicted whole")
      ->type_name("TASK");
  AddModelFlags(verb, &flags->model);
  verb->add_option("--data", flags->data, "folder of token shards")->type_name("DIR");
  verb->add_option("--split", flags->split, "split of --data")->type_name("train|val");
  verb->add_option("-f,--file", flags->file, "a text, one document (- = stdin)")->type_name("FILE");
  AddTextFlags(verb, {.parse_special = false, .add_special = false}, &flags->special);
  verb->add_option("-c,--ctx-size", flags->ctx, "longest context; 0 = min(8192, the model's)")
      ->check(Range(0, 1 << 24));
  verb->add_option("--max-tokens", flags->max_tokens, "predict so many tokens; 0 = all")
      ->check(Range(0, int64_t{1} << 50));
  verb->add_option("-o,--output", flags->output, "of controls: the table; default controls.json in the model's folder")
      ->type_name("FILE");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunEval(*flags, verb, common); });
}

}  // namespace hydra::cli
