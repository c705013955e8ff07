// SPDX-License-Identifier: Apache-2.0
// What a program that trains sets up once for its process: how memory is kept and which kernels matrix products take.
// Not here: threads (at::set_num_threads is the caller's).
#pragma once

namespace hydra::cli {

// Keeps freed memory instead of returning it to the system after each step. A program that links this unit also lets
// MKL take its fastest kernels on processors of every maker: process.cc answers MKL's question from the first product
// on.
void SetUpProcess();

}  // namespace hydra::cli
