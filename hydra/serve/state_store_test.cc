// SPDX-License-Identifier: Apache-2.0
// Saved sequences on disk: exact, apart by owner, within their quota, never through links.
#include "hydra/serve/state_store.h"

#include <sys/stat.h>

#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/serve/api_error.h"
#include "hydra/serve/testing.h"

namespace hydra::serve {
namespace {

using testing::Kit;
using testing::RandomPrompt;

SequenceState ReadState(Kit& kit, std::span<const int32_t> ids) {
  SequenceState state(kit.model);
  ForwardScratch scratch;
  (void)kit.model.Prefill(state, ids, kit.pool, scratch);
  return state;
}

template <class F>
void ExpectStatus(F&& f, int status, const std::string& code = "") {
  try {
    f();
    ADD_FAILURE() << "no error, wanted " << status;
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    if (!code.empty()) {
      EXPECT_EQ(error.code(), code) << error.what();
    }
  }
}

TEST(StateStore, SavesAndLoadsToTheBitAndKeepsOwnersApart) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    const TempDir folder;
    Kit kit(family.config);
    StateStore store(folder / "states", int64_t{1} << 30);
    SequenceState state = ReadState(kit, RandomPrompt(70, 50));
    const StateStore::Entry entry = store.Save("anna", "talk-1.a", state);
    EXPECT_EQ(entry.tokens, 70);
    EXPECT_GT(entry.bytes, 0);
    StateStore again(folder / "states", int64_t{1} << 30);  // as a new process finds it
    SequenceState loaded = again.Load("anna", "talk-1.a", kit.model, nullptr);
    ForwardScratch one, other;
    hydra::testing::ExpectSameBits(kit.model.Step(loaded, 5, kit.pool, one), kit.model.Step(state, 5, kit.pool, other));
    ASSERT_EQ(again.List("anna").size(), 1U);
    EXPECT_EQ(again.List("anna")[0].tokens, 70);
    EXPECT_TRUE(again.List("bert").empty());
    ExpectStatus([&] { (void)again.Load("bert", "talk-1.a", kit.model, nullptr); }, 404, "state_not_found");
    ExpectStatus([&] { again.Delete("bert", "talk-1.a"); }, 404);
    again.Delete("anna", "talk-1.a");
    EXPECT_TRUE(store.List("anna").empty());
    ExpectStatus([&] { again.Delete("anna", "talk-1.a"); }, 404);
  }
}

TEST(StateStore, OnlyItsOwnerMayReadAFile) {
  const TempDir folder;
  Kit kit(testing::Families()[0].config);
  StateStore store(folder / "states", int64_t{1} << 30);
  (void)store.Save("", "a", ReadState(kit, RandomPrompt(10, 51)));
  struct stat info {};
  ASSERT_EQ(::stat((folder / "states/public/a.state").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  ASSERT_EQ(::stat((folder / "states/public").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
}

TEST(StateStore, NamesAreNames) {
  for (const char* good :
       {"a", "A-1", "_x", "-", "a.b.c", "0123456789012345678901234567890123456789012345678901234567890123"})
    EXPECT_TRUE(StateStore::IsName(good)) << good;
  for (const char* bad : {"", ".", "..", ".a", "a/b", "../a", "a b", "a\n", "\xC3\xA4",
                          "01234567890123456789012345678901234567890123456789012345678901234"})
    EXPECT_FALSE(StateStore::IsName(bad)) << bad;
}

TEST(StateStore, StaysWithinItsQuota) {
  const TempDir folder;
  Kit kit(testing::Families()[0].config);
  const SequenceState state = ReadState(kit, RandomPrompt(20, 52));
  StateStore probe(folder / "probe", int64_t{1} << 30);
  const int64_t each = probe.Save("", "a", state).bytes;
  StateStore store(folder / "states", 2 * each + each / 2 + 65536);
  (void)store.Save("", "a", state);
  (void)store.Save("", "b", state);
  ExpectStatus([&] { (void)store.Save("", "c", state); }, 507, "quota_exceeded");
  (void)store.Save("", "b", state);  // in its own place
  store.Delete("", "a");
  (void)store.Save("", "c", state);
  EXPECT_EQ(store.List("").size(), 2U);
}

TEST(StateStore, LinksAndDamagedFilesAreNotRead) {
  const TempDir folder;
  Kit kit(testing::Families()[0].config);
  StateStore store(folder / "states", int64_t{1} << 30);
  const SequenceState state = ReadState(kit, RandomPrompt(20, 53));
  (void)store.Save("", "a", state);
  std::filesystem::create_symlink(folder / "states/public/a.state", folder / "states/public/b.state");
  ExpectStatus([&] { (void)store.Load("", "b", kit.model, nullptr); }, 404);
  ExpectStatus([&] { (void)store.Save("", "b", state); }, 409);
  EXPECT_EQ(store.List("").size(), 1U);
  const std::string path = folder / "states/public/a.state";
  std::string bytes = ReadFile(path);
  bytes[bytes.size() - 3] = static_cast<char>(bytes[bytes.size() - 3] ^ 1);
  WriteFileAtomic(path, bytes);
  ExpectStatus([&] { (void)store.Load("", "a", kit.model, nullptr); }, 400, "state_mismatch");
  Kit other(testing::Families()[0].config, 99);
  (void)store.Save("", "a", state);
  ExpectStatus([&] { (void)store.Load("", "a", other.model, nullptr); }, 400, "state_mismatch");
}

}  // namespace
}  // namespace hydra::serve
