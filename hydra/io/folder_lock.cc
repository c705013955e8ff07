// SPDX-License-Identifier: Apache-2.0
// flock(2) on a small file that says who holds it.
#include "hydra/io/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

std::string Holder(int fd) {
  std::array<char, 256> text{};
  const ssize_t n = ::pread(fd, text.data(), text.size(), 0);
  // The holder may be about to write it.
  return n > 0 ? OneLine({text.data(), static_cast<size_t>(n)}) : "another process";
}

std::string Now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  std::array<char, 64> text{};
  const size_t n = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", ::localtime_r(&now, &local));
  return {text.data(), n};
}

// Whether the path still leads to the open file: its holder may have removed it between open and flock.
bool IsAt(const std::string& path, int fd) {
  struct stat open {
  }, there{};
  return ::fstat(fd, &open) == 0 && ::lstat(path.c_str(), &there) == 0 && open.st_dev == there.st_dev &&
         open.st_ino == there.st_ino;
}

}  // namespace

FolderLock::FolderLock(const std::string& folder, const std::string& work) : path_(folder + "/" + kFileName) {
  for (bool held = false; !held;) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd_ < 0) ThrowIo(path_, "cannot be opened", errno);
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      const std::string holder = error == EWOULDBLOCK ? Holder(fd_) : "";
      ::close(std::exchange(fd_, -1));
      if (error != EWOULDBLOCK) ThrowIo(path_, "cannot be locked", error);
      throw Error(ErrorCode::kUsage, fmt::format("{}: in use by {}", folder, holder));
    }
    held = IsAt(path_, fd_);
    if (!held) ::close(std::exchange(fd_, -1));
  }
  const std::string text = fmt::format("process {} ({}), started {}", ::getpid(), work, Now());
  // Only a help for people: a full disk does not stop the work.
  if (::ftruncate(fd_, 0) == 0) (void)!::pwrite(fd_, text.data(), text.size(), 0);
}

FolderLock::~FolderLock() {
  if (fd_ < 0) return;
  if (IsAt(path_, fd_)) ::unlink(path_.c_str());  // while it is held: nobody else has it
  ::close(fd_);
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

}  // namespace hydra
