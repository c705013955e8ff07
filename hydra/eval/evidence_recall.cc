// SPDX-License-Identifier: Apache-2.0
// 12.3: does Hydra recall what lies beyond its window, and by which part?
#include <algorithm>
#include <tuple>

#include "hydra/base/error.h"
#include "hydra/eval/evidence_task.h"

namespace hydra::eval {
namespace {

constexpr const char* kForget = "SSM state zeroed before the questions";
constexpr const char* kNoLandmarks = "landmarks off";
constexpr const char* kNoWorkspace = "workspace read off";
constexpr const char* kWindowOnly = "window only";

RecallOptions RecallSizes(EvidenceSize size) {
  if (size == EvidenceSize::kSmoke)
    return {.pairs = 4,
            .train_least = 96,
            .train_most = 128,
            .documents = 2,
            .lengths = {{96, 40, 32, 64}, {128, 8, 128, 128}}};
  if (size == EvidenceSize::k29M)
    return {.chunk = 32,
            .train_least = 576,
            .train_most = 4096,
            .documents = 32,
            .lengths = {{576, 1160, 64, 512},
                        {1024, 144, 1024, 1024},
                        {2048, 144, 2048, 2048},
                        {4096, 144, 4096, 4096},
                        {8192, 144, 8192, 8192},
                        {16384, 144, 16384, 16384},
                        {32768, 144, 32768, 32768}}};
  return {};
}

Json LengthsJson(const RecallOptions& o) {
  Json list = Json::array();
  for (const RecallLength& length : o.lengths)
    list.push_back({length.tokens, length.documents, length.least, length.most});
  return list;
}

class RecallExperiment final : public TaskExperiment {
 public:
  [[nodiscard]] std::string name() const override { return "recall"; }
  [[nodiscard]] std::string title() const override { return "12.3 Recall beyond the window"; }

  [[nodiscard]] ReportSection Report(const EvidencePlan& plan, const CellResults& results) const override {
    const TaskPlan task = MakePlan(plan.size);
    const RecallOptions o = RecallSizes(plan.size);
    const std::vector<std::string> distances = task.task->settings();
    ReportSection section{
        .name = name(),
        .title = title(),
        .about =
            StrCat(o.pairs, " pairs of ", o.keys, " keys and ", o.values, " values among filler of ", o.filler,
                   " other ids, at most one to a chunk of ", o.chunk,
                   " tokens; at the end every key is asked in a random order. Trained on documents of ", o.train_least,
                   " to ", o.train_most, " tokens, ", task.steps, " steps of ", o.documents,
                   " documents; loss on the answers alone. Row d has the questions whose pair lies more than d / 2 and "
                   "at most d tokens back; Hydra's window is ",
                   EvidenceModel("hydra", plan.size).attention.window,
                   " tokens. Shares of right answers, mean over seeds and 95% interval."),
        .claims = {},
        .tables = {},
        .plots = {},
        .rows = RawRows(plan, results, task)};
    const std::optional<bool> learned = Learned(plan, results, 0);
    for (size_t s = 0; s < distances.size(); ++s)
      if (std::stoll(distances[s]) >= Beyond(plan.size))
        section.claims.push_back(AtDistance(plan, results, s, distances[s], learned));
    for (const auto& [id, text, what] :
         {std::tuple{"landmarks", "Landmarks carry recall beyond the window", kNoLandmarks},
          {"ssm", "The SSM state carries recall beyond the window", kForget},
          {"workspace", "The workspace carries recall beyond the window", kNoWorkspace}}) {
      const size_t s = Place(distances, Beyond(plan.size));
      Evidence evidence = Gain(plan, results, "hydra", "test", "hydra", what, {s});
      evidence.learned = learned;
      section.claims.push_back(Judge(StrCat("recall.", id), text,
                                     StrCat("share right less that with ", what, ", distance ", distances[s]),
                                     GainsOver(0, 0.05), evidence));
    }
    Lines lines = TestLines();
    for (const char* what : {kForget, kNoLandmarks, kNoWorkspace, kWindowOnly}) lines.emplace_back("hydra", what);
    section.tables = {ScoreTable(plan, results, task, lines, "Shares of right answers by distance."),
                      PoolTable(plan, results, distances), RunTable(plan, results)};
    std::vector<double> x;
    for (const std::string& d : distances) x.push_back(std::stod(d));
    section.plots.push_back({.name = "recall",
                             .title = "Right answers by distance",
                             .x_label = "tokens between pair and question, at most",
                             .y_label = "share right",
                             .log_x = true,
                             .lines = ScoreLines(plan, results, lines, x),
                             .levels = {{"a value of the document", 1 / static_cast<double>(o.pairs)}}});
    return section;
  }

 protected:
  [[nodiscard]] std::vector<std::string> models() const override {
    return {"hydra", "transformer", "transformer-active", "mamba2"};
  }

  [[nodiscard]] TaskPlan MakePlan(EvidenceSize size) const override {
    const RecallOptions o = RecallSizes(size);
    return {.task = MakeRecall(o),
            .options = {{"pairs", o.pairs},
                        {"keys", o.keys},
                        {"values", o.values},
                        {"filler", o.filler},
                        {"chunk", o.chunk},
                        {"train_least", o.train_least},
                        {"train_most", o.train_most},
                        {"documents", o.documents},
                        {"lengths", LengthsJson(o)}},
            .steps = size == EvidenceSize::kSmoke ? 8
                     : size == EvidenceSize::k29M ? 20000
                                                  : 3000,
            .test_passes = 6};
  }

  void Look(const TaskPlan& plan, nn::Model& model, const std::string& name, const ScoreOptions& options,
            CellContext& context, Json* result) const override {
    if (name != "hydra") return;
    const auto with = [&](const char* what, bool forget, bool landmarks, bool workspace) {
      context.check();
      ScoreOptions some = options;
      some.forget_before_questions = forget;
      some.forward.controls.landmarks = landmarks;
      some.forward.controls.workspace_read = workspace ? 1 : 0;
      ScoreInto(*plan.task, model, what, some, result);
    };
    with(kForget, true, true, true);
    with(kNoLandmarks, false, false, true);
    with(kNoWorkspace, false, true, false);
    with(kWindowOnly, true, false, false);
    (*result)["in_pool"] =
        SharesInPools(model, plan.task->Test(), static_cast<int64_t>(plan.task->settings().size()), options);
  }

 private:
  // The distance from which on recall is claimed: eight windows of hydra-nano.
  [[nodiscard]] static int64_t Beyond(EvidenceSize size) {
    return size == EvidenceSize::kSmoke ? 128 : size == EvidenceSize::k29M ? 2048 : 512;
  }
  [[nodiscard]] static size_t Place(const std::vector<std::string>& distances, int64_t d) {
    const auto found = std::ranges::find(distances, std::to_string(d));
    HYDRA_CHECK(found != distances.end(), "no distance ", d);
    return static_cast<size_t>(found - distances.begin());
  }

  // At least 95%; and where a control is better for certain, the claim does not hold.
  [[nodiscard]] Claim AtDistance(const EvidencePlan& plan, const CellResults& results, size_t s,
                                 const std::string& distance, std::optional<bool> learned) const {
    Rule rule = AtLeast(0.95);
    rule.text += "; does not where a control is better, its difference's interval being above 0";
    Evidence evidence = Level(plan, results, "hydra", "test", {s});
    evidence.learned = learned;
    std::string better;
    for (const char* control : {"transformer", "transformer-active", "mamba2"}) {
      const Evidence gain = Gain(plan, results, control, "test", "hydra", "test", {s});
      if (!gain.interval) evidence.interval.reset();  // a verdict needs all of them
      if (gain.interval && gain.interval->low > 0) better += StrCat(better.empty() ? "" : ", ", control);
    }
    if (!better.empty()) evidence.note = better + " better";
    Claim claim = Judge(StrCat("recall.", distance), StrCat("Hydra recalls over ", distance, " tokens"),
                        StrCat("share right of Hydra, distance ", distance), rule, evidence);
    if (!better.empty() && claim.interval && learned == true) claim.verdict = Verdict::kDoesNotHold;
    return claim;
  }

  [[nodiscard]] ReportTable PoolTable(const EvidencePlan& plan, const CellResults& results,
                                      const std::vector<std::string>& distances) const {
    ReportTable table{"Share of the questions of a Hydra whose pair was a landmark when it was asked.", {"seed"}, {}};
    table.head.insert(table.head.end(), distances.begin(), distances.end());
    for (const int64_t seed : plan.seeds) {
      const auto found = results.find(SeedCell("hydra", seed));
      if (found == results.end() || !found->second.contains("in_pool")) continue;
      std::vector<std::string> row{StrCat(seed)};
      for (const Json& share : found->second["in_pool"]) row.push_back(Fixed(share.get<double>(), 3));
      table.rows.push_back(std::move(row));
    }
    return table;
  }
};

}  // namespace

std::unique_ptr<Experiment> MakeRecallExperiment() { return std::make_unique<RecallExperiment>(); }

}  // namespace hydra::eval
