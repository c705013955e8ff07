// SPDX-License-Identifier: Apache-2.0
// The experiments: budgets of their models, their cells, and verdicts from made-up results.
#include "hydra/eval/evidence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "hydra/base/error.h"
#include "hydra/eval/evidence_speed.h"
#include "hydra/eval/evidence_task.h"
#include "hydra/model/accounting.h"

namespace hydra::eval {
namespace {

double Off(const std::string& a, const std::string& b, EvidenceSize size, bool active) {
  const ParamCounts x = CountParams(EvidenceModel(a, size)), y = CountParams(EvidenceModel(b, size));
  const auto of = [&](const ParamCounts& p) { return static_cast<double>(active ? p.active : p.total); };
  return std::abs(of(x) / of(y) - 1);
}

TEST(EvidenceModels, BudgetsMatch) {
  for (const EvidenceSize size : {EvidenceSize::kNano, EvidenceSize::k29M}) {
    EXPECT_LT(Off("transformer", "hydra", size, false), 0.01);
    EXPECT_LT(Off("mamba2", "hydra", size, false), 0.01);
    EXPECT_LT(CountParams(EvidenceModel("transformer-active", size)).total,
              1.02 * static_cast<double>(CountParams(EvidenceModel("hydra", size)).active));
    EXPECT_LT(Off("hydra-pkm-dense", "hydra", size, false), 0.0005);
    EXPECT_LT(Off("hydra-moe-total", "hydra", size, false), 0.005);
    EXPECT_LT(Off("hydra-moe-active", "hydra", size, true), 0.005);
    EXPECT_LT(Off("hydra-no-workspace", "hydra", size, false), 0.02);
    for (const char* name : {"hydra-balance-0", "hydra-balance-0.1", "hydra-round-robin", "hydra-top-8"})
      EXPECT_EQ(Off(name, "hydra", size, false), 0) << name;
  }
}

TEST(EvidenceModels, NamesAreKnownAndOthersRefused) {
  EXPECT_EQ(EvidenceModel("hydra-balance-0.001", EvidenceSize::kNano).moe.aux_loss_coef, 0.001);
  EXPECT_EQ(EvidenceModel("hydra-balance-0.01", EvidenceSize::kNano), EvidenceModel("hydra", EvidenceSize::kNano));
  EXPECT_EQ(EvidenceModel("hydra-round-robin", EvidenceSize::kNano).moe.mode, RouterMode::kRoundRobin);
  EXPECT_EQ(EvidenceModel("hydra-top-4", EvidenceSize::kNano).moe.top_k, 4);
  EXPECT_FALSE(EvidenceModel("hydra-no-memories", EvidenceSize::kNano).HasWorkspace());
  EXPECT_FALSE(EvidenceModel("hydra-no-memories", EvidenceSize::kNano).HasPkm());
  EXPECT_FALSE(EvidenceModel("hydra-no-sga", EvidenceSize::kNano).HasAttention(AttentionKind::kSparse));
  EXPECT_FALSE(EvidenceModel("hydra-pkm-dense", EvidenceSize::kNano).HasPkm());
  for (const char* name : {"hydra-", "hydra-no-", "hydra-no-nothing", "hydra-top-9", "hydra-top-x", "gpt", ""})
    EXPECT_THROW((void)EvidenceModel(name, EvidenceSize::kNano), Error) << name;
}

// Derived beside kCountedRatio. A head that is left out of the count gives 18.2, every key for every token 31.8.
TEST(Evidence, CountedFlopsAreThoseOfTheGoal) {
  constexpr int64_t kTokens = 1 << 16;
  const ModelConfig transformer = EvidenceModel("transformer", EvidenceSize::k29M),
                    hydra = EvidenceModel("hydra", EvidenceSize::k29M);
  EXPECT_NEAR(MeanForwardFlops(transformer, kTokens) / MeanForwardFlops(hydra, kTokens), kCountedRatio, 0.2);
  // What a prompt takes is less, by the heads that nobody asks for.
  for (const ModelConfig& config : {transformer, hydra}) {
    const double heads = 2.0 * static_cast<double>(config.vocab_size * config.d_model * (kTokens - 1));
    EXPECT_NEAR(PromptFlops(config, kTokens) + heads, MeanForwardFlops(config, kTokens) * kTokens, 1e-9 * heads);
  }
}

TEST(Evidence, CellsHaveNamesOfTheirOwnAndComeAfterWhatTheyNeed) {
  for (const EvidenceSize size : {EvidenceSize::kSmoke, EvidenceSize::kNano, EvidenceSize::k29M}) {
    std::set<std::string> names;
    for (const auto& experiment : Experiments()) {
      const std::vector<Cell> cells = experiment->Cells({.size = size});
      EXPECT_FALSE(cells.empty());
      const std::vector<Cell> again = experiment->Cells({.size = size});
      ASSERT_EQ(again.size(), cells.size());
      for (size_t i = 0; i < cells.size(); ++i) EXPECT_EQ(again[i].settings, cells[i].settings);
      for (const Cell& cell : cells) {
        EXPECT_EQ(cell.name.rfind(experiment->name() + "-", 0), 0U) << cell.name;
        EXPECT_EQ(cell.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-"), std::string::npos)
            << cell.name;
        for (const std::string& need : cell.needs) EXPECT_TRUE(names.contains(need)) << cell.name << " " << need;
        EXPECT_TRUE(names.insert(cell.name).second) << cell.name;
        EXPECT_GT(cell.flops + cell.seconds, 0) << cell.name;
        EXPECT_EQ(cell.settings["size"], SizeName(size));
      }
    }
  }
}

TEST(Evidence, EverySeedHasARunOfEveryModel) {
  for (const auto& experiment : Experiments()) {
    std::map<std::string, std::set<int64_t>> seeds;
    for (const Cell& cell : experiment->Cells({.seeds = {1, 2, 3, 4}}))
      if (cell.settings.contains("kind") && cell.settings["kind"] == "seed")
        seeds[cell.settings["model"].get<std::string>()].insert(cell.settings["seed"].get<int64_t>());
    for (const auto& [model, of_model] : seeds) EXPECT_EQ(of_model.size(), 4U) << model;
    EXPECT_EQ(seeds.empty(), experiment->name() == "throughput");
  }
}

// ---- verdicts from made-up results ----

Json Scores(const std::vector<double>& shares) {
  Json list = Json::array();
  for (const double share : shares) {
    constexpr int64_t kAsked = 2000;
    list.push_back(ToJson(Share{.documents = kAsked,
                                .asked = kAsked,
                                .right = static_cast<int64_t>(share * kAsked),
                                .error = std::sqrt(share * (1 - share) / kAsked),
                                .loss = 1 - share}));
  }
  return list;
}

// A result of each seed: shares of each setting, a little apart from seed to seed.
void AddSeeds(const std::string& cell, const std::string& what, const std::vector<double>& shares,
              CellResults* results) {
  for (const int64_t seed : {1, 2, 3}) {
    std::vector<double> own = shares;
    for (double& share : own) share = std::min(1.0, std::max(0.0, share + 0.002 * static_cast<double>(seed - 2)));
    Json& result = (*results)[StrCat(cell, "-seed-", seed)];
    result.update({{"rate", 1e-3},
                   {"tokens", 1000},
                   {"train_seconds", 60},
                   {"skipped", 0},
                   {"diverged", false},
                   {"curve", Json::array({{10, 2.0}, {20, 1.0}})}});
    result["scores"][what] = Scores(own);
  }
}

std::map<std::string, Verdict> Verdicts(const Experiment& experiment, const CellResults& results) {
  std::map<std::string, Verdict> verdicts;
  const ReportSection section = experiment.Report({}, results);
  EXPECT_FALSE(section.claims.empty());
  for (const Claim& claim : section.claims)
    EXPECT_TRUE(verdicts.emplace(claim.name, claim.verdict).second) << claim.name;
  // A report can be written at every stage.
  EXPECT_NE(Markdown({.title = "T", .lines = {"a"}}, {section}).find(section.title), std::string::npos);
  EXPECT_NE(Html({.title = "T", .lines = {"a"}}, {section}, {}).find(section.title), std::string::npos);
  for (const ReportPlot& plot : section.plots) EXPECT_NE(Gnuplot(plot, "x").find("set title"), std::string::npos);
  for (const auto& row : section.rows.rows) EXPECT_EQ(row.size(), section.rows.head.size());
  for (const ReportTable& table : section.tables)
    for (const auto& row : table.rows) EXPECT_EQ(row.size(), table.head.size()) << table.title;
  return verdicts;
}

TEST(Evidence, WithoutResultsEveryVerdictIsNotRun) {
  for (const auto& experiment : Experiments())
    for (const auto& [name, verdict] : Verdicts(*experiment, {})) EXPECT_EQ(verdict, Verdict::kNotRun) << name;
}

TEST(Evidence, ChainingIsJudgedByItsRules) {
  const auto experiment = MakeChainingExperiment();
  CellResults results;
  AddSeeds("chaining-hydra", "test", {1, 0.9, 0.7, 0.6, 0.3, 0.2, 0.2, 0.2}, &results);
  AddSeeds("chaining-hydra", "workspace read off", {1, 0.9, 0.69, 0.61, 0.3, 0.2, 0.2, 0.2}, &results);
  std::map<std::string, Verdict> v = Verdicts(*experiment, results);
  EXPECT_EQ(v["chaining.workspace"], Verdict::kNotRun) << "its control is missing";
  EXPECT_EQ(v["chaining.end-finder"], Verdict::kHolds);
  EXPECT_EQ(v["chaining.workspace-used"], Verdict::kDoesNotHold);
  EXPECT_EQ(v["chaining.longer"], Verdict::kDoesNotHold);
  AddSeeds("chaining-hydra-no-workspace", "test", {1, 0.9, 0.5, 0.4, 0.3, 0.2, 0.2, 0.2}, &results);
  AddSeeds("chaining-transformer", "test", {1, 0.9, 0.7, 0.6, 0.3, 0.2, 0.2, 0.2}, &results);
  v = Verdicts(*experiment, results);
  EXPECT_EQ(v["chaining.workspace"], Verdict::kHolds);
  EXPECT_EQ(v["chaining.transformer"], Verdict::kDoesNotHold);
}

TEST(Evidence, ATaskThatNoModelLearnsHasNoVerdict) {
  const auto experiment = MakeChainingExperiment();
  CellResults results;
  const std::vector<double> poor = {0.6, 0.3, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2};
  for (const char* model : {"hydra", "hydra-no-workspace", "transformer", "transformer-active"})
    AddSeeds(StrCat("chaining-", model), "test", poor, &results);
  AddSeeds("chaining-hydra", "workspace read off", poor, &results);
  for (const auto& [name, verdict] : Verdicts(*experiment, results))
    EXPECT_EQ(verdict, Verdict::kNotRun) << name << ": one model may still learn it";
  AddSeeds("chaining-mamba2", "test", poor, &results);
  for (const auto& [name, verdict] : Verdicts(*experiment, results)) EXPECT_EQ(verdict, Verdict::kNotLearned) << name;
  AddSeeds("chaining-mamba2", "test", {0.95, 0.3, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2}, &results);
  for (const auto& [name, verdict] : Verdicts(*experiment, results)) {
    EXPECT_NE(verdict, Verdict::kNotLearned) << name;
    EXPECT_NE(verdict, Verdict::kNotRun) << name;
  }
}

TEST(Evidence, ABetterControlEndsRecall) {
  const auto experiment = MakeRecallExperiment();
  CellResults results;
  const std::vector<double> good = {1, 1, 1, 0.99, 0.98, 0.9};
  AddSeeds("recall-hydra", "test", good, &results);
  for (const char* what :
       {"SSM state zeroed before the questions", "landmarks off", "workspace read off", "window only"})
    AddSeeds("recall-hydra", what, {1, 1, 1, 0.3, 0.2, 0.1}, &results);
  for (const int64_t seed : {1, 2, 3})
    results[StrCat("recall-hydra-seed-", seed)]["in_pool"] = {1, 1, 1, 0.9, 0.5, 0.2};
  for (const char* model : {"transformer", "transformer-active", "mamba2"})
    AddSeeds(StrCat("recall-", model), "test", {1, 1, 0.9, 0.5, 0.4, 0.3}, &results);
  std::map<std::string, Verdict> v = Verdicts(*experiment, results);
  EXPECT_EQ(v["recall.512"], Verdict::kHolds);
  EXPECT_EQ(v["recall.1024"], Verdict::kHolds);
  EXPECT_EQ(v["recall.2048"], Verdict::kDoesNotHold);
  EXPECT_EQ(v["recall.landmarks"], Verdict::kHolds);
  AddSeeds("recall-transformer", "test", {1, 1, 1, 1, 1, 1}, &results);
  v = Verdicts(*experiment, results);
  EXPECT_EQ(v["recall.512"], Verdict::kDoesNotHold);
  EXPECT_EQ(v["recall.1024"], Verdict::kDoesNotHold);
}

// Times of a cell: Hydra's, and those of each other model at `ratio` of them.
Json Times(const std::vector<std::string>& others, double ratio, double peak, size_t n = 10) {
  Json samples, peaks, voids = Json::array();
  for (size_t i = 0; i < n; ++i) {
    const double own = 1000 + 10 * static_cast<double>(i);
    samples["hydra"].push_back(own);
    for (const std::string& other : others) samples[other].push_back(own / ratio);
    voids.push_back(false);
  }
  peaks["hydra"] = peak;
  for (const std::string& other : others) peaks[other] = peak;
  return {{"samples", samples}, {"peak_bytes", peaks}, {"void", voids}};
}

TEST(Evidence, ThroughputIsJudgedByItsRules) {
  const auto experiment = MakeThroughputExperiment();
  const std::vector<std::string> others = {"transformer", "transformer-active", "mamba2"};
  CellResults results;
  int64_t T = 1 << 10;
  for (const double ratio : {0.8, 1.5, 3.0, 6.0, 10.0, 15.0, 25.0}) {
    results[StrCat("throughput-prefill-", T)] = Times(others, ratio, 1e8);
    results[StrCat("throughput-decode-", T)] = Times(others, ratio, 1e8 * static_cast<double>(T));
    T *= 2;
  }
  std::map<std::string, Verdict> v = Verdicts(*experiment, results);
  EXPECT_EQ(v["throughput.prefill-64k"], Verdict::kHolds);
  EXPECT_EQ(v["throughput.crossover-prefill"], Verdict::kHolds);
  EXPECT_EQ(v["throughput.crossover-decode"], Verdict::kDoesNotHold) << "it passes 1 between 1K and 2K";
  EXPECT_EQ(v["throughput.memory"], Verdict::kHolds);
  // A machine that was not quiet.
  for (Json& noisy : results["throughput-prefill-65536"]["void"]) noisy = true;
  v = Verdicts(*experiment, results);
  EXPECT_EQ(v["throughput.prefill-64k"], Verdict::kVoid);
  EXPECT_EQ(v["throughput.crossover-prefill"], Verdict::kVoid);
  EXPECT_EQ(v["throughput.crossover-decode"], Verdict::kDoesNotHold);
}

TEST(Evidence, TheGoalAt64KIsThreeQuartersOfTheCountedRatio) {
  const auto experiment = MakeThroughputExperiment();
  for (const double ratio : {12.5, 12.7}) {
    CellResults results;
    results["throughput-prefill-65536"] = Times({"transformer"}, ratio, 1e8);
    std::map<std::string, Verdict> v;
    for (const Claim& claim : experiment->Report({.size = EvidenceSize::k29M}, results).claims)
      v.emplace(claim.name, claim.verdict);
    EXPECT_EQ(v.at("throughput.prefill-64k"), ratio > 12.6 ? Verdict::kHolds : Verdict::kDoesNotHold) << ratio;
  }
}

TEST(Report, TextsAreEscapedAndTablesStraight) {
  const ReportTable table{"", {"a", "b"}, {{"x,\"y\"", "1"}, {"plain", "2"}}};
  EXPECT_EQ(Csv(table), "a,b\n\"x,\"\"y\"\"\",1\nplain,2\n");
  ReportSection section{.name = "n", .title = "a < b", .about = std::string(300, 'w') + " end"};
  section.plots.push_back({.name = "p", .title = "t'", .lines = {{"it's", {1, 2}, {{1, 0, 2}, {2, 1, 3}}}}});
  const std::string page = Html({.title = "T", .lines = {}}, {section}, {{"p", "<svg fill=\"#fff\"/>"}});
  EXPECT_NE(page.find("a &lt; b"), std::string::npos);
  EXPECT_NE(page.find("data:image/svg+xml,%3Csvg%20fill=%22%23fff%22/%3E"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos) << "no outside requests";
  EXPECT_NE(Gnuplot(section.plots[0], "base").find("title 'it''s'"), std::string::npos);
  EXPECT_NE(Markdown({.title = "T", .lines = {}}, {section}).find("](plots/p.svg)"), std::string::npos);
}

}  // namespace
}  // namespace hydra::eval
