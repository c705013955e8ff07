// SPDX-License-Identifier: Apache-2.0
// `hydralm profile`: what a model's loss would change if each head saw fewer keys, item by item, with progress; the
// stability table and a map of it. Not here: how it is measured (eval/influence.h), plans (verb_plan.cc).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/statistics.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/gnuplot.h"
#include "hydra/cli/progress_bar.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/cli/verbs.h"
#include "hydra/data/long_items.h"
#include "hydra/eval/influence.h"
#include "hydra/io/file.h"
#include "hydra/io/folder_lock.h"
#include "hydra/io/json.h"
#include "hydra/train/device.h"

namespace hydra::cli {
namespace {

struct ProfileFlags {
  ModelFlags model;
  std::string data, out;
  std::vector<int64_t> lengths;
  int64_t items = 16;
  bool resume = false;
};

constexpr double kStable = 0.9;  // correlation of the two halves from which a profile counts as stable

std::string ProfilePath(const std::string& folder) {
  return (std::filesystem::path(folder) / "profile.safetensors").string();
}

// "SmolLM2-135M" of .../SmolLM2-135M/.
std::string FolderName(const std::string& path) {
  std::filesystem::path p = std::filesystem::path(path).lexically_normal();
  if (!p.has_filename()) p = p.parent_path();
  return p.filename().string();
}

// The items of a length that are wanted, in the order of the file.
std::vector<const LongItem*> ItemsOf(const ItemFile& file, int64_t length, int64_t most) {
  std::vector<const LongItem*> items;
  for (const LongItem& item : file.items)
    if (item.length == length && static_cast<int64_t>(items.size()) < most) items.push_back(&item);
  return items;
}

// An earlier profile, or an empty one.
InfluenceProfile FirstProfile(const ProfileFlags& flags, const nn::Model& model, const ItemFile& items) {
  const std::string path = ProfilePath(flags.out);
  InfluenceProfile empty =
      eval::EmptyProfile(model.config(), FolderName(flags.model.model), WeightsFileSha256(flags.model.model), items);
  if (!std::filesystem::exists(path)) return empty;
  if (!flags.resume)
    throw Error(ErrorCode::kUsage, path + ": is there already: --resume goes on with it, another -o begins anew");
  InfluenceProfile earlier = InfluenceProfile::Load(path);
  earlier.dense.Check(model.config(), path);
  const auto same = [&](const char* what, const std::string& its, const std::string& ours) {
    if (its != ours)
      throw Error(ErrorCode::kUsage, StrCat(path, ": ", what, " = ", its.substr(0, 12), "...: this run has ",
                                            ours.substr(0, 12), "...: another -o begins anew"));
  };
  same("items_sha256", earlier.items_sha256, empty.items_sha256);
  same("weights_sha256", earlier.dense.model.weights_sha256, empty.dense.model.weights_sha256);
  return earlier;
}

// Items that are still to be measured, shortest first: what is known early is of many short ones.
struct Work {
  std::vector<const LongItem*> items;
  double flops = 0, done = 0;  // of all wanted; of those that an earlier run measured
};
Work WorkOf(const ProfileFlags& flags, const ItemFile& file, const ModelConfig& config,
            const InfluenceProfile& profile) {
  Work work;
  for (const int64_t N : flags.lengths) {
    const std::vector<const LongItem*> items = ItemsOf(file, N, flags.items);
    if (items.empty()) throw Error(ErrorCode::kUsage, StrCat("--lengths ", N, ": ", flags.data, " has no items of it"));
    const auto found = profile.lengths.find(N);
    const size_t there = found == profile.lengths.end() ? 0 : found->second.ids.size();
    for (size_t i = 0; i < items.size(); ++i) {
      const double flops = eval::ItemFlops(config, static_cast<int64_t>(items[i]->ids.size()));
      work.flops += flops;
      if (i < there && found->second.ids[i] != items[i]->id)
        throw Error(ErrorCode::kUsage, StrCat(ProfilePath(flags.out), ": item ", i, " of length ", N, " is ",
                                              OneLine(found->second.ids[i], 40), ", in ", flags.data, " it is ",
                                              OneLine(items[i]->id, 40), ": another -o begins anew"));
      if (i < there)
        work.done += flops;
      else
        work.items.push_back(items[i]);
    }
  }
  return work;
}

// Measures and saves item after item; a signal ends it between two layers, and what was measured is saved.
void Measure(const ProfileFlags& flags, const nn::Model& model, const Work& work, const CommonFlags& common,
             InfluenceProfile* profile) {
  ProgressBar bar(common);
  double done = work.done, own = 0;
  const double begin = Seconds();
  for (size_t i = 0; i < work.items.size(); ++i) {
    const LongItem& item = *work.items[i];
    const double flops = eval::ItemFlops(model.config(), static_cast<int64_t>(item.ids.size()));
    eval::InfluenceOptions options;
    options.device = train::ResolveDevice(flags.model.device);
    options.progress = [&](double share) {
      ThrowIfStopped();
      const double seconds = Seconds() - begin;
      char text[96];
      (void)std::snprintf(text, sizeof(text), "%zu/%zu items  %.1f s/item  %.0f GFLOP/s", i, work.items.size(),
                          i > 0 ? seconds / (static_cast<double>(i) + share) : 0.0,
                          (own + share * flops) / seconds / 1e9);
      bar.Show(StrCat("profile ", item.length), (done + share * flops) / work.flops, text);
    };
    (void)eval::AddItem(model, item, options, profile);
    done += flops, own += flops;
    profile->Save(ProfilePath(flags.out));
  }
  if (!work.items.empty() && !common.quiet && !common.json)
    std::fprintf(stderr, "profile      %zu items in %s, %.0f GFLOP/s\n", work.items.size(),
                 DurationText(Seconds() - begin).c_str(), own / (Seconds() - begin) / 1e9);
}

// Loss of each unit against its span, relative to what two blocks cost: which heads need the distance.
Plot MapOf(const InfluenceProfile& profile, int64_t N) {
  Plot plot;
  plot.table = "unit\tspan\tloss\n";
  int64_t unit = 0;
  const InfluenceProfile& p = profile;
  for (int layer = 0; layer < static_cast<int>(p.dense.layers.size()); ++layer) {
    const LayerPlan& l = p.dense.layers[static_cast<size_t>(layer)];
    for (int64_t kv = 0; kv < p.dense.model.n_kv_heads && !l.rules.empty(); ++kv, ++unit) {
      const std::vector<double> curve = p.UnitCurve(Estimator::kJabs, N, layer, kv);
      for (size_t m = 1; m < curve.size(); ++m)
        plot.table +=
            StrCat(unit, "\t", l.n_sinks + static_cast<int64_t>(m) * p.dense.block_size, "\t", curve[m], "\n");
      plot.table += "\n";
    }
  }
  plot.script = StrCat(
      "unset grid\nset title 'what a span costs, ", N, " tokens'\nset xlabel 'span, tokens'\n",
      "set ylabel 'unit: layer x KV head'\nset cblabel 'log10 of nats'\nset view map\nset palette rgb 33,13,10\n",
      "set xrange [*:*] noextend\nset yrange [*:*] noextend\n",
      "plot @TABLE@ skip 1 using 2:1:($3 > 0 ? log10($3) : 1/0) with image notitle");
  plot.height = 700;
  return plot;
}

Json TableJson(const InfluenceProfile& profile) {
  Json rows = Json::array();
  for (const auto& [N, length] : profile.lengths) {
    const MeanError loss = MeanOf(length.losses);
    Json row{{"length", N},
             {"items", length.ids.size()},
             {"loss", loss.mean},
             {"loss_error", loss.error},
             {"guarded", length.guarded}};
    for (const Estimator estimator : {Estimator::kJabs, Estimator::kJsgn, Estimator::kF}) {
      const double rho = profile.HalfCorrelation(estimator, N);
      row["halves"][EstimatorName(estimator)] = std::isfinite(rho) ? Json(rho) : Json();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

void PrintTable(const InfluenceProfile& profile, const std::string& path) {
  std::printf("| length | items | loss of answers | halves agree: jabs | jsgn | f | guarded |\n");
  std::printf("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  bool stable = true;
  for (const auto& [N, length] : profile.lengths) {
    const MeanError loss = MeanOf(length.losses);
    const auto rho = [&](Estimator estimator) { return profile.HalfCorrelation(estimator, N); };
    stable = stable && rho(Estimator::kJabs) >= kStable;
    std::printf("| %lld | %zu | %.4f +- %.4f | %.3f | %.3f | %.3f | %lld |\n", static_cast<long long>(N),
                length.ids.size(), loss.mean, loss.error, rho(Estimator::kJabs), rho(Estimator::kJsgn),
                rho(Estimator::kF), static_cast<long long>(length.guarded));
  }
  std::printf("%s: %s\n", path.c_str(),
              stable ? "stable" : StrCat("the halves of jabs agree below ", kStable, ": take more items").c_str());
}

int RunProfile(ProfileFlags flags, const CommonFlags& common) {
  const ItemFile items = ItemFile::Load(flags.data);
  for (const LongItem& item : items.items)
    if (ForEvaluation(item.kind))
      throw Error(ErrorCode::kUsage, StrCat(flags.data, ": item ", OneLine(item.id, 60), ": ", item.kind,
                                            " is for evaluation: no plan is made of it"));
  if (flags.lengths.empty()) flags.lengths = items.lengths;
  std::sort(flags.lengths.begin(), flags.lengths.end());
  flags.lengths.erase(std::unique(flags.lengths.begin(), flags.lengths.end()), flags.lengths.end());
  nn::Model model = OpenModel(flags.model);
  eval::FreezeWeights(model);
  const Tokenizer tokenizer = LoadTokenizer(flags.model.model, flags.model.pre);
  items.CheckIds(flags.data, Hex(tokenizer.sha256()), model.config().vocab_size);
  MakeDirs(flags.out);
  const FolderLock lock(flags.out, "hydralm profile");
  InfluenceProfile profile = FirstProfile(flags, model, items);
  const Work work = WorkOf(flags, items, model.config(), profile);
  InstallStopSignals();
  Measure(flags, model, work, common, &profile);
  const std::string path = ProfilePath(flags.out);
  const int64_t longest = profile.lengths.empty() ? 0 : profile.lengths.rbegin()->first;
  if (longest > 0) DrawPlot((std::filesystem::path(flags.out) / "influence").string(), MapOf(profile, longest));
  if (common.json)
    std::puts(DumpJson({{"profile", path}, {"lengths", TableJson(profile)}}).c_str());
  else
    PrintTable(profile, path);
  return kDone;
}

}  // namespace

void AddProfileVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<ProfileFlags>();
  CLI::App* verb = context.AddVerb(root, kProfileVerb, "hydralm profile -m smol/ --data items.jsonl -o profiles/smol");
  verb->add_option("-m,--model", flags->model.model, "model folder")->type_name("PATH");
  verb->add_option("--data", flags->data, "items with answers, made by hydralm data items")
      ->required()
      ->type_name("FILE");
  verb->add_option("--items", flags->items, "items of each length")->check(Range(1, 100000));
  AddNumbers(verb, "--lengths", &flags->lengths, "lengths of them; default all of the file", Range(1, 1 << 24));
  verb->add_option("-t,--threads", flags->model.threads, "threads; 0 = physical cores")->check(Range(0, 1024));
  verb->add_option("--device", flags->model.device, "auto, cpu, cuda or cuda:N")->type_name("DEVICE");
  verb->add_flag("--resume", flags->resume, "go on with the profile that is in -o");
  verb->add_option("-o,--output", flags->out, "folder of the profile, the table and the map")
      ->required()
      ->type_name("DIR");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunProfile(*flags, common); });
}

}  // namespace hydra::cli
