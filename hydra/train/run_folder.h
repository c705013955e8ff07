// SPDX-License-Identifier: Apache-2.0
// The folder of a run: run.toml, env.json, log.txt, and where its other files are. Torch-free.
// Not here: the numbers (metrics_log.h), checkpoints (checkpoint.h), the model (nn/model_io.h).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "hydra/io/folder_lock.h"
#include "hydra/train/run_config.h"

namespace hydra::train {

// The commit of the sources that this program was built in: looked up from its own folder; "" when installed elsewhere.
[[nodiscard]] std::string SourceCommit();

class RunFolder {
 public:
  // Makes the folder and holds it until the end: two trainers in one would mix and lose each other's work. An empty
  // path is no folder: nothing is written then, as tests want it. Throws kIo, and kUsage naming the process that holds
  // it. `warn` gets a line when log.txt cannot be written, the first time.
  explicit RunFolder(std::string path, std::function<void(const std::string&)> warn = {});

  [[nodiscard]] bool exists() const { return !path_.empty(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string checkpoints() const { return path_ + "/ckpt"; }
  [[nodiscard]] std::string model() const { return path_ + "/model"; }

  void WriteRunToml(const RunConfig& config) const;
  // commit, machine, versions, time; and what `facts` adds (seed, device, command).
  void WriteEnv(const std::map<std::string, std::string>& facts) const;
  // One line with the time of day before it. A full disk is no reason to stop: a failure is a warning, once.
  void Log(const std::string& line) const;

 private:
  std::string path_;
  std::optional<FolderLock> lock_;
  mutable std::function<void(const std::string&)> warn_;  // empty once it was called
};

}  // namespace hydra::train
