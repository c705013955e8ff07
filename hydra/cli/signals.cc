// SPDX-License-Identifier: Apache-2.0
// SIGINT, SIGTERM and SIGHUP as a flag that long work polls; where nothing polls, they remove unfinished files. SIGBUS
// names the file that was cut while it lay mapped. Not here: what is done about a stop (torch_train.cc).
#include <unistd.h>
#include <csignal>
#include <cstring>

#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/io/mapped_files.h"

namespace hydra::cli {
namespace {

std::atomic<int> g_signal{0};  // lock-free, so a handler may write it
std::atomic<int> g_second_ends{1};
static_assert(std::atomic<int>::is_always_lock_free);

void Take(int signal) {
  if (signal == SIGHUP) signal = SIGTERM;
  if (g_signal.exchange(signal) == 0 || g_second_ends.load() == 0) return;
  UnlinkTemporaries();  // asked twice: at once
  _exit(128 + signal);
}

void CleanUpAndDie(int signal) {
  UnlinkTemporaries();
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void WriteError(const char* text) { (void)!write(STDERR_FILENO, text, std::strlen(text)); }

// Another process cut a file that we read: its pages are gone, and so is the work. Only calls that a handler may make.
void NameCutFile(int signal, siginfo_t* info, void*) {
  const char* path = MappedPathAt(info->si_addr);
  if (path == nullptr) {  // a fault of ours or of the machine
    ::signal(signal, SIG_DFL);
    return;  // the instruction fails again
  }
  UnlinkTemporaries();
  WriteError("hydralm: ");
  WriteError(path);
  WriteError(": was cut while it was being read: start again\n");
  _exit(kUserError);
}

}  // namespace

void InstallBusErrors() {
  struct sigaction action = {};
  action.sa_sigaction = NameCutFile;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

void InstallCleanUp() {
  ::signal(SIGXFSZ, SIG_IGN);  // beyond a limit on a file's size write(2) fails with EFBIG: handled as a full disk is
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {};
    sigaction(signal, nullptr, &action);
    if (action.sa_handler != SIG_DFL) continue;  // nohup has it ignored
    action.sa_handler = CleanUpAndDie;
    action.sa_flags = SA_NODEFER;
    sigaction(signal, &action, nullptr);
  }
}

void InstallStopSignals(const StopSignalOptions& options) {
  g_second_ends.store(options.second_ends ? 1 : 0);
  struct sigaction action = {};
  action.sa_handler = Take;
  sigemptyset(&action.sa_mask);
  action.sa_flags = options.restart_reads ? SA_RESTART : 0;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction before = {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);  // nohup has it ignored
}

void ClearStop() {
  int interrupt = SIGINT;
  g_signal.compare_exchange_strong(interrupt, 0);
}

bool StopRequested() { return g_signal.load() != 0; }

const std::atomic<int>& StopSignal() { return g_signal; }

int StopStatus() { return g_signal.load() == 0 ? kDone : 128 + g_signal.load(); }

bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }

}  // namespace hydra::cli
