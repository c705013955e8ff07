// SPDX-License-Identifier: Apache-2.0
// What a program sets up once for its process. Not here: what it gains (bench/train_forward.cc).
#include "hydra/nn/process.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

extern "C" int mkl_serv_intel_cpu_true();

namespace hydra::nn::process_test {  // tests share units
namespace {

// LibTorch looks the function up by name, so the program must export it.
TEST(Process, AnswersMklFromTheProgram) {
  SetUpProcess();
  EXPECT_EQ(dlsym(RTLD_DEFAULT, "mkl_serv_intel_cpu_true"), reinterpret_cast<void*>(&mkl_serv_intel_cpu_true));
  Dl_info program{}, mkl{};
  ASSERT_NE(dladdr(reinterpret_cast<void*>(&SetUpProcess), &program), 0);
  ASSERT_NE(dladdr(dlsym(RTLD_DEFAULT, "mkl_serv_intel_cpu_true"), &mkl), 0);
  EXPECT_EQ(mkl.dli_fbase, program.dli_fbase);
}

TEST(Process, ProductsStayRight) {
  SetUpProcess();
  const torch::Tensor a = torch::rand({67, 129}), b = torch::rand({129, 35});
  const torch::Tensor want = torch::mm(a.to(torch::kFloat64), b.to(torch::kFloat64));
  EXPECT_LT((torch::mm(a, b).to(torch::kFloat64) - want).abs().max().item<double>(), 129 * 1e-6);
}

}  // namespace
}  // namespace hydra::nn::process_test
