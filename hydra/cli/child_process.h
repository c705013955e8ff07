// SPDX-License-Identifier: Apache-2.0
// Another program that this one starts, reads from and waits for. Not here: verbs that are handed over by exec
// (cli.cc).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace hydra::cli {

struct ChildOptions {
  std::vector<std::string> command;  // a path, or a name that is looked for in PATH; then its arguments
  std::string log;                   // file that its stderr is added to; "": nowhere
  std::vector<std::pair<std::string, std::string>> environment = {};  // beside this process's own
};

// Its stdin is empty, its stdout is read here. Not thread-safe.
class ChildProcess {
 public:
  // Throws kIo naming the program where it cannot be started.
  explicit ChildProcess(const ChildOptions& options);
  // Kills it where it still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // What it has written on stdout since the last call; does not wait.
  [[nodiscard]] std::string Read();
  // 0 to 255 once it has ended, 128 + N where signal N ended it; then all of its output can be read.
  [[nodiscard]] std::optional<int> Ended();
  // Its most resident memory so far, bytes; 0 once it has ended.
  [[nodiscard]] int64_t PeakBytes() const;
  void Signal(int signal) const;

 private:
  pid_t pid_ = -1;
  int out_ = -1;
  std::optional<int> status_;
};

// Runs a program to its end: its status and its stdout. `poll` is called every few milliseconds meanwhile; where it
// gives false the program is asked to end.
struct ChildResult {
  int status = 0;
  std::string out;
};
template <class Poll>
[[nodiscard]] ChildResult RunChild(const ChildOptions& options, Poll&& poll);
void SleepMilliseconds(int64_t n);

template <class Poll>
ChildResult RunChild(const ChildOptions& options, Poll&& poll) {
  constexpr int64_t kPause = 5;
  constexpr int kTerminate = 15;  // SIGTERM
  ChildProcess child(options);
  ChildResult result;
  bool asked = false;
  while (true) {
    const std::optional<int> ended = child.Ended();
    result.out += child.Read();
    if (ended) {
      result.status = *ended;
      return result;
    }
    if (!poll(child) && !asked) {
      child.Signal(kTerminate);
      asked = true;
    }
    SleepMilliseconds(kPause);
  }
}

}  // namespace hydra::cli
