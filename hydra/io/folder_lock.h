// SPDX-License-Identifier: Apache-2.0
// One writer at a time in a folder: a second one is refused and told who the first is.
// Not here: files that appear whole or not at all (file.h).
#pragma once

#include <string>

namespace hydra {

// Holds a lock on FOLDER/.lock (flock), which names this process and its work. The system gives the lock back when the
// process ends in any way, so nothing goes stale. The file goes with the lock; a killed holder's stays. Not
// thread-safe.
class FolderLock {
 public:
  // `work` is what a second one reads, such as "hydralm train". The folder must exist. Throws kUsage "FOLDER: in use by
  // process N (WORK), started DATE" where another holds the lock, kIo where the file cannot be made.
  FolderLock(const std::string& folder, const std::string& work);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;

  static constexpr const char* kFileName = ".lock";

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace hydra
