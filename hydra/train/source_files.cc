// SPDX-License-Identifier: Apache-2.0
// Watching files by what stat(2) says, and by their content where that has changed.
#include "hydra/train/source_files.h"

#include <sys/stat.h>

#include <utility>

#include "hydra/base/error.h"

namespace hydra::train {

std::optional<SourceFiles::Stamp> SourceFiles::StampOf(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return Stamp{.device = info.st_dev,
               .inode = info.st_ino,
               .size = info.st_size,
               .seconds = info.st_mtim.tv_sec,
               .nanoseconds = info.st_mtim.tv_nsec};
}

void SourceFiles::Add(const std::string& path, std::function<bool()> same) {
  files_.push_back({path, StampOf(path), std::move(same)});
}

void SourceFiles::Check() {
  for (File& file : files_) {
    const std::optional<Stamp> now = StampOf(file.path);
    if (now && now == file.stamp) continue;
    std::string what = "is gone";
    if (now) {
      what = "has other content now";
      try {
        if (file.same()) {
          file.stamp = now;
          continue;
        }
      } catch (const Error&) {  // half written, or no longer such a file: other content too
      }
    }
    throw Error(ErrorCode::kData, StrCat(file.path, ": ", what,
                                         ": the run needs what it read there at its start: put it back and give the "
                                         "same command again"));
  }
}

}  // namespace hydra::train
