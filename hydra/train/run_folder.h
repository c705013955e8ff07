// SPDX-License-Identifier: Apache-2.0
// The folder of a run: run.toml, env.json, log.txt, and where its other files are. Torch-free.
// Not here: the numbers (metrics_log.h), checkpoints (checkpoint.h), the model (nn/model_io.h).
#pragma once

#include <map>
#include <string>

#include "hydra/train/run_config.h"

namespace hydra::train {

class RunFolder {
 public:
  // Makes the folder. An empty path is no folder: nothing is written then, as tests want it.
  explicit RunFolder(std::string path);

  [[nodiscard]] bool exists() const { return !path_.empty(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string checkpoints() const { return path_ + "/ckpt"; }
  [[nodiscard]] std::string model() const { return path_ + "/model"; }

  void WriteRunToml(const RunConfig& config) const;
  // commit, machine, versions, time; and what `facts` adds (seed, device, command).
  void WriteEnv(const std::map<std::string, std::string>& facts) const;
  // One line with the time of day before it; a full disk is no reason to stop, so failures are ignored.
  void Log(const std::string& line) const;

 private:
  std::string path_;
};

}  // namespace hydra::train
