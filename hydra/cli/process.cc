// SPDX-License-Identifier: Apache-2.0
// malloc's thresholds, and MKL's question for the maker of the processor.
#include "hydra/cli/process.h"

#include <malloc.h>

// MKL gives processors of other makers than Intel its AVX2 kernels whatever they can do: on a Zen 5 fp32 products ran
// at 93 GFLOP/s a core where the AVX-512 ones reach 205. It asks this function, which LibTorch exports, so that the
// program's own answer comes first. Which instructions there are MKL finds out by itself. Without MKL nobody calls it.
extern "C" __attribute__((visibility("default"), used)) int mkl_serv_intel_cpu_true() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") != 0 || __builtin_cpu_supports("avx512f") != 0 ? 1 : 0;
#else
  return 0;
#endif
}

namespace hydra::cli {

void SetUpProcess() {
  // Large tensors come and go each step, and the system clears each page that it gives out: none is mapped alone, and
  // what was had once is kept.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
}

}  // namespace hydra::cli
