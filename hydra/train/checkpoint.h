// SPDX-License-Identifier: Apache-2.0
// Checkpoints on disk: written so that a crash at any moment leaves a complete one, read only when complete.
// Not here: what the state means (trainer.cc), when to save. Layout: specs/interfaces.md 4, docs/training.md.
//
//   ckpt/latest                     the name of the newest folder, renamed into place last
//   ckpt/step-00001000/             model.safetensors (fp32 masters), optim-00000-of-00001.safetensors, state.json
//   ckpt/step-00001000/DONE         names, sizes and CRC-32 of those; written after all of them are on disk
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"
#include "hydra/train/optim.h"

namespace hydra::train {

struct CheckpointContent {
  NamedTensors weights, optimiser;
  nlohmann::ordered_json state;  // an object; "world_size" = number of optimiser files
  SafeTensorsMetadata metadata;  // of both tensor files
};

// Writes `root`/step-NNNNNNNN, then `latest`. An incomplete or older folder of the same step is replaced; its
// marker goes first. Throws kIo; then the folder is removed again and `latest` stays as it was.
// Returns the folder's path.
std::string WriteCheckpoint(const std::string& root, int64_t step, const CheckpointContent& content,
                            const FileOps& ops = FileOps::Real());

// A complete checkpoint: every file has the size and CRC that DONE says.
struct Checkpoint {
  std::string folder;
  int64_t step = 0;
  nlohmann::ordered_json state;
  SafeTensors weights, optimiser;
};

// Opens one folder. Throws kIo or kFormat naming the file and what is wrong with it: DONE missing or cut, a file
// missing, cut or changed, optimiser files of another number of ranks, state.json without a key.
[[nodiscard]] Checkpoint OpenCheckpoint(const std::string& folder);

// The one that `latest` names, or where that is missing or not complete the newest complete one; none without any.
// Each one passed over gives a line to `warn`.
[[nodiscard]] std::optional<Checkpoint> FindCheckpoint(const std::string& root,
                                                       const std::function<void(const std::string&)>& warn);

// Removes all but the newest `keep` complete checkpoints and the best one, and folders without DONE that are older
// than `written`, the step that was saved last. Steps beyond it are of a run that was left for an earlier checkpoint:
// they count as the oldest.
void PruneCheckpoints(const std::string& root, int64_t keep, int64_t written);

// The step of the complete checkpoint whose state.json has the lowest "val"."loss"; -1 where none has one.
[[nodiscard]] int64_t BestCheckpoint(const std::string& root);

// Steps of folders with a DONE file, ascending.
[[nodiscard]] std::vector<int64_t> ListCheckpoints(const std::string& root);
[[nodiscard]] std::string CheckpointName(int64_t step);  // "step-00001000"

}  // namespace hydra::train
