// SPDX-License-Identifier: Apache-2.0
// Preloaded into Python: gives MKL the same answer as hydra/nn/process.cc does, so that torch runs AVX-512 kernels on
// processors of every maker there, too. Built by python.sh.
int mkl_serv_intel_cpu_true(void) { return 1; }
