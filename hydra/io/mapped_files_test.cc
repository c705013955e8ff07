// SPDX-License-Identifier: Apache-2.0
// Mapped files by address, and files that others change while they lie mapped.
#include "hydra/io/mapped_files.h"

#include <filesystem>
#include <fstream>
#include <optional>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

TEST(MappedFiles, AreFoundByAddressWhileTheyLive) {
  const TempDir dir;
  WriteFileAtomic(dir / "one", std::string(10'000, 'x'));
  WriteFileAtomic(dir / "two", std::string(10, 'x'));
  const std::byte* inside = nullptr;
  {
    MappedFile one(dir / "one");
    const MappedFile two(dir / "two");
    inside = one.bytes().data() + 9'999;
    EXPECT_EQ(MappedPathAt(inside), dir / "one");
    EXPECT_EQ(MappedPathAt(two.bytes().data()), dir / "two");
    EXPECT_EQ(MappedPathAt(inside + 1), nullptr);
    const MappedFile moved = std::move(one);
    EXPECT_EQ(MappedPathAt(inside), dir / "one");
  }
  EXPECT_EQ(MappedPathAt(inside), nullptr);
}

TEST(MappedFiles, ALongPathKeepsItsEnd) {
  const TempDir dir;
  const std::string folder = dir / std::string(200, 'f');
  std::filesystem::create_directory(folder);
  const std::string path = folder + "/" + std::string(100, 'g') + ".bin";
  WriteFileAtomic(path, "x");
  const MappedFile file(path);
  EXPECT_TRUE(path.ends_with(MappedPathAt(file.bytes().data())));
}

TEST(MappedFiles, AChangeIsSeen) {
  const TempDir dir;
  const std::string path = dir / "file";
  WriteFileAtomic(path, "abcd");
  const MappedFile file(path);
  EXPECT_NO_THROW(file.CheckUnchanged());
  std::ofstream(path, std::ios::app) << "e";
  ExpectError([&] { file.CheckUnchanged(); }, ErrorCode::kIo, {path, "changed"});
  std::filesystem::resize_file(path, 4);
  std::filesystem::last_write_time(path, std::filesystem::file_time_type() + std::chrono::hours(1));
  ExpectError([&] { file.CheckUnchanged(); }, ErrorCode::kIo, {path, "changed"});  // the same size, another time
}

TEST(MappedFiles, ReplacedByRenameIsAnotherFile) {
  const TempDir dir;
  const std::string path = dir / "file";
  WriteFileAtomic(path, "abcd");
  const MappedFile file(path);
  WriteFileAtomic(path, "other");
  EXPECT_NO_THROW(file.CheckUnchanged());
  EXPECT_EQ(file.text(), "abcd");
  std::filesystem::remove(path);
  EXPECT_NO_THROW(file.CheckUnchanged());
}

}  // namespace
}  // namespace hydra
