// SPDX-License-Identifier: Apache-2.0
// `hydralm eval`: models and plans judged in the runtime: answers from distant text (retrieval), their loss (answers),
// perplexity of the end of long chunks (ppl --plan or --tail), multiple choice (choice). Other tasks are LibTorch's and
// handed over (torch_eval.cc). Not here: scores of items (verb_eval_items.h), what they say (verb_eval_report.h),
// questions (verb_eval_choice.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/statistics.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/progress_bar.h"
#include "hydra/cli/verb_eval_choice.h"
#include "hydra/cli/verb_eval_items.h"
#include "hydra/cli/verb_eval_report.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/runtime/perplexity.h"

namespace hydra::cli {
namespace {

struct EvalFlags {
  ModelFlags model;
  std::string task = "ppl", file, output, split, plans, choose;
  std::vector<std::string> data;
  int64_t max_tokens = 0, draws = 1000;
  double tail = 0.25;
  bool first_order = false;
  TextFlags special;
};

const std::vector<std::string>& TorchTasks() {
  static const std::vector<std::string> kTasks{"ppl", "controls", "domains", "sparsity", "words"};
  return kTasks;
}

bool OfItems(const std::string& task) { return task == "retrieval" || task == "answers"; }

// Whether the task is the runtime's; throws for one that nobody knows.
bool IsOurs(const EvalFlags& flags, const CLI::App* verb) {
  if (OfItems(flags.task) || flags.task == "choice") return true;
  std::vector<std::string> known = TorchTasks();
  known.insert(known.end(), {"retrieval", "answers", "choice"});
  if (std::ranges::find(known, flags.task) == known.end())
    throw Error(ErrorCode::kUsage, fmt::format("eval: unknown task {}{}: {} are known", flags.task,
                                               DidYouMean(flags.task, known), fmt::join(known, ", ")));
  return flags.task == "ppl" && (verb->count("--plan") > 0 || verb->count("--tail") > 0);
}

// What the other command would not obey, or say that it does not know.
void RefuseOurFlags(const EvalFlags& flags, const CLI::App* verb) {
  for (const char* flag : {"--plans", "--choose", "--first-order", "--draws"})
    if (verb->count(flag) > 0)
      throw Error(ErrorCode::kUsage, fmt::format("eval {}: {}: is for eval retrieval and answers", flags.task, flag));
  for (const char* flag :
       {"--plan", "--tail", "--head-spans", "--kv-dtype", "--state-dtype", "--target", "--tune", "--explain", "--act"})
    if (verb->count(flag) > 0)
      throw Error(ErrorCode::kUsage,
                  fmt::format("eval {}: {}: is for retrieval, answers, choice, and ppl with --plan or --tail",
                              flags.task, flag));
}

void RefuseFlags(const EvalFlags& flags, const CLI::App* verb, const std::vector<const char*>& names) {
  for (const char* flag : names)
    if (verb->count(flag) > 0)
      throw Error(ErrorCode::kUsage, fmt::format("eval {}: {}: has no meaning here", flags.task, flag));
}

// "a.json,dense" of --plan.
std::vector<std::string> PlanWords(const std::string& list) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= list.size() && !list.empty();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (end == begin) throw Error(ErrorCode::kUsage, fmt::format("--plan {}: a name is missing", list));
    words.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

// The runner itself follows none of the plans: sequences do.
Runner OpenForPlans(const EvalFlags& flags, const OpenOptions& open) {
  ModelFlags model = flags.model;
  model.plan = {};
  return OpenRunner(model, open);
}

Json JudgedPlanJson(const JudgedPlan& plan) {
  Json json{{"name", plan.name}};
  if (!plan.path.empty()) json["file"] = plan.path;
  json["rules_sha256"] = plan.plan ? Json(plan.plan.plan().RulesSha256()) : Json();
  json["head_spans"] = plan.plan.spans() == HeadSpans::kOwn ? "own" : "ring";
  return json;
}

// ---- Items ----

std::vector<JudgedItems> LoadItems(const EvalFlags& flags) {
  if (flags.data.empty())
    throw Error(ErrorCode::kUsage,
                fmt::format("eval {}: give --data ITEMS.jsonl (made by hydralm data items)", flags.task));
  std::vector<JudgedItems> items;
  for (const std::string& path : flags.data) {
    JudgedItems one{path, {}, ItemFile::Load(path)};
    one.sha256 = one.file.Sha256();
    if (one.file.items.empty()) throw Error(ErrorCode::kData, path + ": has no items");
    for (const JudgedItems& other : items)
      if (other.sha256 == one.sha256)
        throw Error(ErrorCode::kUsage, fmt::format("--data {}: has the items of {}", path, other.path));
    items.push_back(std::move(one));
  }
  return items;
}

int64_t LongestOf(const std::vector<JudgedItems>& items) {
  int64_t longest = 0;
  for (const JudgedItems& one : items)
    for (const LongItem& item : one.file.items)
      longest = std::max({longest, item.length, item.answer_begin + static_cast<int64_t>(AnswerOf(item).size())});
  return longest;
}

Json ItemsJson(const std::vector<JudgedItems>& items) {
  Json list = Json::array();
  for (const JudgedItems& one : items)
    list.push_back({{"file", one.path},
                    {"sha256", one.sha256},
                    {"split", ItemSplitName(one.file.split)},
                    {"seed", one.file.seed},
                    {"lengths", one.file.lengths},
                    {"n", one.file.items.size()}});
  return list;
}

void PrintCells(const std::vector<Cell>& cells, const std::vector<JudgedPlan>& plans) {
  fmt::print("| items | length | plan | density | n | right | 95% | against first | 95% | choice (chance) | nats |\n");
  fmt::print("| --- | ---: | --- | ---: | ---: | ---: | --- | ---: | --- | --- | ---: |\n");
  for (const Cell& c : cells)
    fmt::print(
        "| {} | {} | {} | {:.3f} | {} | {:.3f} | {:.3f} .. {:.3f} | {:+.3f} | {:+.3f} .. {:+.3f} | {} | {:.4f} |\n",
        c.kind, c.length, plans[c.plan].name, c.density, c.n, c.accuracy.mean, c.accuracy.low, c.accuracy.high,
        c.lead.mean, c.lead.low, c.lead.high, c.choice ? fmt::format("{:.3f} ({:.3f})", *c.choice, c.chance) : "",
        c.nll.mean);
}

Json RetrievalJson(const std::vector<ItemRow>& rows, const std::vector<JudgedPlan>& plans,
                   const std::vector<JudgedItems>& items, const ModelConfig& config, const ReportOptions& options,
                   bool table) {
  const std::vector<Cell> cells = CellsOf(rows, plans, items, config, options);
  if (table) PrintCells(cells, plans);
  Json list = Json::array();
  for (size_t p = 0; p < plans.size(); ++p) {
    Json json = JudgedPlanJson(plans[p]), own = Json::array(), effective = Json::object();
    for (const Cell& cell : cells) {
      if (cell.plan != p) continue;
      own.push_back(CellJson(cell));
      if (effective.contains(cell.kind)) continue;
      const EffectiveContext e = EffectiveOf(cells, p, cell.kind);
      effective[cell.kind] = {{"length", e.length}, {"over_mean_span", e.spans}};
      if (table && e.length > 0)
        fmt::print("{}: {}: at least 0.9 right up to {} tokens, {:.2f} times the mean span\n", plans[p].name, cell.kind,
                   e.length, e.spans);
    }
    json["cells"] = own;
    json["effective_context"] = effective;
    list.push_back(json);
  }
  return list;
}

// The plan that was chosen, with what it was chosen by.
AttentionPlan WithValidation(const JudgedPlan& chosen, const ModelConfig& config, const AnswerLoss& loss,
                             const AnswerLoss& dense, const std::vector<JudgedItems>& items) {
  AttentionPlan plan = chosen.plan.plan();
  if (plan.name.empty()) plan.name = chosen.name;
  if (plan.model.config_sha256.empty()) plan.model = AttentionPlan::Dense(config, plan.block_size).model;
  Json lengths = Json::array(), hashes = Json::array();
  for (const auto& [length, value] : loss.by_length) lengths.push_back(length);
  for (const JudgedItems& one : items) hashes.push_back(one.sha256);
  const Json note{{"length", lengths.size() == 1 ? lengths[0] : lengths},
                  {"loss", loss.loss},
                  {"dense", dense.loss},
                  {"error", loss.above_error},
                  {"items", loss.items},
                  {"items_sha256", hashes}};
  plan.SetNote("validation", note.dump());
  return plan;
}

Json AnswersJson(const EvalFlags& flags, const std::vector<ItemRow>& rows, const std::vector<JudgedPlan>& plans,
                 const std::vector<JudgedItems>& items, const ModelConfig& config, bool table, Json* result) {
  const std::vector<AnswerLoss> losses = LossesOf(rows, plans, items);
  const std::optional<size_t> chosen = ChoosePlan(losses, plans);
  if (table) fmt::print("| plan | nats an answer's token | above dense | items |\n| --- | ---: | ---: | ---: |\n");
  Json list = Json::array();
  for (size_t p = 0; p < plans.size(); ++p) {
    Json json = JudgedPlanJson(plans[p]);
    json.update(LossJson(losses[p]));
    list.push_back(json);
    if (table)
      fmt::print("| {}{} | {:.4f} +- {:.4f} | {:+.4f} +- {:.4f} | {} |\n", plans[p].name,
                 chosen == p ? " (chosen)" : "", losses[p].loss, losses[p].error, losses[p].above,
                 losses[p].above_error, losses[p].items);
  }
  (*result)["chosen"] = chosen ? Json(plans[*chosen].name) : Json();
  if (flags.first_order) {
    Json orders = Json::object();
    for (const auto& [length, order] : FirstOrderOf(losses, plans)) {
      orders[std::to_string(length)] = {
          {"rank_correlation", std::isfinite(order.correlation) ? Json(order.correlation) : Json()},
          {"plans", order.plans}};
      if (table)
        fmt::print("length {}: rank correlation of predicted and true loss {:.3f} over {} plans\n", length,
                   order.correlation, order.plans);
    }
    (*result)["first_order"] = orders;
  }
  if (!flags.choose.empty() && chosen)
    WithValidation(plans[*chosen], config, losses[*chosen], losses[0], items).Save(flags.choose);
  return list;
}

// Dense first, since losses and leads are against the first plan.
std::vector<JudgedPlan> PlansOf(const EvalFlags& flags, const ModelConfig& config) {
  std::vector<std::string> words = PlanWords(flags.model.plan.file);
  if (flags.task == "answers" || (words.empty() && flags.plans.empty())) words.insert(words.begin(), "dense");
  return OpenJudgedPlans(words, flags.plans, flags.model.plan.head_spans, config);
}

int RunItems(const EvalFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  InstallStopSignals();
  RefuseFlags(flags, verb, {"--split", "-f", "--max-tokens", "--tail", "--parse-special", "--add-special"});
  if (flags.task != "answers") RefuseFlags(flags, verb, {"--choose", "--first-order"});
  const std::vector<JudgedItems> items = LoadItems(flags);
  const int64_t longest = LongestOf(items);
  const Runner runner = OpenForPlans(flags, {.quiet = common.quiet || common.json, .ctx = longest});
  if (runner.model.options().ctx_size < longest)
    throw Error(ErrorCode::kUsage,
                fmt::format("--ctx-size {}: the longest item needs {}", runner.model.options().ctx_size, longest));
  const std::string tokenizer = Hex(LoadTokenizerOf(runner.model, flags.model).sha256());
  for (const JudgedItems& one : items) one.file.CheckIds(one.path, tokenizer, runner.model.config().vocab_size);
  const std::vector<JudgedPlan> plans = PlansOf(flags, runner.model.config());
  const auto has_rules = [](const JudgedPlan& plan) { return static_cast<bool>(plan.plan); };
  if (!flags.choose.empty() && std::ranges::none_of(plans, has_rules))
    throw Error(ErrorCode::kUsage, "--choose: there is no plan to choose from: give --plan or --plans");
  CheckItemRows(flags.output);
  runner.Announce();
  const double start = Seconds();
  const std::vector<ItemRow> rows = ScoreItems(runner, plans, items,
                                               {.rows = flags.output,
                                                .what = "eval " + flags.task,
                                                .controls = ApplyControls(flags.model, runner.model.config()),
                                                .progress = !common.quiet && StderrIsTerminal()});
  if (StopRequested()) {
    fmt::print(stderr, "hydralm: eval {}: stopped after {} scores{}\n", flags.task, rows.size(),
               flags.output.empty() ? "" : ", which " + flags.output + " keeps: the same command goes on");
    return StopStatus();
  }
  const bool table = !common.json && !common.quiet;
  const ReportOptions report{.draws = static_cast<int>(flags.draws)};
  Json result{{"task", flags.task},
              {"model", flags.model.model},
              {"kv_dtype", KvDtypeName(runner.model.options().kv_dtype)},
              {"items", ItemsJson(items)},
              {"bootstrap", {{"draws", report.draws}, {"seed", report.seed}, {"over", "haystacks"}}}};
  if (flags.task == "retrieval")
    result["plans"] = RetrievalJson(rows, plans, items, runner.model.config(), report, table);
  else
    result["plans"] = AnswersJson(flags, rows, plans, items, runner.model.config(), table, &result);
  result["seconds"] = Seconds() - start;
  if (common.json) fmt::print("{}\n", DumpJson(result));
  return kDone;
}

// ---- Multiple choice ----

int RunChoice(const EvalFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  InstallStopSignals();
  RefuseFlags(flags, verb,
              {"--data", "--split", "-o", "--max-tokens", "--tail", "--draws", "--plans", "--choose", "--first-order"});
  if (flags.file.empty()) throw Error(ErrorCode::kUsage, "eval choice: give FILE.jsonl (questions)");
  const std::vector<ChoiceQuestion> questions = ReadQuestions(flags.file);
  const Runner runner = OpenForPlans(flags, {.quiet = common.quiet || common.json});
  const Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags.model);
  std::vector<ChoiceIds> ids;
  int64_t longest = 0;
  for (const ChoiceQuestion& question : questions) {
    longest =
        std::max(longest, ids.emplace_back(EncodeQuestion(question, tokenizer, flags.special.Options())).longest());
    if (longest > runner.model.options().ctx_size)
      throw Error(ErrorCode::kUsage,
                  fmt::format("--ctx-size {}: {} needs {}", runner.model.options().ctx_size, question.where, longest));
  }
  const std::vector<JudgedPlan> plans = PlansOf(flags, runner.model.config());
  const Controls controls = ApplyControls(flags.model, runner.model.config());
  runner.Announce();
  const bool table = !common.json && !common.quiet;
  if (table) fmt::print("| plan | questions | acc | acc_norm | chance |\n| --- | ---: | ---: | ---: | ---: |\n");
  Json list = Json::array();
  for (const JudgedPlan& plan : plans) {
    std::vector<ChoiceScore> scores;
    {
      ProgressBar bar(common);
      for (size_t i = 0; i < questions.size(); ++i) {
        ThrowIfStopped();
        bar.Show("choice " + plan.name, static_cast<double>(i) / static_cast<double>(questions.size()),
                 fmt::format("{} of {} questions", i, questions.size()));
        scores.push_back(ScoreQuestion(runner.model, questions[i], ids[i],
                                       {.plan = plan.plan.At(runner.PlanLengthOf(longest)), .controls = controls},
                                       *runner.pool));
      }
    }
    const ChoiceReport report = ReportOf(questions, scores);
    Json json = JudgedPlanJson(plan);
    json.update(ChoiceJson(report, scores));
    list.push_back(std::move(json));
    if (table)
      fmt::print("| {} | {} | {:.4f} +- {:.4f} | {:.4f} +- {:.4f} | {:.4f} |\n", plan.name, scores.size(),
                 report.accuracy.mean, report.accuracy.error, report.by_characters.mean, report.by_characters.error,
                 report.chance);
  }
  if (common.json)
    fmt::print("{}\n",
               DumpJson({{"task", "choice"}, {"model", flags.model.model}, {"file", flags.file}, {"plans", list}}));
  return kDone;
}

// ---- Perplexity ----

int RunPerplexity(const EvalFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  InstallStopSignals();
  RefuseFlags(flags, verb, {"--data", "--split", "-o", "--plans", "--choose", "--first-order"});
  if (flags.file.empty()) throw Error(ErrorCode::kUsage, "eval ppl: with --plan or --tail: give -f FILE (a text)");
  if (!(flags.tail > 0 && flags.tail <= 1))
    throw Error(ErrorCode::kUsage, fmt::format("--tail {}: must be above 0 and at most 1", flags.tail));
  constexpr int64_t kChunk = 4096;
  const Runner runner = OpenForPlans(flags, {.quiet = common.quiet || common.json});
  const int64_t chunk =
      flags.model.ctx_given ? runner.model.options().ctx_size : std::min(kChunk, runner.model.options().ctx_size);
  const Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags.model);
  std::vector<int32_t> ids = tokenizer.Encode(ReadText(flags.file), flags.special.Options());
  if (flags.max_tokens > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(flags.max_tokens)));
  const std::vector<JudgedPlan> plans = PlansOf(flags, runner.model.config());
  PerplexityOptions options{.name = "-f " + flags.file,
                            .chunk = chunk,
                            .scored = flags.tail,
                            .controls = ApplyControls(flags.model, runner.model.config())};
  options.progress = [](int64_t, int64_t) {
    ThrowIfStopped();
    return true;
  };
  CheckPerplexity(runner.model, ids, options);
  runner.Announce();
  const bool table = !common.json && !common.quiet;
  if (table)
    fmt::print(
        "| plan | density | perplexity | against the first | 95% | chunks of {} | tokens scored |\n"
        "| --- | ---: | ---: | ---: | --- | ---: | ---: |\n",
        chunk);
  const int64_t N = runner.PlanLengthOf(chunk);
  Json list = Json::array();
  std::vector<double> first;
  for (const JudgedPlan& plan : plans) {
    options.plan = plan.plan.At(N);
    const TextPerplexity made = MeasurePerplexity(runner.model, ids, options, *runner.pool);
    if (first.empty()) first = made.chunk_losses;
    std::vector<SampleGroup> apart;
    for (size_t i = 0; i < first.size(); ++i) apart.push_back({made.chunk_losses[i] - first[i], 1});
    const MeanInterval d = BootstrapMean(apart, static_cast<int>(flags.draws), 1);
    const double density = plan.plan ? plan.plan.plan().Density(N) : 1;
    Json json = JudgedPlanJson(plan);
    json.update(Json{{"density", density},
                     {"perplexity", made.perplexity()},
                     {"error", made.standard_error()},
                     {"loss", made.loss()},
                     {"chunks", made.chunks},
                     {"tokens", made.tokens},
                     {"ratio", {{"mean", std::exp(d.mean)}, {"low", std::exp(d.low)}, {"high", std::exp(d.high)}}}});
    list.push_back(json);
    if (table) {
      fmt::print("| {} | {:.3f} | {:.4f} +- {:.4f} | {:.4f} | {:.4f} .. {:.4f} | {} | {} |\n", plan.name, density,
                 made.perplexity(), made.standard_error(), std::exp(d.mean), std::exp(d.low), std::exp(d.high),
                 made.chunks, made.tokens);
      std::fflush(stdout);
    }
  }
  if (common.json)
    fmt::print("{}\n", DumpJson({{"task", "ppl"},
                                 {"model", flags.model.model},
                                 {"file", flags.file},
                                 {"chunk", chunk},
                                 {"tail", flags.tail},
                                 {"plan_length", N},
                                 {"bootstrap", {{"draws", flags.draws}, {"seed", 1}, {"over", "chunks"}}},
                                 {"plans", list}}));
  return kDone;
}

}  // namespace

void AddEvalVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* verb =
      context.AddVerb(root, kEvalVerb, "hydralm eval retrieval -m MODEL --data items.jsonl --plan dense,p.json");
  verb->add_option("task,--task", flags->task,
                   "ppl, of shards or a text; controls, domains, sparsity, words: of shards;\n"
                   "retrieval, answers: of items, under plans; so is ppl of -f with --plan or --tail;\n"
                   "choice: of questions, JSON lines of context, choices, answer")
      ->type_name("TASK");
  AddModelFlags(verb, &flags->model);
  verb->add_option("--data", flags->data, "folder of token shards; items of hydralm data items, repeatable")
      ->type_name("PATH")
      ->allow_extra_args(false);
  verb->add_option("--split", flags->split, "split of shards: val, train")->type_name("NAME");
  verb->add_option("file,-f,--file", flags->file, "a text, one document, or questions (- = stdin)")->type_name("FILE");
  AddTextFlags(verb, {.parse_special = false, .add_special = false}, &flags->special);
  verb->add_option("--max-tokens", flags->max_tokens, "so many tokens of the text or the shards; 0 = all")
      ->check(Range(0, int64_t{1} << 50));
  verb->add_option("-o,--output", flags->output, "a row for each item, goes on where it ends; controls: the table")
      ->type_name("FILE");
  verb->add_option("--plans", flags->plans, "also every plan of a folder")->type_name("DIR");
  verb->add_option("--choose", flags->choose, "answers: write the best plan to a file")->type_name("FILE");
  verb->add_flag("--first-order", flags->first_order, "answers: do predicted losses order the true ones?");
  verb->add_option("--tail", flags->tail, "ppl: share of a chunk that is scored, its end")->type_name("SHARE");
  verb->add_option("--draws", flags->draws, "of the intervals, by resampling")->check(Range(1, 1000000));
  AddRuntimeFlags(verb, &flags->model);
  AddActivationFlag(verb, &flags->model);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb, &context](const CommonFlags& common) {
    if (!IsOurs(*flags, verb)) {
      RefuseOurFlags(*flags, verb);
      context.HandOver();
    }
    if (flags->task == "choice") return RunChoice(*flags, verb, common);
    return OfItems(flags->task) ? RunItems(*flags, verb, common) : RunPerplexity(*flags, verb, common);
  });
}

}  // namespace hydra::cli
