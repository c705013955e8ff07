// SPDX-License-Identifier: Apache-2.0
// `hydralm evidence`: what there is to run and how long it takes, then the missing cells, then the report. Not here:
// the experiments (eval/evidence.h), running cells (torch_evidence_cells.cc).
#include "hydra/cli/torch_evidence.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>

#include "hydra/base/error.h"
#include "hydra/cli/child_process.h"
#include "hydra/cli/machine.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/io/folder_lock.h"

namespace hydra::cli {
namespace {

// A line for each experiment.
void PrintPlan(EvidenceFolder& folder, const EvidenceEstimate& estimate, const EvidenceFlags& flags) {
  std::printf("| experiment | cells | done | hours left, %lld at a time |\n| --- | ---: | ---: | ---: |\n",
              static_cast<long long>(flags.jobs));
  for (const auto& experiment : folder.experiments()) {
    std::vector<EvidenceCell> own;
    for (const EvidenceCell& one : folder.cells())
      if (one.experiment == experiment.get()) own.push_back(one);
    const auto done = std::ranges::count_if(own, [](const EvidenceCell& one) { return one.done(); });
    std::printf("| %s | %zu | %lld | %.2f |\n", experiment->title().c_str(), own.size(), static_cast<long long>(done),
                estimate.Left(own, flags.jobs) / 3600);
  }
  double longest = 0;
  for (const EvidenceCell& one : folder.cells())
    if (!one.done()) longest = std::max(longest, estimate.Seconds(one.cell));
  std::printf("about %.2f hours left; the longest cell takes about %.0f minutes\n",
              estimate.Left(folder.cells(), flags.jobs) / 3600, longest / 60);
  std::fflush(stdout);
}

// Pictures of all plots; those that could not be drawn are left out.
std::map<std::string, std::string> Draw(const EvidenceFolder& folder, const std::vector<eval::ReportSection>& sections,
                                        const CommonFlags& common) {
  std::map<std::string, std::string> pictures;
  const std::string plots = folder.out() + "/plots";
  MakeDirs(plots);
  MakeDirs(folder.work());
  for (const eval::ReportSection& section : sections)
    for (const eval::ReportPlot& plot : section.plots) {
      const bool empty = std::ranges::all_of(plot.lines, [](const eval::ReportLine& line) { return line.x.empty(); });
      if (plot.lines.empty() || empty) continue;
      const std::string script = StrCat(folder.work(), "/", plot.name, ".gnuplot"),
                        base = StrCat(plots, "/", plot.name);
      WriteFileAtomic(script, eval::Gnuplot(plot, base));
      try {
        const ChildResult made = RunChild({.command = {"gnuplot", script}, .log = folder.work() + "/gnuplot.log"},
                                          [](const ChildProcess&) { return true; });
        if (made.status != 0)
          throw Error(ErrorCode::kIo,
                      StrCat("gnuplot ", script, ": status ", made.status, ": see gnuplot.log beside it"));
        pictures[plot.name] = ReadFile(base + ".svg");
      } catch (const Error& error) {
        if (!common.quiet) PrintWarnings({StrCat(error.what(), ": no picture of ", plot.name)});
      }
    }
  return pictures;
}

Json ClaimJson(const eval::Claim& claim) {
  Json json = {{"name", claim.name},       {"text", claim.text}, {"verdict", eval::VerdictName(claim.verdict)},
               {"measure", claim.measure}, {"rule", claim.rule}, {"note", claim.note}};
  if (claim.interval)
    json["interval"] = {{"value", claim.interval->value}, {"low", claim.interval->low}, {"high", claim.interval->high}};
  return json;
}

// What made the cells that are there: machines and commits, and the hours that they took.
eval::ReportHead HeadOf(EvidenceFolder& folder) {
  std::set<std::string> machines, commits;
  double seconds = 0;
  size_t done = 0;
  for (const EvidenceCell& one : folder.cells()) {
    if (!one.done()) continue;
    ++done;
    seconds += one.file["seconds"].get<double>();
    machines.insert(one.file["about"].value("machine", "?"));
    commits.insert(one.file["about"].value("commit", "?").substr(0, 7));
  }
  const auto joined = [](const std::set<std::string>& all) {
    std::string text;
    for (const std::string& one : all) text += (text.empty() ? "" : ", ") + one;
    return text;
  };
  eval::ReportHead head{.title = StrCat("What Hydra claims, at size ", eval::SizeName(folder.plan().size)),
                        .lines = {}};
  if (folder.plan().size == eval::EvidenceSize::kSmoke)
    head.lines.emplace_back("A test of the machinery: models and runs are far too small to say anything.");
  head.lines.push_back(
      StrCat(done, " of ", folder.cells().size(), " cells are there; they took ", eval::Fixed(seconds / 3600, 2),
             " hours of cells. Machine: ", joined(machines), ". Commits: ", joined(commits),
             ". Made by `hydralm evidence`; what was run, the rules of the verdicts and what they mean: "
             "docs/evidence.md. Raw rows: the CSV files beside this page, and cells/."));
  return head;
}

int RunEvidence(const EvidenceFlags& flags, const CommonFlags& common) {
  if (!flags.cell.empty()) return RunEvidenceCell(flags);
  InstallStopSignals({.second_ends = false});
  if (!(flags.minutes >= 0)) throw Error(ErrorCode::kUsage, "evidence: --minutes: must not be negative");
  (void)train::ResolveDevice(flags.device);
  EvidenceFolder folder(flags);
  SetThreads(1);
  const EvidenceEstimate estimate(folder.cells(), train::MeasurePeakFlops({}));
  if (!common.quiet && !common.json) PrintPlan(folder, estimate, flags);
  if (flags.dry_run) {
    if (common.json)
      std::puts(Json{{"cells", folder.cells().size()}, {"hours", estimate.Left(folder.cells(), flags.jobs) / 3600}}
                    .dump()
                    .c_str());
    return kDone;
  }
  int64_t failed = 0;
  MakeDirs(folder.work());
  const FolderLock lock(folder.work(), "hydralm evidence");
  if (!flags.page) failed = RunEvidenceCells(flags, folder, estimate, common);
  const std::vector<eval::Claim> claims = WriteEvidenceReport(folder, common);
  if (common.json) {
    Json list = Json::array();
    for (const eval::Claim& claim : claims) list.push_back(ClaimJson(claim));
    std::puts(Json{{"cells", folder.cells().size()},
                   {"done", folder.Results().size()},
                   {"failed", failed},
                   {"report", folder.out() + "/README.md"},
                   {"claims", list}}
                  .dump()
                  .c_str());
  } else if (!common.quiet) {
    for (const eval::Claim& claim : claims)
      std::printf("%-14s %s%s%s\n", eval::VerdictName(claim.verdict), claim.text.c_str(), claim.interval ? ": " : "",
                  claim.interval ? eval::IntervalText(*claim.interval, 3).c_str() : "");
    std::printf("report         %s/README.md, %s/report.html\n", folder.out().c_str(), folder.out().c_str());
  }
  if (StopStatus() != kDone) return StopStatus();
  return failed > 0 ? kCheckFailed : kDone;
}

}  // namespace

std::vector<eval::Claim> WriteEvidenceReport(EvidenceFolder& folder, const CommonFlags& common) {
  const eval::CellResults results = folder.Results();
  std::vector<eval::ReportSection> sections;
  for (const auto& experiment : folder.experiments()) sections.push_back(experiment->Report(folder.plan(), results));
  MakeDirs(folder.out());
  const auto pictures = Draw(folder, sections, common);
  for (eval::ReportSection& section : sections)
    std::erase_if(section.plots, [&](const eval::ReportPlot& plot) { return !pictures.contains(plot.name); });
  const eval::ReportHead head = HeadOf(folder);
  WriteFileAtomic(folder.out() + "/README.md", eval::Markdown(head, sections));
  WriteFileAtomic(folder.out() + "/report.html", eval::Html(head, sections, pictures));
  std::vector<eval::Claim> claims;
  Json verdicts = Json::array();
  for (const eval::ReportSection& section : sections) {
    WriteFileAtomic(StrCat(folder.out(), "/", section.name, ".csv"), eval::Csv(section.rows));
    for (const eval::Claim& claim : section.claims) {
      claims.push_back(claim);
      verdicts.push_back(ClaimJson(claim));
    }
  }
  WriteFileAtomic(folder.out() + "/verdicts.json", verdicts.dump(1) + "\n");
  return claims;
}

void AddEvidenceVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<EvidenceFlags>();
  CLI::App* verb = context.AddVerb(root, kEvidenceVerb, "hydralm evidence all -o bench/results/evidence");
  verb->add_option("names", flags->names,
                   "throughput, chaining, recall, facts, experts, routing, or all: what is missing of them is run; the "
                   "command may be stopped at any time, and the same one goes on")
      ->type_name("NAME");
  verb->add_option("-o,--output", flags->out, "folder of finished cells and of the report")->type_name("DIR");
  verb->add_option("--work", flags->work, "folder of checkpoints and logs")->type_name("DIR");
  verb->add_option("--size", flags->size, "nano: hours on a CPU; 29m: for a GPU")
      ->check(CLI::IsMember({"nano", "29m"}))
      ->type_name("SIZE");
  verb->add_option("--seeds", flags->seeds, "seeds of each model, from 1 on")->check(Range(1, 64));
  verb->add_option("--jobs", flags->jobs, "cells at a time; those that take times run alone")->check(Range(1, 256));
  verb->add_option("-t,--threads", flags->threads, "threads of a cell; 0 = 1, and all cores for one that takes times")
      ->check(Range(0, 1024));
  verb->add_option("--device", flags->device, "auto, cpu, cuda or cuda:N")->type_name("DEVICE");
  verb->add_option("--only", flags->only, "cells that have this in their name")->type_name("TEXT");
  verb->add_option("--minutes", flags->minutes, "as many cells as are expected to be done by then; 0 = all")
      ->type_name("X");
  verb->add_option("--cell", flags->cell, "run this cell alone, in this process, and no report")->type_name("NAME");
  verb->add_flag("--dry-run", flags->dry_run, "say what there is to run and how long it takes");
  verb->add_flag("--page", flags->page, "only write the report of the cells that are there");
  verb->add_flag("--smoke", flags->smoke, "tiny models and runs: a test of the machinery");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunEvidence(*flags, common); });
}

}  // namespace hydra::cli
