// SPDX-License-Identifier: Apache-2.0
// Checkpoints: every bad one is refused by name, and a failure injected at any system call leaves a complete one.
#include "hydra/train/checkpoint.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>

#include "hydra/base/error.h"
#include "hydra/train/testing.h"

namespace hydra::train {
namespace {

namespace fs = std::filesystem;
using testing::ErrorText;
using testing::TempDir;

CheckpointContent Content(double value) {
  return {.weights = {{"w", torch::full({3, 4}, value)}, {"b", torch::full({5}, value)}},
          .optimiser = {{"w.exp_avg", torch::full({3, 4}, 2 * value)}, {"w.step", torch::full({}, value)}},
          .state = {{"step", static_cast<int64_t>(value)}, {"world_size", 1}},
          .metadata = {{"format", "pt"}}};
}

double ValueOf(const Checkpoint& checkpoint) {
  float value = 0;
  std::memcpy(&value, checkpoint.weights.Get("w").data, sizeof value);
  return value;
}

void Ignore(const std::string&) {}

TEST(Checkpoint, RoundTrip) {
  TempDir dir;
  const std::string folder = WriteCheckpoint(dir.path(), 1000, Content(7));
  EXPECT_EQ(folder, dir / "step-00001000");
  for (const char* name : {"model.safetensors", "optim-00000-of-00001.safetensors", "state.json", "DONE"})
    EXPECT_TRUE(fs::exists(folder + "/" + name)) << name;
  EXPECT_EQ(ReadFile(dir / "latest"), "step-00001000\n");
  const Checkpoint checkpoint = OpenCheckpoint(folder);
  EXPECT_EQ(ValueOf(checkpoint), 7);
  EXPECT_EQ(checkpoint.step, 7);
  EXPECT_EQ(checkpoint.optimiser.Get("w.exp_avg").shape, (std::vector<int64_t>{3, 4}));
  // The same step again replaces the folder.
  WriteCheckpoint(dir.path(), 1000, Content(8));
  EXPECT_EQ(ValueOf(OpenCheckpoint(folder)), 8);
}

TEST(Checkpoint, BadOnesAreRefusedByName) {
  struct Case {
    const char* name;
    std::function<void(const std::string& folder)> damage;
    const char* want;
  };
  const auto resize = [](const char* file, int64_t by) {
    return [=](const std::string& folder) {
      const std::string path = folder + "/" + file;
      fs::resize_file(path, static_cast<uintmax_t>(static_cast<int64_t>(fs::file_size(path)) + by));
    };
  };
  const auto replace = [](const char* file, const std::string& from, const std::string& to) {
    return [=](const std::string& folder) {
      std::string text = ReadFile(folder + "/" + file);
      const size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos) << from;
      text.replace(at, from.size(), to);
      WriteFileAtomic(folder + "/" + file, text);
    };
  };
  const Case cases[] = {
      {"no-DONE", [](const std::string& f) { fs::remove(f + "/DONE"); }, "no DONE file"},
      {"DONE-cut", resize("DONE", -1), "DONE: cut"},
      {"DONE-empty", [](const std::string& f) { fs::resize_file(f + "/DONE", 0); }, "DONE: cut"},
      {"DONE-version", replace("DONE", "\"version\":1", "\"version\":2"), "version: must be 1"},
      {"DONE-escapes", replace("DONE", "\"name\":\"state.json\"", "\"name\":\"../state.json\""), "plain file name"},
      {"file-missing", [](const std::string& f) { fs::remove(f + "/state.json"); }, "state.json: missing"},
      {"size-wrong", resize("model.safetensors", -4), "incomplete copy?"},
      {"size-larger", resize("optim-00000-of-00001.safetensors", 1), "DONE says"},
      {"crc-wrong",
       [](const std::string& f) {
         std::fstream file(f + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
         file.seekp(-1, std::ios::end);
         file.put('\x55');
       },
       "CRC-32"},
      {"shard-count", replace("DONE", "optim-00000-of-00001", "optim-00000-of-00002"),
       "optim-00000-of-00002.safetensors: missing"},
      {"folder-missing", [](const std::string& f) { fs::remove_all(f); }, "no such checkpoint"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    TempDir dir;
    WriteCheckpoint(dir.path(), 1, Content(1));
    const std::string folder = WriteCheckpoint(dir.path(), 2, Content(2));
    c.damage(folder);
    const std::string text = ErrorText([&] { (void)OpenCheckpoint(folder); });
    EXPECT_NE(text.find(c.want), std::string::npos) << text;
    // A run falls back to the previous one, and says so.
    std::vector<std::string> warnings;
    const auto found = FindCheckpoint(dir.path(), [&](const std::string& w) { warnings.push_back(w); });
    ASSERT_TRUE(found);
    EXPECT_EQ(ValueOf(*found), 1);
    EXPECT_EQ(warnings.size(), 1U);
  }
}

TEST(Checkpoint, OptimiserFilesOfSeveralRanksAreRefused) {
  TempDir dir;
  CheckpointContent content = Content(3);
  content.state["world_size"] = 2;
  const std::string folder = WriteCheckpoint(dir.path(), 3, content);
  EXPECT_NE(ErrorText([&] { (void)OpenCheckpoint(folder); }).find("1 optimiser files of 2 ranks"), std::string::npos);
}

TEST(Checkpoint, DoneCutAnywhereIsRefused) {
  TempDir dir;
  const std::string folder = WriteCheckpoint(dir.path(), 2, Content(2));
  const std::string done = ReadFile(folder + "/DONE");
  for (size_t n = 0; n < done.size(); ++n) {
    WriteFileAtomic(folder + "/DONE", std::string_view(done).substr(0, n));
    EXPECT_THROW((void)OpenCheckpoint(folder), Error) << n;
  }
}

TEST(Checkpoint, LatestThatDanglesFallsBack) {  // latest-dangles
  TempDir dir;
  EXPECT_FALSE(FindCheckpoint(dir.path(), Ignore));
  WriteCheckpoint(dir.path(), 1, Content(1));
  WriteCheckpoint(dir.path(), 2, Content(2));
  for (const char* text : {"step-00000009\n", "", "../../etc\n", "step-0000000x\n"}) {
    WriteFileAtomic(dir / "latest", std::string(text));
    std::vector<std::string> warnings;
    const auto found = FindCheckpoint(dir.path(), [&](const std::string& w) { warnings.push_back(w); });
    ASSERT_TRUE(found) << text;
    EXPECT_EQ(ValueOf(*found), 2);
    EXPECT_EQ(warnings.size(), 1U) << text;
  }
  fs::remove(dir / "latest");
  EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), Ignore)), 2);
  WriteFileAtomic(dir / "latest", std::string("step-00000001\n"));
  EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), Ignore)), 1);
}

TEST(Checkpoint, PruningKeepsTheNewestAndTheBest) {
  TempDir dir;
  for (const int step : {1, 2, 3, 4, 5, 6}) {
    CheckpointContent content = Content(step);
    content.state["val"] = {{"loss", step == 2 ? 1.0 : 2.0}};
    WriteCheckpoint(dir.path(), step, content);
  }
  fs::remove(dir / "step-00000003/DONE");
  EXPECT_EQ(BestCheckpoint(dir.path()), 2);
  PruneCheckpoints(dir.path(), 2, 6);
  EXPECT_EQ(ListCheckpoints(dir.path()), (std::vector<int64_t>{2, 5, 6}));
  EXPECT_FALSE(fs::exists(dir / "step-00000003"));
}

TEST(Checkpoint, PruningNeverRemovesTheOneJustWritten) {
  for (const int64_t keep : {1, 2}) {
    TempDir dir;
    for (const int step : {4, 8, 12, 5}) WriteCheckpoint(dir.path(), step, Content(step));  // went back to 4
    PruneCheckpoints(dir.path(), keep, 5);
    EXPECT_EQ(ListCheckpoints(dir.path()), keep == 1 ? std::vector<int64_t>{5} : (std::vector<int64_t>{4, 5}));
    EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), Ignore)), 5);
  }
}

// Real file operations that fail at the n-th call, with a short write where asked.
struct Faults {
  int64_t fail_at = -1, calls = 0;
  int error = ENOSPC;
  bool short_write = false;
  FileOps ops;
  Faults() {
    const FileOps& real = FileOps::Real();
    const auto fails = [this] { return calls++ == fail_at; };
    ops.write = [=, this, &real](int fd, const void* data, size_t n) -> ssize_t {
      if (!fails()) return real.write(fd, data, n);
      if (short_write) (void)real.write(fd, data, n / 2);
      return errno = error, -1;
    };
    ops.pwrite = [=, this, &real](int fd, const void* data, size_t n, off_t at) -> ssize_t {
      return fails() ? (errno = error, -1) : real.pwrite(fd, data, n, at);
    };
    ops.fsync = [=, this, &real](int fd) { return fails() ? (errno = error, -1) : real.fsync(fd); };
    ops.rename = [=, this, &real](const char* from, const char* to) {
      return fails() ? (errno = error, -1) : real.rename(from, to);
    };
  }
};

TEST(Checkpoint, AFailureAtAnyCallLeavesACompleteOne) {
  int64_t calls = 0;
  {
    TempDir dir;
    Faults counting;
    WriteCheckpoint(dir.path(), 1, Content(1), counting.ops);
    calls = counting.calls;
  }
  EXPECT_GT(calls, 10);
  for (const bool short_write : {false, true}) {
    for (int64_t at = 0; at < calls; ++at) {
      SCOPED_TRACE(StrCat("call ", at, " of ", calls));
      TempDir dir;
      WriteCheckpoint(dir.path(), 1, Content(1));
      Faults faults;
      faults.fail_at = at;
      faults.error = at % 2 == 0 ? ENOSPC : EIO;
      faults.short_write = short_write;
      EXPECT_THROW(WriteCheckpoint(dir.path(), 2, Content(2), faults.ops), Error);
      const auto found = FindCheckpoint(dir.path(), Ignore);
      ASSERT_TRUE(found);
      EXPECT_TRUE(ValueOf(*found) == 1 || ValueOf(*found) == 2);
      // Nothing half-written is left, and the next attempt succeeds.
      for (const auto& entry : fs::recursive_directory_iterator(dir.path()))
        EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
      WriteCheckpoint(dir.path(), 2, Content(2));
      EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), Ignore)), 2);
    }
  }
}

}  // namespace
}  // namespace hydra::train
