// SPDX-License-Identifier: Apache-2.0
// Speed of the products with stored weights that the list of kernels has, per type and SIMD level: GB/s of weights and
// the share of the measured read bandwidth, GFLOP/s and the share of the measured arithmetic peak. decode: one token,
// weights from memory; decode_hot: from the cache; batch: 2 to 16 tokens; prefill: many. Prints the machine, then a
// JSON line a case. Not here: other kernels (ops.cc), whole models (hydralm bench).
//   bench_kernels [--target NAME|all] [--threads N] [--match TEXT]    TEXT of a name or case: "prefill Q4_0"
#include <cstdio>
#include <string>

#include "bench/measure.h"
#include "hydra/base/number.h"

int main(int argc, char** argv) {
  using namespace hydra;
  try {
    auto flags = bench::ParseFlags(argc, argv, {{"--target", "best"}, {"--threads", "0"}, {"--match", ""}});
    ThreadPool pool(static_cast<int>(ParseWholeNumber(flags["--threads"], 0, 1024, "--threads")));
    bench::OnTargets(flags["--target"], pool, [&](const bench::Peaks& peaks) {
      for (const kernels::Kernel& kernel : kernels::MatMulKernels())
        for (const kernels::BenchCase& c : kernel.bench) bench::RunListed(c, flags["--match"], peaks, pool);
    });
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "bench_kernels: %s\n", e.what());
    return 2;
  }
}
