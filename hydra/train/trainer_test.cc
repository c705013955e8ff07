// SPDX-License-Identifier: Apache-2.0
// Whole runs of tiny models: k + k steps equal 2k bitwise, guards, failed saves, refused checkpoints. Killing
// real processes: tests/commands/kill_resume.py.
#include "hydra/train/trainer.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <limits>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/nn/model_io.h"
#include "hydra/train/checkpoint.h"
#include "hydra/train/metrics_log.h"
#include "hydra/train/testing.h"
#include "hydra/train/testing_run.h"

namespace hydra::train {
namespace {

namespace fs = std::filesystem;
using testing::AllTensors;
using testing::ErrorText;
using testing::ExpectSameRun;
using testing::Options;
using testing::Rows;
using testing::SameBits;
using testing::TempDir;
using testing::TinyConfig;
using testing::TinyCorpus;
using testing::WithoutClock;

constexpr float kNanF32 = std::numeric_limits<float>::quiet_NaN();

// Faults at fixed steps: a gradient that is not finite, one far too large.
void AddFaults(TrainerOptions* options, int64_t nan_step, int64_t large_step) {
  options->after_backward = [=](int64_t step, nn::Model& model) {
    torch::NoGradGuard no_grad;
    torch::Tensor embedding = model.at(TensorRole::kEmbedding);
    if (step == nan_step) embedding.mutable_grad().view({-1})[3] = kNanF32;
    if (step == large_step) embedding.mutable_grad().mul_(1e4);
  };
}

TEST(Trainer, ResumedRunEqualsUninterruptedOneBitwise) {
  struct Case {
    const char* name;
    std::function<void(TrainerOptions*)> change;
  };
  const Case cases[] = {
      {"all parts", [](TrainerOptions*) {}},
      {"bias balancing, WSD",
       [](TrainerOptions* o) {
         o->model.moe.balance = RouterBalance::kBias;
         o->run.optim.schedule = LrShape::kWsd;
       }},
      {"skips by both guards", [](TrainerOptions* o) { AddFaults(o, 4, 8); }},
      {"skip just before the checkpoint", [](TrainerOptions* o) { AddFaults(o, 5, 10); }},
      {"transformer",
       [](TrainerOptions* o) {
         const int64_t vocab = o->model.vocab_size;
         o->model = TransformerNano();
         o->model.vocab_size = vocab;
         o->model.d_model = 32;
         o->model.d_ff = 48;
         o->model.attention.n_heads = o->model.attention.n_kv_heads = 2;
         o->model.attention.head_dim = 16;
         o->model.layers.resize(2);
       }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    TempDir whole_dir, parts_dir;
    TrainerOptions whole_options = Options(whole_dir / "run"), options = Options(parts_dir / "run");
    c.change(&whole_options);
    c.change(&options);
    Trainer whole(whole_options);
    EXPECT_TRUE(whole.Run().finished);
    {
      Trainer first(options);
      EXPECT_FALSE(first.Run(8).finished);  // dies here, two steps past its checkpoint, with rows in the log
    }
    Trainer second(options);
    EXPECT_EQ(second.step(), 6);
    torch::manual_seed(999);  // nothing may depend on it
    EXPECT_TRUE(second.Run().finished);
    ExpectSameRun(whole, second, whole_dir / "run", parts_dir / "run");
    const double skipped = ReadMetrics(whole_dir / "run/train.jsonl").back().values.at("train/skipped");
    EXPECT_EQ(skipped, whole_options.after_backward ? 2 : 0);
    EXPECT_TRUE(fs::exists(parts_dir / "run/model/model.safetensors"));
  }
}

TEST(Trainer, LearnsAndValidationSaysSo) {
  TempDir dir;
  TrainerOptions options =
      Options(dir / "run", {"optim.steps=60", "optim.accum=1", "optim.batch_rows=4", "optim.seq_len=64"});
  std::vector<EvalReport> evals;
  options.callbacks.on_eval = [&](const EvalReport& report) { evals.push_back(report); };
  const TrainResult result = Trainer(options).Run();
  ASSERT_EQ(evals.size(), 15U);
  EXPECT_LT(evals.back().loss, evals.front().loss - 0.3);
  // Two bytes a token, and every predicted token counts.
  EXPECT_NEAR(evals.back().bpb, evals.back().loss / std::log(2.0) / 2, 1e-9);
  EXPECT_EQ(result.val_loss, evals.back().loss);
  for (const MetricsRow& row : ReadMetrics(dir / "run/train.jsonl")) {
    EXPECT_GE(row.values.at("train/other_ms"), row.values.at("train/data_ms"));
  }
  // Run again: finished, so it only writes the model again.
  const std::string model = ReadFile(dir / "run/model/model.safetensors");
  fs::remove_all(dir / "run/model");
  Trainer again(options);
  EXPECT_TRUE(again.Run().finished);
  EXPECT_EQ(ReadFile(dir / "run/model/model.safetensors"), model);
  EXPECT_EQ(evals.size(), 15U);
}

// Every target weighs the same, and every chunk in the router's z-loss, however rows are split into micro-batches.
TEST(Trainer, AccumulationEqualsOneBatch) {
  const auto losses = [](const char* rows, const char* accum) {
    TrainerOptions options = Options(
        "", {"optim.steps=6", StrCat("optim.batch_rows=", rows), StrCat("optim.accum=", accum), "optim.seq_len=32"});
    options.model.moe.balance = RouterBalance::kNone;  // a product of two means over a micro-batch by definition
    options.model.moe.z_loss_coef = 0.1;
    options.dtype = torch::kFloat64;
    std::vector<double> out;
    options.callbacks.on_step = [&](const StepReport& report) { out.push_back(report.loss); };
    Trainer trainer(options);
    (void)trainer.Run();
    return out;
  };
  const auto a = losses("6", "1"), b = losses("2", "3");
  ASSERT_EQ(a.size(), 6U);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6) << i;  // fp64, but the clip's scale is a float
}

TEST(Trainer, ThreeNonFiniteStepsStopWithTheLastGoodCheckpoint) {
  TempDir dir;
  TrainerOptions options = Options(dir / "run", {"checkpoint.every=0"});
  options.after_backward = [](int64_t step, nn::Model& model) {
    torch::NoGradGuard no_grad;
    if (step >= 5) model.at(TensorRole::kPathGates, 1).mutable_grad()[0] = kNanF32;
  };
  std::vector<std::string> warnings;
  options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  auto trainer = std::make_unique<Trainer>(options);
  std::string text;
  try {
    (void)trainer->Run();
    FAIL() << "it went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDiverged);
    text = error.what();
  }
  EXPECT_NE(text.find("gradient of model.layers.1.path_gates"), std::string::npos) << text;
  EXPECT_NE(text.find("step-00000005"), std::string::npos) << text;
  EXPECT_EQ(warnings.size(), 2U);
  trainer.reset();
  // From there, without the fault, the run goes on as if the fault had never been.
  options.after_backward = {};
  Trainer resumed(options);
  EXPECT_EQ(resumed.step(), 5);
  (void)resumed.Run();
  TempDir clean_dir;
  TrainerOptions clean = Options(clean_dir / "run", {"checkpoint.every=0"});
  Trainer whole(clean);
  (void)whole.Run();
  ExpectSameRun(whole, resumed, clean_dir / "run", dir / "run");
}

TEST(Trainer, RisingValidationStopsAndNamesTheBestCheckpoint) {
  TempDir dir;
  TrainerOptions options = Options(dir / "run", {"optim.steps=40", "eval.every=2", "checkpoint.every=2",
                                                 "guard.sigma=0", "optim.warmup_steps=0", "optim.clip=0"});
  options.after_backward = [](int64_t step, nn::Model& model) {  // ruins the model from step 10 on
    torch::NoGradGuard no_grad;
    if (step >= 10) model.at(TensorRole::kEmbedding).normal_(0, 3);
  };
  Trainer trainer(options);
  const std::string text = ErrorText([&] { (void)trainer.Run(); });
  EXPECT_NE(text.find("best checkpoint: " + (dir / "run/ckpt/step-")), std::string::npos) << text;
  const std::string best = text.substr(text.find("best checkpoint: ") + 17);
  EXPECT_TRUE(fs::exists(best + "/DONE")) << best;
  EXPECT_EQ(trainer.step(), 16);
}

TEST(Trainer, ThirdFailedSaveInARowStops) {
  for (const int failures : {2, 3}) {
    TempDir dir;
    FileOps ops = FileOps::Real();
    int left = failures;
    ops.fsync = [&](int fd) { return left > 0 && left-- > 0 ? (errno = ENOSPC, -1) : FileOps::Real().fsync(fd); };
    TrainerOptions options = Options(dir / "run", {"checkpoint.every=3"});
    options.file_ops = &ops;
    std::vector<std::string> warnings;
    options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
    Trainer trainer(options);
    if (failures == 2) {
      EXPECT_TRUE(trainer.Run().finished);
      EXPECT_EQ(ListCheckpoints(dir / "run/ckpt"), (std::vector<int64_t>{9, 12}));
    } else {
      const std::string text = ErrorText([&] { (void)trainer.Run(); });
      EXPECT_NE(text.find("third checkpoint in a row"), std::string::npos) << text;
    }
    ASSERT_EQ(warnings.size(), 2U);
    EXPECT_NE(warnings[0].find("No space left"), std::string::npos) << warnings[0];
  }
}

TEST(Trainer, CheckpointsOfOtherRunsAreRefused) {
  TempDir dir;
  const TrainerOptions options = Options(dir / "run");
  {
    Trainer trainer(options);
    (void)trainer.Run(7);
  }
  const std::string folder = dir / "run/ckpt/step-00000006";
  const auto refuse = [&](const TrainerOptions& changed, const std::string& want) {
    const std::string text = ErrorText([&] { Trainer trainer(changed); });
    EXPECT_NE(text.find(want), std::string::npos) << text << "\nwanted: " << want;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  };
  const auto bad = [&](const TrainerOptions& changed, const BadFile& want) {
    ExpectBadFile(want, [&] { Trainer trainer(changed); });
  };
  TrainerOptions changed = options;
  changed.model.norm_eps = 1e-6;
  bad(changed, {.format = "checkpoints",
                .name = "other-config",
                .file = folder,
                .field = "made by another run: model rms_norm_eps",
                .code = ErrorCode::kConfig});
  changed = options;
  changed.run.optim.seed = 6;
  refuse(changed, "optim.seed: 5 != 6");
  changed = options;
  changed.train = TinyCorpus(3);
  refuse(changed, "made by another run: data");
  changed = options;
  changed.resume = "none";
  refuse(changed, "--resume none");
  changed = options;
  changed.resume = dir / "nothing";
  refuse(changed, "no such checkpoint");
  changed = options;
  changed.run.optim.seq_len = 60;
  refuse(changed, "must be a multiple of model_chunk_size = 8 (64 fits)");
  // What may change is noted.
  changed = options;
  changed.run.optim.lr = 5e-3;
  std::vector<std::string> notes;
  changed.callbacks.on_note = [&](const std::string& text) { notes.push_back(text); };
  { Trainer trainer(changed); }
  ASSERT_EQ(notes.size(), 2U);
  EXPECT_NE(notes[0].find("optim.lr"), std::string::npos) << notes[0];

  // state.json and optimiser files that do not fit the model; DONE is right, so only their content is wrong.
  const auto rewrite = [&](const std::function<void(CheckpointContent*)>& change, const std::string& file,
                           const std::string& field, const std::vector<std::string>& found,
                           ErrorCode code = ErrorCode::kFormat, const std::string& name = "") {
    Trainer trainer(options);
    CheckpointContent content{
        .weights = {}, .optimiser = trainer.OptimiserState(), .state = trainer.StateJson(), .metadata = {}};
    for (const auto& [spec, tensor] : trainer.model().Tensors()) content.weights.emplace_back(spec->name, tensor);
    change(&content);
    TempDir other;
    changed = options;
    changed.resume = WriteCheckpoint(other.path(), 6, content);
    changed.folder = other / "run";
    bad(changed, {.format = "checkpoints",
                  .name = name,
                  .file = changed.resume + "/" + file,
                  .field = field,
                  .found = found,
                  .code = code});
  };
  rewrite([](CheckpointContent* c) { c->state["rng"] = c->state["rng"].get<std::string>().substr(2); }, "state.json",
          "rng", {"10110 digits"}, ErrorCode::kFormat, "rng-short");
  rewrite([](CheckpointContent* c) { c->state["rng"] = std::string(10112, 'x'); }, "state.json", "rng",
          {"hexadecimal"});
  rewrite([](CheckpointContent* c) { c->state.erase("guard"); }, "state.json", "guard", {"missing"});
  rewrite([](CheckpointContent* c) { c->state["tokens"] = "many"; }, "state.json", "tokens", {"many"},
          ErrorCode::kConfig);
  rewrite([](CheckpointContent* c) { c->state["version"] = 2; }, "state.json", "version = 2", {"must be 1"});
  const std::string optim = "optim-00000-of-00001.safetensors", model = "model.safetensors";
  rewrite(
      [](CheckpointContent* c) {
        c->optimiser[0].second = torch::zeros({1, 2});
      },
      optim, "", {"shape [1, 2], the model says"}, ErrorCode::kTensor, "optimiser-shape");
  rewrite([](CheckpointContent* c) { c->optimiser.pop_back(); }, optim, "", {".step"}, ErrorCode::kTensor);
  rewrite([](CheckpointContent* c) { c->weights[0].first = "other.weight"; }, model, "model.embed_tokens.weight", {},
          ErrorCode::kTensor);
  rewrite([](CheckpointContent* c) { c->weights[0].second = c->weights[0].second.to(torch::kFloat64); }, model,
          "model.embed_tokens.weight", {"F64, expected F32"}, ErrorCode::kTensor);
}

// Each value of state.json in turn replaced by others, with checksums that are right: refused in one line, or taken.
TEST(Trainer, AStateThatLiesIsRefusedOrHarmless) {
  TempDir dir;
  const TrainerOptions options = Options(dir / "run");
  CheckpointContent content;
  {
    Trainer trainer(options);
    (void)trainer.Run(7);
    content = {.weights = {}, .optimiser = trainer.OptimiserState(), .state = trainer.StateJson(), .metadata = {}};
    for (const auto& [spec, tensor] : trainer.model().Tensors())
      content.weights.emplace_back(spec->name, tensor.detach().clone());
  }
  FileOps ops = FileOps::Real();
  ops.fsync = [](int) { return 0; };  // many small files
  const nlohmann::ordered_json good = content.state;
  const std::vector<nlohmann::ordered_json> others = {
      nullptr, -1, 1e300, "x", nlohmann::ordered_json::array(), {{"a", 1}}, INT64_MAX, UINT64_MAX, true, 0.5};
  int refused = 0, tried = 0;
  size_t next = 0;
  const nlohmann::ordered_json flat = good.flatten();
  for (const auto& [pointer, value] : flat.items())
    for (int i = 0; i < 3; ++i, ++tried) {
      const nlohmann::ordered_json& other = others[next++ % others.size()];
      SCOPED_TRACE(StrCat(pointer, " = ", other.dump()));
      content.state = good;
      content.state[nlohmann::ordered_json::json_pointer(pointer)] = other;
      TempDir root;
      TrainerOptions changed = options;
      changed.resume = WriteCheckpoint(root.path(), 6, content, ops);
      changed.folder = root / "run";
      try {
        Trainer trainer(changed);
      } catch (const Error& error) {
        ++refused;
        const std::string text = error.what();
        EXPECT_EQ(text.find('\n'), std::string::npos) << text;
        EXPECT_NE(text.find(changed.resume), std::string::npos) << text;
      }
    }
  EXPECT_GT(refused, tried / 2);
  EXPECT_LT(refused, tried);
}

TEST(Trainer, StopSignalLeavesACheckpointThatGoesOn) {
  TempDir dir, whole_dir;
  TrainerOptions options = Options(dir / "run", {"checkpoint.every=0"});
  std::atomic<int> stop{0};
  options.stop = &stop;
  options.callbacks.on_step = [&](const StepReport& report) { stop = report.step == 7 ? 2 : 0; };
  {
    Trainer trainer(options);
    const TrainResult result = trainer.Run();
    EXPECT_FALSE(result.finished);
    EXPECT_EQ(result.step, 7);
    EXPECT_EQ(result.checkpoint, dir / "run/ckpt/step-00000007");
  }
  options.callbacks = {};
  stop = 0;
  Trainer resumed(options);
  (void)resumed.Run();
  Trainer whole(Options(whole_dir / "run", {"checkpoint.every=0"}));
  (void)whole.Run();
  ExpectSameRun(whole, resumed, whole_dir / "run", dir / "run");
}

TEST(Trainer, AStopWhoseCheckpointFailsSaysWhatIsLost) {
  TempDir dir;
  FileOps ops = FileOps::Real();
  bool full = false;
  ops.write = [&](int fd, const void* data, size_t n) -> ssize_t {
    return full ? (errno = ENOSPC, -1) : FileOps::Real().write(fd, data, n);
  };
  TrainerOptions options = Options(dir / "run", {"checkpoint.every=4"});
  std::atomic<int> stop{0};
  options.stop = &stop;
  options.file_ops = &ops;
  options.callbacks.on_step = [&](const StepReport& report) { stop = (full = report.step == 7) ? 2 : 0; };
  try {
    (void)Trainer(options).Run();
    FAIL() << "it ended well";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDiverged);  // exit status 4
    EXPECT_EQ(error.what(),
              StrCat("stopped at step 7, and its checkpoint could not be written: the steps after 4 are lost; newest "
                     "checkpoint: ",
                     dir / "run/ckpt/step-00000004"));
  }
}

// Steps of the rows, and the rate of each.
std::vector<std::pair<int64_t, double>> Rates(const std::string& path) {
  std::vector<std::pair<int64_t, double>> out;
  for (const MetricsRow& row : ReadMetrics(path)) out.emplace_back(row.step, row.values.at("train/lr"));
  return out;
}

TEST(Trainer, GoingBackKeepsWhatIsLaterUntilTheNextCheckpoint) {
  TempDir dir;
  const std::string log = dir / "run/train.jsonl";
  TrainerOptions options =
      Options(dir / "run", {"checkpoint.every=3", "checkpoint.keep=9", "log.every=1", "optim.warmup_steps=0"});
  (void)Trainer(options).Run();
  const auto old_rates = Rates(log);
  ASSERT_EQ(old_rates.size(), 12U);
  TrainerOptions back = options;
  back.resume = dir / "run/ckpt/step-00000003";
  back.run.optim.lr = 1e-3;
  { (void)Trainer(back).Run(5); }  // dies before it has saved
  EXPECT_EQ(Rates(log), old_rates);
  EXPECT_EQ(Trainer(options).step(), 12);
  EXPECT_EQ(Rates(log), old_rates);
  { (void)Trainer(back).Run(7); }  // dies after its first checkpoint, at 6
  EXPECT_EQ(ListCheckpoints(dir / "run/ckpt"), (std::vector<int64_t>{3, 6}));
  back.resume = "auto";
  {
    Trainer trainer(back);
    EXPECT_EQ(trainer.step(), 6);
    const auto rates = Rates(log);
    ASSERT_EQ(rates.size(), 6U);
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(rates[i] == old_rates[i], i < 3) << i;
    (void)trainer.Run();
  }
  EXPECT_EQ(Rates(log).size(), 12U);
  EXPECT_EQ(ReadMetrics(dir / "run/val.jsonl").size(), 3U);
}

// Killed after `latest` names the new checkpoint and before the log has its rows: the next session writes them.
TEST(Trainer, RowsHeldBackAreInTheCheckpoint) {
  TempDir dir, later;
  const std::string log = dir / "run/train.jsonl";
  TrainerOptions options =
      Options(dir / "run", {"checkpoint.every=3", "checkpoint.keep=9", "log.every=1", "optim.warmup_steps=0"});
  (void)Trainer(options).Run();
  const auto old_rates = Rates(log);
  fs::copy(dir / "run", later / "run", fs::copy_options::recursive);
  options.resume = dir / "run/ckpt/step-00000003";
  options.run.optim.lr = 1e-3;
  (void)Trainer(options).Run(6);
  const auto rates = Rates(log);
  // The moment before: the files as they were, the new checkpoint, `latest`.
  fs::remove_all(later / "run/ckpt/step-00000006");
  fs::copy(dir / "run/ckpt/step-00000006", later / "run/ckpt/step-00000006", fs::copy_options::recursive);
  WriteFileAtomic(later / "run/ckpt/latest", std::string("step-00000006\n"));
  options.folder = later / "run";
  options.resume = "auto";
  EXPECT_EQ(Trainer(options).step(), 6);
  EXPECT_EQ(Rates(later / "run/train.jsonl"), rates);
  EXPECT_NE(rates, (decltype(rates)(old_rates.begin(), old_rates.begin() + 6)));
  EXPECT_EQ(ListCheckpoints(later / "run/ckpt"), (std::vector<int64_t>{3, 6}));
}

TEST(Trainer, LaterOnesThatCannotBeLeftYetDoNotEndTheRun) {
  TempDir dir;
  TrainerOptions options = Options(dir / "run", {"checkpoint.every=2", "checkpoint.keep=9", "log.every=1"});
  (void)Trainer(options).Run();
  const std::string root = dir / "run/ckpt", away = dir / "away";
  options.resume = root + "/step-00000002";
  // Once the next checkpoint has its name, the folder cannot be listed: a link to itself, until the step after.
  bool named = false, hidden = false;
  FileOps ops = FileOps::Real();
  ops.rename = [&](const char* from, const char* to) {
    named = std::string_view(to).ends_with("/latest");
    return ::rename(from, to);
  };
  ops.fsync = [&](int fd) {
    if (named && !std::exchange(hidden, true)) {
      fs::rename(root, away);
      fs::create_symlink("ckpt", root);
    }
    return ::fsync(fd);
  };
  options.file_ops = &ops;
  options.after_backward = [&](int64_t, nn::Model&) {
    if (!fs::is_symlink(root)) return;
    fs::remove(root);
    fs::rename(away, root);
  };
  std::string warned;
  options.callbacks.on_warning = [&](const std::string& text) { warned += text; };
  (void)Trainer(options).Run(6);
  EXPECT_TRUE(hidden);
  EXPECT_NE(warned.find("stays until the next one"), std::string::npos) << warned;
  options.file_ops = &FileOps::Real();
  options.resume = "auto";
  EXPECT_EQ(Trainer(options).step(), 6);
}

TEST(Trainer, DataAreComparedByTheirChecksums) {
  TempDir dir;
  TrainerOptions options = Options(dir / "run");
  (void)Trainer(options).Run(7);
  TrainerOptions changed = options;
  auto documents = testing::RandomDocuments(1, 40, 100, 64);
  documents[3][1] ^= 1;  // the counts stay
  changed.train = Corpus::FromDocuments(documents);
  EXPECT_NE(ErrorText([&] { Trainer trainer(changed); }).find("made by another run: data"), std::string::npos);
  changed = options;
  documents = testing::RandomDocuments(2, 6, 100, 64);
  documents[3][1] ^= 1;
  changed.val = Corpus::FromDocuments(documents);
  EXPECT_NE(ErrorText([&] { Trainer trainer(changed); }).find("made by another run: data"), std::string::npos);
  // A checkpoint of before there were checksums is taken, with a warning.
  const std::string folder = dir / "run/ckpt/step-00000006";
  const Checkpoint checkpoint = OpenCheckpoint(folder);
  CheckpointContent content{.weights = {}, .optimiser = {}, .state = checkpoint.state, .metadata = {}};
  {
    Trainer trainer(options);
    content.optimiser = trainer.OptimiserState();
    for (const auto& [spec, tensor] : trainer.model().Tensors()) content.weights.emplace_back(spec->name, tensor);
    const std::string data = options.train.Fingerprint();
    content.state["data"] = data.substr(0, data.find(" checksum "));
    WriteCheckpoint(dir / "run/ckpt", 6, content);
  }
  std::vector<std::string> warnings;
  options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  EXPECT_EQ(Trainer(options).step(), 6);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("has no checksum of its data"), std::string::npos) << warnings[0];
}

TEST(Trainer, TheBestCheckpointIsOfTheRunThatGoesOn) {
  TempDir dir;
  TrainerOptions options = Options(
      dir / "run", {"optim.steps=40", "eval.every=2", "checkpoint.every=2", "checkpoint.keep=99", "guard.sigma=0"});
  (void)Trainer(options).Run();  // its later checkpoints are its best
  options.resume = dir / "run/ckpt/step-00000004";
  options.run.checkpoint.every = 5;
  options.after_backward = [](int64_t, nn::Model& model) {
    torch::NoGradGuard no_grad;
    model.at(TensorRole::kEmbedding).normal_(0, 3);
  };
  Trainer trainer(options);
  const std::string text = ErrorText([&] { (void)trainer.Run(); });
  EXPECT_NE(text.find("best checkpoint: " + (dir / "run/ckpt/step-00000004")), std::string::npos) << text;
}

TEST(Trainer, OneTrainerAFolder) {
  TempDir dir;
  const TrainerOptions options = Options(dir / "run");
  Trainer first(options);
  const std::string text = ErrorText([&] { Trainer second(options); });
  EXPECT_NE(text.find("in use by process "), std::string::npos) << text;
  EXPECT_TRUE(first.Run().finished);
}

TEST(Trainer, StartsFromTheWeightsOfAModelFolder) {
  TempDir dir;
  Trainer first(Options(dir / "a"));
  (void)first.Run();
  TrainerOptions options = Options(dir / "b");
  options.init = dir / "a/model";
  Trainer second(options);
  for (size_t i = 0; i < first.model().Tensors().size(); ++i)
    EXPECT_TRUE(SameBits(first.model().Tensors()[i].second, second.model().Tensors()[i].second));
  EXPECT_EQ(second.step(), 0);
}

TEST(Trainer, LinesReadAsTheInterfaceSays) {
  StepReport report{.step = 200,
                    .total_steps = 5000,
                    .targets = 7,
                    .loss = 4.1134,
                    .bpb = 1.7821,
                    .lr = 3e-4,
                    .grad_norm = 1,
                    .tok_per_sec = 11902.4,
                    .mfu = 0.311,
                    .eta_seconds = 201,
                    .skipped = 0,
                    .logged = true};
  EXPECT_EQ(StepLine(report),
            "step 200/5000 | loss 4.113 | bpb 1.782 | lr 3.0e-04 | 11,902 tok/s | mfu 0.31 | eta 3:21");
  report.skipped = 2;
  report.bpb = std::nan("");
  EXPECT_EQ(StepLine(report),
            "step 200/5000 | loss 4.113 | lr 3.0e-04 | 11,902 tok/s | mfu 0.31 | eta 3:21 | skipped 2");
  EXPECT_EQ(EvalLine({.step = 4, .total_steps = 9, .loss = 2.5, .bpb = 1.25, .best = true}),
            "step 4/9 | val loss 2.5000 | val bpb 1.2500 | best");
}

}  // namespace
}  // namespace hydra::train
