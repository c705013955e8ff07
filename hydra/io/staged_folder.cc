// SPDX-License-Identifier: Apache-2.0
// Staging and exchange of folders, over rename(2) and Linux's renameat2(2).
#include "hydra/io/staged_folder.h"

#include <fcntl.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX's
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <utility>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

// The folder itself where a link leads to it, without a slash at its end.
std::string RealPath(const std::string& target) {
  std::error_code ignored;
  fs::path path = fs::weakly_canonical(target, ignored);
  if (path.empty()) path = fs::absolute(target);
  if (path.filename().empty()) path = path.parent_path();
  return path.string();
}

// Removes the folders START + PID-N whose process no longer runs.
void RemoveStages(const fs::path& folder, const std::string& start) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(start) || !entry.is_directory(ignored) || entry.is_symlink(ignored)) continue;
    pid_t pid = 0;
    const char* const end = name.data() + name.size();
    const auto [at, error] = std::from_chars(name.data() + start.size(), end, pid);
    if (error != std::errc() || at == end || *at != '-' || pid <= 0) continue;
    if (::kill(pid, 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), ignored);
  }
}

constexpr const char* kInside = ".tmp-";

}  // namespace

StagedFolder::StagedFolder(const std::string& target, MayReplace may_replace, std::string last)
    : target_(RealPath(target)), last_(std::move(last)), may_replace_(std::move(may_replace)) {
  static std::atomic<unsigned> counter{0};
  const fs::path path(target_);
  if (fs::is_directory(path)) RemoveStages(path, kInside);
  RemoveStages(path.parent_path(), path.filename().string() + kInside);
  inside_ = Look() == Target::kEmpty;
  MakeDirs(path.parent_path().string());
  const std::string start = inside_ ? target_ + "/" + kInside : target_ + kInside;
  const std::string stage = StrCat(start, ::getpid(), "-", counter++);
  if (::mkdir(stage.c_str(), 0777) != 0) ThrowIo(stage, "cannot create", errno);
  stage_ = stage;
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  fs::remove_all(stage_, ignored);  // after Commit() it is the old folder, or empty
}

StagedFolder::Target StagedFolder::Look() const {
  std::error_code ignored;
  const fs::file_status status = fs::status(target_, ignored);
  if (!fs::exists(status)) return Target::kMissing;
  if (!fs::is_directory(status)) throw Error(ErrorCode::kUsage, StrCat("-o ", target_, ": is no folder"));
  Target target = Target::kEmpty;
  for (const auto& entry : fs::directory_iterator(target_)) {
    const std::string name = entry.path().filename().string();
    if (entry.path() == stage_) continue;
    if (entry.is_directory() || !may_replace_(name))
      throw Error(ErrorCode::kUsage, StrCat("-o ", target_, ": holds ", OneLine(name, 80),
                                            ", which is not replaced: choose another folder, or empty this one"));
    target = Target::kHasFiles;
  }
  if (target == Target::kHasFiles && fs::equivalent(target_, fs::current_path(), ignored))
    throw Error(ErrorCode::kUsage, StrCat("-o ", target_, ": is the current folder and not empty: start elsewhere"));
  return target;
}

void StagedFolder::MoveUp() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(stage_)) files.push_back(entry.path());
  std::ranges::sort(files, {}, [&](const fs::path& file) { return file.filename() == last_; });
  for (const fs::path& file : files) RenameDurably(file.string(), (fs::path(target_) / file.filename()).string());
}

void StagedFolder::Commit() {
  const Target target = Look();
  if (inside_ && target != Target::kEmpty)
    throw Error(ErrorCode::kUsage, StrCat("-o ", target_, ": is no longer empty"));
  FsyncDir(stage_);
  if (inside_) return MoveUp();
  if (target == Target::kMissing) return RenameDurably(stage_, target_);
  fs::permissions(stage_, fs::status(target_).permissions());
  if (::renameat2(AT_FDCWD, stage_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0)
    ThrowIo(target_, "the new folder cannot take the place of the old one", errno);
  FsyncDir(fs::path(target_).parent_path().string());
}

}  // namespace hydra
