// SPDX-License-Identifier: Apache-2.0
// malloc's thresholds, and MKL's question for the maker of the processor.
#include "hydra/cli/process.h"

#include <malloc.h>

// MKL gives processors of other makers than Intel AVX2 kernels of its own for them, whatever else there is. On a Zen 5
// products ran at 93 GFLOP/s a core with these and at 205 with the AVX-512 kernels; on a Zen 3, which has no AVX-512,
// two threads ran at 113 with these and at 148 with the AVX2 kernels for Intel. It asks this function, which LibTorch
// exports, so that the program's own answer comes first. Which instructions there are MKL finds out by itself. Without
// MKL nobody calls it.
extern "C" __attribute__((visibility("default"), used)) int mkl_serv_intel_cpu_true() { return 1; }

namespace hydra::cli {

void SetUpProcess() {
  // Large tensors come and go each step, and the system clears each page that it gives out: none is mapped alone, and
  // what was had once is kept.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
}

}  // namespace hydra::cli
