// SPDX-License-Identifier: Apache-2.0
// Preloaded into Python: gives MKL the answer that hydra/nn/process.cc gives on a processor with AVX-512, so that torch
// runs those kernels on processors of every maker there, too. Built by python.sh.
int mkl_serv_intel_cpu_true(void) { return 1; }
