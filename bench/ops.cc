// SPDX-License-Identifier: Apache-2.0
// Speed of the kernels of the list that run on one thread, per SIMD level, in GFLOP/s or GB/s and as shares of the
// measured peaks. Prints the machine, then a JSON line a case. Not here: products with weights (kernels.cc), whole
// models (hydralm bench).
//   bench_ops [--target NAME|all] [--match TEXT]
#include <cstdio>

#include "bench/measure.h"
#include "hydra/base/error.h"
#include "hydra/kernels/kernel_list.h"

int main(int argc, char** argv) {
  using namespace hydra;
  try {
    auto flags = bench::ParseFlags(argc, argv, {{"--target", "best"}, {"--match", ""}});
    ThreadPool pool(1);
    bench::OnTargets(flags["--target"], pool, [&](const bench::Peaks& peaks) {
      for (const kernels::Kernel& kernel : kernels::KernelList())
        for (const kernels::BenchCase& c : kernel.bench)
          if (kernel.name != "MatMul") bench::RunListed(c, flags["--match"], peaks, pool);
    });
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "bench_ops: %s\n", e.what());
    return 2;
  }
}
