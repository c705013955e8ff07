// SPDX-License-Identifier: Apache-2.0
// Writing: files that appear whole, what killed processes left, durable names. Not here: reading (file.cc).
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include "hydra/io/file.h"

namespace hydra {
namespace {

constexpr size_t kWriteBuffer = 2 << 20;  // a huge page: so written, a file lies in such in the system's cache

// A descriptor that closes itself; errors of close are seen only where they matter (AtomicFile).
struct Fd {
  int fd;
  explicit Fd(int f) : fd(f) {}
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
};

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// What a symbolic link leads to in the end, there or not; other names are returned as they are.
std::string FollowLinks(const std::string& path) {
  std::filesystem::path at = path;
  for (int links = 0; links < 40; ++links) {  // as many as Linux follows
    std::error_code no_link;
    const auto target = std::filesystem::read_symlink(at, no_link);
    if (no_link) return at.string();
    at = at.parent_path() / target;  // an absolute target replaces the folder
  }
  ThrowIo(path, "cannot write", ELOOP);
}

// Seconds since the epoch at which a process began; infinity where none of this number lives; 0 where nothing is known.
double BeginOfProcess(int pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos)
    return ::kill(pid, 0) == 0 || errno == EPERM ? 0 : std::numeric_limits<double>::infinity();
  // proc(5): after the name follow the state and, as 20th, the ticks from boot to the begin of the process.
  std::istringstream fields(text.substr(name_end + 1));
  std::string state, skipped;
  fields >> state;
  if (state == "Z" || state == "X") return std::numeric_limits<double>::infinity();
  for (int i = 2; i < 20; ++i) fields >> skipped;
  double ticks = 0;
  fields >> ticks;
  timespec now{}, since_boot{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  ::clock_gettime(CLOCK_BOOTTIME, &since_boot);
  return static_cast<double>(now.tv_sec - since_boot.tv_sec) + ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

// The process that wrote a file by the name NAME.tmp-PID-N, and the length of NAME; nullopt for other names.
struct TemporaryName {
  size_t stem;
  int pid;
};
std::optional<TemporaryName> ParseTemporaryName(const std::string& name) {
  const size_t at = name.rfind(".tmp-");
  if (at == std::string::npos) return std::nullopt;
  const char* const last = name.data() + name.size();
  int pid = 0, number = 0;
  const auto [dash, bad_pid] = std::from_chars(name.data() + at + 5, last, pid);
  if (bad_pid != std::errc() || pid <= 0 || dash == last || *dash != '-') return std::nullopt;
  const auto [end, bad_number] = std::from_chars(dash + 1, last, number);
  if (bad_number != std::errc() || end != last) return std::nullopt;
  return TemporaryName{at, pid};
}

// Removes a temporary whose writer is dead. Best effort: it takes only space.
bool RemoveOrphan(const std::string& path, int pid) {
  const Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode)) return false;
  if (::flock(file.fd, LOCK_EX | LOCK_NB) != 0) return false;  // its writer is at work, perhaps in another container
  // A number is given again: a process that began after the last write is another one. Of our own number and without a
  // lock, it can only be an earlier one's.
  constexpr double kClockError = 1;
  const double written = static_cast<double>(info.st_mtim.tv_sec) + static_cast<double>(info.st_mtim.tv_nsec) * 1e-9;
  if (pid != ::getpid() && BeginOfProcess(pid) < written + kClockError) return false;
  return ::unlink(path.c_str()) == 0;
}

// Those of one file name, or with an empty one all of the folder. Returns how many are gone.
int RemoveOrphans(const std::string& folder, const std::string& of) {
  int removed = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const auto parsed = ParseTemporaryName(name);
    if (!parsed || (!of.empty() && name.substr(0, parsed->stem) != of)) continue;
    removed += RemoveOrphan(it->path().string(), parsed->pid) ? 1 : 0;
  }
  return removed;
}

// Names of the unfinished files, which their AtomicFiles own; a signal handler may read them.
std::array<std::atomic<const char*>, 32> g_temporaries;
static_assert(std::atomic<const char*>::is_always_lock_free);

void Remember(const char* name) {
  for (auto& slot : g_temporaries)
    if (const char* none = nullptr; slot.compare_exchange_strong(none, name)) return;
}

void Forget(const char* name) {
  for (auto& slot : g_temporaries)
    if (const char* same = name; slot.compare_exchange_strong(same, nullptr)) return;
}

}  // namespace

void UnlinkTemporaries() noexcept {
  for (auto& slot : g_temporaries)
    if (const char* name = slot.load(); name != nullptr) ::unlink(name);
}

const FileOps& FileOps::Real() {
  static const FileOps ops{::write, ::pwrite, ::fsync, ::rename};
  return ops;
}

AtomicFile::AtomicFile(const std::string& path, const FileOps& ops) : path_(path), ops_(ops) {
  if (path.empty()) throw Error(ErrorCode::kUsage, "an output needs the name of a file: it is empty");
  buffer_.reserve(kWriteBuffer);
  if (const auto own = OwnDescriptor(path)) {
    OpenOwn(*own);
    return;
  }
  struct stat info {};
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && !S_ISREG(info.st_mode)) {
    OpenSpecial(info.st_mode);
    return;
  }
  target_ = FollowLinks(path);
  RemoveOrphans(FolderOf(target_), std::filesystem::path(target_).filename().string());
  CreateTemporary();
}

// Where bytes go on from where the descriptor stands, which may be anywhere in a file: nothing is replaced.
void AtomicFile::OpenOwn(int descriptor) {
  fd_ = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (fd_ < 0) ThrowIo(path_, "cannot write", errno);
  can_seek_ = false;
}

void AtomicFile::OpenSpecial(mode_t mode) {
  if (S_ISDIR(mode)) ThrowIo(path_, "cannot write", EISDIR);  // not at the end
  if (!S_ISCHR(mode) && !S_ISFIFO(mode))
    throw Error(ErrorCode::kIo, fmt::format("{}: {}: must be the name of a file", path_, FileKindText(mode)));
  // Without O_NONBLOCK a FIFO is waited for until somebody reads it; the other side may be about to.
  for (int tries = 0; fd_ < 0; ++tries) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd_ >= 0) break;
    if (errno == ENXIO && S_ISFIFO(mode) && tries < 100) {
      ::usleep(10'000);
    } else if (errno == ENXIO && S_ISFIFO(mode)) {
      throw Error(ErrorCode::kIo, fmt::format("{}: a FIFO that no process reads from", path_));
    } else if (errno != EINTR) {
      ThrowIo(path_, "cannot open", errno);
    }
  }
  ::fcntl(fd_, F_SETFL, ::fcntl(fd_, F_GETFL) & ~O_NONBLOCK);
  can_seek_ = ::lseek(fd_, 0, SEEK_CUR) >= 0;
}

void AtomicFile::CreateTemporary() {
  // O_EXCL with a number finds a free name without a race; mkstemp would force mode 0600 upon the result.
  for (int n = 0; fd_ < 0; ++n) {
    temporary_ = fmt::format("{}.tmp-{}-{}", target_, ::getpid(), n);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST && errno != EINTR) ThrowIo(path_, "cannot create", errno);
    if (fd_ < 0) continue;
    // While it is locked, nobody takes it for an orphan; a file system without locks has no orphans removed.
    while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) continue;
    struct stat info {};
    if (::fstat(fd_, &info) == 0 && info.st_nlink > 0) continue;
    ::close(std::exchange(fd_, -1));  // it was taken for one between the two calls
  }
  Remember(temporary_.c_str());
}

AtomicFile::~AtomicFile() { Discard(); }

void AtomicFile::Discard() noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  if (temporary_.empty()) return;
  ::unlink(temporary_.c_str());
  Forget(temporary_.c_str());
  temporary_.clear();
}

void AtomicFile::Fail(const std::string& what, int error) {
  Discard();
  ThrowIo(path_, what, error);
}

void AtomicFile::Write(std::span<const std::byte> bytes) {
  HYDRA_CHECK(fd_ >= 0, "write after commit or failure: ", path_);
  crc32_ = Crc32(bytes, crc32_);
  size_ += bytes.size();
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), kWriteBuffer - buffer_.size());
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
    bytes = bytes.subspan(n);
    if (buffer_.size() == kWriteBuffer) Flush();
  }
}

void AtomicFile::WriteZeros(uint64_t n) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  for (; n > 0; n -= std::min<uint64_t>(n, kZeros.size()))
    Write(std::span(kZeros).first(std::min<uint64_t>(n, kZeros.size())));
}

void AtomicFile::Flush() {
  for (size_t done = 0; done < buffer_.size();) {
    const ssize_t n = ops_.write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    // A short write is legal and is continued; one of nothing would loop for ever.
    if (n <= 0) Fail(fmt::format("cannot write {} bytes", WithCommas(buffer_.size() - done)), n < 0 ? errno : ENOSPC);
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
}

void AtomicFile::NeedSeek() {
  if (can_seek_) return;
  Discard();
  throw Error(ErrorCode::kIo,
              path_ + ": is written through, and this format goes back to its start: must be the name of a file");
}

void AtomicFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  HYDRA_CHECK(fd_ >= 0 && can_seek_ && offset <= size_ && bytes.size() <= size_ - offset,
              "write past the end: ", path_);
  Flush();
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ops_.pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) Fail(fmt::format("cannot write {} bytes", WithCommas(bytes.size() - done)), n < 0 ? errno : ENOSPC);
    done += static_cast<size_t>(n);
  }
}

void AtomicFile::Commit() {
  HYDRA_CHECK(fd_ >= 0, "commit twice or after failure: ", path_);
  Flush();
  if (ops_.fsync(fd_) != 0 && (!temporary_.empty() || (errno != EINVAL && errno != ENOTSUP)))
    Fail("cannot sync", errno);  // a pipe has no sync
  const Fd lock(::dup(fd_));     // it is nobody's orphan until it has its name
  // close reports delayed write errors on network file systems.
  if (::close(std::exchange(fd_, -1)) != 0) Fail("cannot close", errno);
  if (temporary_.empty()) return;
  if (ops_.rename(temporary_.c_str(), target_.c_str()) != 0) Fail("cannot rename its temporary file to it", errno);
  Forget(temporary_.c_str());
  temporary_.clear();  // it is gone: nothing to remove if the next line fails
  FsyncDir(FolderOf(target_), ops_);
}

void WriteFileAtomic(const std::string& path, std::span<const std::byte> bytes, const FileOps& ops) {
  AtomicFile file(path, ops);
  file.Write(bytes);
  file.Commit();
}

void WriteFileAtomic(const std::string& path, std::string_view text, const FileOps& ops) {
  WriteFileAtomic(path, AsBytes(text), ops);
}

void FsyncDir(const std::string& folder, const FileOps& ops) {
  const Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.fd < 0) ThrowIo(folder, "cannot open", errno);
  // Some file systems cannot sync a folder and say EINVAL; their renames are as durable as they get.
  if (ops.fsync(fd.fd) != 0 && errno != EINVAL) ThrowIo(folder, "cannot sync", errno);
}

void FsyncFile(const std::string& path, const FileOps& ops) {
  const InputFile file(path, InputKind::kFile);
  if (ops.fsync(file.fd()) != 0) ThrowIo(path, "cannot sync", errno);
}

void RenameDurably(const std::string& from, const std::string& to, const FileOps& ops) {
  if (ops.rename(from.c_str(), to.c_str()) != 0) ThrowIo(to, fmt::format("cannot rename {} to it", from), errno);
  FsyncDir(FolderOf(to), ops);
}

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

void MakeDirs(const std::string& folder) {
  if (folder.empty()) throw Error(ErrorCode::kUsage, "an output needs the name of a folder: it is empty");
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) ThrowIo(folder, "cannot create the folder", error.value());
}

int RemoveStaleTemporaries(const std::string& folder) { return RemoveOrphans(folder, ""); }

int OpenForAppending(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
  if (fd < 0) ThrowIo(path, "cannot open", errno);
  struct stat info {};
  if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) return fd;
  ::close(fd);
  throw Error(ErrorCode::kIo, fmt::format("{}: {}: must be a regular file", path, FileKindText(info.st_mode)));
}

}  // namespace hydra
