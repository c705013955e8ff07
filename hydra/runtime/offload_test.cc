// SPDX-License-Identifier: Apache-2.0
// Weights in a file: the same bits as in memory when they are packed into it and when they are mapped from it, whatever
// is asked for ahead; files that are refused, and what is left of them.
#include "hydra/runtime/offload.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/runtime/testing.h"

namespace hydra::offload_test {  // tests share units
namespace {

using testing::BuildModel;
using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;
using testing::RandomSource;
using testing::SmallBlockFfn;

LoadOptions Offloaded(const std::string& path, AskAhead ask = AskAhead::kRouted) {
  return {.ctx_size = 64, .kv_dtype = KvDtype::kF32, .offload = path, .ask_ahead = ask};
}

std::vector<float> Logits(const Model& model) {
  ThreadPool pool(2);
  SequenceState state(model);
  return LogitsInPieces(model, state, RandomIds(24, model.config().vocab_size, 3), {9, 1, 1, 4, 1}, pool);
}

TEST(Offload, GivesTheBitsOfWeightsInMemory) {
  const TempDir dir;
  int files = 0;
  for (const auto& one : testing::Cases())
    for (const WeightType type : {WeightType::kBF16, WeightType::kQ8_0, WeightType::kQ4_0}) {
      SCOPED_TRACE(StrCat(one.name, " ", Info(type).name));
      const WeightSource source = RandomSource(one.config, 5, type);
      const std::string path = dir / StrCat(++files, ".packed");
      if (PackedCopyBytes(source) == 0) {
        ExpectError([&] { (void)BuildModel(source, Offloaded(path)); }, ErrorCode::kUsage,
                    {"--offload", path, "no weights", "memory"});
        continue;
      }
      const std::vector<float> want = Logits(BuildModel(source, {.ctx_size = 64, .kv_dtype = KvDtype::kF32}));
      ExpectSameBits(Logits(BuildModel(source, Offloaded(path))), want);
      const auto written = std::filesystem::last_write_time(path);
      EXPECT_FALSE(std::filesystem::exists(path + ".part"));
      for (const AskAhead ask : {AskAhead::kOff, AskAhead::kRouted, AskAhead::kLast})
        ExpectSameBits(Logits(BuildModel(source, Offloaded(path, ask))), want);
      EXPECT_EQ(std::filesystem::last_write_time(path), written);
    }
  EXPECT_GT(files, 10);
}

TEST(Offload, OtherWeightsAndFilesAreRefused) {
  const TempDir dir;
  const std::string path = dir / "packed";
  const ModelConfig config = SmallBlockFfn(true);
  (void)BuildModel(RandomSource(config, 5, WeightType::kQ8_0), Offloaded(path));
  const std::string good = ReadText(path);
  for (const WeightSource& other :
       {RandomSource(config, 6, WeightType::kQ8_0), RandomSource(config, 5, WeightType::kBF16)})
    ExpectError([&] { (void)BuildModel(other, Offloaded(path)); }, ErrorCode::kUsage, {path, "another model"});
  EXPECT_EQ(ReadText(path), good);
  const WeightSource source = RandomSource(config, 5, WeightType::kQ8_0);
  WriteFileAtomic(path, std::string_view(good).substr(0, good.size() - 1));
  ExpectError([&] { (void)BuildModel(source, Offloaded(path)); }, ErrorCode::kFormat, {path, "size", "remove it"});
  for (const char* text : {"", "GGUF and more"}) {
    WriteFileAtomic(path, std::string_view(text));
    ExpectError([&] { (void)BuildModel(source, Offloaded(path)); }, ErrorCode::kFormat, {path, "format"});
    EXPECT_EQ(ReadText(path), text);  // it may be anybody's
  }
  ExpectError([&] { (void)BuildModel(source, Offloaded(dir / "none/packed")); }, ErrorCode::kIo, {"none/packed"});
}

TEST(Offload, OneProcessPacksAtATimeAndLeavesAWholeFileOrNone) {
  const TempDir dir;
  const std::string path = dir / "packed", part = path + ".part";
  WeightSource source = RandomSource(SmallBlockFfn(true), 5, WeightType::kQ8_0);
  WriteFileAtomic(part, std::string_view("what a killed process left"));
  const int fd = ::open(part.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::flock(fd, LOCK_EX | LOCK_NB), 0);
  ExpectError([&] { (void)BuildModel(source, Offloaded(path)); }, ErrorCode::kUsage, {part, "another process"});
  ::close(fd);
  source.check_unchanged = [] { throw Error(ErrorCode::kIo, "the model's file changed"); };
  ExpectError([&] { (void)BuildModel(source, Offloaded(path)); }, ErrorCode::kIo, {"changed"});
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_FALSE(std::filesystem::exists(part));
  source.check_unchanged = {};
  (void)BuildModel(source, Offloaded(path));
  EXPECT_TRUE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace hydra::offload_test
