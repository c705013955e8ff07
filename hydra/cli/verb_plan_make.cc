// SPDX-License-Identifier: Apache-2.0
// Plans from a profile, from a model's config, from other plans.
#include "hydra/cli/verb_plan_make.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <optional>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/cli/gnuplot.h"
#include "hydra/cli/progress_bar.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/moa/sweep.h"
#include "hydra/moa/variants.h"
#include "hydra/model/influence_profile.h"
#include "hydra/runtime/weights.h"

namespace hydra::cli {
namespace {

namespace fs = std::filesystem;

// -o names a folder: the Pareto set, or several plans, go there.
bool IsFolder(const std::string& out) {
  std::error_code ignored;
  return out.ends_with('/') || fs::is_directory(out, ignored);
}

std::string InFolder(const std::string& folder, const std::string& name) { return (fs::path(folder) / name).string(); }

InfluenceProfile LoadProfile(const std::string& path) {
  std::error_code ignored;
  return InfluenceProfile::Load(fs::is_directory(path, ignored) ? InFolder(path, "profile.safetensors") : path);
}

ModelConfig ConfigOfModel(const std::string& path) {
  std::vector<std::string> warnings;
  const WeightSource source = OpenWeights(path, &warnings);
  PrintWarnings(warnings);
  return source.config;
}

// The model that a plan is for: the profile's, or that of -m.
AttentionPlan DenseOf(const PlanMakeFlags& flags) {
  if (!flags.profile.empty()) return LoadProfile(flags.profile).dense;
  if (flags.model.empty()) throw Error(ErrorCode::kUsage, "plan: give --profile DIR or -m MODEL");
  AttentionPlan dense = AttentionPlan::Dense(ConfigOfModel(flags.model));
  dense.model.name = ModelName(flags.model);
  return dense;
}

std::vector<int64_t> BoundedLengths(const PlanMakeFlags& flags, const std::vector<int64_t>& profiled) {
  if (!flags.lengths.empty()) return flags.lengths;
  std::vector<int64_t> lengths = profiled;
  lengths.push_back(2 * lengths.back());
  return lengths;
}

// "0.5" at every length, or "1024:0.5,4096:0.25".
std::map<int64_t, double> BoundsOf(const PlanMakeFlags& flags, const std::vector<int64_t>& profiled) {
  std::map<int64_t, double> bounds;
  if (flags.density.find(':') == std::string::npos) {
    const double rho = ParseNumber(flags.density, "--density");
    for (const int64_t N : BoundedLengths(flags, profiled)) bounds[N] = rho;
    return bounds;
  }
  if (!flags.lengths.empty())
    throw Error(ErrorCode::kUsage, fmt::format("--lengths: --density {} names its lengths itself", flags.density));
  for (size_t begin = 0; begin <= flags.density.size();) {
    const size_t end = std::min(flags.density.find(',', begin), flags.density.size());
    const std::string one = flags.density.substr(begin, end - begin);
    const size_t colon = one.find(':');
    if (colon == std::string::npos)
      throw Error(ErrorCode::kUsage, fmt::format("--density {}: {}: must be LENGTH:SHARE", flags.density, one));
    bounds[ParseWholeNumber(one.substr(0, colon), 1, int64_t{1} << 24, "--density")] =
        ParseNumber(one.substr(colon + 1), "--density");
    begin = end + 1;
  }
  return bounds;
}

bool UsesCbc(const PlanMakeFlags& flags) {
  if (flags.solver == "cbc" && !moa::HasCbc())
    throw Error(ErrorCode::kNotBuilt,
                "--solver cbc: this build has no CBC: install coinor-libcbc-dev and build again, or "
                "take --solver greedy");
  return flags.solver != "greedy" && moa::HasCbc();
}

PlanUnit UnitOf(const std::string& name) {
  for (const PlanUnit unit : {PlanUnit::kKvHead, PlanUnit::kHead, PlanUnit::kLayer})
    if (name == PlanUnitName(unit)) return unit;
  throw Error(ErrorCode::kUsage, fmt::format("--unit {}: must be kv-head, head or layer", name));
}

std::string NameOf(const PlanMakeFlags& flags, const std::string& model, double rho, const char* what = "") {
  if (!flags.name.empty()) return flags.name;
  return fmt::format("{}{}-r{:02.0f}", model.empty() ? "model" : model, what, 100 * rho);
}

std::string ProfileNote(const InfluenceProfile& profile, const std::string& path, const std::string& estimator) {
  Json lengths = Json::array();
  int64_t items = 0;
  for (const auto& [N, length] : profile.lengths) {
    lengths.push_back(N);
    items = std::max(items, static_cast<int64_t>(length.ids.size()));
  }
  std::error_code ignored;
  const std::string file = fs::is_directory(path, ignored) ? InFolder(path, "profile.safetensors") : path;
  return DumpJson({{"sha256", Sha256Hex(MappedFile(file).bytes())},
                   {"items_sha256", profile.items_sha256},
                   {"lengths", lengths},
                   {"items", items},
                   {"estimator", estimator}});
}

// The loss of each plan of a set at each length beside its densities.
Plot SetPlot(const moa::Problem& problem, const std::vector<AttentionPlan>& plans) {
  Plot plot;
  plot.table = "plan";
  for (const int64_t N : problem.profiled) plot.table += fmt::format("\tloss at {}", N);
  for (const int64_t N : problem.bounded) plot.table += fmt::format("\tdensity at {}", N);
  plot.table += "\n";
  const auto row = [&](const std::string& name, const auto& loss, const auto& density) {
    plot.table += name;
    for (size_t p = 0; p < problem.profiled.size(); ++p) plot.table += fmt::format("\t{}", loss(p));
    for (const int64_t N : problem.bounded) plot.table += fmt::format("\t{}", density(N));
    plot.table += "\n";
  };
  for (const AttentionPlan& plan : plans)
    row(
        plan.name, [&](size_t p) { return plan.predicted_loss.at(problem.profiled[p]); },
        [&](int64_t N) { return plan.density.at(N); });
  row(
      "uniform", [&](size_t p) { return problem.scale[p]; }, [&](int64_t N) { return problem.bounds.at(N); });
  const size_t last = problem.profiled.size() + 1;
  plot.script = fmt::format(
      "set title 'predicted loss of the plans of a set, nats above dense'\nset xlabel 'at {} tokens'\n"
      "set ylabel 'at {} tokens'\nset logscale xy\nset key off\n"
      "plot @TABLE@ skip 1 using 2:{} with points pt 7 ps 1.2, @TABLE@ skip 1 using 2:{}:1 with labels offset 0,1",
      problem.profiled.front(), problem.profiled.back(), last, last);
  return plot;
}

// "density 0.497 at 8192, loss +0.013 (uniform +0.094)"
std::string Summary(const moa::Problem& problem, const AttentionPlan& plan) {
  const int64_t longest = problem.profiled.back();
  return fmt::format("{}: density {:.3f} at {}, loss {:+.4f} at {} (uniform {:+.4f})", plan.name,
                     plan.density.at(problem.bounded.back()), problem.bounded.back(), plan.predicted_loss.at(longest),
                     longest, problem.scale.back());
}

Json PlanJson(const std::string& path, const AttentionPlan& plan) {
  Json density = Json::object(), loss = Json::object();
  for (const auto& [N, value] : plan.density) density[std::to_string(N)] = value;
  for (const auto& [N, value] : plan.predicted_loss) loss[std::to_string(N)] = value;
  return {{"file", path}, {"name", plan.name}, {"density", density}, {"predicted_loss", loss}};
}

int SearchPlans(const PlanMakeFlags& flags, const CommonFlags& common) {
  const InfluenceProfile profile = LoadProfile(flags.profile);
  std::vector<int64_t> profiled;
  for (const auto& [N, length] : profile.lengths)
    if (!length.ids.empty()) profiled.push_back(N);
  if (profiled.empty()) throw Error(ErrorCode::kUsage, flags.profile + ": the profile has no items");
  moa::ProblemOptions options{.bounds = BoundsOf(flags, profiled),
                              .estimator = ParseEstimator(flags.estimator, "--estimator"),
                              .unit = UnitOf(flags.unit),
                              .max_rules = flags.max_rules,
                              .raw = flags.raw};
  if (flags.binary) options.rules = moa::BinaryRules(profile.dense);
  const moa::Problem problem = moa::MakeProblem(profile, options);
  const bool set = IsFolder(flags.out);
  moa::SweepResult result;
  {
    ProgressBar bar(common);
    result = moa::Sweep(problem, {.cbc = UsesCbc(flags),
                                  .time_limit = flags.time_limit,
                                  .all_lengths = set,
                                  .stopped = StopRequested,
                                  .progress = [&](int64_t done, int64_t total) {
                                    bar.Show("plan", static_cast<double>(done) / static_cast<double>(total),
                                             fmt::format("{}/{} programs", done, total));
                                  }});
  }
  const double rho = problem.bounds.rbegin()->second;
  const std::string name = NameOf(flags, profile.dense.model.name, rho, flags.binary ? "-binary" : "");
  if (set) MakeDirs(flags.out);
  std::vector<AttentionPlan> plans;
  Json files = Json::array();
  for (size_t i = 0; i < result.plans.size() && (set || i == 0); ++i) {
    AttentionPlan plan = problem.ToPlan(result.plans[i].choice, set ? fmt::format("{}-{:02}", name, i + 1) : name);
    plan.SetNote("profile", ProfileNote(profile, flags.profile, flags.estimator));
    plan.SetNote("solver", result.SolverNote());
    const std::string path = set ? InFolder(flags.out, fmt::format("plan-{:02}.json", i + 1)) : flags.out;
    plan.Save(path);
    files.push_back(PlanJson(path, plan));
    if (!common.json && !common.quiet) fmt::print("{}\n", Summary(problem, plan));
    plans.push_back(std::move(plan));
  }
  if (set) DrawPlot(InFolder(flags.out, "plans"), SetPlot(problem, plans));
  if (common.json) {
    fmt::print("{}\n", DumpJson({{"plans", files}, {"solver", Json::parse(result.SolverNote())}}));
  } else if (!common.quiet) {
    fmt::print(stderr, "plan         {} of {} programs had a plan, {}{}, {}{}\n", result.allowed, result.programs,
               result.solver, result.version.empty() ? "" : " " + result.version, DurationText(result.seconds),
               result.complete ? "" : ": ended early, the best so far (--time-limit)");
  }
  return StopStatus();
}

// Writes one plan that was not searched for.
int WriteOne(const CommonFlags& common, const AttentionPlan& plan, const std::string& path) {
  plan.Save(path);
  if (common.json)
    fmt::print("{}\n", DumpJson({{"plans", Json::array({PlanJson(path, plan)})}}));
  else if (!common.quiet)
    for (const auto& [N, density] : plan.density) fmt::print("{}: density {:.3f} at {}\n", plan.name, density, N);
  return kDone;
}

// Densities and, from a profile, predicted losses of a plan that was not searched for.
void DescribePlan(const PlanMakeFlags& flags, AttentionPlan* plan) {
  std::vector<int64_t> lengths = flags.lengths;
  if (!flags.profile.empty()) {
    const InfluenceProfile profile = LoadProfile(flags.profile);
    plan->predicted_loss = moa::PredictedLoss(profile, *plan, ParseEstimator(flags.estimator, "--estimator"));
    std::vector<int64_t> profiled;
    for (const auto& [N, length] : profile.lengths) profiled.push_back(N);
    if (lengths.empty() && !profiled.empty()) lengths = BoundedLengths(flags, profiled);
  }
  if (lengths.empty()) lengths = {1024, 2048, 4096, 8192};
  for (const int64_t N : lengths)
    plan->density[N] = plan->unit == PlanUnit::kHead ? plan->HeadDensity(N) : plan->Density(N);
}

int MakeUniform(const PlanMakeFlags& flags, const CommonFlags& common) {
  const AttentionPlan dense = DenseOf(flags);
  AttentionPlan plan =
      moa::UniformPlan(dense, flags.uniform, NameOf(flags, dense.model.name, flags.uniform, "-uniform"));
  DescribePlan(flags, &plan);
  return WriteOne(common, plan, flags.out);
}

int MakeShuffled(const PlanMakeFlags& flags, const CommonFlags& common) {
  AttentionPlan plan = moa::ShuffledPlan(AttentionPlan::Load(flags.shuffle), static_cast<uint64_t>(flags.seed));
  if (!flags.name.empty()) plan.name = flags.name;
  DescribePlan(flags, &plan);
  return WriteOne(common, plan, flags.out);
}

int MakeRandom(const PlanMakeFlags& flags, const CommonFlags& common) {
  if (!IsFolder(flags.out)) throw Error(ErrorCode::kUsage, "--random: -o must name a folder: end it with /");
  const AttentionPlan dense = DenseOf(flags);
  std::vector<int64_t> profiled{1024, 2048, 4096};
  if (!flags.profile.empty()) {
    profiled.clear();
    const InfluenceProfile profile = LoadProfile(flags.profile);
    for (const auto& [N, length] : profile.lengths) profiled.push_back(N);
    if (profiled.empty()) throw Error(ErrorCode::kUsage, flags.profile + ": the profile has no items");
  }
  const LayerPlan* first = nullptr;
  for (const LayerPlan& layer : dense.layers)
    if (!layer.rules.empty() && (first == nullptr || first->window > 0)) first = &layer;
  if (first == nullptr) throw Error(ErrorCode::kUsage, "--random: this model has no attention");
  const std::vector<SpanRule> rules =
      moa::SearchSpace(profiled, BoundedLengths(flags, profiled), *first, dense.block_size);
  MakeDirs(flags.out);
  Json files = Json::array();
  for (AttentionPlan& plan : moa::RandomPlans(
           dense, rules, {.count = flags.random, .seed = static_cast<uint64_t>(flags.seed), .N = profiled.back()})) {
    DescribePlan(flags, &plan);
    const std::string path = InFolder(flags.out, plan.name + ".json");
    plan.Save(path);
    files.push_back(PlanJson(path, plan));
    if (!common.json && !common.quiet)
      fmt::print("{}: density {:.3f} at {}\n", plan.name, plan.density.at(profiled.back()), profiled.back());
  }
  if (common.json) fmt::print("{}\n", DumpJson({{"plans", files}}));
  return kDone;
}

int ImportPlan(const PlanMakeFlags& flags, const CommonFlags& common) {
  if (flags.model.empty()) throw Error(ErrorCode::kUsage, "--import: needs the plan's model, -m");
  const ModelConfig config = ConfigOfModel(flags.model);
  AttentionPlan plan = AttentionPlan::Load(flags.import, config);
  const AttentionPlan own = AttentionPlan::Dense(config);
  plan.model.config_sha256 = own.model.config_sha256;
  plan.model.fields = own.model.fields;
  if (plan.model.name.empty()) plan.model.name = ModelName(flags.model);
  if (!flags.name.empty()) plan.name = flags.name;
  if (plan.name.empty()) plan.name = fs::path(flags.import).stem().string();
  DescribePlan(flags, &plan);
  if (common.json) {
    Json rows = Json::array();
    for (const auto& [N, density] : plan.density)
      rows.push_back({{"length", N}, {"of_heads", plan.HeadDensity(N)}, {"of_rings", plan.Density(N)}});
    plan.Save(flags.out);
    fmt::print("{}\n", DumpJson({{"file", flags.out}, {"unit", PlanUnitName(plan.unit)}, {"density", rows}}));
    return kDone;
  }
  plan.Save(flags.out);
  if (common.quiet) return kDone;
  fmt::print("| length | density of the heads' own spans | of the rings that groups share |\n| ---: | ---: | ---: |\n");
  for (const auto& [N, density] : plan.density)
    fmt::print("| {} | {:.3f} | {:.3f} |\n", N, plan.HeadDensity(N), plan.Density(N));
  return kDone;
}

}  // namespace

int MakePlans(const PlanMakeFlags& flags, const CommonFlags& common) {
  if (flags.out.empty()) throw Error(ErrorCode::kUsage, "plan: -o FILE, or -o FOLDER/ for a set of plans, is missing");
  const int modes = (flags.uniform != 0) + (flags.random != 0) + !flags.shuffle.empty() + !flags.import.empty();
  if (modes > 1) throw Error(ErrorCode::kUsage, "plan: --uniform, --random, --shuffle and --import exclude each other");
  InstallStopSignals();
  if (flags.uniform != 0) return MakeUniform(flags, common);
  if (flags.random != 0) return MakeRandom(flags, common);
  if (!flags.shuffle.empty()) return MakeShuffled(flags, common);
  if (!flags.import.empty()) return ImportPlan(flags, common);
  if (flags.profile.empty())
    throw Error(ErrorCode::kUsage,
                "plan: give --profile DIR (made by hydralm profile), or --uniform SHARE with -m MODEL");
  return SearchPlans(flags, common);
}

}  // namespace hydra::cli
