// SPDX-License-Identifier: Apache-2.0
// flock(2) on a small file that says who holds it.
#include "hydra/io/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
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

}  // namespace

FolderLock::FolderLock(const std::string& folder, const std::string& work) {
  const std::string path = folder + "/" + kFileName;
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
  if (fd_ < 0) ThrowIo(path, "cannot be opened", errno);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    const std::string holder = error == EWOULDBLOCK ? Holder(fd_) : "";
    ::close(std::exchange(fd_, -1));
    if (error != EWOULDBLOCK) ThrowIo(path, "cannot be locked", error);
    throw Error(ErrorCode::kUsage, fmt::format("{}: in use by {}", folder, holder));
  }
  const std::string text = fmt::format("process {} ({}), started {}", ::getpid(), work, Now());
  // Only a help for people: a full disk does not stop the work.
  if (::ftruncate(fd_, 0) == 0) (void)!::pwrite(fd_, text.data(), text.size(), 0);
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

FolderLock::FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

}  // namespace hydra
