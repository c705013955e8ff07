// SPDX-License-Identifier: Apache-2.0
// A run's numbers: columns, cuts, torn files, and the frames of event files. That TensorBoard agrees is tested by
// tests/parity/data_formats.py.
#include "hydra/train/metrics_log.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "hydra/base/testing.h"
#include "hydra/train/event_file.h"

namespace hydra::train {
namespace {

constexpr auto kTrain = MetricsSplit::kTrain;
constexpr auto kVal = MetricsSplit::kVal;

MetricsRow At(int64_t step, std::map<std::string, double> values) {
  return {.step = step,
          .tokens = 100 * step,
          .seconds = 0.5 * static_cast<double>(step),
          .flops = 1e9,
          .values = std::move(values)};
}

std::vector<std::string> EventFilesOf(const TempDir& dir) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) paths.push_back(entry.path().string());
  std::ranges::sort(paths);
  return paths;
}

std::vector<int64_t> StepsOf(const std::string& path) {
  const std::string file = ReadFile(path);
  std::vector<int64_t> steps;
  for (size_t at = 0; const auto frame = NextFrame(file, &at);) steps.push_back(EventStep(frame->data).value());
  return steps;
}

TEST(EventFile, Crc32cHasItsKnownValues) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
}

TEST(EventFile, DamagedAndTornFramesEndTheReading) {
  const std::string frame = ScalarEvent(1.5, 300, {{"a", 1}});
  std::string file = EventFileStart(1) + frame;
  size_t at = 0;
  EXPECT_EQ(EventStep(NextFrame(file, &at)->data), 0);
  EXPECT_EQ(EventStep(NextFrame(file, &at)->data), 300);
  EXPECT_EQ(at, file.size());
  EXPECT_FALSE(NextFrame(file, &at));
  for (size_t n = 0; n < frame.size(); ++n) {
    at = 0;
    EXPECT_FALSE(NextFrame(frame.substr(0, n), &at)) << n;
    std::string flipped = frame;
    flipped[n] = static_cast<char>(flipped[n] ^ 0x40);
    EXPECT_FALSE(NextFrame(flipped, &at)) << n;
    EXPECT_EQ(at, 0u);
  }
  EXPECT_FALSE(EventStep("\xff"));
}

TEST(MetricsLog, WritesAllFiles) {
  TempDir dir;
  {
    MetricsLog log(dir.path());
    log.Row(kTrain, At(1, {{"train/loss", 2.5}, {"train/lr", 0.001}}));
    log.Row(kVal, At(1, {{"val/loss", 0.1}}));
    log.Row(kTrain, At(2, {{"train/loss", 1.0 / 3}}));
    log.Sync();
  }
  EXPECT_EQ(
      ReadFile(dir / "train.csv"),
      "step,tokens,seconds,flops,train/loss,train/lr\n1,100,0.5,1e+09,2.5,0.001\n2,200,1,1e+09,0.3333333333333333,\n");
  EXPECT_EQ(ReadFile(dir / "val.jsonl"),
            "{\"step\":1,\"tokens\":100,\"seconds\":0.5,\"flops\":1e+09,\"val/loss\":0.1}\n");
  const auto rows = ReadMetrics(dir / "train.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].step, 2);
  EXPECT_EQ(rows[1].tokens, 200);
  EXPECT_EQ(rows[1].seconds, 1);
  EXPECT_EQ(rows[1].values.at("train/loss"), 1.0 / 3);
  ASSERT_EQ(EventFilesOf(dir).size(), 1u);
  EXPECT_EQ(StepsOf(EventFilesOf(dir)[0]), (std::vector<int64_t>{0, 1, 1, 2}));
}

TEST(MetricsLog, NewSeriesBecomeColumnsAlsoAfterAResume) {
  TempDir dir;
  MetricsLog(dir.path()).Row(kTrain, At(1, {{"b", 1}}));
  MetricsLog log(dir.path());
  log.Row(kTrain, At(2, {{"a", 2}}));
  log.Row(kTrain, At(3, {{"a", 3}, {"b", 4}}));
  EXPECT_EQ(ReadFile(dir / "train.csv"),
            "step,tokens,seconds,flops,b,a\n1,100,0.5,1e+09,1,\n2,200,1,1e+09,,2\n3,300,1.5,1e+09,4,3\n");
}

TEST(MetricsLog, NonFiniteValuesStayReadable) {
  TempDir dir;
  MetricsLog log(dir.path());
  const double inf = std::numeric_limits<double>::infinity();
  log.Row(kTrain, At(1, {{"a", std::nan("")}, {"b", inf}, {"c", -inf}}));
  EXPECT_EQ(ReadFile(dir / "train.jsonl").find("nan"), std::string::npos);
  EXPECT_TRUE(std::isnan(ReadMetrics(dir / "train.jsonl")[0].values.at("a")));
  EXPECT_NE(ReadFile(dir / "train.csv").find(",nan,inf,-inf\n"), std::string::npos);
}

TEST(MetricsLog, ACutLeavesWhatAShorterRunWouldHaveWritten) {
  TempDir whole, cut;
  const auto rows = [](MetricsLog& log, int64_t from, int64_t to) {
    for (int64_t step = from; step <= to; ++step) {
      log.Row(kTrain, At(step, {{"train/loss", 1.0 / static_cast<double>(step)}}));
      if (step % 2 == 0) log.Row(kVal, At(step, {{"val/loss", 1}}));
    }
  };
  const MetricsLog::Options options{.tensorboard = true, .clock = [] { return 1e9; }};
  MetricsLog straight(whole.path(), options);
  rows(straight, 1, 9);
  {
    MetricsLog log(cut.path(), options);
    rows(log, 1, 7);
  }
  MetricsLog log(cut.path(), options);
  log.CutAfter(4);
  rows(log, 5, 9);
  for (const char* name : {"train.csv", "train.jsonl", "val.csv", "val.jsonl"})
    EXPECT_EQ(ReadFile(cut / name), ReadFile(whole / name)) << name;
  const auto files = EventFilesOf(cut);
  ASSERT_EQ(files.size(), 2u);  // in the order of their names
  EXPECT_EQ(StepsOf(files[0]), (std::vector<int64_t>{0, 1, 2, 2, 3, 4, 4}));
  EXPECT_EQ(StepsOf(files[1]), (std::vector<int64_t>{0, 5, 6, 6, 7, 8, 8, 9}));
  log.CutAfter(0);
  EXPECT_EQ(ReadFile(cut / "train.jsonl"), "");
  EXPECT_EQ(ReadFile(cut / "train.csv"), "step,tokens,seconds,flops,train/loss\n");
}

// A run at step 5 goes back to 2 and has trained to 4: nothing of it shows before Release, all of it after.
TEST(MetricsLog, RowsAreHeldBackWhileTheLaterOnesStand) {
  const MetricsLog::Options options{.tensorboard = true, .clock = [] { return 1e9; }};
  const auto old_rows = [&](const TempDir& dir) {
    MetricsLog log(dir.path(), options);
    for (int64_t step = 1; step <= 5; ++step) log.Row(kTrain, At(step, {{"a", 1}}));
    log.Row(kVal, At(5, {{"v", 1}}));
  };
  TempDir dir, killed, straight;
  Json held;
  {
    MetricsLog log(straight.path(), options);
    for (const int64_t step : {1, 2}) log.Row(kTrain, At(step, {{"a", 1}}));
    for (const int64_t step : {3, 4}) log.Row(kTrain, At(step, {{"a", std::nan("")}, {"b", 0.1}}));
    log.Row(kVal, At(4, {{"v", 2}}));
  }
  for (TempDir* at : {&dir, &killed}) {
    old_rows(*at);
    const std::string before = ReadFile(*at / "train.csv"), events = ReadFile(EventFilesOf(*at)[0]);
    MetricsLog log(at->path(), options);
    EXPECT_TRUE(log.Held().is_null());
    log.HoldAfter(2);
    for (const int64_t step : {3, 4}) log.Row(kTrain, At(step, {{"a", std::nan("")}, {"b", 0.1}}));
    log.Row(kVal, At(4, {{"v", 2}}));
    EXPECT_EQ(ReadFile(*at / "train.csv"), before);
    EXPECT_EQ(ReadFile(EventFilesOf(*at)[0]), events);
    held = Json::parse(log.Held().dump());
    if (at == &dir) log.Release();
  }
  for (int i = 0; i < 2; ++i) EXPECT_EQ(MetricsLog(killed.path(), options).Replay(held, "state.json: held_rows"), 2);
  for (const char* name : {"train.csv", "train.jsonl", "val.csv", "val.jsonl"}) {
    EXPECT_EQ(ReadFile(dir / name), ReadFile(straight / name)) << name;
    EXPECT_EQ(ReadFile(killed / name), ReadFile(straight / name)) << name;
  }
  MetricsLog log(dir.path(), options);
  const std::string whole = ReadFile(dir / "train.csv");
  for (const char* bad : {"7", "{}", R"({"after":-1,"rows":[]})", R"({"after":1,"rows":[["tain","{}"]]})",
                          R"({"after":1,"rows":[["train","{"]]})", R"({"after":1,"rows":[["train","{\"a,b\":1}"]]})",
                          R"({"after":1,"rows":["x"]})"})
    EXPECT_THROW((void)log.Replay(Json::parse(bad), "x"), Error) << bad;
  EXPECT_EQ(ReadFile(dir / "train.csv"), whole);
}

TEST(MetricsLog, APipeIsNoLog) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "val.csv").c_str(), 0600), 0);
  ExpectError([&] { MetricsLog log(dir.path()); }, ErrorCode::kIo, {"val.csv"});
}

TEST(MetricsLog, FilesThatNoRunWroteAreRefusedAndKept) {
  for (const auto& [name, text] :
       std::vector<std::pair<std::string, std::string>>{{"train.jsonl", "{\"text\": \"a user's own data\"}\n"},
                                                        {"train.jsonl", "{\"messages\": []}"},
                                                        {"val.csv", "a,b\n1,2\n"}}) {
    TempDir dir;
    MetricsLog(dir.path()).Row(kTrain, At(1, {{"a", 1}}));
    const std::string other = dir / "train.csv", torn = ReadFile(other) + "2,";
    WriteFileAtomic(other, torn);
    WriteFileAtomic(dir / name, text);
    ExpectError([&] { MetricsLog log(dir.path()); }, ErrorCode::kFormat, {name, "not the log of a run"});
    EXPECT_EQ(ReadFile(dir / name), text);
    EXPECT_EQ(ReadFile(other), torn);
  }
  TempDir dir;  // torn within its first bytes, it is ours
  WriteFileAtomic(dir / "train.jsonl", std::string("{\"st"));
  WriteFileAtomic(dir / "train.csv", std::string("step,tok"));
  MetricsLog(dir.path()).Row(kTrain, At(1, {{"a", 1}}));
  EXPECT_EQ(ReadMetrics(dir / "train.jsonl").size(), 1u);
}

TEST(MetricsLog, TornEndsAreCutAndGoneOn) {
  TempDir dir;
  MetricsLog(dir.path()).Row(kTrain, At(1, {{"a", 1}}));
  for (const char* name : {"train.csv", "train.jsonl"}) {
    const std::string whole = ReadFile(dir / name);
    WriteFileAtomic(dir / name, whole + "{\"step\":2,\"tok");
  }
  EXPECT_EQ(ReadMetrics(dir / "train.jsonl").size(), 1u);
  const std::string event = EventFilesOf(dir)[0];
  WriteFileAtomic(event, ReadFile(event) + ScalarEvent(1, 2, {{"a", 1}}).substr(0, 20));
  MetricsLog log(dir.path());
  log.CutAfter(1);
  EXPECT_EQ(StepsOf(event), (std::vector<int64_t>{0, 1}));
  log.Row(kTrain, At(2, {{"a", 2}}));
  EXPECT_EQ(ReadMetrics(dir / "train.jsonl").size(), 2u);
  EXPECT_EQ(ReadFile(dir / "train.csv"), "step,tokens,seconds,flops,a\n1,100,0.5,1e+09,1\n2,200,1,1e+09,2\n");
}

TEST(MetricsLog, ErrorsNameFileAndLine) {
  TempDir dir;
  ExpectError([&] { MetricsLog log(dir / "none"); }, ErrorCode::kIo, {"none"});
  WriteFileAtomic(dir / "x.jsonl", "{\"step\":1}\n{\"step\":\"a\"}\n");
  ExpectError([&] { (void)ReadMetrics(dir / "x.jsonl"); }, ErrorCode::kConfig, {"x.jsonl:2: step"});
  MetricsLog log(dir.path());
  EXPECT_THROW(log.Row(kTrain, At(1, {{"a,b", 1}})), std::logic_error);  // our bug: names are ours
}

// For tests/parity/data_formats.py, which has TensorBoard read the result.
TEST(MetricsLog, WritesSampleFiles) {
  const char* const folder = ::getenv("HYDRALM_SAMPLES");
  if (folder == nullptr) GTEST_SKIP() << "HYDRALM_SAMPLES names no folder";
  {
    MetricsLog log(folder);
    for (int64_t step = 1; step <= 5; ++step)
      log.Row(kTrain, At(1000000 * step, {{"train/loss", 1.0 / static_cast<double>(step)}, {"moe/load/0", 0.25}}));
  }
  MetricsLog log(folder);
  log.CutAfter(3000000);
  log.Row(kTrain, At(4000000, {{"train/loss", -7.5}}));
  log.Row(kVal, At(4000000, {{"val/bpb", 1.25}}));
}

}  // namespace
}  // namespace hydra::train
