// SPDX-License-Identifier: Apache-2.0
// posix_spawn, a pipe and waitpid.
#include "hydra/cli/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra::cli {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment(const std::vector<std::pair<std::string, std::string>>& more) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : more) replaced = replaced || text.rfind(name + "=", 0) == 0;
    if (!replaced) all.push_back(text);
  }
  for (const auto& [name, value] : more) all.push_back(name + "=" + value);
  return all;
}

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) ThrowIo(options.command[0], "cannot be started", errno);
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  const char* log = options.log.empty() ? "/dev/null" : options.log.c_str();
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log, O_WRONLY | O_CREAT | O_APPEND, 0666);
  std::vector<std::string> command = options.command, environment = Environment(options.environment);
  const int failed = posix_spawnp(&pid_, command[0].c_str(), &actions, nullptr, Pointers(command).data(),
                                  Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  out_ = ends[0];
  if (failed == 0) return;
  ::close(out_);
  pid_ = -1;
  ThrowIo(options.command[0], "cannot be started", failed);
}

ChildProcess::~ChildProcess() {
  if (!Ended()) {
    Signal(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(out_);
}

std::string ChildProcess::Read() {
  std::string text;
  char part[4096];
  while (true) {
    const ssize_t n = ::read(out_, part, sizeof part);
    if (n > 0) text.append(part, static_cast<size_t>(n));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
  }
}

std::optional<int> ChildProcess::Ended() {
  if (status_) return status_;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  constexpr int kSignalled = 128;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : kSignalled + WTERMSIG(status);
  return status_;
}

int64_t ChildProcess::PeakBytes() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/status");
  for (std::string word; file >> word;) {
    if (word != "VmHWM:") continue;
    int64_t kilobytes = 0;
    file >> kilobytes;
    return kilobytes * 1024;
  }
  return 0;
}

void ChildProcess::Signal(int signal) const {
  if (!status_) ::kill(pid_, signal);
}

void SleepMilliseconds(int64_t n) { std::this_thread::sleep_for(std::chrono::milliseconds(n)); }

}  // namespace hydra::cli
