// SPDX-License-Identifier: Apache-2.0
// Cells on disk, one cell in this process, and many as processes side by side.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/thread_pool.h"
#include "hydra/cli/child_process.h"
#include "hydra/cli/machine.h"
#include "hydra/cli/torch_evidence.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/io/file.h"
#include "hydra/io/folder_lock.h"
#include "hydra/train/run_folder.h"

namespace hydra::cli {
namespace {

namespace fs = std::filesystem;

// Nothing where there is no such file; a file that is no JSON is as good as none, since cells are made anew.
Json ReadCellFile(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return nullptr;
  try {
    return ParseJson(ReadFile(path), path);
  } catch (const Error&) {
    return nullptr;
  }
}

// Seconds of processors' time that the whole machine has used so far, and that this process and its children have.
double BusySeconds() {
  std::ifstream stat("/proc/stat");
  std::string cpu;
  double field[8] = {};
  stat >> cpu;
  for (double& value : field) stat >> value;
  const double ticks = field[0] + field[1] + field[2] + field[5] + field[6] + field[7];  // all but idle and waiting
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}
double OwnSeconds() {
  double sum = 0;
  for (const int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage used{};
    getrusage(who, &used);
    for (const timeval& t : {used.ru_utime, used.ru_stime})
      sum += static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  }
  return sum;
}

std::string Sibling(const char* name) {
  std::error_code ignored;
  return (fs::read_symlink("/proc/self/exe", ignored).parent_path() / name).string();
}

eval::BenchResult Bench(const std::vector<std::string>& flags, const std::string& log) {
  constexpr double kTick = 0.05;  // seconds that the two clocks may differ by
  std::vector<std::string> command = {Sibling("hydralm"), "bench"};
  command.insert(command.end(), flags.begin(), flags.end());
  // The meter of the read rate holds up to 1 GiB, which would be the peak of a small model.
  command.insert(command.end(), {"-o", "json", "--no-limits", "-q"});
  eval::BenchResult result;
  const double begin = Seconds(), busy = BusySeconds(), own = OwnSeconds();
  const ChildResult made = RunChild({.command = command, .log = log}, [&](const ChildProcess& child) {
    result.peak_bytes = std::max(result.peak_bytes, child.PeakBytes());
    return !StopRequested();
  });
  ThrowIfStopped();
  if (made.status != 0)
    throw Error(ErrorCode::kUsage, StrCat("hydralm bench: ended with status ", made.status, ": see ", log));
  const double others = BusySeconds() - busy - (OwnSeconds() - own) - kTick;
  result.others_share =
      std::max(0.0, others) / (Seconds() - begin) / static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
  result.rows = ParseJson(made.out, "hydralm bench");
  return result;
}

// A cell that was stopped a moment ago may still write its checkpoint.
FolderLock WaitForLock(const std::string& folder) {
  constexpr int kTries = 60;
  for (int tried = 1;; ++tried) {
    try {
      return FolderLock(folder, "hydralm evidence");
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUsage || tried == kTries || StopRequested()) throw;
      SleepMilliseconds(1000);
    }
  }
}

}  // namespace

EvidenceFolder::EvidenceFolder(const EvidenceFlags& flags)
    : plan_{.size = flags.smoke ? eval::EvidenceSize::kSmoke : eval::ParseSize(flags.size), .seeds = {}},
      out_(StrCat(flags.out, "/", eval::SizeName(plan_.size))),
      work_(StrCat(flags.work, "/", eval::SizeName(plan_.size))) {
  for (int64_t seed = 1; seed <= flags.seeds; ++seed) plan_.seeds.push_back(seed);
  std::vector<std::unique_ptr<eval::Experiment>> all = eval::Experiments();
  std::vector<std::string> known = {"all"};
  for (const auto& experiment : all) known.push_back(experiment->name());
  for (const std::string& name : flags.names)
    if (std::ranges::find(known, name) == known.end()) {
      std::string list;
      for (const std::string& one : known) list += (list.empty() ? "" : ", ") + one;
      throw Error(ErrorCode::kUsage,
                  StrCat("evidence: unknown experiment ", name, DidYouMean(name, known), ": there are ", list));
    }
  const bool everything = flags.names.empty() || std::ranges::find(flags.names, "all") != flags.names.end();
  for (auto& experiment : all)
    if (everything || std::ranges::find(flags.names, experiment->name()) != flags.names.end())
      experiments_.push_back(std::move(experiment));
  for (const auto& experiment : experiments_)
    for (eval::Cell& cell : experiment->Cells(plan_)) {
      EvidenceCell one{.experiment = experiment.get(), .cell = std::move(cell), .file = {}};
      Json file = ReadCellFile(StrCat(out_, "/cells/", one.cell.name, ".json"));
      const auto has = [&](const char* key) { return file.is_object() && file.contains(key); };
      if (has("result") && has("settings") && has("about") && has("seconds") && file["about"].is_object() &&
          file["seconds"].is_number() && file["settings"] == one.cell.settings)
        one.file = std::move(file);
      cells_.push_back(std::move(one));
    }
  std::ranges::stable_partition(cells_, [](const EvidenceCell& one) { return !one.cell.alone; });
}

EvidenceCell& EvidenceFolder::Find(const std::string& name) {
  const auto found = std::ranges::find_if(cells_, [&](const EvidenceCell& one) { return one.cell.name == name; });
  if (found == cells_.end()) throw Error(ErrorCode::kUsage, StrCat("evidence: --cell ", name, ": no such cell"));
  return *found;
}

eval::CellResults EvidenceFolder::Results() const {
  eval::CellResults results;
  for (const EvidenceCell& one : cells_)
    if (one.done()) results[one.cell.name] = one.file["result"];
  return results;
}

std::string EvidenceFolder::WorkFolder(const eval::Cell& cell) const {
  return StrCat(work_, "/", cell.name, "-", Sha256Hex(DumpJson(cell.settings)).substr(0, 8));
}

bool EvidenceFolder::Publish(EvidenceCell& cell, const Json& about) {
  const Json made = ReadCellFile(ResultPath(cell.cell));
  if (!made.is_object() || !made.contains("result")) return false;
  cell.file = {{"cell", cell.cell.name},
               {"settings", cell.cell.settings},
               {"about", about},
               {"seconds", made["seconds"]},
               {"result", made["result"]}};
  MakeDirs(out_ + "/cells");
  WriteFileAtomic(StrCat(out_, "/cells/", cell.cell.name, ".json"), cell.file.dump(1) + "\n");
  return true;
}

EvidenceEstimate::EvidenceEstimate(const std::vector<EvidenceCell>& cells, double speed) {
  // Of the speed of matrix products, before anything is known: small models are far from it.
  constexpr double kShare = 0.25;
  std::map<std::string, std::pair<double, double>> sums;  // FLOP, seconds
  for (const EvidenceCell& one : cells) {
    if (!one.done() || one.cell.alone) continue;
    for (const auto& name : {one.experiment->name(), std::string()}) {
      sums[name].first += one.cell.flops;
      sums[name].second += one.file["seconds"].get<double>();
    }
  }
  rate_[""] = kShare * speed;
  for (const auto& [name, sum] : sums)
    if (sum.second > 0) rate_[name] = sum.first / sum.second;
  for (const EvidenceCell& one : cells) rate_.emplace(one.experiment->name(), rate_[""]);
}

double EvidenceEstimate::Seconds(const eval::Cell& cell) const {
  const std::string experiment = cell.name.substr(0, cell.name.find('-'));
  const auto found = rate_.find(experiment);
  return cell.seconds + cell.flops / (found != rate_.end() ? found->second : rate_.at(""));
}

double EvidenceEstimate::Left(const std::vector<EvidenceCell>& cells, int64_t jobs) const {
  double together = 0, alone = 0;
  for (const EvidenceCell& one : cells)
    if (!one.done()) (one.cell.alone ? alone : together) += Seconds(one.cell);
  return together / static_cast<double>(jobs) + alone;
}

int RunEvidenceCell(const EvidenceFlags& flags) {
  // A parent that is killed takes its cells with it; they keep a checkpoint.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  InstallStopSignals({.second_ends = false});
  ::signal(SIGPIPE, SIG_IGN);
  EvidenceFolder folder(flags);
  const EvidenceCell& one = folder.Find(flags.cell);
  const int threads = flags.threads > 0 ? static_cast<int>(flags.threads) : one.cell.alone ? PhysicalCores() : 1;
  SetThreads(threads);
  constexpr int kLowest = 19;
  if (!one.cell.alone) setpriority(PRIO_PROCESS, 0, kLowest);
  const std::string work = folder.WorkFolder(one.cell);
  MakeDirs(work);
  const FolderLock lock = WaitForLock(work);
  // Seconds of earlier sessions that did not come to the end count too.
  const std::string clock = work + "/seconds.json";
  double before = 0;
  if (const Json earlier = ReadCellFile(clock); earlier.is_number()) before = earlier.get<double>();
  const double begin = Seconds();
  const auto keep_clock = [&] { WriteFileAtomic(clock, DumpJson(before + Seconds() - begin)); };
  Pace progress(1), clock_pace(30);
  eval::CellContext context{.folder = work + "/ckpt",
                            .models = folder.work() + "/models",
                            .threads = threads,
                            .device = train::ResolveDevice(flags.device),
                            .results = folder.Results(),
                            .stop = &StopSignal()};
  context.check = [&] {
    if (StopRequested()) keep_clock();
    ThrowIfStopped();
  };
  context.progress = [&](int64_t done, int64_t of) {
    if (clock_pace.Due()) keep_clock();
    if (!progress.Due()) return;
    std::printf("%lld %lld\n", static_cast<long long>(done), static_cast<long long>(of));
    std::fflush(stdout);
  };
  context.bench = [&](const std::vector<std::string>& bench) { return Bench(bench, work + "/log.txt"); };
  const Json result = one.experiment->Run(folder.plan(), one.cell, context);
  keep_clock();
  const Json made = {{"seconds", before + Seconds() - begin}, {"result", result}};
  WriteFileAtomic(folder.ResultPath(one.cell), made.dump(1) + "\n");
  return kDone;
}

namespace {

struct RunningCell {
  EvidenceCell* one;
  std::unique_ptr<ChildProcess> child;
  std::string output = {};  // a line that is not whole yet
  double share = 0;         // done
};

// Starts cells, looks after them, and says how it goes.
class CellRunner {
 public:
  CellRunner(const EvidenceFlags& flags, EvidenceFolder& folder, const EvidenceEstimate& estimate,
             const CommonFlags& common)
      : flags_(flags),
        folder_(folder),
        estimate_(estimate),
        common_(common),
        live_(!common.quiet && StderrIsTerminal()),
        pace_(live_ ? 0.5 : 60) {
    about_ = {{"commit", train::SourceCommit()}, {"machine", MachineName()}, {"jobs", flags.jobs}};
    double budget = 60 * flags.minutes * static_cast<double>(flags.jobs);
    for (EvidenceCell& one : folder.cells()) {
      if (one.done() || one.cell.name.find(flags.only) == std::string::npos) continue;
      // A command that was killed may have left results that it could not take any more.
      if (folder.Publish(one, about_)) continue;
      const double cost = estimate.Seconds(one.cell) * (one.cell.alone ? static_cast<double>(flags.jobs) : 1);
      if (flags.minutes > 0 && cost > budget) continue;
      budget -= cost;
      waiting_.push_back(&one);
    }
    total_ = waiting_.size();
  }

  int64_t Run() {
    while (!running_.empty() || !waiting_.empty()) {
      if (StopRequested() && !stopping_) {
        stopping_ = true;
        waiting_.clear();
        for (const RunningCell& cell : running_) cell.child->Signal(SIGTERM);
        Say("stopping: cells keep their checkpoints");
      }
      Start();
      if (running_.empty() && !waiting_.empty()) {  // what they need has failed or is not of this call
        for (const EvidenceCell* one : waiting_) Say(one->cell.name + ": left out: it needs cells that are not there");
        waiting_.clear();
      }
      SleepMilliseconds(100);
      for (auto cell = running_.begin(); cell != running_.end();)
        cell = Look(*cell) ? std::next(cell) : running_.erase(cell);
      if (pace_.Due()) Status();
    }
    if (live_) std::fputs("\r\033[K", stderr);
    return failed_;
  }

 private:
  [[nodiscard]] bool Ready(const EvidenceCell& one) const {
    return std::ranges::all_of(one.cell.needs, [&](const std::string& name) { return folder_.Find(name).done(); });
  }

  void Start() {
    for (auto next = waiting_.begin(); next != waiting_.end() && running_.size() < static_cast<size_t>(flags_.jobs);) {
      const bool one_is_alone = !running_.empty() && running_.front().one->cell.alone;
      if (one_is_alone || ((*next)->cell.alone && !running_.empty())) return;
      if (!Ready(**next)) {
        ++next;
        continue;
      }
      Launch(**next);
      next = waiting_.erase(next);
    }
  }

  void Launch(EvidenceCell& one) {
    const std::string work = folder_.WorkFolder(one.cell);
    MakeDirs(work);
    std::vector<std::string> command = {"/proc/self/exe", "evidence", one.experiment->name(), "--cell", one.cell.name};
    for (const auto& [flag, value] : {std::pair<const char*, std::string>{"--size", flags_.size},
                                      {"--seeds", StrCat(flags_.seeds)},
                                      {"-o", flags_.out},
                                      {"--work", flags_.work},
                                      {"--device", flags_.device},
                                      {"-t", StrCat(flags_.threads)}})
      command.insert(command.end(), {flag, value});
    if (flags_.smoke) command.push_back("--smoke");
    // Threads that wait for one another in a loop would take the other cell's processor.
    running_.push_back(
        {.one = &one,
         .child = std::make_unique<ChildProcess>(ChildOptions{
             .command = command, .log = work + "/log.txt", .environment = {{"OMP_WAIT_POLICY", "passive"}}})});
  }

  // False where it has ended.
  bool Look(RunningCell& cell) {
    const std::optional<int> ended = cell.child->Ended();
    cell.output += cell.child->Read();
    for (size_t end = 0; (end = cell.output.find('\n')) != std::string::npos; cell.output.erase(0, end + 1)) {
      long long done = 0, of = 0;
      if (std::sscanf(cell.output.c_str(), "%lld %lld", &done, &of) == 2 && of > 0)
        cell.share = static_cast<double>(done) / static_cast<double>(of);
    }
    if (!ended) return true;
    EvidenceCell& one = *cell.one;
    if (*ended == 0 && folder_.Publish(one, about_)) {
      ++done_;
      Say(StrCat(one.cell.name, ": done in ", Duration(one.file["seconds"].get<double>())));
    } else if (!stopping_) {
      ++failed_;
      Say(StrCat(one.cell.name, ": failed with status ", *ended, ": see ", folder_.WorkFolder(one.cell), "/log.txt"));
    }
    return false;
  }

  void Say(const std::string& text) const {
    if (common_.quiet) return;
    std::fprintf(stderr, "%s%s\n", live_ ? "\r\033[K" : "", text.c_str());
  }

  void Status() const {
    if (common_.quiet || running_.empty()) return;
    double left = 0;
    for (const RunningCell& cell : running_)
      left += std::max(0.0, 1 - cell.share) * estimate_.Seconds(cell.one->cell) /
              (cell.one->cell.alone ? 1 : static_cast<double>(flags_.jobs));
    for (const EvidenceCell* one : waiting_)
      left += estimate_.Seconds(one->cell) / (one->cell.alone ? 1 : static_cast<double>(flags_.jobs));
    std::string text = StrCat(done_, " of ", total_, " cells");
    for (const RunningCell& cell : running_)
      text += StrCat(" | ", cell.one->cell.name, " ", static_cast<int>(100 * cell.share), "%");
    text += StrCat(" | eta ", Duration(left));
    std::fprintf(stderr, live_ ? "\r%s\033[K" : "%s\n", text.c_str());
    std::fflush(stderr);
  }

  static std::string Duration(double seconds) {
    char text[32];
    const auto s = static_cast<long long>(std::llround(seconds));
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    return text;
  }

  const EvidenceFlags& flags_;
  EvidenceFolder& folder_;
  const EvidenceEstimate& estimate_;
  const CommonFlags& common_;
  Json about_;
  std::vector<EvidenceCell*> waiting_;
  std::vector<RunningCell> running_;
  size_t total_ = 0, done_ = 0;
  int64_t failed_ = 0;
  bool live_, stopping_ = false;
  Pace pace_;
};

}  // namespace

int64_t RunEvidenceCells(const EvidenceFlags& flags, EvidenceFolder& folder, const EvidenceEstimate& estimate,
                         const CommonFlags& common) {
  return CellRunner(flags, folder, estimate, common).Run();
}

}  // namespace hydra::cli
