// SPDX-License-Identifier: Apache-2.0
// Folders that appear whole: what stood there before, what may not be replaced, what killed processes leave.
#include "hydra/io/staged_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

bool MayReplace(std::string_view name) { return name == "a" || name == "b"; }

void Write(const StagedFolder& stage, const std::string& name, const std::string& text) {
  WriteFileAtomic(stage.path() + "/" + name, text);
}

TEST(StagedFolder, TakesThePlaceOfTheWholeFolder) {
  const TempDir dir;
  const std::string target = dir / "out";
  {
    StagedFolder stage(target, MayReplace, "a");
    Write(stage, "a", "1");
    Write(stage, "b", "2");
    EXPECT_FALSE(fs::exists(target));
    stage.Commit();
  }
  fs::permissions(target, fs::perms::owner_all);
  {
    StagedFolder stage(target + "/", MayReplace, "a");
    Write(stage, "a", "3");
    EXPECT_EQ(ReadFile(target + "/a"), "1");
    stage.Commit();
  }
  EXPECT_EQ(ReadFile(target + "/a"), "3");
  EXPECT_FALSE(fs::exists(target + "/b"));
  EXPECT_EQ(fs::status(target).permissions(), fs::perms::owner_all);
  EXPECT_EQ(dir.CountFiles(), 1u);
}

TEST(StagedFolder, WithoutCommitTheOldOneStays) {
  const TempDir dir;
  const std::string target = dir / "out";
  fs::create_directory(target);
  WriteFileAtomic(target + "/a", "old");
  {
    const StagedFolder stage(target, MayReplace, "a");
    Write(stage, "a", "new");
  }
  EXPECT_EQ(ReadFile(target + "/a"), "old");
  EXPECT_EQ(dir.CountFiles(), 1u);
}

TEST(StagedFolder, AnEmptyFolderIsFilledAndKept) {
  const TempDir dir;
  const std::string target = dir / "out";
  fs::create_directory(target);
  fs::create_directory_symlink(target, dir / "link");
  {
    StagedFolder stage(dir / "link", MayReplace, "a");
    Write(stage, "a", "1");
    Write(stage, "b", "2");
    stage.Commit();
  }
  EXPECT_EQ(ReadFile(target + "/a") + ReadFile(target + "/b"), "12");
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
  EXPECT_EQ(std::distance(fs::directory_iterator(target), {}), 2);
}

TEST(StagedFolder, RefusesWhatItMayNotReplace) {
  const TempDir dir;
  fs::create_directory(dir / "out");
  WriteFileAtomic(dir / "out/notes.txt", "mine");
  ExpectError([&] { StagedFolder(dir / "out", MayReplace, "a"); }, ErrorCode::kUsage, {"out", "notes.txt"});
  fs::remove(dir / "out/notes.txt");
  fs::create_directory(dir / "out/a");  // a folder of a file's name
  ExpectError([&] { StagedFolder(dir / "out", MayReplace, "a"); }, ErrorCode::kUsage, {"out", "a"});
  fs::remove(dir / "out/a");
  ASSERT_EQ(::mkfifo((dir / "out/a").c_str(), 0600), 0);
  ExpectError([&] { StagedFolder(dir / "out", MayReplace, "a"); }, ErrorCode::kUsage, {"out", "a"});
  WriteFileAtomic(dir / "file", "x");
  ExpectError([&] { StagedFolder(dir / "file", MayReplace, "a"); }, ErrorCode::kUsage, {"file", "no folder"});
  fs::remove(dir / "out/a");
  WriteFileAtomic(dir / "out/a", "old");
  fs::create_symlink("b", dir / "out/b");  // a loop
  StagedFolder stage(dir / "out", MayReplace, "a");
  WriteFileAtomic(dir / "out/notes.txt", "came meanwhile");
  ExpectError([&] { stage.Commit(); }, ErrorCode::kUsage, {"notes.txt"});
  EXPECT_EQ(ReadFile(dir / "out/a"), "old");
}

TEST(StagedFolder, RefusesAFolderThatIsReadOnly) {
  const TempDir dir;
  fs::permissions(dir.path(), fs::perms::all);
  fs::create_directory(dir / "out");
  WriteFileAtomic(dir / "out/a", "old");
  fs::permissions(dir / "out", fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read);
  const bool root = ::geteuid() == 0;  // who may write anywhere
  if (root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  ExpectError([&] { StagedFolder(dir / "out", MayReplace, "a"); }, ErrorCode::kIo, {"out", "Permission denied"});
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  fs::permissions(dir / "out", fs::perms::owner_all);
  EXPECT_EQ(dir.CountFiles(), 1u);
}

TEST(StagedFolder, TakesANameWithoutAFolder) {
  const TempDir dir;
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  for (const char* name : {"out", "other/"}) {
    StagedFolder stage(name, MayReplace, "a");
    Write(stage, "a", "1");
    stage.Commit();
  }
  fs::current_path(before);
  EXPECT_EQ(ReadFile(dir / "out/a") + ReadFile(dir / "other/a"), "11");
  ExpectError([] { StagedFolder("", MayReplace, "a"); }, ErrorCode::kUsage, {"name of a folder", "empty"});
  fs::create_directory_symlink("nowhere", dir / "link");
  ExpectError([&] { StagedFolder(dir / "link", MayReplace, "a"); }, ErrorCode::kUsage, {"link", "leads to nothing"});
}

TEST(StagedFolder, LeavesWhatALivingProcessElsewhereHasLocked) {
  const TempDir dir;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  const std::string theirs = dir / StrCat("out.tmp-", child, "-0");  // this number is nobody's here
  fs::create_directory(theirs);
  const int lock = ::open(theirs.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  { const StagedFolder stage(dir / "out", MayReplace, "a"); }
  EXPECT_TRUE(fs::exists(theirs));
  ::close(lock);
  {
    const StagedFolder stage(dir / "out", MayReplace, "a");
    const int second = ::open(stage.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    EXPECT_EQ(::flock(second, LOCK_EX | LOCK_NB), -1);  // ours is locked too
    ::close(second);
  }
  EXPECT_FALSE(fs::exists(theirs));
}

TEST(StagedFolder, RemovesWhatKilledProcessesLeft) {
  const TempDir dir;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto* stage = new StagedFolder(dir / "out", MayReplace, "a");  // never deleted, as if killed
    Write(*stage, "a", "half");
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(dir.CountFiles(), 1u);
  fs::create_directory(dir / "other.tmp-1-0");  // of another target, and its process runs
  const std::string theirs = dir / StrCat("out.tmp-", child);
  for (const char* end : {"-backup", "-0-1", "-7"}) {  // somebody's own: by its name, or by what it has
    fs::create_directory(theirs + end);
    WriteFileAtomic(theirs + end + "/notes.txt", "mine");
  }
  {
    const StagedFolder stage(dir / "out", MayReplace, "a");
    EXPECT_EQ(dir.CountFiles(), 5u);
  }
  EXPECT_EQ(dir.CountFiles(), 4u);
}

}  // namespace
}  // namespace hydra
