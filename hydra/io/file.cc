// SPDX-License-Identifier: Apache-2.0
// Opening and reading of files, mapping, bounds-checked reading, checksums. Not here: writing (file_write.cc), any
// format.
#include "hydra/io/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <charconv>
#include <system_error>
#include <utility>

#include "hydra/base/utf8.h"
#include "hydra/io/mapped_files.h"

namespace hydra {
namespace {

// Refuses what may be waited for without end, or never ends.
void CheckInput(const std::string& name, mode_t mode) {
  if (S_ISDIR(mode)) ThrowIo(name, "cannot read", EISDIR);
  if (!S_ISREG(mode))
    throw Error(ErrorCode::kIo, fmt::format("{}: {}: must be a regular file", name, FileKindText(mode)));
}

[[noreturn]] void TooLarge(const std::string& path, uint64_t max_bytes) {
  throw Error(ErrorCode::kFormat,
              fmt::format("{}: more than {} bytes: too large for what it should be", path, WithCommas(max_bytes)));
}

std::array<int64_t, 5> IdentityOf(const struct stat& info) {
  return {static_cast<int64_t>(info.st_dev), static_cast<int64_t>(info.st_ino), static_cast<int64_t>(info.st_size),
          static_cast<int64_t>(info.st_mtim.tv_sec), static_cast<int64_t>(info.st_mtim.tv_nsec)};
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
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), 1, ',');
  return digits;
}

std::string OneLine(std::string_view text, size_t max_bytes) {
  const std::string_view shown = text.substr(0, max_bytes);
  std::string line;
  size_t valid = ValidUtf8Prefix(shown);
  for (size_t i = 0; i < shown.size(); ++i) {
    const auto byte = static_cast<unsigned char>(shown[i]);
    if (i == valid || byte < 32 || byte == 127) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += shown[i];
    }
    if (i == valid) valid += 1 + ValidUtf8Prefix(shown.substr(i + 1));
  }
  if (text.size() > max_bytes) line += "...";
  return line;
}

void ThrowIo(const std::string& path, std::string_view what, int error) {
  const char* const hint = error == EFBIG ? " (ulimit -f, or the file system, limits the size of files)" : "";
  throw Error(ErrorCode::kIo, fmt::format("{}: {}: {}{}", path, what, std::generic_category().message(error), hint));
}

const char* FileKindText(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return S_ISSOCK(mode) ? "a socket" : "a regular file";
}

std::optional<int> OwnDescriptor(std::string_view path) {
  constexpr std::string_view kNames[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
  for (int fd = 0; fd < 3; ++fd)
    if (path == kNames[fd]) return fd;
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!path.starts_with(folder)) continue;
    int fd = -1;
    const auto [end, error] = std::from_chars(path.data() + folder.size(), path.data() + path.size(), fd);
    if (error == std::errc() && end == path.data() + path.size() && fd >= 0) return fd;
  }
  return std::nullopt;
}

InputFile::InputFile(const std::string& path, InputKind kind) : name_(path) {
  std::optional<int> own;
  if (kind == InputKind::kStream) own = path == "-" ? 0 : OwnDescriptor(path);
  if (path == "-" && own) name_ = "stdin";
  struct stat info {};
  // Looked at before it is opened, for the opening of a device or FIFO may be felt at its other end; and afterwards,
  // for it may have changed. O_NONBLOCK: a FIFO must not be waited for in between.
  if (!own && ::stat(path.c_str(), &info) == 0) CheckInput(name_, info.st_mode);
  do fd_ = own ? ::fcntl(*own, F_DUPFD_CLOEXEC, 0) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) ThrowIo(name_, "cannot open", errno);
  try {
    if (::fstat(fd_, &info) != 0) ThrowIo(name_, "cannot stat", errno);
    if (!own || S_ISDIR(info.st_mode)) CheckInput(name_, info.st_mode);
  } catch (...) {
    ::close(fd_);
    throw;
  }
  is_regular_ = S_ISREG(info.st_mode);
  if (is_regular_) size_ = static_cast<uint64_t>(info.st_size);
}

InputFile::~InputFile() { ::close(fd_); }

size_t InputFile::Read(char* out, size_t n) {
  for (;;) {
    const ssize_t got = ::read(fd_, out, n);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno == EAGAIN && !is_regular_) {  // whoever gave us the pipe may have made it so
      pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      ThrowIo(name_, "cannot read", errno);
    }
  }
}

std::string ReadFile(const std::string& path, uint64_t max_bytes) {
  InputFile file(path, InputKind::kStream);
  if (!file.is_regular()) max_bytes = std::min(max_bytes, kMaxTextBytes);
  std::string text;
  if (file.size() <= max_bytes) text.reserve(file.size());
  size_t used = 0;
  for (;;) {  // read on to the end: the size of a pipe or of /proc is not known, and a file may grow
    if (used > max_bytes || file.size() > max_bytes) TooLarge(file.name(), max_bytes);
    text.resize(std::max<size_t>(used + 65536, text.capacity()));
    const size_t got = file.Read(text.data() + used, text.size() - used);
    if (got == 0) break;
    used += got;
  }
  text.resize(used);
  return text;
}

MappedFile::MappedFile(const std::string& path, uint64_t max_bytes) : path_(path) {
  const InputFile file(path, InputKind::kFile);
  if (file.size() > max_bytes) TooLarge(path, max_bytes);
  size_ = static_cast<size_t>(file.size());
  struct stat info {};
  if (::fstat(file.fd(), &info) != 0) ThrowIo(path, "cannot stat", errno);
  identity_ = IdentityOf(info);
  if (size_ == 0) return;  // mmap refuses a length of 0
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (data == MAP_FAILED) ThrowIo(path, "cannot map", errno);
  data_ = static_cast<const std::byte*>(data);
  (void)::madvise(data, size_, MADV_HUGEPAGE);  // no harm where the file system has none
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
    Fail(field, size() == 0 ? "is missing: the file is empty: incomplete copy?"
                            : fmt::format("needs {} bytes at offset {}: the file ends at {}: incomplete copy?",
                                          WithCommas(n), WithCommas(pos_), WithCommas(size())));
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
