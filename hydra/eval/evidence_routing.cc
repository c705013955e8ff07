// SPDX-License-Identifier: Apache-2.0
// 12.6: what does balance cost, and do experts know the languages?
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/eval/evidence_speed.h"
#include "hydra/eval/evidence_task.h"

namespace hydra::eval {
namespace {

constexpr const char* kFree = "hydra-balance-0";
constexpr const char* kUsual = "hydra-balance-0.01";  // the coefficient of the presets
constexpr const char* kBlind = "hydra-round-robin";
constexpr int64_t kShuffles = 1000;
const std::vector<std::string> kTopK = {"hydra-top-1", "hydra-top-2", "hydra-top-4", "hydra-top-8"};

LanguagesOptions LanguagesSizes(EvidenceSize size) {
  if (size == EvidenceSize::kSmoke) return {.tokens = 64, .documents = 4, .test_documents = 8};
  if (size == EvidenceSize::k29M) return {.test_documents = 24};  // one seed is run on a CPU
  return {};
}

// Documents [language][..] of the first `each` of every language.
std::vector<TaskDocument> FirstOfEach(const std::vector<TaskDocument>& documents, int64_t languages, int64_t each) {
  std::vector<TaskDocument> some;
  std::vector<int64_t> count(static_cast<size_t>(languages));
  for (const TaskDocument& document : documents)
    if (count[static_cast<size_t>(document.label)]++ < each) some.push_back(document);
  return some;
}

// Loads of each layer: their standard deviation over their mean, as a mean over layers.
double LoadSpread(const std::vector<std::vector<double>>& counts, size_t experts) {
  const size_t layers = counts[0].size() / experts;
  double sum = 0;
  for (size_t layer = 0; layer < layers; ++layer) {
    std::vector<double> load(experts);
    for (const auto& document : counts)
      for (size_t e = 0; e < experts; ++e) load[e] += document[layer * experts + e];
    double mean = 0, squares = 0;
    for (const double n : load) mean += n / static_cast<double>(experts);
    for (const double n : load) squares += (n - mean) * (n - mean);
    sum += std::sqrt(squares / static_cast<double>(experts)) / mean;
  }
  return sum / static_cast<double>(layers);
}

// Of each layer.
Json Information(const std::vector<std::vector<double>>& counts, const std::vector<int>& labels, int languages,
                 size_t experts) {
  Json layers = Json::array();
  for (size_t layer = 0; layer < counts[0].size() / experts; ++layer) {
    std::vector<std::vector<double>> of_layer;
    for (const auto& document : counts) {
      const auto begin = document.begin() + static_cast<std::ptrdiff_t>(layer * experts);
      of_layer.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(experts));
    }
    Rng rng(layer);
    const Shuffled s = InformationUnderShuffles(of_layer, labels, languages, kShuffles, rng);
    layers.push_back({{"information", s.information}, {"mean", s.mean}, {"most", s.most}, {"p", s.p}});
  }
  return layers;
}

// The loss of each language, nats a token.
std::vector<double> Losses(nn::Model& model, const std::vector<TaskDocument>& documents, int64_t languages,
                           const ScoreOptions& options) {
  std::vector<double> losses;
  for (const Share& share : ScoreTask(model, documents, languages, options).settings) losses.push_back(share.loss);
  return losses;
}

// What banning each language's most used expert of a layer costs, means over layers and languages, nats a token.
Json Bans(nn::Model& model, const std::vector<TaskDocument>& documents, int64_t languages,
          const ScoreOptions& options) {
  const auto experts = static_cast<size_t>(model.config().moe.n_experts);
  const auto counts = ExpertCounts(model, documents, options);
  const std::vector<double> whole = Losses(model, documents, languages, options);
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < model.config().n_layers(); ++i)
    if (model.config().layers[static_cast<size_t>(i)].ffn == FfnKind::kChunkMoe) layers.push_back(i);
  double own = 0, other_experts = 0, other_languages = 0;
  const auto n = static_cast<double>(layers.size()) * static_cast<double>(languages);
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    std::vector<std::vector<double>> cost;  // [expert][language]
    for (size_t e = 0; e < experts; ++e) {
      ScoreOptions banned = options;
      banned.forward.controls.layers[layers[layer]].ban_experts = std::vector<int64_t>{static_cast<int64_t>(e)};
      cost.push_back(Losses(model, documents, languages, banned));
      for (size_t l = 0; l < whole.size(); ++l) cost.back()[l] -= whole[l];
    }
    for (size_t l = 0; l < whole.size(); ++l) {
      std::vector<double> use(experts);
      for (size_t d = 0; d < documents.size(); ++d)
        if (documents[d].label == static_cast<int>(l))
          for (size_t e = 0; e < experts; ++e) use[e] += counts[d][layer * experts + e];
      const auto top = static_cast<size_t>(std::ranges::max_element(use) - use.begin());
      own += cost[top][l] / n;
      for (size_t e = 0; e < experts; ++e)
        if (e != top) other_experts += cost[e][l] / n / static_cast<double>(experts - 1);
      for (size_t other = 0; other < whole.size(); ++other)
        if (other != l) other_languages += cost[top][other] / n / static_cast<double>(whole.size() - 1);
    }
  }
  return {{"own", own},
          {"other_experts", other_experts},
          {"other_languages", other_languages},
          {"less_other_experts", own - other_experts},
          {"less_other_languages", own - other_languages}};
}

class RoutingExperiment final : public TaskExperiment {
 public:
  [[nodiscard]] std::string name() const override { return "routing"; }
  [[nodiscard]] std::string title() const override { return "12.6 Routing"; }

  [[nodiscard]] ReportSection Report(const EvidencePlan& plan, const CellResults& results) const override {
    const TaskPlan task = MakePlan(plan.size);
    const LanguagesOptions o = LanguagesSizes(plan.size);
    const double entropy = dynamic_cast<const LanguagesTask&>(*task.task).entropy();
    ReportSection section{
        .name = name(),
        .title = title(),
        .about =
            StrCat(o.languages, " languages over the same ", o.ids, " ids: after any two ids each has ", o.successors,
                   " successors of its own. Every document of ", o.tokens, " tokens is of one language. ", task.steps,
                   " steps of ", o.documents, " documents; loss on every token. A uniform guess loses ",
                   Fixed(std::log(static_cast<double>(o.ids)), 3), " nats a token, a model that knows the language ",
                   Fixed(entropy, 3), ". Losses on ", o.test_documents,
                   " held-out documents of each language, mean over seeds and 95% interval."),
        .claims = {},
        .tables = {},
        .plots = {},
        .rows = RawRows(plan, results, task)};
    Judgements(plan, results, LearnedLanguages(plan, results, o, entropy), &section);
    section.tables = {BalanceTable(plan, results), InformationTable(plan, results),
                      BanTable(plan, results),     SettingTable(plan, results),
                      SpeedTable(results),         RunTable(plan, results)};
    section.plots.push_back(BalancePlot(plan, results));
    return section;
  }

 protected:
  [[nodiscard]] std::vector<std::string> models() const override {
    return {kFree, "hydra-balance-0.001", kUsual, "hydra-balance-0.1", kBlind};
  }

  [[nodiscard]] TaskPlan MakePlan(EvidenceSize size) const override {
    const LanguagesOptions o = LanguagesSizes(size);
    return {.task = MakeLanguages(o),
            .options = {{"languages", o.languages},
                        {"ids", o.ids},
                        {"successors", o.successors},
                        {"tokens", o.tokens},
                        {"documents", o.documents},
                        {"test_documents", o.test_documents}},
            .steps = size == EvidenceSize::kSmoke ? 8
                     : size == EvidenceSize::k29M ? 500
                                                  : 1000,
            .test_passes = size == EvidenceSize::kSmoke ? 30.0 : 16.0};
  }

  void Look(const TaskPlan& plan, nn::Model& model, const std::string&, const ScoreOptions& options,
            CellContext& context, Json* result) const override {
    const std::vector<TaskDocument> test = plan.task->Test();
    const auto languages = static_cast<int64_t>(plan.task->settings().size());
    const MoeConfig& moe = model.config().moe;
    std::vector<int> labels;
    for (const TaskDocument& document : test) labels.push_back(document.label);
    const auto counts = ExpertCounts(model, test, options);
    (*result)["load_cv"] = LoadSpread(counts, static_cast<size_t>(moe.n_experts));
    (*result)["information"] =
        Information(counts, labels, static_cast<int>(languages), static_cast<size_t>(moe.n_experts));
    if (moe.mode == RouterMode::kRoundRobin) return;  // nothing else of it can be changed
    context.check();
    const int64_t each = std::max<int64_t>(1, static_cast<int64_t>(test.size()) / languages / 4);
    (*result)["bans"] = Bans(model, FirstOfEach(test, languages, each), languages, options);
    for (const int64_t k : {1, 2, 4, 8}) {
      ScoreOptions with = options;
      with.forward.controls.moe_top_k = k;
      ScoreInto(*plan.task, model, StrCat("top ", k), with, result);
    }
    for (const double temperature : {0.5, 2.0}) {
      ScoreOptions with = options;
      with.forward.controls.router_temperature = temperature;
      ScoreInto(*plan.task, model, StrCat("temperature ", temperature), with, result);
    }
  }

  [[nodiscard]] std::vector<Cell> MoreCells(const EvidencePlan& plan) const override {
    const bool smoke = plan.size == EvidenceSize::kSmoke;
    const SpeedTurns turns{.rounds = smoke ? 3 : 10, .repeats = smoke ? 1 : 5};
    return {SpeedCell(SpeedName("prefill"), kTopK, plan.size, {.prompt = smoke ? 64 : 2048}, turns),
            SpeedCell(SpeedName("decode"), kTopK, plan.size, {.generate = smoke ? 8 : 128, .depth = smoke ? 32 : 1024},
                      turns)};
  }
  [[nodiscard]] Json RunOther(const EvidencePlan&, const Cell& cell, CellContext& context) const override {
    return RunSpeedCell(cell, context);
  }

 private:
  [[nodiscard]] std::string SpeedName(const std::string& phase) const { return StrCat(name(), "-speed-", phase); }

  // All languages together.
  [[nodiscard]] std::vector<Measured> LossesOf(const EvidencePlan& plan, const CellResults& results,
                                               const std::string& model, const std::string& what) const {
    std::vector<size_t> all;
    for (size_t i = 0; i < static_cast<size_t>(LanguagesSizes(plan.size).languages); ++i) all.push_back(i);
    std::vector<Measured> losses;
    for (const Share& share : Shares(plan, results, model, what, all)) losses.push_back({share.loss, share.loss_error});
    return losses;
  }

  // As far below a uniform guess as nine tenths of what can be learned.
  [[nodiscard]] std::optional<bool> LearnedLanguages(const EvidencePlan& plan, const CellResults& results,
                                                     const LanguagesOptions& o, double entropy) const {
    const double uniform = std::log(static_cast<double>(o.ids));
    bool all = true;
    for (const std::string& model : models()) {
      const std::vector<Measured> losses = LossesOf(plan, results, model, "test");
      if (losses.empty()) all = false;
      if (!losses.empty() && (uniform - OverSeeds(losses).value) / (uniform - entropy) >= kLearned) return true;
    }
    if (all) return false;
    return std::nullopt;
  }

  [[nodiscard]] Evidence OfNumbers(const EvidencePlan& plan, const CellResults& results, const std::string& model,
                                   const std::vector<std::string>& path) const {
    Evidence evidence{.seeds = plan.seeds.size()};
    std::vector<Measured> values;
    for (const double value : Numbers(plan, results, model, path)) values.push_back({value, 0});
    if (!values.empty()) evidence.interval = OverSeeds(values);
    return evidence;
  }

  void Judgements(const EvidencePlan& plan, const CellResults& results, std::optional<bool> learned,
                  ReportSection* section) const {
    const auto judge = [&](const char* id, const std::string& text, const std::string& measure, const Rule& rule,
                           Evidence evidence) {
      evidence.learned = learned;
      section->claims.push_back(Judge(StrCat("routing.", id), text, measure, rule, evidence));
    };
    judge("information", "Experts know the language",
          StrCat("smallest p over layers and seeds, ", kShuffles, " shuffles of the labels"), AtMost(0.01),
          MostInformation(plan, results, kUsual));
    judge("blind", "Routing that reads nothing does not, by the same measure",
          StrCat("smallest p over layers and seeds, ", kShuffles, " shuffles of the labels"), AtLeast(0.01),
          MostInformation(plan, results, kBlind));
    judge("own-expert", "A language loses more by its own expert's ban than others do by the same ban",
          "nats a token, own language less the others", GainsOver(0, 0.005),
          OfNumbers(plan, results, kUsual, {"bans", "less_other_languages"}));
    Evidence cost{.seeds = plan.seeds.size()};
    const auto with = LossesOf(plan, results, kUsual, "test"), without = LossesOf(plan, results, kFree, "test");
    if (!with.empty() && !without.empty()) {
      std::vector<Measured> differences;
      for (size_t i = 0; i < with.size(); ++i)
        differences.push_back({with[i].value - without[i].value, std::hypot(with[i].error, without[i].error)});
      cost.interval = OverSeeds(differences);
    }
    judge("balance", "The usual balance loss costs less than a hundredth of a nat",
          "nats a token at coefficient 0.01 less those at 0", AtMost(0.01), cost);
    judge("load", "With it loads are even", "standard deviation of the loads over their mean, coefficient 0.01",
          AtMost(0.3), OfNumbers(plan, results, kUsual, {"load_cv"}));
    Evidence learned_routing{.seeds = plan.seeds.size()};
    const auto blind = LossesOf(plan, results, kBlind, "test");
    if (!with.empty() && !blind.empty()) {
      std::vector<Measured> differences;
      for (size_t i = 0; i < with.size(); ++i)
        differences.push_back({blind[i].value - with[i].value, std::hypot(with[i].error, blind[i].error)});
      learned_routing.interval = OverSeeds(differences);
    }
    judge("learned", "Learned routing predicts better than routing that reads nothing",
          "nats a token of round robin less those of learned routing", GainsOver(0, 0.005), learned_routing);
  }

  // Over all seeds and layers: the smallest p of a seed's layers, its smallest and largest over seeds. A p is that of
  // the best of several layers, so it is multiplied by their number.
  [[nodiscard]] Evidence MostInformation(const EvidencePlan& plan, const CellResults& results,
                                         const std::string& model) const {
    Evidence evidence{.seeds = plan.seeds.size()};
    std::vector<double> smallest;
    for (const int64_t seed : plan.seeds) {
      const auto found = results.find(SeedCell(model, seed));
      if (found == results.end() || !found->second.contains("information")) return evidence;
      double p = 1;
      const Json& layers = found->second["information"];
      for (const Json& layer : layers) p = std::min(p, layer["p"].get<double>() * static_cast<double>(layers.size()));
      smallest.push_back(p);
    }
    const auto [least, most] = std::ranges::minmax(smallest);
    evidence.interval = Interval{Median(smallest), least, most};
    return evidence;
  }

  [[nodiscard]] std::string LossText(const EvidencePlan& plan, const CellResults& results, const std::string& model,
                                     const std::string& what) const {
    const std::vector<Measured> losses = LossesOf(plan, results, model, what);
    return losses.empty() ? "-" : IntervalText(OverSeeds(losses), 4);
  }

  [[nodiscard]] ReportTable BalanceTable(const EvidencePlan& plan, const CellResults& results) const {
    ReportTable table{"What balance costs: loss, and how uneven loads are (standard deviation over mean).",
                      {"model", "nats a token", "spread of loads"},
                      {}};
    for (const std::string& model : models()) {
      const Evidence spread = OfNumbers(plan, results, model, {"load_cv"});
      table.rows.push_back(
          {model, LossText(plan, results, model, "test"), spread.interval ? IntervalText(*spread.interval, 3) : "-"});
    }
    return table;
  }

  [[nodiscard]] ReportTable InformationTable(const EvidencePlan& plan, const CellResults& results) const {
    ReportTable table{StrCat("Mutual information of language and expert in nats; its mean and largest value over ",
                             kShuffles, " shuffles of the labels among documents; p."),
                      {"model", "seed", "layer", "information", "shuffled, mean", "shuffled, most", "p"},
                      {}};
    for (const std::string& model : models())
      for (const int64_t seed : plan.seeds) {
        const auto found = results.find(SeedCell(model, seed));
        if (found == results.end() || !found->second.contains("information")) continue;
        const Json& layers = found->second["information"];
        for (size_t i = 0; i < layers.size(); ++i)
          table.rows.push_back({model, StrCat(seed), StrCat(i + 1), Fixed(layers[i]["information"].get<double>(), 4),
                                Fixed(layers[i]["mean"].get<double>(), 4), Fixed(layers[i]["most"].get<double>(), 4),
                                Fixed(layers[i]["p"].get<double>(), 4)});
      }
    return table;
  }

  [[nodiscard]] ReportTable BanTable(const EvidencePlan& plan, const CellResults& results) const {
    ReportTable table{
        "What a ban costs, nats a token: of a language's most used expert of a layer for that language, of "
        "its other experts, and of the first for the other languages; means over layers and languages.",
        {"model", "own expert", "its other experts", "other languages"},
        {}};
    for (const std::string& model : models()) {
      std::vector<std::string> row{model};
      for (const char* key : {"own", "other_experts", "other_languages"}) {
        const Evidence cost = OfNumbers(plan, results, model, {"bans", key});
        row.push_back(cost.interval ? IntervalText(*cost.interval, 4) : "-");
      }
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  [[nodiscard]] ReportTable SettingTable(const EvidencePlan& plan, const CellResults& results) const {
    ReportTable table{
        "Nats a token with other numbers of experts a chunk, and other temperatures, than in training (2; 1).",
        {"model"},
        {}};
    const std::vector<std::string> settings = {"top 1", "top 2", "top 4", "top 8", "temperature 0.5", "temperature 2"};
    table.head.insert(table.head.end(), settings.begin(), settings.end());
    for (const std::string& model : models()) {
      if (model == kBlind) continue;
      std::vector<std::string> row{model};
      for (const std::string& what : settings) row.push_back(LossText(plan, results, model, what));
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  [[nodiscard]] ReportTable SpeedTable(const CellResults& results) const {
    ReportTable table{
        "Tokens a second of the runtime by experts a chunk, bf16, one sequence: median and the order "
        "statistics that enclose it.",
        {"phase"},
        {}};
    table.head.insert(table.head.end(), kTopK.begin(), kTopK.end());
    for (const char* phase : {"prefill", "decode"}) {
      std::vector<std::string> row{phase};
      for (const std::string& model : kTopK) {
        const auto samples = SpeedSamples(results, SpeedName(phase), model);
        row.push_back(samples.empty() ? "-" : IntervalText(MedianOf(samples), 0));
      }
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  [[nodiscard]] ReportPlot BalancePlot(const EvidencePlan& plan, const CellResults& results) const {
    ReportPlot plot{.name = "routing",
                    .title = "Loss by experts a chunk, after training with 2",
                    .x_label = "experts a chunk",
                    .y_label = "nats a token",
                    .log_x = true,
                    .lines = {}};
    for (const std::string& model : models()) {
      ReportLine line{model, {}, {}};
      for (const int k : {1, 2, 4, 8})
        if (const auto losses = LossesOf(plan, results, model, StrCat("top ", k)); !losses.empty()) {
          line.x.push_back(k);
          line.y.push_back(OverSeeds(losses));
        }
      if (!line.x.empty()) plot.lines.push_back(std::move(line));
    }
    return plot;
  }
};

}  // namespace

std::unique_ptr<Experiment> MakeRoutingExperiment() { return std::make_unique<RoutingExperiment>(); }

std::vector<std::unique_ptr<Experiment>> Experiments() {
  std::vector<std::unique_ptr<Experiment>> all;
  all.push_back(MakeRoutingExperiment());
  all.push_back(MakeExpertsExperiment());
  all.push_back(MakeFactsExperiment());
  all.push_back(MakeChainingExperiment());
  all.push_back(MakeRecallExperiment());
  all.push_back(MakeThroughputExperiment());
  return all;
}

}  // namespace hydra::eval
