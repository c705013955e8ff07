// SPDX-License-Identifier: Apache-2.0
// The frame of both commands: verbs over CLI11, common flags, HYDRALM_ARG_ variables, errors to exit statuses,
// stop signals. Not here: any verb (verb_*.cc in hydralm, torch_*.cc in hydralm-train).
//
// A verb is one file with one function, named in the list of main.cc or train_main.cc:
//
//   void AddInspectVerb(CLI::App& root, VerbContext& context) {
//     auto options = std::make_shared<InspectOptions>();
//     CLI::App* verb = context.AddVerb(root, kInspectVerb, "hydralm inspect --preset hydra-nano");
//     verb->add_option("--ctx", options->ctx, "tokens a sequence");  // the default is shown by itself
//     context.AddJsonFlag(verb);                                     // only where the verb obeys it
//     context.OnRun(verb, [options](const CommonFlags& common) { return RunInspect(*options, common); });
//   }
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <functional>
#include <string>
#include <vector>

namespace hydra::cli {

// What a command returns to the shell.
enum ExitStatus : int {
  kDone = 0,
  kCheckFailed = 1,    // a check that was asked for (--verify, --fit, --bar, data check) says no
  kUserError = 2,      // bad flags or files: one line on stderr
  kBug = 3,            // a broken invariant of ours
  kGuardStopped = 4,   // training stopped by a guard, or what it did last could not be saved
  kInterrupted = 130,  // SIGINT, cleanly
  kTerminated = 143,   // SIGTERM or SIGHUP, cleanly
};

// Flags that mean the same in each verb that has them.
struct CommonFlags {
  bool json = false;     // --json: the result as one JSON object on stdout, errors too
  bool quiet = false;    // -q, --quiet: results and errors only
  bool verbose = false;  // -v, --verbose: more, and progress as plain lines where stderr is no terminal
};

// A verb's name and its line in the list of verbs.
struct VerbLine {
  const char* name;
  const char* text;
};

// Collects the verbs while they are registered, then knows which one to run.
class VerbContext {
 public:
  using Run = std::function<int(const CommonFlags&)>;  // returns an ExitStatus; throws hydra::Error

  // A verb, or with another verb as `parent` its sub-verb (data build). Its help starts with `example`.
  CLI::App* AddVerb(CLI::App& parent, const VerbLine& line, const std::string& example);

  // --json, only where the verb obeys it.
  void AddJsonFlag(CLI::App* verb);

  // What the verb does when it was the one typed. It gets -q and -v too: a script may give them to any verb, and one
  // that prints nothing but its result is quiet as it is. A verb with sub-verbs has no function and asks for one of
  // them.
  void OnRun(CLI::App* verb, Run run);

  // Runs the verb that was typed in the other command instead, with the same arguments; returns only by throwing.
  [[noreturn]] void HandOver() const;

  [[nodiscard]] const CommonFlags& flags() const { return flags_; }
  // The function of the verb that was parsed, innermost sub-verb first; throws Error when a sub-verb is missing.
  [[nodiscard]] const Run& Chosen(const CLI::App& root) const;
  void SetHandOver(std::function<void()> hand_over) { hand_over_ = std::move(hand_over); }

 private:
  struct Entry {
    const CLI::App* verb;
    Run run;
  };
  CommonFlags flags_;
  std::vector<Entry> entries_;
  std::function<void()> hand_over_;
};

using AddVerbFunction = void (*)(CLI::App& root, VerbContext& context);

// One of the two commands.
struct Program {
  std::vector<AddVerbFunction> verbs;  // in the order of the list that `hydralm` alone prints
  std::vector<VerbLine> handed;        // verbs of hydralm-train, handed to it; empty in hydralm-train itself
  const char* sibling;                 // the other command, beside this one: it knows the flags of its own verbs
};

// main() of both commands: parses, runs the verb, turns errors into a line on stderr and an ExitStatus.
int RunProgram(int argc, char** argv, const Program& program);

// A check for whole numbers (add_option(...)->check(Range(1, 65535))): "--port 80808: must be 1..65535".
// Every flag whose value is a number obeys one rule without a check (base/number.h): decimal, finite, within f32; no
// hexadecimal, and 010 is ten. A flag has such a value by its C++ type, or by its type_name: N for whole numbers, X or
// SHARE for others.
CLI::Validator Range(long long low, long long high);

// An option that takes whole numbers with commas between them, each of which `each` (a Range) lets pass: "-d 0,8192".
// Nothing between two commas is an error. `numbers` holds the default.
CLI::Option* AddNumbers(CLI::App* verb, const std::string& names, std::vector<int64_t>* numbers,
                        const std::string& text, const CLI::Validator& each);

struct StopSignalOptions {
  bool second_ends = true;    // a second signal ends the process at once
  bool restart_reads = true;  // false: a signal interrupts a read (EINTR)
};
// From here on SIGINT, SIGTERM and SIGHUP remove this process's unfinished files before they end it, and a write beyond
// a limit on a file's size is an error instead of the end (SIGXFSZ).
void InstallCleanUp();
// From here on a file that another process cuts while it lies mapped here ends the program with its name and status 2.
void InstallBusErrors();
// Takes SIGINT, SIGTERM and SIGHUP, which counts as SIGTERM: the first sets the flag and lets the verb end cleanly.
void InstallStopSignals(const StopSignalOptions& options = {});
[[nodiscard]] bool StopRequested();
// The flag itself, for libraries that poll one: 0, SIGINT or SIGTERM.
[[nodiscard]] const std::atomic<int>& StopSignal();
// Forgets a SIGINT that was obeyed: the program goes on. A SIGTERM stays, be it the moment before.
void ClearStop();
// kInterrupted or kTerminated, for the signal that came; kDone without one.
[[nodiscard]] int StopStatus();

// Throws what ends the verb with StopStatus() where a signal came: for callbacks of work that cleans up behind itself.
void ThrowIfStopped();

// "hydralm: warning: ..." on stderr, a line each.
void PrintWarnings(const std::vector<std::string>& warnings);

// True when stderr shows to a person: only then progress lines are drawn in place.
[[nodiscard]] bool StderrIsTerminal();

}  // namespace hydra::cli
