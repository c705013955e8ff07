// SPDX-License-Identifier: Apache-2.0
// Staging and exchange of folders, over rename(2) and Linux's renameat2(2).
#include "hydra/io/staged_folder.h"

#include <fcntl.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX's
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string_view>
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
  const fs::path from_root =
      fs::absolute(target, ignored);  // of a missing relative name the canonical one has no folder
  fs::path path = fs::weakly_canonical(from_root, ignored);
  if (path.empty()) path = from_root;
  if (path.filename().empty()) path = path.parent_path();
  return path.string();
}

// Opens a folder and locks it; -1 where it is not there or another has locked it.
int OpenLocked(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || ::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

// The process that made a folder named START + PID-N; nullopt for other names, such as START + 2024-backup.
std::optional<pid_t> MakerOf(std::string_view name, std::string_view start) {
  if (!name.starts_with(start)) return std::nullopt;
  const char* const last = name.data() + name.size();
  pid_t pid = 0;
  unsigned number = 0;
  const auto [dash, bad_pid] = std::from_chars(name.data() + start.size(), last, pid);
  if (bad_pid != std::errc() || pid <= 0 || dash == last || *dash != '-') return std::nullopt;
  const auto [end, bad_number] = std::from_chars(dash + 1, last, number);
  if (bad_number != std::errc() || end != last) return std::nullopt;
  return pid;
}

// Whether a folder has only what a StagedFolder has: finished files, and temporaries of unfinished ones.
bool HasOnlyStaged(const fs::path& folder, const StagedFolder::MayReplace& may_replace) {
  std::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed)) {
    const std::string name = it->path().filename().string();
    if (!it->is_regular_file(failed) || !may_replace(name.substr(0, name.rfind(".tmp-")))) return false;
  }
  return !failed;
}

// Removes the folders START + PID-N that nobody has locked (their process may run in another container, where numbers
// are others) and whose process no longer runs.
void RemoveStages(const fs::path& folder, const std::string& start, const StagedFolder::MayReplace& may_replace) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const auto pid = MakerOf(entry.path().filename().string(), start);
    if (!pid || ::kill(*pid, 0) == 0 || errno != ESRCH) continue;
    const int lock = OpenLocked(entry.path().string());
    if (lock < 0) continue;
    if (HasOnlyStaged(entry.path(), may_replace)) fs::remove_all(entry.path(), ignored);
    ::close(lock);
  }
}

constexpr const char* kInside = ".tmp-";

}  // namespace

StagedFolder::StagedFolder(const std::string& target, MayReplace may_replace, std::string last)
    : target_(RealPath(target)), last_(std::move(last)), may_replace_(std::move(may_replace)) {
  static std::atomic<unsigned> counter{0};
  const fs::path path(target_);
  if (fs::is_directory(path)) RemoveStages(path, kInside, may_replace_);
  RemoveStages(path.parent_path(), path.filename().string() + kInside, may_replace_);
  inside_ = Look() == Target::kEmpty;
  MakeDirs(path.parent_path().string());
  const std::string start = inside_ ? target_ + "/" + kInside : target_ + kInside;
  const std::string stage = StrCat(start, ::getpid(), "-", counter++);
  if (::mkdir(stage.c_str(), 0777) != 0) ThrowIo(stage, "cannot create", errno);
  stage_ = stage;
  lock_ = OpenLocked(stage);  // a file system without locks has none
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  fs::remove_all(stage_, ignored);  // after Commit() it is the old folder, or empty
  if (lock_ >= 0) ::close(lock_);
}

StagedFolder::Target StagedFolder::Look() const {
  std::error_code ignored;
  const fs::file_status status = fs::status(target_, ignored);
  if (!fs::exists(status)) {
    if (fs::is_symlink(fs::symlink_status(target_, ignored)))
      throw Error(ErrorCode::kUsage, StrCat("-o ", target_, ": is a symbolic link that leads to nothing"));
    return Target::kMissing;
  }
  if (!fs::is_directory(status)) throw Error(ErrorCode::kUsage, StrCat("-o ", target_, ": is no folder"));
  // The exchange needs no right in it, but the old folder could then not be removed.
  if (::faccessat(AT_FDCWD, target_.c_str(), W_OK | X_OK, AT_EACCESS) != 0) ThrowIo(target_, "cannot write", errno);
  Target target = Target::kEmpty;
  for (const auto& entry : fs::directory_iterator(target_)) {
    const std::string name = entry.path().filename().string();
    if (entry.path() == stage_) continue;
    const fs::file_type type = entry.symlink_status().type();
    if ((type != fs::file_type::regular && type != fs::file_type::symlink) || !may_replace_(name))
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
