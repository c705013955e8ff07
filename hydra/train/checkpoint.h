// SPDX-License-Identifier: Apache-2.0
// Checkpoints on disk: written so that a crash at any moment leaves a complete one, read only when complete.
// Not here: what the state means (trainer_resume.cc), when to save. Layout: specs/interfaces.md 4, docs/training.md.
//
//   ckpt/latest                     the name of the newest folder, renamed into place last
//   ckpt/step-00001000/             model.safetensors (fp32 masters), optim-00000-of-00001.safetensors, state.json
//   ckpt/step-00001000/DONE         names, sizes and CRC-32 of those; written after all of them are on disk
//   ckpt/step-00001000.part/        the same while it is written; it gets its name once it has DONE
//   ckpt/step-00001000.old/         an earlier one of the same step, for the moment in which the new one gets its name
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

// Writes `root`/step-NNNNNNNN, then `latest`. A folder of the same step is replaced, and stays until the new one is
// complete. Throws kIo; then `latest` and the earlier folder are as they were. Returns the folder's path.
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

// The one that `latest` names, or where that cannot be read or opened the newest that can. None only where no
// checkpoint was ever completed (HoldsCheckpoints is false). Each one passed over gives a line to `warn`. Throws kIo
// where `root` cannot be listed, and kFormat naming the checkpoints where there are some and none opens: nothing may
// start anew over them. The caller must be the only one that writes there: a replacement that was broken off is
// finished.
[[nodiscard]] std::optional<Checkpoint> FindCheckpoint(const std::string& root,
                                                       const std::function<void(const std::string&)>& warn);

// True where `root` has a checkpoint, be it damaged or not to be looked at, or a `latest`, which only a completed
// checkpoint leaves. Folders without DONE are the remains of a save that was broken off. Throws kIo.
[[nodiscard]] bool HoldsCheckpoints(const std::string& root);

// True where `root` has a checkpoint of a step above `step`, be it damaged or not to be looked at. Throws kIo.
[[nodiscard]] bool HoldsLaterCheckpoints(const std::string& root, int64_t step);

// True where `latest` of `root` names `folder`.
[[nodiscard]] bool IsLatest(const std::string& root, const std::string& folder);

// Removes what a run left that went back to step `step` and has now saved `written`: the other complete checkpoints
// of steps above `step`. What cannot be read is never removed.
void RemoveLaterCheckpoints(const std::string& root, int64_t step, int64_t written);

// Removes all but the newest `keep` complete checkpoints and the best one up to `written`, the step that was saved
// last, and folders without DONE that are older than it. Steps beyond it are of a run that was left for an earlier
// checkpoint: they count as the oldest. What cannot be read is never removed.
void PruneCheckpoints(const std::string& root, int64_t keep, int64_t written);

// The step of the complete checkpoint of at most step `last` whose state.json has the lowest "val"."loss"; -1 where
// none has one.
[[nodiscard]] int64_t BestCheckpoint(const std::string& root, int64_t last);

// Steps of the folders that can be looked at and have a DONE file, ascending. Throws kIo where `root` cannot be listed.
[[nodiscard]] std::vector<int64_t> ListCheckpoints(const std::string& root);
[[nodiscard]] std::string CheckpointName(int64_t step);  // "step-00001000"

}  // namespace hydra::train
