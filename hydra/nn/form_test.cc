// SPDX-License-Identifier: Apache-2.0
// The choice between the fused and the composite form, by device, type and size; and that each operation with two forms
// is in it. Not here: that both forms agree (functions_test.cc and the tests beside each layer).
#include "hydra/nn/form.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "hydra/kernels/train_mamba.h"

namespace hydra::nn::form_test {  // tests share units
namespace {

using torch::Tensor;

Tensor Of(torch::Dtype type, torch::Device device = torch::kCPU) {
  return torch::empty({2, 3}, torch::TensorOptions().dtype(type).device(device));
}

TEST(Form, FloatsOnTheCpuAreFused) {
  for (const Op op : {Op::kLinearScan, Op::kRmsNorm, Op::kTopK, Op::kMamba2Core, Op::kRoutedExperts})
    EXPECT_EQ(ChooseForm(op, {Of(torch::kFloat32), Tensor(), Of(torch::kFloat32)}), Form::kFused);
}

TEST(Form, OtherDevicesTakeTheComposite) {
  EXPECT_EQ(ChooseForm(Op::kRmsNorm, {Of(torch::kFloat32), Of(torch::kFloat32, torch::kMeta)}), Form::kComposite);
}

TEST(Form, DoublesAreFusedInLoopsAndNotInKernels) {
  EXPECT_EQ(ChooseForm(Op::kLinearCrossEntropy, {Of(torch::kFloat64)}), Form::kFused);
  for (const Op op : {Op::kMamba2Core, Op::kSparseAttention, Op::kAttentionInfluence, Op::kRoutedExperts})
    EXPECT_EQ(ChooseForm(op, {Of(torch::kFloat64)}), Form::kComposite);
}

TEST(Form, HalvesAndMixedTypesTakeTheComposite) {
  EXPECT_EQ(ChooseForm(Op::kRmsNorm, {Of(torch::kBFloat16)}), Form::kComposite);
  EXPECT_EQ(ChooseForm(Op::kRmsNorm, {Of(torch::kFloat32), Of(torch::kFloat64)}), Form::kComposite);
}

TEST(Form, NothingToComputeTakesTheComposite) {
  EXPECT_EQ(ChooseForm(Op::kRmsNorm, {torch::empty({0, 3})}), Form::kComposite);
  EXPECT_EQ(ChooseForm(Op::kRmsNorm, {Tensor()}), Form::kComposite);
}

TEST(Form, SizesBeyondTheKernelsTakeTheComposite) {
  const Tensor x = Of(torch::kFloat32);
  const int64_t taps = kernels::kMambaTaps, chunk = kernels::kMambaChunk;
  EXPECT_EQ(ChooseForm(Op::kMamba2Core, {x}, {.taps = taps, .scan_chunk = chunk}), Form::kFused);
  EXPECT_EQ(ChooseForm(Op::kMamba2Core, {x}, {.taps = taps + 1, .scan_chunk = chunk}), Form::kComposite);
  EXPECT_EQ(ChooseForm(Op::kMamba2Core, {x}, {.taps = taps, .scan_chunk = chunk + 1}), Form::kComposite);
}

std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Every function of hydra::nn::composite is an Op, and its source asks for it. AddRowsInto has torch's operator alone.
TEST(Form, EveryOperationWithTwoFormsAsks) {
  std::string sources, headers;
  for (const char* name : {"functions", "ssm", "attention", "moe"})
    headers += ReadText(std::string("hydra/nn/") + name + ".h");
  for (const char* name : {"functions", "cross_entropy", "mamba2", "fused_attention", "experts"})
    sources += ReadText(std::string("hydra/nn/") + name + ".cc");
  const std::string ops = ReadText("hydra/nn/form.h");
  std::set<std::string> names;
  const std::regex block(R"(namespace composite \{([^}]*)\})"), function(R"(torch::Tensor (\w+)\()");
  for (std::sregex_iterator b(headers.begin(), headers.end(), block), end; b != end; ++b) {
    const std::string body = (*b)[1];
    for (std::sregex_iterator f(body.begin(), body.end(), function); f != end; ++f) names.insert((*f)[1]);
  }
  EXPECT_GE(names.size(), 10U);
  names.insert("AddRowsInto");
  for (const std::string& name : names) {
    EXPECT_NE(ops.find("  k" + name + ","), std::string::npos) << name << " is no Op";
    EXPECT_NE(sources.find("ChooseForm(Op::k" + name), std::string::npos) << name << " does not ask";
  }
}

}  // namespace
}  // namespace hydra::nn::form_test
