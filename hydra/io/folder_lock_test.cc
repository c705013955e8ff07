// SPDX-License-Identifier: Apache-2.0
// Locks of folders, within a process (flock belongs to an open file) and after the holder was killed.
#include "hydra/io/folder_lock.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "hydra/base/testing.h"

namespace hydra::folder_lock_test {  // tests share units
namespace {

TEST(FolderLock, RefusesASecondAndNamesTheFirst) {
  const TempDir dir;
  std::optional<FolderLock> first(std::in_place, dir.path(), "hydralm train");
  ExpectError([&] { const FolderLock second(dir.path(), "hydralm data build"); }, ErrorCode::kUsage,
              {dir.path() + ": in use by process " + std::to_string(::getpid()), "(hydralm train)", "started"});
  FolderLock moved = std::move(*first);
  first.reset();
  ExpectError([&] { const FolderLock second(dir.path(), "x"); }, ErrorCode::kUsage, {"in use"});
  { const FolderLock ends = std::move(moved); }
  EXPECT_EQ(dir.CountFiles(), 0U);
  EXPECT_NO_THROW(FolderLock(dir.path(), "x"));
  ExpectError([&] { const FolderLock none(dir / "none", "x"); }, ErrorCode::kIo, {"none/.lock", "cannot be opened"});
}

TEST(FolderLock, AKilledHolderHoldsNothing) {
  const TempDir dir;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock lock(dir.path(), "a child");
    (void)!::write(ready[1], "x", 1);
    ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ExpectError([&] { const FolderLock second(dir.path(), "x"); }, ErrorCode::kUsage, {std::to_string(child), "a child"});
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(FolderLock(dir.path(), "x"));
}

}  // namespace
}  // namespace hydra::folder_lock_test
