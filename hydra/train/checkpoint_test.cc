// SPDX-License-Identifier: Apache-2.0
// Checkpoints: every bad one is refused by name, and a failure injected at any system call leaves a complete one.
#include "hydra/train/checkpoint.h"

#include <gtest/gtest.h>

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>

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
    const char *file, *field;  // of the message; the file's name begins behind the folder's
    std::vector<std::string> found = {};
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
      {"no-DONE",
       [](const std::string& f) { fs::remove(f + "/DONE"); },
       "",
       "not a complete checkpoint",
       {"no DONE file"}},
      {"DONE-cut", resize("DONE", -1), "/DONE", "cut", {"newline"}},
      {"DONE-empty", [](const std::string& f) { fs::resize_file(f + "/DONE", 0); }, "/DONE", "cut"},
      {"DONE-version", replace("DONE", "\"version\":1", "\"version\":2"), "/DONE", "version", {"must be 1"}},
      {"DONE-escapes",
       replace("DONE", "\"name\":\"state.json\"", "\"name\":\"../state.json\""),
       "/DONE",
       "files",
       {"../state.json", "plain file name"}},
      {"file-missing",
       [](const std::string& f) { fs::remove(f + "/state.json"); },
       "/state.json",
       "missing",
       {"DONE names it"}},
      {"size-wrong",
       resize("model.safetensors", -4),
       "/model.safetensors",
       "",
       {"bytes, DONE says", "incomplete copy?"}},
      {"size-larger",
       resize("optim-00000-of-00001.safetensors", 1),
       "/optim-00000-of-00001.safetensors",
       "",
       {"bytes, DONE says"}},
      {"crc-wrong",
       [](const std::string& f) {
         std::fstream file(f + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
         file.seekp(-1, std::ios::end);
         file.put('\x55');
       },
       "/model.safetensors",
       "its CRC-32",
       {"DONE", "damaged"}},
      {"shard-missing", replace("DONE", "optim-00000-of-00001", "optim-00000-of-00002"),
       "/optim-00000-of-00002.safetensors", "missing"},
      {"folder-missing", [](const std::string& f) { fs::remove_all(f); }, "", "no such checkpoint"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    TempDir dir;
    WriteCheckpoint(dir.path(), 1, Content(1));
    const std::string folder = WriteCheckpoint(dir.path(), 2, Content(2));
    c.damage(folder);
    ExpectBadFile(
        {.format = "checkpoints", .name = c.name, .file = folder + c.file, .field = c.field, .found = c.found},
        [&] { (void)OpenCheckpoint(folder); });
    // A run falls back to the previous one, and says so.
    std::vector<std::string> warnings;
    const auto found = FindCheckpoint(dir.path(), [&](const std::string& w) { warnings.push_back(w); });
    ASSERT_TRUE(found);
    EXPECT_EQ(ValueOf(*found), 1);
    EXPECT_EQ(warnings.size(), 1U);
  }
}

TEST(Checkpoint, BadOnesAreThoseOfSeveralRanks) {
  TempDir dir;
  CheckpointContent content = Content(3);
  content.state["world_size"] = 2;
  const std::string folder = WriteCheckpoint(dir.path(), 3, content);
  ExpectBadFile({.format = "checkpoints",
                 .name = "shard-count",
                 .file = folder + "/state.json",
                 .field = "world_size = 2",
                 .found = {"must be 1"}},
                [&] { (void)OpenCheckpoint(folder); });
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

TEST(Checkpoint, LatestThatDanglesFallsBack) {
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
    ASSERT_EQ(warnings.size(), 1U) << text;
    // A name that no folder has is that folder's fault, any other name is that of `latest`.
    const bool dangles = std::string_view(text).starts_with("step-00000009");
    ExpectBadFile({.format = "checkpoints",
                   .name = "latest-dangles",
                   .file = dangles ? dir / "step-00000009" : dir / "latest",
                   .field = dangles ? "no such checkpoint" : ""},
                  [&] { throw Error(ErrorCode::kFormat, warnings[0]); });
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
  EXPECT_EQ(BestCheckpoint(dir.path(), 6), 2);
  EXPECT_EQ(BestCheckpoint(dir.path(), 1), 1);
  EXPECT_EQ(BestCheckpoint(dir.path(), 0), -1);
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

// Names below a folder with what they hold, links not followed.
std::map<std::string, std::string> ContentOf(const std::string& folder) {
  std::map<std::string, std::string> content;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const bool file = entry.symlink_status().type() == fs::file_type::regular;
    content[entry.path().string()] = file ? ReadFile(entry.path().string()) : "";
  }
  return content;
}

TEST(Checkpoint, WhereNoneOpensNothingStartsAnew) {
  const auto cut = [](const char* file) {
    return [=](const std::string& folder) { fs::resize_file(folder + "/" + file, 3); };
  };
  const std::vector<std::pair<const char*, std::function<void(const std::string&)>>> damages = {
      {"model", cut("model.safetensors")},
      {"state", cut("state.json")},
      {"marker", cut("DONE")},
      {"no marker", [](const std::string& f) { fs::remove(f + "/DONE"); }},
      {"no folder", [](const std::string& f) { fs::remove_all(f); }},
      {"circle",
       [](const std::string& f) {
         fs::remove_all(f);
         fs::create_symlink(f, f);
       }},
      {"file",
       [](const std::string& f) {
         fs::remove_all(f);
         WriteFileAtomic(f, std::string("x"));
       }},
  };
  for (const auto& [name, damage] : damages) {
    SCOPED_TRACE(name);
    TempDir dir;
    for (const int step : {1, 2}) damage(WriteCheckpoint(dir.path(), step, Content(step)));
    const auto before = ContentOf(dir.path());
    EXPECT_TRUE(HoldsCheckpoints(dir.path()));
    const std::string text = ErrorText([&] { (void)FindCheckpoint(dir.path(), Ignore); });
    EXPECT_NE(text.find("none of its checkpoints can be opened (step-00000002"), std::string::npos) << text;
    EXPECT_EQ(ContentOf(dir.path()), before);
  }
  TempDir dir;  // a disk that is not there
  fs::create_symlink(dir / "elsewhere", dir / "ckpt");
  EXPECT_NE(ErrorText([&] { (void)FindCheckpoint(dir / "ckpt", Ignore); }).find("cannot be listed"), std::string::npos);
  // A first save that was broken off is no checkpoint.
  fs::create_directories(dir / "new/step-00000004");
  fs::create_directories(dir / "new/step-00000004.part");
  EXPECT_FALSE(HoldsCheckpoints(dir / "new"));
  EXPECT_FALSE(FindCheckpoint(dir / "new", Ignore));
  EXPECT_FALSE(FindCheckpoint(dir / "none", Ignore));
}

TEST(Checkpoint, WhatCannotBeLookedAtIsPassedOverAndKept) {
  TempDir dir;
  for (const int step : {1, 2}) WriteCheckpoint(dir.path(), step, Content(step));
  fs::create_symlink("step-00000003", dir / "step-00000003");
  fs::create_symlink("/nonexistent", dir / "step-00000004");
  WriteFileAtomic(dir / "step-00000005", std::string("x"));
  std::vector<std::string> warnings;
  fs::remove(dir / "latest");
  EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), [&](const std::string& w) { warnings.push_back(w); })), 2);
  EXPECT_EQ(warnings.size(), 4U);  // latest too
  EXPECT_TRUE(HoldsLaterCheckpoints(dir.path(), 4));
  EXPECT_FALSE(HoldsLaterCheckpoints(dir.path(), 5));
  RemoveLaterCheckpoints(dir.path(), 1, 2);
  PruneCheckpoints(dir.path(), 1, 9);
  EXPECT_EQ(ListCheckpoints(dir.path()), (std::vector<int64_t>{2}));
  EXPECT_TRUE(fs::is_symlink(dir / "step-00000003") && fs::is_symlink(dir / "step-00000004"));
  EXPECT_TRUE(fs::exists(dir / "step-00000005"));
  // A run that comes to such a step takes its name.
  for (const int step : {3, 4, 5}) {
    WriteCheckpoint(dir.path(), step, Content(step));
    EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), Ignore)), step);
  }
}

TEST(Checkpoint, LatestOfAnyKindIsPassedOverAndReplaced) {
  const std::vector<std::function<void(const std::string&)>> kinds = {
      [](const std::string& path) { fs::create_directory(path); },
      [](const std::string& path) { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); },
      [](const std::string& path) { fs::create_symlink(path, path); },
      [](const std::string& path) { fs::create_symlink("step-00000001", path); },
      [](const std::string& path) { fs::create_symlink("/dev/zero", path); },
      [](const std::string& path) { WriteFileAtomic(path, std::string(5000, 'x')); },
  };
  for (const auto& make : kinds) {
    TempDir dir;
    WriteCheckpoint(dir.path(), 1, Content(1));
    fs::remove(dir / "latest");
    make(dir / "latest");
    std::vector<std::string> warnings;
    EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), [&](const std::string& w) { warnings.push_back(w); })), 1);
    EXPECT_EQ(warnings.size(), 1U);
    WriteCheckpoint(dir.path(), 2, Content(2));
    EXPECT_EQ(ReadFile(dir / "latest"), "step-00000002\n");
    EXPECT_EQ(ValueOf(OpenCheckpoint(dir / "step-00000001")), 1);
  }
}

// What a process leaves that is killed while a checkpoint of a step that was there already gets its name.
TEST(Checkpoint, AReplacementThatWasBrokenOffIsFinished) {
  const auto left = [](const std::vector<std::pair<int, const char*>>& folders) {
    auto dir = std::make_unique<TempDir>();
    for (const auto& [value, ending] : folders) {
      WriteCheckpoint(*dir / StrCat(value), 7, Content(value));
      fs::create_directories(*dir / "ckpt");
      fs::rename(*dir / StrCat(value, "/step-00000007"), *dir / StrCat("ckpt/step-00000007", ending));
    }
    return dir;
  };
  const auto found = [](const TempDir& dir) {
    const double value = ValueOf(*FindCheckpoint(dir / "ckpt", Ignore));
    EXPECT_EQ(ListCheckpoints(dir / "ckpt"), (std::vector<int64_t>{7}));
    EXPECT_EQ(std::distance(fs::directory_iterator(dir / "ckpt"), fs::directory_iterator()), 1);
    return value;
  };
  EXPECT_EQ(found(*left({{1, ".old"}, {2, ".part"}})), 2);
  EXPECT_EQ(found(*left({{1, ".old"}, {2, ""}})), 2);
  EXPECT_EQ(found(*left({{1, ""}, {2, ".part"}})), 1);
  EXPECT_EQ(found(*left({{1, ".old"}})), 1);
  EXPECT_EQ(found(*left({{2, ".part"}})), 2);
  const auto torn = left({{1, ".old"}, {2, ".part"}});
  fs::remove(*torn / "ckpt/step-00000007.part/DONE");
  EXPECT_EQ(found(*torn), 1);
}

TEST(Checkpoint, GoingBackRemovesTheLaterOnes) {
  TempDir dir;
  for (const int step : {2, 4, 6, 5}) WriteCheckpoint(dir.path(), step, Content(step));  // went back to 2, saved 5
  EXPECT_TRUE(IsLatest(dir.path(), dir / "step-00000005/"));
  EXPECT_FALSE(IsLatest(dir.path(), dir / "step-00000006"));
  RemoveLaterCheckpoints(dir.path(), 2, 5);
  EXPECT_EQ(ListCheckpoints(dir.path()), (std::vector<int64_t>{2, 5}));
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

// The only checkpoint there is, written once more: at any moment one of the two is there and whole.
TEST(Checkpoint, AFailureWhileOneIsReplacedLeavesACompleteOne) {
  int64_t calls = 1;
  for (int64_t at = 0; at < calls; ++at) {
    SCOPED_TRACE(StrCat("call ", at, " of ", calls));
    TempDir dir;
    WriteCheckpoint(dir.path(), 1, Content(1));
    Faults faults;
    if (at == 0) {
      TempDir whole;
      WriteCheckpoint(whole.path(), 1, Content(1));
      WriteCheckpoint(whole.path(), 1, Content(2), faults.ops);
      calls = faults.calls;
      faults.calls = 0;
    }
    faults.fail_at = at;
    EXPECT_THROW(WriteCheckpoint(dir.path(), 1, Content(2), faults.ops), Error);
    const auto found = FindCheckpoint(dir.path(), Ignore);
    ASSERT_TRUE(found);
    EXPECT_TRUE(ValueOf(*found) == 1 || ValueOf(*found) == 2);
    WriteCheckpoint(dir.path(), 1, Content(3));
    EXPECT_EQ(ValueOf(*FindCheckpoint(dir.path(), Ignore)), 3);
    EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 2);  // it and latest
  }
  EXPECT_GT(calls, 10);
}

}  // namespace
}  // namespace hydra::train
