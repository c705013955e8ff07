// SPDX-License-Identifier: Apache-2.0
// Files: mapping, bounds-checked reading, atomic writing, checksums. Not here: any format.
#include "hydra/io/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "hydra/io/mapped_files.h"

namespace hydra {
namespace {

constexpr size_t kWriteBuffer = 1 << 20;

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

int OpenForReading(const std::string& path) {
  int fd;
  do fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) ThrowIo(path, "cannot open", errno);
  return fd;
}

[[noreturn]] void TooLarge(const std::string& path, uint64_t max_bytes) {
  throw Error(ErrorCode::kFormat,
              fmt::format("{}: more than {} bytes: too large for what it should be", path, WithCommas(max_bytes)));
}

std::array<int64_t, 5> IdentityOf(const struct stat& info) {
  return {static_cast<int64_t>(info.st_dev), static_cast<int64_t>(info.st_ino), static_cast<int64_t>(info.st_size),
          static_cast<int64_t>(info.st_mtim.tv_sec), static_cast<int64_t>(info.st_mtim.tv_nsec)};
}

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

}  // namespace

std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t result;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b) {
  uint64_t result;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

std::optional<uint64_t> CheckedAlignUp(uint64_t a, uint64_t alignment) {
  HYDRA_CHECK(alignment > 0);
  const uint64_t rest = a % alignment;
  return rest == 0 ? a : CheckedAdd(a, alignment - rest);
}

std::string WithCommas(uint64_t n) {
  std::string digits = std::to_string(n);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

std::string OneLine(std::string_view text, size_t max_bytes) {
  std::string line;
  for (const char c : text.substr(0, max_bytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 32 || byte == 127) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  if (text.size() > max_bytes) line += "...";
  return line;
}

void ThrowIo(const std::string& path, std::string_view what, int error) {
  throw Error(ErrorCode::kIo, fmt::format("{}: {}: {}", path, what, std::generic_category().message(error)));
}

std::string ReadFile(const std::string& path, uint64_t max_bytes) {
  const Fd file(OpenForReading(path));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) ThrowIo(path, "cannot stat", errno);
  if (S_ISDIR(info.st_mode)) ThrowIo(path, "cannot read", EISDIR);
  std::string text;
  const auto declared = S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0;
  if (declared <= max_bytes) text.reserve(declared);
  size_t used = 0;
  for (;;) {  // read on to the end: the size of a pipe or of /proc is not known, and a file may grow
    if (used > max_bytes) TooLarge(path, max_bytes);
    text.resize(std::max<size_t>(used + 65536, text.capacity()));
    const ssize_t got = ::read(file.fd, text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) ThrowIo(path, "cannot read", errno);
    if (got == 0) break;
    used += static_cast<size_t>(got);
  }
  text.resize(used);
  return text;
}

MappedFile::MappedFile(const std::string& path, uint64_t max_bytes) : path_(path) {
  const Fd file(OpenForReading(path));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) ThrowIo(path, "cannot stat", errno);
  if (S_ISDIR(info.st_mode)) ThrowIo(path, "cannot read", EISDIR);
  if (!S_ISREG(info.st_mode)) throw Error(ErrorCode::kIo, path + ": not a regular file: it cannot be mapped");
  if (static_cast<uint64_t>(info.st_size) > max_bytes) TooLarge(path, max_bytes);
  size_ = static_cast<size_t>(info.st_size);
  identity_ = IdentityOf(info);
  if (size_ == 0) return;  // mmap refuses a length of 0
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) ThrowIo(path, "cannot map", errno);
  data_ = static_cast<const std::byte*>(data);
  RememberMapping(data_, size_, path_);
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  ForgetMapping(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      identity_(other.identity_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(identity_, other.identity_);
  return *this;
}

void MappedFile::CheckUnchanged() const {
  struct stat info {};
  if (::stat(path_.c_str(), &info) != 0) return;
  const std::array<int64_t, 5> now = IdentityOf(info);
  if (now == identity_ || now[0] != identity_[0] || now[1] != identity_[1]) return;
  throw Error(ErrorCode::kIo, path_ + ": was changed while it was being read: start again");
}

std::span<const std::byte> ByteReader::Bytes(uint64_t n, std::string_view field) {
  if (n > left())
    Fail(field, fmt::format("needs {} bytes at offset {}: the file ends at {}: incomplete copy?", WithCommas(n),
                            WithCommas(pos_), WithCommas(size())));
  const auto result = bytes_.subspan(pos_, n);
  pos_ += n;
  return result;
}

std::string_view ByteReader::Text(uint64_t n, std::string_view field) {
  const auto bytes = Bytes(n, field);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> ByteReader::Array(uint64_t count, uint64_t element_bytes, std::string_view field) {
  const auto n = CheckedMul(count, element_bytes);
  if (!n) Fail(field, fmt::format("has {} elements of {} bytes: more than 64 bits can count", count, element_bytes));
  return Bytes(*n, field);
}

void ByteReader::Seek(uint64_t offset, std::string_view field) {
  if (offset > size())
    Fail(field,
         fmt::format("starts at {}: the file ends at {}: incomplete copy?", WithCommas(offset), WithCommas(size())));
  pos_ = offset;
}

void ByteReader::AlignTo(uint64_t alignment, std::string_view field) {
  const auto aligned = CheckedAlignUp(pos_, alignment);
  Seek(aligned.value_or(UINT64_MAX), field);
}

void ByteReader::Fail(std::string_view field, std::string_view rule) const {
  throw Error(ErrorCode::kFormat, fmt::format("{}: {} {}", file_, field, rule));
}

namespace {

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
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode))
    ThrowIo(path, "cannot write", EISDIR);  // not at the end
  // O_EXCL with a number finds a free name without a race; mkstemp would force mode 0600 upon the result.
  for (int n = 0; fd_ < 0; ++n) {
    temporary_ = fmt::format("{}.tmp-{}-{}", path, ::getpid(), n);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST && errno != EINTR) ThrowIo(path, "cannot create", errno);
  }
  Remember(temporary_.c_str());
  buffer_.reserve(kWriteBuffer);
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

void AtomicFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  HYDRA_CHECK(fd_ >= 0 && offset <= size_ && bytes.size() <= size_ - offset, "write past the end: ", path_);
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
  if (ops_.fsync(fd_) != 0) Fail("cannot sync", errno);
  // close reports delayed write errors on network file systems.
  if (::close(std::exchange(fd_, -1)) != 0) Fail("cannot close", errno);
  if (ops_.rename(temporary_.c_str(), path_.c_str()) != 0) Fail("cannot rename its temporary file to it", errno);
  Forget(temporary_.c_str());
  temporary_.clear();  // it is gone: nothing to remove if the next line fails
  FsyncDir(FolderOf(path_), ops_);
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
  const Fd fd(OpenForReading(path));
  if (ops.fsync(fd.fd) != 0) ThrowIo(path, "cannot sync", errno);
}

void RenameDurably(const std::string& from, const std::string& to, const FileOps& ops) {
  if (ops.rename(from.c_str(), to.c_str()) != 0) ThrowIo(to, fmt::format("cannot rename {} to it", from), errno);
  FsyncDir(FolderOf(to), ops);
}

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

void MakeDirs(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) ThrowIo(folder, "cannot create the folder", error.value());
}

int RemoveStaleTemporaries(const std::string& folder) {
  int removed = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const size_t at = name.rfind(".tmp-");
    if (at == std::string::npos) continue;
    const char* const first = name.data() + at + 5;
    const char* const last = name.data() + name.size();
    int pid = 0;
    const auto [end, bad] = std::from_chars(first, last, pid);
    if (bad != std::errc() || end == last || *end != '-' || pid <= 0) continue;
    // Our own number can only be an earlier process's (common in containers): the caller has not written yet.
    if (pid != ::getpid() && (::kill(pid, 0) == 0 || errno == EPERM)) continue;  // its writer may still be at work
    std::error_code ignored;                                                     // best effort: it takes only space
    removed += std::filesystem::remove(entry.path(), ignored) ? 1 : 0;
  }
  return removed;
}

uint32_t Crc32(std::span<const std::byte> bytes, uint32_t crc) {
  if (bytes.empty()) return crc;  // zlib takes a null pointer as a call for the initial value
  return static_cast<uint32_t>(::crc32_z(crc, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

struct Sha256::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(md); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  HYDRA_CHECK(context_->md != nullptr && EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(std::span<const std::byte> bytes) {
  HYDRA_CHECK(EVP_DigestUpdate(context_->md, bytes.data(), bytes.size()) == 1);
}

Sha256Digest Sha256::Finish() {
  Sha256Digest digest;
  HYDRA_CHECK(EVP_DigestFinal_ex(context_->md, digest.data(), nullptr) == 1);
  return digest;
}

Sha256Digest Sha256::Of(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

std::string Hex(std::span<const uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const uint8_t b : bytes) {
    text += kDigits[b >> 4];
    text += kDigits[b & 15];
  }
  return text;
}

std::string Sha256Hex(std::span<const std::byte> bytes) { return Hex(Sha256::Of(bytes)); }
std::string Sha256Hex(std::string_view text) { return Sha256Hex(AsBytes(text)); }

}  // namespace hydra
