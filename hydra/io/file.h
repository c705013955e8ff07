// SPDX-License-Identifier: Apache-2.0
// Files as every format here needs them: checked arithmetic, one opener of inputs, a bounds-checked reader over mapped
// bytes, atomic writing, CRC-32 and SHA-256. Not here: what the bytes mean (safetensors.h, token_shard.h, npy.h, ...).
#pragma once

#include <sys/types.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/error.h"

namespace hydra {

static_assert(std::endian::native == std::endian::little, "every format is little-endian and mapped as it is");

// ---- Checked arithmetic: nullopt where the true result does not fit 64 bits. ----

[[nodiscard]] std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b);
[[nodiscard]] std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b);
// The least multiple of `alignment` (> 0, any number) that is >= a.
[[nodiscard]] std::optional<uint64_t> CheckedAlignUp(uint64_t a, uint64_t alignment);

// "1,234,567", as messages print sizes.
[[nodiscard]] std::string WithCommas(uint64_t n);

// Text of a stranger's file as a message may show it: control characters and bytes that are no UTF-8 as \x0a, the end
// cut off where it is long.
[[nodiscard]] std::string OneLine(std::string_view text, size_t max_bytes = 300);

[[nodiscard]] inline std::span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
template <class T>
[[nodiscard]] std::span<const std::byte> AsBytes(std::span<const T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(values);
}

// ---- Reading ----

// A text that is read as a whole has at most this many bytes, and so has all that is read as a whole from a pipe.
inline constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

// The number of a descriptor that this process was given, for /dev/stdin, /dev/stdout, /dev/stderr, /dev/fd/N and
// /proc/self/fd/N; nullopt for other names.
[[nodiscard]] std::optional<int> OwnDescriptor(std::string_view path);

// "a FIFO", "a character device", ...: what the mode of stat(2) says that a file is.
[[nodiscard]] const char* FileKindText(mode_t mode);

enum class InputKind {
  kFile,    // regular files only
  kStream,  // also what this process was given under a name of OwnDescriptor or as "-" (stdin): a pipe, a terminal
};

// The one opener of inputs. A FIFO would be waited for without end and a device may never end, so that both are refused
// by name. Not thread-safe.
class InputFile {
 public:
  // Throws kIo for what does not exist, may not be read, is a folder or is of another kind than asked for.
  InputFile(const std::string& path, InputKind kind);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Up to n bytes into `out`; 0 only at the end. Throws kIo.
  [[nodiscard]] size_t Read(char* out, size_t n);
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] bool is_regular() const { return is_regular_; }
  [[nodiscard]] uint64_t size() const { return size_; }            // bytes; 0 where it is not known
  [[nodiscard]] const std::string& name() const { return name_; }  // for messages: "stdin" for "-"

 private:
  std::string name_;
  int fd_ = -1;
  bool is_regular_ = false;
  uint64_t size_ = 0;
};

// The whole of an input of InputKind::kStream. kIo where it cannot be read, kFormat where it holds more than max_bytes,
// or more than kMaxTextBytes and is no regular file.
[[nodiscard]] std::string ReadFile(const std::string& path, uint64_t max_bytes = UINT64_MAX);
// A text that a user names, "-" for stdin: at most kMaxTextBytes.
[[nodiscard]] inline std::string ReadText(const std::string& path) { return ReadFile(path, kMaxTextBytes); }

// A regular file mapped read-only, in huge pages where the file system has them; an empty file is an empty span. Moves
// keep the addresses. The bytes are as the disk has them: a file truncated by another process while it is mapped kills
// the reader (SIGBUS; the commands then name the file), so we only ever replace files by rename. Safe to read from many
// threads.
class MappedFile {
 public:
  // kFormat where the file holds more than max_bytes.
  explicit MappedFile(const std::string& path, uint64_t max_bytes = UINT64_MAX);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  // Throws kIo where the file was written to or cut since it was opened: then its bytes are a mixture. One system call.
  // A file that was replaced by rename, or removed, is as it was for us.
  void CheckUnchanged() const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::array<int64_t, 5> identity_{};  // device, inode, size, seconds and nanoseconds of the last change
};

// Reads little-endian values from bytes, never past their end. Each read names its field, and a short file is
// reported with file, field, offset and sizes. `file` is what messages call the bytes; `bytes` must outlive the reader.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) {}

  [[nodiscard]] uint8_t U8(std::string_view field) { return Value<uint8_t>(field); }
  [[nodiscard]] uint16_t U16(std::string_view field) { return Value<uint16_t>(field); }
  [[nodiscard]] uint32_t U32(std::string_view field) { return Value<uint32_t>(field); }
  [[nodiscard]] uint64_t U64(std::string_view field) { return Value<uint64_t>(field); }
  [[nodiscard]] int32_t I32(std::string_view field) { return Value<int32_t>(field); }
  [[nodiscard]] int64_t I64(std::string_view field) { return Value<int64_t>(field); }
  [[nodiscard]] float F32(std::string_view field) { return Value<float>(field); }
  [[nodiscard]] double F64(std::string_view field) { return Value<double>(field); }

  // The next n bytes, not copied; they live as long as the bytes given.
  [[nodiscard]] std::span<const std::byte> Bytes(uint64_t n, std::string_view field);
  [[nodiscard]] std::string_view Text(uint64_t n, std::string_view field);
  // The next `count` elements of `element_bytes` each; count * element_bytes is checked first.
  [[nodiscard]] std::span<const std::byte> Array(uint64_t count, uint64_t element_bytes, std::string_view field);

  void Seek(uint64_t offset, std::string_view field);
  void Skip(uint64_t n, std::string_view field) { (void)Bytes(n, field); }
  // To the next multiple of `alignment` from the start of the bytes.
  void AlignTo(uint64_t alignment, std::string_view field);

  [[nodiscard]] uint64_t pos() const { return pos_; }
  [[nodiscard]] uint64_t left() const { return bytes_.size() - pos_; }
  [[nodiscard]] uint64_t size() const { return bytes_.size(); }
  [[nodiscard]] const std::string& file() const { return file_; }

  // Throws kFormat "FILE: FIELD RULE", for example Fail("version", "= 7: must be 1").
  [[noreturn]] void Fail(std::string_view field, std::string_view rule) const;

 private:
  template <class T>
  T Value(std::string_view field) {
    T value;
    std::memcpy(&value, Bytes(sizeof(T), field).data(), sizeof(T));
    return value;
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  uint64_t pos_ = 0;
};

// ---- Writing ----

// The system calls that writing rests on, as values, so that tests can make any of them fail. Semantics of write(2),
// pwrite(2), fsync(2), rename(2): -1 and errno on failure.
struct FileOps {
  std::function<ssize_t(int fd, const void* data, size_t n)> write;
  std::function<ssize_t(int fd, const void* data, size_t n, off_t offset)> pwrite;
  std::function<int(int fd)> fsync;
  std::function<int(const char* from, const char* to)> rename;

  [[nodiscard]] static const FileOps& Real();
};

// A file that appears under its name whole or not at all: bytes go to a temporary name in the same folder
// (NAME.tmp-PID-N), Commit() syncs it, renames it and syncs the folder; without Commit() the destructor removes it.
// Temporaries that killed processes left for the same name are removed first. A symbolic link is followed: its target
// is replaced and the link stays. A character device, a FIFO that is read from and a descriptor of our own (see
// OwnDescriptor) are written through, which is not atomic; other things that are no regular files are refused.
// Any failure throws kIo with file and errno's text, and removes the temporary. Not thread-safe. `ops` must outlive it.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path, const FileOps& ops = FileOps::Real());
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(std::span<const std::byte> bytes);
  void Write(std::string_view text) { Write(AsBytes(text)); }
  // `n` zero bytes.
  void WriteZeros(uint64_t n);
  // For formats that use WriteAt: throws kIo where the output is a pipe or the like.
  void NeedSeek();
  // Overwrites bytes already written (a header known last); crc32() does not see the change.
  void WriteAt(uint64_t offset, std::span<const std::byte> bytes);
  // crc32() is from here on that of the bytes still to come.
  void RestartCrc() { crc32_ = 0; }
  void Commit();

  [[nodiscard]] uint64_t size() const { return size_; }    // bytes written so far
  [[nodiscard]] uint32_t crc32() const { return crc32_; }  // of all bytes given to Write, in order
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  void OpenOwn(int descriptor);
  void OpenSpecial(mode_t mode);
  void CreateTemporary();
  void Flush();
  void Discard() noexcept;
  [[noreturn]] void Fail(const std::string& what, int error);

  std::string path_;       // as given
  std::string target_;     // what is replaced: path_, or what it links to
  std::string temporary_;  // empty where nothing has to be renamed or removed
  const FileOps& ops_;
  int fd_ = -1;
  bool can_seek_ = true;
  uint64_t size_ = 0;
  uint32_t crc32_ = 0;
  std::vector<std::byte> buffer_;
};

void WriteFileAtomic(const std::string& path, std::span<const std::byte> bytes, const FileOps& ops = FileOps::Real());
void WriteFileAtomic(const std::string& path, std::string_view text, const FileOps& ops = FileOps::Real());

// Makes the names in a folder durable. kIo on failure.
void FsyncDir(const std::string& folder, const FileOps& ops = FileOps::Real());
// Makes a finished file's bytes durable.
void FsyncFile(const std::string& path, const FileOps& ops = FileOps::Real());
// rename(2) then fsync of the folder of `to`.
void RenameDurably(const std::string& from, const std::string& to, const FileOps& ops = FileOps::Real());
// True for a name that stays in its folder: not empty, not . or .., without a slash, backslash or zero byte.
[[nodiscard]] bool IsPlainFileName(std::string_view name);
// mkdir -p.
void MakeDirs(const std::string& folder);
// Removes the unfinished files of all AtomicFiles of this process (the first 32 at a time), for a signal handler that
// ends it.
void UnlinkTemporaries() noexcept;
// Removes what killed processes left in a folder: files named *.tmp-PID-N that nobody has locked, as the AtomicFile of
// a living process has in whatever container it runs, and whose process no longer runs or began after they were
// written. Returns how many.
int RemoveStaleTemporaries(const std::string& folder);

// An existing or new file for adding to its end. Throws kIo, also for what is no regular file. The caller closes it.
[[nodiscard]] int OpenForAppending(const std::string& path);

// "FILE: WHAT: errno's text" as kIo.
[[noreturn]] void ThrowIo(const std::string& path, std::string_view what, int error);

// ---- Checksums ----

// zlib's CRC-32; `crc` continues an earlier one.
[[nodiscard]] uint32_t Crc32(std::span<const std::byte> bytes, uint32_t crc = 0);

using Sha256Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text) { Update(AsBytes(text)); }
  // Ends the hash; one call.
  [[nodiscard]] Sha256Digest Finish();

  [[nodiscard]] static Sha256Digest Of(std::span<const std::byte> bytes);
  [[nodiscard]] static Sha256Digest Of(std::string_view text) { return Of(AsBytes(text)); }

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// Lower-case hexadecimal.
[[nodiscard]] std::string Hex(std::span<const uint8_t> bytes);
[[nodiscard]] std::string Sha256Hex(std::span<const std::byte> bytes);
[[nodiscard]] std::string Sha256Hex(std::string_view text);

}  // namespace hydra
