// SPDX-License-Identifier: Apache-2.0
// Checkpoints with any byte changed, cut anywhere, or with the files of another: each is passed over for an earlier
// one, with a warning that names it, or is opened with exactly what was written. Never is there nothing, which would
// start a run anew. Not here: states that lie with a right checksum (trainer_test.cc), failing system calls
// (checkpoint_test.cc).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/train/checkpoint.h"
#include "hydra/train/testing.h"

namespace hydra::train::checkpoint_damage_test {  // tests share units
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

constexpr const char* kFiles[] = {"model.safetensors", "optim-00000-of-00001.safetensors", "state.json", "DONE"};

CheckpointContent Content(double value) {
  return {.weights = {{"w", torch::full({3, 4}, value)}, {"b", torch::full({5}, value)}},
          .optimiser = {{"w.exp_avg", torch::full({3, 4}, 2 * value)}, {"w.step", torch::full({}, value)}},
          .state = {{"step", static_cast<int64_t>(value)}, {"world_size", 1}, {"val", {{"loss", 0.5 * value}}}},
          .metadata = {{"format", "pt"}}};
}

// Everything that a checkpoint says, for a comparison.
std::string Says(const Checkpoint& checkpoint) {
  std::string out = StrCat(checkpoint.step, " ", checkpoint.state.dump());
  for (const SafeTensors* file : {&checkpoint.weights, &checkpoint.optimiser})
    for (const TensorView& view : file->tensors())
      out += view.name + std::string(reinterpret_cast<const char*>(view.data), static_cast<size_t>(view.nbytes));
  return out;
}

// Two checkpoints, of which the second is damaged again and again.
class Damage : public ::testing::Test {
 protected:
  Damage() {
    first_ = Says(OpenCheckpoint(WriteCheckpoint(dir_.path(), 1, Content(1))));
    folder_ = WriteCheckpoint(dir_.path(), 2, Content(2));
    second_ = Says(OpenCheckpoint(folder_));
  }
  // Writes without fsync: there are thousands.
  static void Put(const std::string& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }
  // True where the second one was opened.
  bool OpensAsWritten() {
    std::vector<std::string> warnings;
    const auto found = FindCheckpoint(dir_.path(), [&](const std::string& text) { warnings.push_back(text); });
    if (!found) {
      ADD_FAILURE() << "a run would start anew";
      return false;
    }
    const std::string says = Says(*found);
    const bool newest = found->folder == folder_;
    EXPECT_EQ(says, newest ? second_ : first_);
    for (const std::string& text : warnings) {
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      EXPECT_EQ(text.rfind(dir_.path(), 0), 0U) << text;
    }
    const bool asked = ReadFile(dir_ / "latest") == "step-00000001\n";  // a changed byte may spell the other's name
    EXPECT_TRUE(newest || asked || !warnings.empty());
    return newest;
  }
  // Damages a file in each way that makes `count` of them; the file is whole again at the end. Returns how many were
  // opened all the same.
  template <class Each>
  int Try(const std::string& path, Each&& each) {
    const std::string good = ReadFile(path);
    int opened = 0;
    each(good, [&](const std::string& bad, const std::string& what) {
      SCOPED_TRACE(StrCat(path, ": ", what));
      Put(path, bad);
      opened += OpensAsWritten() ? 1 : 0;
    });
    Put(path, good);
    EXPECT_TRUE(OpensAsWritten());
    return opened;
  }
  TempDir dir_;
  std::string folder_, first_, second_;
};

TEST_F(Damage, OfAnyByteIsSeen) {
  for (const char* name : kFiles) {
    const int opened = Try(folder_ + "/" + name, [](const std::string& good, const auto& put) {
      for (size_t at = 0; at < good.size(); ++at)
        for (const char flip : {'\x01', '\x20', '\x80'}) {
          std::string bad = good;
          bad[at] = static_cast<char>(bad[at] ^ flip);
          put(bad, StrCat("byte ", at, " ^ ", int{flip}));
        }
    });
    EXPECT_EQ(opened, 0) << name;
  }
}

TEST_F(Damage, ByCuttingOrAddingIsSeen) {
  for (const char* name : kFiles) {
    const int opened = Try(folder_ + "/" + name, [](const std::string& good, const auto& put) {
      for (size_t n = 0; n < good.size(); ++n) put(good.substr(0, n), StrCat("cut at ", n));
      put(good + '\0', "a zero byte more");
      put(good + good, "twice");
    });
    EXPECT_EQ(opened, 0) << name;
  }
}

TEST_F(Damage, OfTheMarkerOfTheNewestIsSurvived) {
  (void)Try(dir_ / "latest", [](const std::string& good, const auto& put) {
    for (size_t n = 0; n < good.size(); ++n) put(good.substr(0, n), StrCat("cut at ", n));
    for (size_t at = 0; at < good.size(); ++at)
      for (const char flip : {'\x01', '\x03', '\x20', '\x80'}) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ flip);
        put(bad, StrCat("byte ", at));
      }
    put("step-00000002/../step-00000001\n", "a path");
    put(std::string(1 << 16, 'x'), "long");
  });
}

TEST_F(Damage, ByFilesOfAnotherIsSeen) {
  for (const char* name : kFiles)
    EXPECT_EQ(Try(folder_ + "/" + name,
                  [&](const std::string&, const auto& put) {
                    put(ReadFile(dir_ / "step-00000001/" + name), "the earlier one's");
                  }),
              0)
        << name;
  EXPECT_EQ(
      Try(folder_ + "/" + kFiles[0],
          [&](const std::string&, const auto& put) { put(ReadFile(folder_ + "/" + kFiles[1]), "the optimiser's"); }),
      0);
}

TEST_F(Damage, OfBothStartsNothingAnew) {
  for (const char* name : kFiles) {
    SCOPED_TRACE(name);
    std::vector<std::pair<std::string, std::string>> good;
    for (const std::string& folder : {dir_ / "step-00000001", folder_}) {
      const std::string path = folder + "/" + name;
      good.emplace_back(path, ReadFile(path));
      std::string bad = good.back().second;
      bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 0x10);
      Put(path, bad);
    }
    ExpectError([&] { (void)FindCheckpoint(dir_.path(), [](const std::string&) {}); }, ErrorCode::kFormat,
                {dir_.path() + ": none of its checkpoints can be opened (step-00000002, step-00000001)"});
    for (const auto& [path, bytes] : good) Put(path, bytes);
  }
}

}  // namespace
}  // namespace hydra::train::checkpoint_damage_test
