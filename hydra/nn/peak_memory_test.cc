// SPDX-License-Identifier: Apache-2.0
// Peak memory grows with the length, not with its square (specs/hydra.md 13, test 13): the high-water mark of a fresh
// process for each length, prefill and training; and that the accounting's estimate of training memory is near it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "hydra/model/accounting.h"
#include "hydra/nn/model.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

// One block of each kind and both memories; widths small against the lengths, so that weights weigh nothing.
ModelConfig SmallNano(SsmKind kind) {
  ModelConfig config = HydraNano();
  config.vocab_size = 64;
  config.ssm.kind = kind;
  config.layers = {{.ffn = FfnKind::kChunkMoe}, {.attention = AttentionKind::kSparse, .workspace = true, .pkm = true}};
  return config;
}

// A line of /proc/self/status in bytes.
double StatusBytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key + ":", 0) == 0) return std::stod(line.substr(key.size() + 1)) * 1024;
  return 0;
}

constexpr int64_t kLongest = 16384;
constexpr const char* kTask = "HYDRALM_TEST_PEAK";  // "train mamba2 4096", read by the child

// The child: runs one pass and writes what its high-water mark rose by, in bytes.
TEST(PeakMemory, DISABLED_Child) {
  const char* task = std::getenv(kTask);
  if (task == nullptr) GTEST_SKIP() << "run by the other tests";
  std::istringstream words(task);
  std::string mode, kind;
  int64_t tokens = 0;
  words >> mode >> kind >> tokens;
  const ModelConfig config = SmallNano(kind == "diagonal" ? SsmKind::kDiagonal : SsmKind::kMamba2);
  Model model(config);
  const auto pass = [&](int64_t n) {
    const Batch batch = Batch::OneDocumentPerRow(testing::RandomIds(1, n, config.vocab_size, 1), config.chunk_len);
    if (mode == "train") {
      model.Loss(batch).total.backward();
    } else {
      torch::NoGradGuard no_grad;
      (void)model.Forward(batch);
    }
    return 0;
  };
  pass(config.chunk_len * 4);  // what libraries allocate once
  const double before = StatusBytes("VmRSS");
  pass(tokens);
  std::printf("peak=%.0f\n", StatusBytes("VmHWM") - before);
}

// Runs the child in a process of its own.
double PeakBytes(const std::string& task) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return NAN;
  const pid_t child = fork();
  if (child == 0) {
    setenv(kTask, task.c_str(), 1);
    setenv("OMP_NUM_THREADS", "2", 1);
    setenv("MALLOC_MMAP_THRESHOLD_", "65536", 1);  // what is freed goes back: no fragments of the heap are counted
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    execl("/proc/self/exe", "nn_test", "--gtest_also_run_disabled_tests", "--gtest_filter=PeakMemory.DISABLED_Child",
          nullptr);
    _exit(127);
  }
  close(ends[1]);
  std::string output;
  std::array<char, 4096> buffer{};
  for (ssize_t n; (n = read(ends[0], buffer.data(), buffer.size())) > 0;)
    output.append(buffer.data(), static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  const size_t at = output.find("peak=");
  return status == 0 && at != output.npos ? std::stod(output.substr(at + 5)) : NAN;
}

// Returns the bytes of the longest.
double ExpectLinear(const std::string& task) {
  // Least squares of log bytes over log tokens.
  std::vector<double> x, y;
  for (int64_t tokens = kLongest / 4; tokens <= kLongest; tokens *= 2) {
    const double bytes = PeakBytes(task + " " + std::to_string(tokens));
    EXPECT_GT(bytes, 0) << task << " " << tokens;
    std::printf("%s %6lld tokens: %.1f MiB\n", task.c_str(), static_cast<long long>(tokens), bytes / 1048576);
    x.push_back(std::log(static_cast<double>(tokens)));
    y.push_back(std::log(bytes));
  }
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  const auto n = static_cast<double>(x.size());
  for (size_t i = 0; i < x.size(); ++i) sx += x[i], sy += y[i], sxx += x[i] * x[i], sxy += x[i] * y[i];
  const double slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
  std::printf("%s: slope %.3f\n", task.c_str(), slope);
  EXPECT_GT(slope, 0.9) << task;
  EXPECT_LT(slope, 1.1) << task;
  return std::exp(y.back());
}

TEST(PeakMemory, OfTrainingIsLinearSlow) {
  for (const SsmKind kind : {SsmKind::kMamba2, SsmKind::kDiagonal}) {
    const double bytes = ExpectLinear(kind == SsmKind::kMamba2 ? "train mamba2" : "train diagonal");
    const TrainMemory estimate = CountTrainMemory(SmallNano(kind), {.tokens = kLongest});
    EXPECT_NEAR(static_cast<double>(estimate.activations) / bytes, 1, 0.3);  // an estimate: see accounting_train.cc
  }
}

TEST(PeakMemory, OfAForwardPassIsLinearSlow) {
  ExpectLinear("forward mamba2");
  ExpectLinear("forward diagonal");
}

}  // namespace
}  // namespace hydra::nn
