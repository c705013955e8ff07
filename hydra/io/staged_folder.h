// SPDX-License-Identifier: Apache-2.0
// A folder that appears under its name whole or not at all, as AtomicFile does for a file: what stands there before
// stays until the new one is complete, and nothing of it is mixed with the new. Not here: which files a model has.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace hydra {

// Files are written into path(), a new folder beside the target (NAME.tmp-PID-N), and Commit() puts it in the target's
// place with one system call. Of a target that is there and empty the new folder is inside (.tmp-PID-N), and Commit()
// moves the files up: so whoever stands in it keeps it, and it may be a mount. Without Commit() the destructor removes
// the new folder. What killed processes left of the same target is removed first: folders of such a name that nobody
// has locked and that have only files that may be replaced. Not thread-safe.
class StagedFolder {
 public:
  // Says of a name in the target that it may be replaced.
  using MayReplace = std::function<bool(std::string_view name)>;

  // The target may be missing, an empty folder, or a folder that has only files that may be replaced. Throws kUsage
  // naming what else it is or has, kIo where the new folder cannot be made. `last` is the file that is moved last where
  // they are moved one by one: without it the folder is nothing.
  StagedFolder(const std::string& target, MayReplace may_replace, std::string last);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  [[nodiscard]] const std::string& path() const { return stage_; }
  // Looks at the target once more, then exchanges the folders (the mode stays) and removes the old one. Throws kUsage
  // or kIo; the target is then as it was.
  void Commit();

 private:
  // Whether the target is there, and empty but for the new folder. Throws for one that may not be replaced.
  enum class Target { kMissing, kEmpty, kHasFiles };
  [[nodiscard]] Target Look() const;
  void MoveUp();

  std::string target_, stage_, last_;
  MayReplace may_replace_;
  bool inside_ = false;
  int lock_ = -1;  // on the new folder: while it is held, nobody takes that for a dead process'
};

}  // namespace hydra
