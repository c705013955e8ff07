// SPDX-License-Identifier: Apache-2.0
// One case of the training benchmark in one process: a preset, a length, training or forward. Prints one JSON line.
// Not here: which cases, repeats, tables (train_forward.py).
//   bench_train_forward PRESET T ROWS train|forward STEPS THREADS
// T tokens a row, random ids; train: forward, backward and AdamW; forward: logits of the last position, no gradient.
#include <ATen/Parallel.h>
#include <sys/resource.h>
#include "hydra/nn/torch.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/cli/process.h"
#include "hydra/model/accounting.h"
#include "hydra/model/config.h"
#include "hydra/nn/model.h"
#include "hydra/train/optim.h"

namespace {

using hydra::Seconds;

// Best of ten square products: what this machine's fp32 GEMM reaches, in FLOP/s.
double GemmLimit() {
  constexpr int64_t n = 1024;
  const auto a = torch::randn({n, n}), b = torch::randn({n, n});
  double best = 0;
  for (int i = 0; i < 10; ++i) {
    const double start = Seconds();
    const auto c = torch::mm(a, b);
    best = std::max(best, 2.0 * n * n * n / (Seconds() - start));
  }
  return best;
}

double PeakBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

int Run(int argc, char** argv) {
  using namespace hydra;
  if (argc != 7) throw Error(ErrorCode::kUsage, "bench_train_forward PRESET T ROWS train|forward STEPS THREADS");
  const std::string preset = argv[1], mode = argv[4];
  const int64_t T = std::atoll(argv[2]), rows = std::atoll(argv[3]);
  const int steps = std::atoi(argv[5]), threads = std::atoi(argv[6]);
  cli::SetUpProcess();
  at::set_num_threads(threads);
  torch::manual_seed(1);
  const ModelConfig config = Preset(preset);
  nn::Model model(config);
  const auto random_batch = [&](int64_t n_rows, int64_t length) {
    return nn::Batch::OneDocumentPerRow(torch::randint(0, config.vocab_size, {n_rows, length}, torch::kInt64),
                                        config.chunk_len);
  };
  const nn::Batch batch = random_batch(rows, T), warm_up = random_batch(rows, std::min<int64_t>(T, 8192));
  const double flops = MeanForwardFlops(config, T);  // a token
  double seconds = 0;
  if (mode == "train") {
    train::AdamW optimizer(train::OptimParams(model, 4.0), {});
    for (int i = 0; i <= steps; ++i) {  // the first is the warm-up
      if (i == 1) seconds = Seconds();
      model.Loss(i == 0 ? warm_up : batch).total.backward();
      optimizer.Step(1e-4, optimizer.GradNorm());
      optimizer.ZeroGrad();
    }
  } else {
    torch::NoGradGuard no_grad;
    for (int i = 0; i <= steps; ++i) {
      if (i == 1) seconds = Seconds();
      (void)model.Logits(model.Forward(i == 0 ? warm_up : batch).hidden.select(1, -1)).sum().item<float>();
    }
  }
  seconds = (Seconds() - seconds) / steps;
  const double tokens = static_cast<double>(rows * T), peak = PeakBytes(), limit = GemmLimit();
  const double work = (mode == "train" ? 3 : 1) * flops * tokens;
  const auto i64 = [](int64_t value) { return static_cast<long long>(value); };
  std::printf("{\"preset\":\"%s\",\"T\":%lld,\"rows\":%lld,\"mode\":\"%s\",\"threads\":%d,\"parameters\":%lld,",
              preset.c_str(), i64(T), i64(rows), mode.c_str(), threads, i64(CountParams(config).total));
  std::printf(
      "\"seconds\":%.6f,\"tok_per_s\":%.2f,\"peak_bytes\":%.0f,\"flops_per_token\":%.0f,\"gemm_flops_per_s\":%.4g,"
      "\"peak_share\":%.4f}\n",
      seconds, tokens / seconds, peak, flops, limit, work / seconds / limit);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const hydra::Error& e) {
    std::fprintf(stderr, "bench_train_forward: %s\n", e.what());
    return 2;
  }
}
