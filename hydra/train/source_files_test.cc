// SPDX-License-Identifier: Apache-2.0
// Files that change under a run: other content is an error, a new time alone is none.
#include "hydra/train/source_files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra::train {
namespace {

namespace fs = std::filesystem;

TEST(SourceFiles, OtherContentIsAnErrorThatNamesTheFile) {
  TempDir dir;
  const std::string path = dir / "a.json";
  WriteFileAtomic(path, "one");
  SourceFiles files;
  int asked = 0;
  files.Add(path, [&] {
    ++asked;
    return ReadFile(path) == "one";
  });
  files.Check();
  EXPECT_EQ(asked, 0);
  WriteFileAtomic(path, "one");  // a new file with the same bytes
  files.Check();
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::hours(1));
  files.Check();
  EXPECT_EQ(asked, 2);
  files.Check();
  EXPECT_EQ(asked, 2);
  WriteFileAtomic(path, "two!");
  ExpectError([&] { files.Check(); }, ErrorCode::kData, {"a.json: has other content now"});
  fs::remove(path);
  ExpectError([&] { files.Check(); }, ErrorCode::kData, {"a.json: is gone"});
  fs::create_directory(path);  // the reader throws
  ExpectError([&] { files.Check(); }, ErrorCode::kData, {"a.json: has other content now"});
}

}  // namespace
}  // namespace hydra::train
