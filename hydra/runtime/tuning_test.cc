// SPDX-License-Identifier: Apache-2.0
// Choices that a machine's taste decides: which candidate wins, the file that keeps them, files that are not ours, and
// that a measurement ends in time. What a choice does to products is tested in kernels/matmul_test.cc.
#include "hydra/runtime/tuning.h"

#include <fstream>

#include "hydra/base/clock.h"
#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using kernels::Tuning;

Candidate Rates(std::vector<double> rates, int64_t ahead = 0) { return {{.ahead = ahead}, std::move(rates)}; }

TEST(ChooseFastest, TheFirstStaysUnlessAnotherIsWellFaster) {
  EXPECT_EQ(ChooseFastest({Rates({100, 100, 100}), Rates({102, 102, 102})}, 1.03).index, 0U);
  EXPECT_EQ(ChooseFastest({Rates({100, 100, 100}), Rates({90, 90, 90})}, 1.03).index, 0U);
  const Chosen chosen = ChooseFastest({Rates({100, 101, 99}), Rates({104, 110, 108}), Rates({106, 90, 104})}, 1.03);
  EXPECT_EQ(chosen.index, 1U);
  EXPECT_TRUE(chosen.clear);
  EXPECT_EQ(ChooseFastest({Rates({100, 100, 100}), Rates({104, 110, 108})}, 1.1).index, 0U);
}

TEST(ChooseFastest, RoundsThatDisagreeAreNotClear) {
  // One slow moment is forgiven, or a quarter of them.
  EXPECT_TRUE(ChooseFastest({Rates({100, 100, 100, 100, 100}), Rates({110, 50, 110, 110, 110})}, 1.03).clear);
  EXPECT_FALSE(ChooseFastest({Rates({100, 100, 100, 100, 100}), Rates({110, 50, 110, 99, 110})}, 1.03).clear);
  EXPECT_TRUE(
      ChooseFastest({Rates(std::vector<double>(8, 100)), Rates({110, 50, 110, 110, 110, 99, 110, 110})}, 1.03).clear);
  EXPECT_FALSE(
      ChooseFastest({Rates(std::vector<double>(8, 100)), Rates({110, 50, 110, 99, 110, 99, 110, 110})}, 1.03).clear);
  EXPECT_TRUE(ChooseFastest({Rates({100, 20, 300}), Rates({90, 90, 90})}, 1.03).clear);  // nothing to choose
}

TEST(TuningFile, KeepsAChoiceForItsKeyAlone) {
  const TempDir folder;
  const std::string file = folder / "cache/tuning.json";  // the folder is made
  EXPECT_FALSE(ReadTuning(file, "a"));
  const Tuning first{.ahead = 2048, .streams = 4, .threads = 1}, second{.ahead = 1024};
  KeepTuning(file, "a", first);
  KeepTuning(file, "b", second);
  EXPECT_EQ(ReadTuning(file, "a"), first);
  EXPECT_EQ(ReadTuning(file, "b"), second);
  EXPECT_FALSE(ReadTuning(file, "c"));
  KeepTuning(file, "a", second);
  EXPECT_EQ(ReadTuning(file, "a"), second);
  EXPECT_EQ(ReadTuning(file, "b"), second);
}

TEST(TuningFile, KeepsTheNewestHundred) {
  const TempDir folder;
  const std::string file = folder / "tuning.json";
  for (int i = 0; i < 103; ++i) KeepTuning(file, std::to_string(i), {.ahead = i});
  EXPECT_FALSE(ReadTuning(file, "2"));
  EXPECT_EQ(ReadTuning(file, "3"), Tuning{.ahead = 3});
  EXPECT_EQ(ReadTuning(file, "102"), Tuning{.ahead = 102});
}

TEST(TuningFile, FilesThatAreNotOursAreNoChoices) {
  const TempDir folder;
  const std::string file = folder / "tuning.json";
  const auto with = [&](const std::string& text) {
    std::ofstream(file, std::ios::trunc) << text;
    return ReadTuning(file, "a");
  };
  const std::string good = R"({"for": "a", "ahead": 1024, "streams": 1, "threads": 0})";
  EXPECT_EQ(with(R"({"tuning": [)" + good + "]}"), (Tuning{.ahead = 1024}));
  EXPECT_EQ(with(R"({"tuning": [1, null, {"for": 7}, )" + good + "]}"), (Tuning{.ahead = 1024}));
  for (const char* text : {"", "{", "[]", R"({"tuning": 3})", R"({"tuning": [{"for": "a"}]})",
                           R"({"tuning": [{"for": "a", "ahead": -1, "streams": 1, "threads": 0}]})",
                           R"({"tuning": [{"for": "a", "ahead": 1e9, "streams": 1, "threads": 0}]})",
                           R"({"tuning": [{"for": "a", "ahead": 99999999999, "streams": 1, "threads": 0}]})",
                           R"({"tuning": [{"for": "a", "ahead": 0, "streams": 2, "threads": 0}]})",
                           R"({"tuning": [{"for": "a", "ahead": 0, "streams": "1", "threads": 0}]})",
                           R"({"tuning": [{"for": "a", "ahead": 0, "streams": 1, "threads": 18446744073709551615}]})"})
    EXPECT_FALSE(with(text)) << text;
  KeepTuning(file, "a", {.ahead = 4096});  // over what is broken
  EXPECT_EQ(ReadTuning(file, "a"), Tuning{.ahead = 4096});
}

// A transformer of 12 MB in f32.
WeightSource LargeSource() {
  ModelConfig config = TransformerNano();
  config.layers.resize(2);
  config.vocab_size = 4096;
  config.d_model = 512;
  return testing::RandomSource(config, 3);
}

LoadOptions Options(TuneMode mode, const std::string& file) {
  return {.ctx_size = 64, .act = Activations::kF32, .tune = {mode, file, "this machine"}};
}

TEST(ChooseTuning, OffAndSmallModelsMeasureNothing) {
  const TempDir folder;
  const std::string file = folder / "tuning.json";
  ThreadPool pool(2);
  const auto off = ModelWeights::Build(LargeSource(), Options(TuneMode::kOff, file), &pool);
  EXPECT_EQ(off->tuning.tuning, Tuning());
  EXPECT_EQ(off->tuning.about, "not measured");
  const auto small =
      ModelWeights::Build(testing::RandomSource(testing::Cases()[3].config, 3), Options(TuneMode::kAgain, file), &pool);
  EXPECT_EQ(small->tuning.tuning, Tuning());
  EXPECT_EQ(folder.CountFiles(), 0U);
}

TEST(ChooseTuning, TakesWhatWasKept) {
  const TempDir folder;
  const std::string file = folder / "tuning.json";
  ThreadPool pool(2);
  const WeightSource source = LargeSource();
  const auto plain = ModelWeights::Build(source, Options(TuneMode::kOff, ""), &pool);
  const std::string key = TuningKey(*plain, "this machine", 2);
  EXPECT_NE(key, TuningKey(*plain, "this machine", 1));
  EXPECT_NE(key, TuningKey(*plain, "another machine", 2));
  const Tuning odd{.ahead = 64, .threads = 1};  // that no measurement offers
  KeepTuning(file, key, odd);
  const auto kept = ModelWeights::Build(source, Options(TuneMode::kOn, file), &pool);
  EXPECT_EQ(kept->tuning.tuning, odd);
  const auto again = ModelWeights::Build(source, Options(TuneMode::kAgain, file), &pool);
  EXPECT_NE(again->tuning.tuning, odd);
  EXPECT_TRUE(again->tuning.about.starts_with("measured in ")) << again->tuning.about;
  EXPECT_EQ(ReadTuning(file, key), again->tuning.clear ? again->tuning.tuning : odd);
}

TEST(ChooseTuning, AFolderThatCannotBeWrittenIsNoError) {
  const TempDir folder;
  std::ofstream(folder / "file") << "x";
  ThreadPool pool(2);
  const auto made = ModelWeights::Build(LargeSource(), Options(TuneMode::kOn, folder / "file/tuning.json"), &pool);
  EXPECT_TRUE(!made->tuning.clear || made->tuning.about.find("not kept") != std::string::npos) << made->tuning.about;
}

TEST(MeasureTuning, StopsWhenTheTimeIsUp) {
  ThreadPool pool(2);
  const auto weights = ModelWeights::Build(LargeSource(), Options(TuneMode::kOff, ""), &pool);
  const auto none = MeasureTuning(*weights, pool, 0);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->tuning, Tuning());
  EXPECT_FALSE(none->clear);
}

}  // namespace
}  // namespace hydra
