// SPDX-License-Identifier: Apache-2.0
// Outputs that are no new file: links, devices, pipes, a limit on sizes, and what killed writers left behind.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <thread>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

TEST(AtomicFileLinks, TheTargetIsReplacedAndTheLinkStays) {
  TempDir dir;
  fs::create_directory(dir / "sub");
  WriteFileAtomic(dir / "sub/real", "old");
  fs::create_symlink("sub/real", dir / "link");  // relative to the folder of the link
  fs::create_symlink("link", dir / "second");
  fs::create_symlink(dir / "sub/none", dir / "dangling");
  WriteFileAtomic(dir / "second", "new");
  EXPECT_EQ(ReadFile(dir / "sub/real"), "new");
  EXPECT_TRUE(fs::is_symlink(dir / "link") && fs::is_symlink(dir / "second"));
  WriteFileAtomic(dir / "dangling", "made");
  EXPECT_EQ(ReadFile(dir / "sub/none"), "made");
  EXPECT_TRUE(fs::is_symlink(dir / "dangling"));
  {
    AtomicFile file(dir / "link");
    file.Write("lost");
  }
  EXPECT_EQ(ReadFile(dir / "sub/real"), "new");  // not a byte before Commit()
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "sub"), fs::directory_iterator()), 2);
}

TEST(AtomicFileLinks, LoopsAndFoldersAreRefused) {
  TempDir dir;
  fs::create_symlink("b", dir / "a");
  fs::create_symlink("a", dir / "b");
  ExpectError([&] { AtomicFile file(dir / "a"); }, ErrorCode::kIo, {"/a", "symbolic links"});
  fs::create_symlink(".", dir / "folder");
  ExpectError([&] { AtomicFile file(dir / "folder"); }, ErrorCode::kIo, {"folder", "Is a directory"});
  ExpectError([&] { AtomicFile file(""); }, ErrorCode::kUsage, {"empty"});
  EXPECT_TRUE(fs::is_symlink(dir / "a") && fs::is_symlink(dir / "b"));
}

TEST(MakeDirs, AnEmptyNameIsNamed) {
  ExpectError([] { MakeDirs(""); }, ErrorCode::kUsage, {"name of a folder", "empty"});
}

TEST(AtomicFileSpecial, AFifoWithAReaderIsWrittenThrough) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  const std::string text(200000, 'x');  // more than a pipe holds
  std::string got;
  std::thread reader([&] {
    const int fd = ::open((dir / "fifo").c_str(), O_RDONLY);
    std::string block(65536, '\0');
    for (ssize_t n; (n = ::read(fd, block.data(), block.size())) > 0;) got.append(block, 0, static_cast<size_t>(n));
    ::close(fd);
  });
  WriteFileAtomic(dir / "fifo", text);
  reader.join();
  EXPECT_EQ(got, text);
  EXPECT_TRUE(fs::is_fifo(dir / "fifo"));
  EXPECT_EQ(dir.CountFiles(), 1u);
}

TEST(AtomicFileSpecial, WhatCannotBeWrittenThroughIsRefusedAndStays) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  ExpectError([&] { AtomicFile file(dir / "fifo"); }, ErrorCode::kIo, {"fifo", "no process reads"});
  ExpectError([&] { (void)OpenForAppending(dir / "fifo"); }, ErrorCode::kIo, {"fifo"});
  const int reader = ::open((dir / "fifo").c_str(), O_RDONLY | O_NONBLOCK);
  ExpectError([&] { (void)OpenForAppending(dir / "fifo"); }, ErrorCode::kIo, {"a FIFO", "regular file"});
  ExpectError(
      [&] {
        AtomicFile file(dir / "fifo");
        file.NeedSeek();
      },
      ErrorCode::kIo, {"fifo", "goes back to its start"});
  ::close(reader);
  const int server = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string name = dir / "socket";
  ASSERT_LT(name.size(), sizeof address.sun_path);
  std::copy(name.begin(), name.end(), address.sun_path);
  ASSERT_EQ(::bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ExpectError([&] { AtomicFile file(name); }, ErrorCode::kIo, {"a socket"});
  ExpectError([&] { (void)ReadFile(name); }, ErrorCode::kIo, {"a socket"});
  ::close(server);
  EXPECT_TRUE(fs::is_fifo(dir / "fifo") && fs::is_socket(name));
}

TEST(AtomicFileSpecial, DevicesStayDevices) {
  AtomicFile null("/dev/null");
  null.NeedSeek();
  null.Write("abc");
  null.WriteAt(0, AsBytes(std::string_view("b")));
  null.Commit();
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  if (fs::exists("/dev/full")) {
    ExpectError([] { WriteFileAtomic("/dev/full", "x"); }, ErrorCode::kIo, {"/dev/full", "No space left"});
    EXPECT_TRUE(fs::is_character_file("/dev/full"));
  }
}

TEST(AtomicFileSpecial, OwnDescriptorsAreWrittenThroughWhereTheyStand) {
  TempDir dir;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  WriteFileAtomic(StrCat("/dev/fd/", pipe[1]), "through");
  std::string got(7, '\0');
  EXPECT_EQ(::read(pipe[0], got.data(), 7), 7);
  EXPECT_EQ(got, "through");
  ::close(pipe[0]);
  ::close(pipe[1]);
  // As `{ echo before; hydralm ... -o /dev/stdout; } > file`.
  const int fd = ::open((dir / "file").c_str(), O_WRONLY | O_CREAT, 0600);
  ASSERT_EQ(::write(fd, "before ", 7), 7);
  WriteFileAtomic(StrCat("/proc/self/fd/", fd), "after");
  ::close(fd);
  EXPECT_EQ(ReadFile(dir / "file"), "before after");
  EXPECT_EQ(OwnDescriptor("/dev/stdout"), 1);
  EXPECT_EQ(OwnDescriptor("/dev/fd/"), std::nullopt);
  EXPECT_EQ(OwnDescriptor("/dev/fd/1x"), std::nullopt);
  EXPECT_EQ(OwnDescriptor("dev/fd/1"), std::nullopt);
}

TEST(AtomicFileLimits, ALimitOnSizesIsAsAFullDisk) {
  TempDir dir;
  WriteFileAtomic(dir / "f", "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);  // as the commands do
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  ExpectError([&] { WriteFileAtomic(dir / "f", std::string(100000, 'x')); }, ErrorCode::kIo,
              {"/f", "too large", "ulimit -f"});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(ReadFile(dir / "f"), "old");
  EXPECT_EQ(dir.CountFiles(), 1u);
}

// A file as a writer of that number leaves it, last written `age` seconds ago.
void Leave(const std::string& path, int64_t age) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT, 0600);
  timespec times[2] = {{.tv_sec = std::time(nullptr) - age, .tv_nsec = 0}, {}};
  times[1] = times[0];
  EXPECT_EQ(::futimens(fd, times), 0);
  ::close(fd);
}

TEST(Orphans, TheNextWriterOfTheNameRemovesThem) {
  TempDir dir;
  const int dead = 999999999;
  Leave(StrCat(dir / "f.tmp-", dead, "-0"), 0);
  Leave(StrCat(dir / "f.tmp-", ::getpid(), "-7"), 0);  // an earlier process of our number, as in containers
  Leave(StrCat(dir / "g.tmp-", dead, "-0"), 0);        // another name's
  Leave(StrCat(dir / "f.tmp-", dead, "-0.txt"), 0);    // no temporary
  Leave(StrCat(dir / "xf.tmp-", dead, "-0"), 0);
  WriteFileAtomic(dir / "f", "x");
  EXPECT_EQ(dir.CountFiles(), 4u);
  EXPECT_EQ(ReadFile(dir / "f"), "x");
  EXPECT_TRUE(fs::exists(StrCat(dir / "g.tmp-", dead, "-0")));
}

TEST(Orphans, ThoseOfLivingProcessesStay) {
  TempDir dir;
  const std::string parents = StrCat(dir / "f.tmp-", ::getppid(), "-0");
  Leave(parents, 0);
  AtomicFile first(dir / "f");  // locked, in this process
  first.Write("first");
  WriteFileAtomic(dir / "f", "second");
  EXPECT_EQ(RemoveStaleTemporaries(dir.path()), 0);
  EXPECT_TRUE(fs::exists(parents));
  first.Commit();
  EXPECT_EQ(ReadFile(dir / "f"), "first");
}

TEST(Orphans, ANumberThatWasGivenAgainIsNoLivingWriter) {
  TempDir dir;
  Leave(StrCat(dir / "f.tmp-", ::getppid(), "-0"), int64_t{40} * 365 * 86400);  // before that process began
  // A process that ended and that nobody has waited for yet.
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  Leave(StrCat(dir / "f.tmp-", child, "-0"), 0);
  EXPECT_EQ(RemoveStaleTemporaries(dir.path()), 2);
  ::waitpid(child, nullptr, 0);
}

TEST(Orphans, ALockHoldsWhateverTheNumberSays) {
  TempDir dir;
  // As the temporary of a container looks from outside: its number is nobody's here.
  AtomicFile file(dir / "f");
  const std::string seen = StrCat(dir / "f.tmp-", 999999999, "-0");
  fs::rename(StrCat(dir / "f.tmp-", ::getpid(), "-0"), seen);
  EXPECT_EQ(RemoveStaleTemporaries(dir.path()), 0);
  EXPECT_TRUE(fs::exists(seen));
}

}  // namespace
}  // namespace hydra
