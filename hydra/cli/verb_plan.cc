// SPDX-License-Identifier: Apache-2.0
// `hydralm plan`: flags of making and showing plans. Not here: making (verb_plan_make.cc), showing (verb_plan_show.cc).
#include <fmt/format.h>

#include <memory>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/verb_plan_make.h"
#include "hydra/cli/verb_plan_show.h"
#include "hydra/cli/verbs.h"

namespace hydra::cli {
namespace {

struct PlanVerbFlags {
  PlanMakeFlags make;
  PlanShowFlags show;
};

int RunPlan(PlanVerbFlags flags, const CLI::App* verb, const CommonFlags& common) {
  if (flags.show.plan.empty()) {
    for (const char* flag : {"--ctx", "--plot"})
      if (verb->count(flag) > 0) throw Error(ErrorCode::kUsage, fmt::format("plan: {}: is for --show PLAN", flag));
    return MakePlans(flags.make, common);
  }
  for (const char* flag :
       {"--profile", "--density", "--lengths", "--estimator", "--unit", "--max-rules", "--solver", "--time-limit",
        "--raw", "--binary", "--uniform", "--random", "--shuffle", "--import", "--seed", "--name", "--output"})
    if (verb->count(flag) > 0) throw Error(ErrorCode::kUsage, fmt::format("plan --show: {}: makes plans", flag));
  flags.show.model = flags.make.model;
  return ShowPlan(flags.show, common);
}

}  // namespace

void AddPlanVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<PlanVerbFlags>();
  PlanMakeFlags& make = flags->make;
  CLI::App* verb =
      context.AddVerb(root, kPlanVerb, "hydralm plan --profile profiles/smol --density 0.25 -o smol-r25.json");
  verb->add_option("--profile", make.profile, "folder of hydralm profile")->type_name("DIR");
  verb->add_option("--density", make.density, "share of keys kept at most, at all lengths or LENGTH:SHARE,..")
      ->type_name("SHARE|LIST");
  AddNumbers(verb, "--lengths", &make.lengths, "lengths where it holds; default the profile's and twice the longest",
             Range(1, 1 << 24));
  verb->add_option("-o,--output", make.out, "the plan of least loss at the longest length; FOLDER/: a set")
      ->type_name("FILE|DIR/");
  verb->add_option("--name", make.name, "name in the file")->type_name("NAME");
  verb->add_option("--estimator", make.estimator, "jabs: keys together; jsgn: with signs; f: the published sum")
      ->type_name("NAME");
  verb->add_option("--unit", make.unit, "what has a rule: kv-head, head or layer")->type_name("NAME");
  verb->add_option("--max-rules", make.max_rules, "different rules in a layer; 0 = any")->check(Range(0, 4096));
  verb->add_option("--solver", make.solver, "auto: cbc where the build has it, else greedy")
      ->check(CLI::IsMember({"auto", "cbc", "greedy"}))
      ->type_name("NAME");
  verb->add_option("--time-limit", make.time_limit, "seconds of all programs; the best so far is kept")
      ->check(CLI::NonNegativeNumber)
      ->type_name("X");
  verb->add_flag("--raw", make.raw, "wider spans may cost more, as measured");
  verb->add_flag("--binary", make.binary, "two rules: all keys, or the fewest");
  verb->add_option("--uniform", make.uniform, "the same share for every head: the baseline")->type_name("SHARE");
  verb->add_option("--random", make.random, "so many plans by chance, into -o FOLDER/")->check(Range(0, 100000));
  verb->add_option("--shuffle", make.shuffle, "the rules of a plan on other heads")->type_name("PLAN");
  verb->add_option("--seed", make.seed, "of --random and --shuffle")->check(Range(0, int64_t{1} << 62));
  verb->add_option("--import", make.import, "a plan of {alphas, betas}, checked against -m")->type_name("FILE");
  verb->add_option("-m,--model", make.model, "model, where there is no profile")->type_name("PATH");
  verb->add_option("--show", flags->show.plan, "show a plan: densities, bytes, rules, a map")->type_name("PLAN");
  AddNumbers(verb, "--ctx", &flags->show.ctx, "lengths that --show is about", Range(1, 1 << 27));
  verb->add_option("--plot", flags->show.plot, "the map of --show as FILE.svg, .png and .tsv")->type_name("FILE");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunPlan(*flags, verb, common); });
}

}  // namespace hydra::cli
