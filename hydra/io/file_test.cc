// SPDX-License-Identifier: Apache-2.0
// Files: arithmetic at its limits, reading past ends, and every way in which atomic writing can fail.
#include "hydra/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

TEST(CheckedArithmetic, StopsAtSixtyFourBits) {
  EXPECT_EQ(CheckedAdd(UINT64_MAX - 1, 1), UINT64_MAX);
  EXPECT_EQ(CheckedAdd(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(CheckedMul(uint64_t{1} << 32, (uint64_t{1} << 32) - 1), UINT64_MAX - UINT32_MAX);
  EXPECT_EQ(CheckedMul(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(CheckedAlignUp(65, 64), 128u);
  EXPECT_EQ(CheckedAlignUp(128, 64), 128u);
  EXPECT_EQ(CheckedAlignUp(UINT64_MAX - 1, 64), std::nullopt);
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(41943040), "41,943,040");
  EXPECT_EQ(OneLine("a\nb"), "a\\x0ab");
  EXPECT_EQ(OneLine("abcdef", 3), "abc...");
  EXPECT_EQ(OneLine("\xC3\xA9\xC3z\xFF\xE2\x82\xAC"), "\xC3\xA9\\xc3z\\xff\xE2\x82\xAC");
  EXPECT_EQ(OneLine("a\xC3\xA9", 2), "a\\xc3...");
}

TEST(File, ReadAndMapAgreeAlsoOnAnEmptyFile) {
  TempDir dir;
  for (const std::string& text : {std::string(), std::string("abc"), std::string(200000, 'x')}) {
    WriteFileAtomic(dir / "f", text);
    EXPECT_EQ(ReadFile(dir / "f"), text);
    MappedFile mapped(dir / "f");
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.size()), text);
    const MappedFile moved = std::move(mapped);
    EXPECT_EQ(moved.size(), text.size());
  }
  EXPECT_EQ(dir.CountFiles(), 1u);
}

TEST(File, ErrorsNameTheFileAndTheReason) {
  TempDir dir;
  ExpectError([&] { (void)ReadFile(dir / "none"); }, ErrorCode::kIo, {"none", "No such file"});
  ExpectError([&] { MappedFile m(dir / "none"); }, ErrorCode::kIo, {"none", "No such file"});
  ExpectError([&] { (void)ReadFile(dir.path()); }, ErrorCode::kIo, {"Is a directory"});
  ExpectError([&] { MappedFile m(dir.path()); }, ErrorCode::kIo, {"Is a directory"});
  ExpectError([&] { WriteFileAtomic(dir / "no/file", "x"); }, ErrorCode::kIo, {"no/file", "No such file"});
  WriteFileAtomic(dir / "f", "12345");
  EXPECT_EQ(ReadFile(dir / "f", 5), "12345");
  ExpectError([&] { (void)ReadFile(dir / "f", 4); }, ErrorCode::kFormat, {"more than 4 bytes"});
}

TEST(InputFile, WhatMayNeverComeOrNeverEndIsRefused) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  std::filesystem::create_symlink("fifo", dir / "link");
  for (const char* name : {"fifo", "link"}) {
    ExpectError([&] { (void)ReadFile(dir / name); }, ErrorCode::kIo, {name, "a FIFO", "regular file"});
    ExpectError([&] { MappedFile m(dir / name); }, ErrorCode::kIo, {name, "a FIFO", "regular file"});
  }
  for (const char* name : {"/dev/zero", "/dev/urandom", "/dev/null"}) {
    ExpectError([&] { (void)ReadText(name); }, ErrorCode::kIo, {name, "a character device", "regular file"});
    ExpectError([&] { MappedFile m(name); }, ErrorCode::kIo, {name, "a character device", "regular file"});
  }
  std::filesystem::resize_file(((void)WriteFileAtomic(dir / "sparse", "x"), dir / "sparse"), kMaxTextBytes + 1);
  ExpectError([&] { (void)ReadText(dir / "sparse"); }, ErrorCode::kFormat, {"sparse", "1,073,741,824"});
}

TEST(InputFile, WhatTheProcessWasGivenIsRead) {
  TempDir dir;
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_NONBLOCK), 0);
  ASSERT_EQ(::write(pipe[1], "piped", 5), 5);
  ::close(pipe[1]);
  const std::string name = StrCat("/dev/fd/", pipe[0]);
  ExpectError([&] { MappedFile m(name); }, ErrorCode::kIo, {name, "a FIFO"});
  EXPECT_EQ(ReadText(name), "piped");
  ::close(pipe[0]);
  // A file goes on where it was read to before, as `(read line; hydralm ... -f -) < file` means it.
  WriteFileAtomic(dir / "f", "line\nrest");
  const int fd = ::open((dir / "f").c_str(), O_RDONLY);
  std::string line(5, ' ');
  ASSERT_EQ(::read(fd, line.data(), 5), 5);
  EXPECT_EQ(ReadText(StrCat("/proc/self/fd/", fd)), "rest");
  ::close(fd);
  ExpectError([&] { (void)ReadText(StrCat("/dev/fd/", fd)); }, ErrorCode::kIo, {"/dev/fd/", "Bad file descriptor"});
}

TEST(InputFile, APipeIsReadToItsLimit) {
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  ASSERT_EQ(::write(pipe[1], "12345", 5), 5);
  const std::string name = StrCat("/dev/fd/", pipe[0]);
  ExpectError([&] { (void)ReadFile(name, 4); }, ErrorCode::kFormat, {"more than 4 bytes"});
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(ByteReader, NeverPassesTheEnd) {
  const unsigned char raw[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  ByteReader reader(std::as_bytes(std::span(raw)), "x.bin");
  EXPECT_EQ(reader.U32("a"), 0x04030201u);
  EXPECT_EQ(reader.U8("b"), 5);
  ExpectError([&] { (void)reader.U64("big"); }, ErrorCode::kFormat, {"x.bin", "big", "offset 5", "ends at 9"});
  EXPECT_EQ(reader.pos(), 5u);  // a failed read moves nothing
  ExpectError([&] { (void)reader.Array(UINT64_MAX / 2, 4, "rows"); }, ErrorCode::kFormat, {"rows"});
  ExpectError([&] { (void)reader.Bytes(UINT64_MAX, "blob"); }, ErrorCode::kFormat, {"blob"});
  ExpectError([&] { reader.Seek(10, "table"); }, ErrorCode::kFormat, {"table", "starts at 10"});
  ExpectError([&] { reader.AlignTo(16, "data"); }, ErrorCode::kFormat, {"data"});
  reader.Seek(9, "end");
  EXPECT_EQ(reader.left(), 0u);
  EXPECT_EQ(reader.Text(0, "nothing"), "");
}

TEST(AtomicFile, AppearsOnlyWithCommit) {
  TempDir dir;
  WriteFileAtomic(dir / "f", "old");
  {
    AtomicFile file(dir / "f");
    file.Write("new");
    EXPECT_EQ(ReadFile(dir / "f"), "old");
    EXPECT_EQ(dir.CountFiles(), 2u);
  }
  EXPECT_EQ(ReadFile(dir / "f"), "old");
  EXPECT_EQ(dir.CountFiles(), 1u);
  AtomicFile file(dir / "f");
  file.Write("____ and ");
  file.WriteZeros(5000);
  file.WriteAt(0, AsBytes(std::string_view("head")));
  EXPECT_EQ(file.size(), 5009u);
  file.Commit();
  EXPECT_EQ(ReadFile(dir / "f"), "head and " + std::string(5000, '\0'));
  EXPECT_EQ(dir.CountFiles(), 1u);
}

TEST(AtomicFile, ModeIsThatOfAnyNewFile) {
  TempDir dir;
  WriteFileAtomic(dir / "f", "x");
  struct stat info {};
  ASSERT_EQ(::stat((dir / "f").c_str(), &info), 0);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  EXPECT_EQ(info.st_mode & 0777, 0666 & ~mask);
}

// Each call in turn fails, in each way; the old file stays, no temporary does, the message has the reason.
TEST(AtomicFile, EveryFailureKeepsTheOldFile) {
  const std::string big(3 << 20, 'n');  // several writes
  enum Call { kWrite, kPwrite, kFsync, kRename };
  for (const Call call : {kWrite, kPwrite, kFsync, kRename}) {
    for (int fail_at = 0;; ++fail_at) {
      TempDir dir;
      WriteFileAtomic(dir / "f", "old");
      int seen = 0;
      FileOps ops = FileOps::Real();
      const auto fails = [&](int error) {
        if (seen++ != fail_at) return false;
        errno = error;
        return true;
      };
      if (call == kWrite)
        ops.write = [&](int fd, const void* p, size_t n) { return fails(ENOSPC) ? -1 : ::write(fd, p, n); };
      if (call == kPwrite)
        ops.pwrite = [&](int fd, const void* p, size_t n, off_t at) {
          return fails(ENOSPC) ? -1 : ::pwrite(fd, p, n, at);
        };
      if (call == kFsync) ops.fsync = [&](int fd) { return fails(EIO) ? -1 : ::fsync(fd); };
      if (call == kRename)
        ops.rename = [&](const char* a, const char* b) { return fails(EACCES) ? -1 : ::rename(a, b); };
      bool failed = false;
      try {
        AtomicFile file(dir / "f", ops);
        file.Write(big);
        file.WriteAt(0, AsBytes(std::string_view("N")));
        file.Commit();
      } catch (const Error& e) {
        failed = true;
        EXPECT_EQ(e.code(), ErrorCode::kIo);
        const std::string text = e.what();
        EXPECT_NE(text.find(dir.path()), std::string::npos) << text;
        EXPECT_TRUE(text.find("No space") != text.npos || text.find("Input/output") != text.npos ||
                    text.find("Permission") != text.npos)
            << text;
      }
      EXPECT_EQ(dir.CountFiles(), 1u) << "call " << call << " at " << fail_at;
      const std::string after = ReadFile(dir / "f");
      if (!failed) {  // fail_at is past the last call
        EXPECT_EQ(after.size(), big.size());
        EXPECT_GT(fail_at, 0);
        break;
      }
      // The second fsync is the folder's: the name may already be the new file's, but then it is the whole of it.
      const bool renamed = call == kFsync && fail_at == 1;
      EXPECT_EQ(after.size(), renamed ? big.size() : 3) << "call " << call << " at " << fail_at;
    }
  }
}

TEST(AtomicFile, ShortWritesAreContinued) {
  TempDir dir;
  FileOps ops = FileOps::Real();
  ops.write = [](int fd, const void* p, size_t n) { return ::write(fd, p, n > 1000 ? 1000 : n); };
  std::string text(12345, 'a');
  text.back() = 'z';
  WriteFileAtomic(dir / "f", text, ops);
  EXPECT_EQ(ReadFile(dir / "f"), text);
  ops.write = [](int, const void*, size_t) { return ssize_t{0}; };  // a full disk by some file systems
  ExpectError([&] { WriteFileAtomic(dir / "f", "x", ops); }, ErrorCode::kIo, {"cannot write", "No space left"});
  EXPECT_EQ(ReadFile(dir / "f"), text);
}

TEST(File, StaleTemporariesGo) {
  TempDir dir;
  const auto put = [&](const std::string& name) { WriteFileAtomic(dir / name, "x"); };
  put("a.tmp-999999999-0");                  // no such process
  put(StrCat("b.tmp-", ::getpid(), "-0"));   // an earlier one of our number
  put(StrCat("c.tmp-", ::getppid(), "-0"));  // lives
  put("d.tmp-x-0");
  put("e.tmp-12");
  EXPECT_EQ(RemoveStaleTemporaries(dir.path()), 2);
  EXPECT_EQ(dir.CountFiles(), 3u);
}

TEST(Checksum, KnownValues) {
  EXPECT_EQ(Crc32(AsBytes(std::string_view("123456789"))), 0xcbf43926u);
  EXPECT_EQ(Crc32(AsBytes(std::string_view("6789")), Crc32(AsBytes(std::string_view("12345")))), 0xcbf43926u);
  EXPECT_EQ(Crc32({}, 7u), 7u);
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 hash;
  hash.Update("a");
  hash.Update("bc");
  EXPECT_EQ(Hex(hash.Finish()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace hydra
