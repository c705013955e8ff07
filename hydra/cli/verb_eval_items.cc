// SPDX-License-Identifier: Apache-2.0
// Haystack after haystack, plan after plan.
#include "hydra/cli/verb_eval_items.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::cli {
namespace {

constexpr const char* kDense = "dense";

// Items that begin alike and are of one kind and length, by their places in a file.
struct Haystack {
  size_t items = 0;
  std::vector<size_t> at;
};

std::vector<Haystack> HaystacksOf(const std::vector<JudgedItems>& items) {
  std::vector<Haystack> all;
  for (size_t f = 0; f < items.size(); ++f) {
    std::map<std::tuple<std::string, std::string, int64_t>, size_t> known;  // group, kind, length
    for (size_t i = 0; i < items[f].file.items.size(); ++i) {
      const LongItem& item = items[f].file.items[i];
      const auto [place, added] = known.try_emplace(std::tuple(item.group, item.kind, item.length), all.size());
      if (added) all.push_back({f, {}});
      all[place->second].at.push_back(i);
    }
  }
  return all;
}

// Right answers of a haystack that differ: each question's is chosen from them.
std::vector<std::vector<int32_t>> ChoicesOf(const Haystack& haystack, const std::vector<LongItem>& items) {
  std::set<std::vector<int32_t>> all;
  for (const size_t i : haystack.at)
    if (!items[i].gold.empty()) all.insert(items[i].gold);
  return {all.begin(), all.end()};
}

std::string RowKey(const JudgedItems& items, size_t item, const JudgedPlan& plan) {
  return StrCat(items.sha256, " ", items.file.items[item].id, " ", plan.Key());
}

Json RowJson(const ItemRow& row, const JudgedItems& items, const JudgedPlan& plan) {
  const LongItem& item = items.file.items[row.item];
  Json json{{"items_sha256", items.sha256}, {"item", item.id},         {"plan", plan.name},
            {"plan_key", plan.Key()},       {"kind", item.kind},       {"length", item.length},
            {"depth", item.depth},          {"group", item.group},     {"nll", row.score.nll},
            {"tokens", row.score.tokens},   {"exact", row.score.exact}};
  if (row.choices > 0) json["chosen"] = row.score.chosen, json["choices"] = row.choices;
  return json;
}

// The rows of an earlier run, by RowKey; its text is what the file goes on with.
struct OldRows {
  std::map<std::string, ItemRow> rows;
  std::string text;
};

ItemRow ReadRow(const Json& json, const std::string& where) {
  const auto need = [&](const char* key) -> const Json& {
    if (!json.is_object() || !json.contains(key))
      throw Error(ErrorCode::kFormat, StrCat(where, ": ", key, " is missing: no rows of hydralm eval"));
    return json[key];
  };
  ItemRow row;
  ReadJson(need("nll"), where + ": nll", &row.score.nll);
  ReadJson(need("tokens"), where + ": tokens", &row.score.tokens);
  ReadJson(need("exact"), where + ": exact", &row.score.exact);
  if (row.score.tokens < 1)
    throw Error(ErrorCode::kFormat, StrCat(where, ": tokens = ", row.score.tokens, ": must be 1 or more"));
  if (json.contains("choices")) {
    ReadJson(json["choices"], where + ": choices", &row.choices);
    ReadJson(need("chosen"), where + ": chosen", &row.score.chosen);
  }
  return row;
}

OldRows ReadRows(const std::string& path) {
  OldRows old;
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) return old;
  const std::string text = ReadText(path);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string where = StrCat(path, ":", ++number);
    const Json json = ParseJson(std::string_view(text).substr(begin, end - begin), where);
    begin = end + 1;
    const ItemRow row = ReadRow(json, where);
    std::string key;
    for (const char* part : {"items_sha256", "item", "plan_key"}) {
      std::string word;
      ReadJson(json.contains(part) ? json[part] : Json(), StrCat(where, ": ", part), &word);
      key += StrCat(key.empty() ? "" : " ", word);
    }
    old.rows[key] = row;
    old.text += json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  return old;
}

// A line that is drawn in place on a terminal.
class RunLine {
 public:
  RunLine(std::string what, bool draw) : what_(std::move(what)), draw_(draw) {}
  ~RunLine() {
    if (drawn_) fmt::print(stderr, "\r\x1b[K");
  }
  RunLine(const RunLine&) = delete;
  RunLine& operator=(const RunLine&) = delete;

  void Show(size_t done, size_t before, size_t all) {
    if (!draw_ || !pace_.Due()) return;
    constexpr size_t kBar = 20;
    const size_t full = all == 0 ? kBar : kBar * done / all;
    const double seconds = Seconds() - start_;
    const std::string left =
        done > before ? fmt::format("  {:.1f} s/item  ETA {:.0f} min", seconds / static_cast<double>(done - before),
                                    seconds / static_cast<double>(done - before) * static_cast<double>(all - done) / 60)
                      : "";
    fmt::print(stderr, "\r\x1b[K{} [{}{}] {}/{} items{}", what_, std::string(full, '='), std::string(kBar - full, ' '),
               done, all, left);
    std::fflush(stderr);
    drawn_ = true;
  }

 private:
  std::string what_;
  bool draw_, drawn_ = false;
  double start_ = Seconds();
  Pace pace_{0.5};
};

}  // namespace

std::string JudgedPlan::Key() const {
  if (!plan) return kDense;
  return StrCat(plan.plan().RulesSha256(), plan.spans() == HeadSpans::kOwn ? " own" : "");
}

std::vector<JudgedPlan> OpenJudgedPlans(const std::vector<std::string>& words, const std::string& folder,
                                        const std::string& head_spans, const ModelConfig& config) {
  std::vector<std::string> paths = words;
  if (!folder.empty()) {
    std::error_code code;
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder, code))
      if (entry.path().extension() == ".json") found.push_back(entry.path().string());
    if (code) throw Error(ErrorCode::kIo, StrCat("--plans ", folder, ": ", code.message()));
    if (found.empty()) throw Error(ErrorCode::kUsage, StrCat("--plans ", folder, ": has no .json file"));
    std::ranges::sort(found);
    paths.insert(paths.end(), found.begin(), found.end());
  }
  std::vector<JudgedPlan> plans;
  for (const std::string& path : paths) {
    JudgedPlan plan{.name = kDense, .path = {}};
    if (path != kDense) {
      UsedPlan used({.file = path, .head_spans = "ring"}, config);
      // Spans of query heads only where there are some: a list may hold plans of both units.
      if (head_spans == "own" && used.plan().unit == PlanUnit::kHead)
        used = UsedPlan({.file = path, .head_spans = head_spans}, config);
      plan = {used.plan().name.empty() ? std::filesystem::path(path).stem().string() : used.plan().name, path, used};
      if (used.spans() == HeadSpans::kOwn) plan.name += " own";
    }
    const auto same = [&](const JudgedPlan& other) { return other.Key() == plan.Key(); };
    if (std::ranges::none_of(plans, same)) plans.push_back(std::move(plan));
  }
  return plans;
}

void CheckItemRows(const std::string& path) { (void)ReadRows(path); }

std::span<const int32_t> AnswerOf(const LongItem& item) {
  return item.gold.empty() ? item.answer() : std::span<const int32_t>(item.gold);
}

namespace {

// What is still to be scored of a haystack under a plan.
struct Work {
  std::vector<AnswerTask> tasks;
  std::vector<size_t> at;  // items of the tasks
  std::vector<std::vector<int32_t>> choices;
};

// A question is chosen from its own other answers, or from those of its haystack.
void FillTasks(const std::vector<LongItem>& items, Work* work) {
  for (const size_t i : work->at) {
    const LongItem& item = items[i];
    AnswerTask task{.prompt = item.prompt(), .answer = AnswerOf(item)};
    for (const std::vector<int32_t>& other : item.others.empty() ? work->choices : item.others)
      if (!item.gold.empty() && other != item.gold) task.others.emplace_back(other);
    work->tasks.push_back(std::move(task));
  }
}

}  // namespace

std::vector<ItemRow> ScoreItems(const Runner& runner, const std::vector<JudgedPlan>& plans,
                                const std::vector<JudgedItems>& items, const ItemRunOptions& options) {
  OldRows old = ReadRows(options.rows);
  const std::vector<Haystack> haystacks = HaystacksOf(items);
  size_t all = 0, done = 0;
  for (const JudgedItems& file : items) all += file.file.items.size() * plans.size();
  std::vector<ItemRow> rows;
  RunLine line(options.what, options.progress);
  size_t before = 0;
  const auto take = [&](ItemRow row, size_t plan, size_t file, size_t item) {
    row.plan = plan, row.items = file, row.item = item;
    rows.push_back(row);
    ++done;
  };
  for (const Haystack& haystack : haystacks)  // what there is already
    for (size_t p = 0; p < plans.size(); ++p)
      for (const size_t i : haystack.at)
        if (const auto found = old.rows.find(RowKey(items[haystack.items], i, plans[p])); found != old.rows.end())
          take(found->second, p, haystack.items, i);
  before = done;
  for (const Haystack& haystack : haystacks) {
    const JudgedItems& file = items[haystack.items];
    const std::vector<LongItem>& list = file.file.items;
    bool added = false;
    for (size_t p = 0; p < plans.size() && !StopRequested(); ++p) {
      const auto known = [&](size_t i) { return old.rows.contains(RowKey(file, i, plans[p])); };
      if (std::ranges::all_of(haystack.at, known)) continue;
      // All of it, known or not: what its prompts share decides how they are read, and so the last bits of a score.
      Work work{.tasks = {}, .at = haystack.at, .choices = ChoicesOf(haystack, list)};
      FillTasks(list, &work);
      const LongItem& first = list[work.at.front()];
      // The nominal length is what the rules see, whatever a prompt has.
      const int64_t N = std::min(first.length, runner.model.options().ctx_size);
      (void)ScoreAnswers(
          runner.model, work.tasks,
          {.plan = plans[p].plan.At(N),
           .controls = options.controls,
           .on_score =
               [&](size_t t, const AnswerScore& score) {
                 const size_t i = work.at[t];
                 if (known(i)) return !StopRequested();
                 const auto others = static_cast<int64_t>(work.tasks[t].others.size());
                 const ItemRow row{.score = score, .choices = others > 0 ? others + 1 : 0};
                 take(row, p, haystack.items, i);
                 old.text +=
                     RowJson(rows.back(), file, plans[p]).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
                 added = true;
                 line.Show(done, before, all);
                 return !StopRequested();
               }},
          *runner.pool);
    }
    if (added && !options.rows.empty()) WriteFileAtomic(options.rows, old.text);
    if (StopRequested()) break;
  }
  return rows;
}

}  // namespace hydra::cli
