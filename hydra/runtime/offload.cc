// SPDX-License-Identifier: Apache-2.0
// A header of one page, then the packed bytes; made as FILE.part under a lock and renamed when whole.
#include "hydra/runtime/offload.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/kernels/target.h"
#include "hydra/runtime/weights.h"

namespace hydra {
namespace {

constexpr std::string_view kMagic = "hydralm-packed/1\n";
constexpr int64_t kHeader = 4096;

struct OpenFile {
  int fd;
  ~OpenFile() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

OffloadFile::OffloadFile(const std::string& path, int64_t bytes, const std::string& key) : path_(path), bytes_(bytes) {
  header_ = StrCat(kMagic, key, "\n", bytes, "\n");
  const OpenFile file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0 && errno != ENOENT) ThrowIo(path, "cannot be opened", errno);
  if (file.fd >= 0)
    Open(file.fd);
  else
    Create();
}

OffloadFile::~OffloadFile() {
  if (fd_ < 0) return;
  (void)std::remove((path_ + ".part").c_str());
  ::close(fd_);
}

void OffloadFile::Open(int fd) {
  std::string head(static_cast<size_t>(kHeader), '\0');
  struct stat about {};
  if (::fstat(fd, &about) != 0) ThrowIo(path_, "cannot be read", errno);
  const ssize_t n = ::pread(fd, head.data(), head.size(), 0);
  if (n < 0) ThrowIo(path_, "cannot be read", errno);
  if (!head.starts_with(kMagic))
    throw Error(ErrorCode::kFormat, path_ + ": format: is no file of packed weights: name another file, or remove it");
  if (!head.starts_with(header_))
    throw Error(ErrorCode::kUsage,
                path_ + ": has the packed weights of another model or SIMD level: name another file, or remove it");
  if (about.st_size != kHeader + bytes_)
    throw Error(ErrorCode::kFormat,
                StrCat(path_, ": size = ", about.st_size, ": must be ", kHeader + bytes_, ": remove it"));
  Map(fd, PROT_READ);
}

void OffloadFile::Map(int fd, int protection) {
  const auto size = static_cast<size_t>(kHeader + bytes_);
  void* p = ::mmap(nullptr, size, protection, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) ThrowIo(path_, "cannot be mapped", errno);
  data_ = {static_cast<std::byte*>(p) + kHeader, [p, size](std::byte*) { (void)::munmap(p, size); }};
}

void OffloadFile::Create() {
  const std::string part = path_ + ".part";
  OpenFile own{::open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)};
  if (own.fd < 0) ThrowIo(part, "cannot be made", errno);
  if (::flock(own.fd, LOCK_EX | LOCK_NB) != 0)
    throw Error(ErrorCode::kUsage, part + ": another process is packing weights into it: wait for it");
  // Room is taken now: a mapped page that the disk has no room for would end the process.
  if (const int error = ::posix_fallocate(own.fd, 0, kHeader + bytes_); error != 0) {
    (void)std::remove(part.c_str());
    ThrowIo(part, StrCat("cannot take ", (kHeader + bytes_) >> 20, " MiB"), error);
  }
  Map(own.fd, PROT_READ | PROT_WRITE);
  fd_ = std::exchange(own.fd, -1);
}

void OffloadFile::Commit() {
  if (whole()) return;
  const std::string part = path_ + ".part";
  const ssize_t n = ::pwrite(fd_, header_.data(), header_.size(), 0);
  if (n != static_cast<ssize_t>(header_.size())) ThrowIo(part, "cannot be written", errno);
  if (::ftruncate(fd_, kHeader + bytes_) != 0 || ::fsync(fd_) != 0) ThrowIo(part, "cannot be written", errno);
  if (std::rename(part.c_str(), path_.c_str()) != 0) ThrowIo(path_, "cannot be made", errno);
  // What is read from here on is in the file: pages may go.
  (void)::mprotect(data_.get() - kHeader, static_cast<size_t>(kHeader + bytes_), PROT_READ);
  ::close(fd_);
  fd_ = -1;
}

std::string OffloadKey(const WeightSource& source) {
  constexpr int64_t kSample = 4096;
  Sha256 hash;
  hash.Update(StrCat(ConfigJson(source.config), "\n", kernels::CurrentTarget(), "\n"));
  TensorTable::ForEach(source.config, [&](const TensorSpec& spec) {
    const StoredTensor t = source.tensor(spec);
    hash.Update(StrCat(spec.name, " ", Info(t.type).name, " ", t.nbytes, "\n"));
    const int64_t n = std::min(kSample, t.nbytes);
    hash.Update({t.data, static_cast<size_t>(n)});
    hash.Update({t.data + t.nbytes - n, static_cast<size_t>(n)});
  });
  return Hex(hash.Finish());
}

void AskFor(const std::byte* data, int64_t n) {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(n);
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

}  // namespace hydra
