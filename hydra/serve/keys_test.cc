// SPDX-License-Identifier: Apache-2.0
// Who is let in with which word.
#include "hydra/serve/keys.h"

#include "hydra/base/testing.h"

namespace hydra::serve {
namespace {

TEST(Keys, OnlyKnownKeysAreLetIn) {
  const Keys keys({"one", "two"});
  EXPECT_FALSE(keys.open());
  const auto one = keys.OwnerOf("Bearer one"), two = keys.OwnerOf("bearer two");
  ASSERT_TRUE(one && two);
  EXPECT_NE(*one, *two);
  EXPECT_EQ(one->size(), 32U);
  EXPECT_EQ(keys.OwnerOf("Bearer one"), one);
  for (const char* bad : {"", "one", "Bearer", "Bearer ", "Bearer three", "Bearer one ", "Basic one", "Bearer on"})
    EXPECT_FALSE(keys.OwnerOf(bad)) << bad;
  EXPECT_EQ(Keys({}).OwnerOf(""), "");
  EXPECT_TRUE(Keys({}).open());
  ExpectError([] { (void)Keys({""}); }, ErrorCode::kUsage, {"--api-key"});
}

TEST(Keys, AFileHasOneALine) {
  const TempDir folder;
  WriteFileAtomic(folder / "keys", "# who\nalpha\r\n\n beta \n");
  EXPECT_EQ(Keys::ReadFileOfKeys(folder / "keys"), (std::vector<std::string>{"alpha", " beta"}));
  WriteFileAtomic(folder / "none", "# nobody\n");
  ExpectError([&] { (void)Keys::ReadFileOfKeys(folder / "none"); }, ErrorCode::kUsage, {"has no key"});
}

}  // namespace
}  // namespace hydra::serve
