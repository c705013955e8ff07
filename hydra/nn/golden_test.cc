// SPDX-License-Identifier: Apache-2.0
// nn against the numpy oracle's numbers in tests/golden (specs/hydra.md 13, test 19): whole models of each kind under
// several controls, and each part by itself. Written by tests/golden/make_golden.py.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "hydra/io/safetensors.h"
#include "hydra/nn/attention.h"
#include "hydra/nn/block.h"
#include "hydra/nn/model_io.h"
#include "hydra/nn/step.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

using testing::Difference;
using testing::kTolF64;
using torch::Tensor;

const std::string kFolder = "tests/golden/";  // tests run in the root of the sources

std::map<std::string, Tensor> ReadTensors(const std::string& path) {
  std::map<std::string, Tensor> out;
  const SafeTensors file = SafeTensors::Open(path);
  for (const TensorView& view : file.tensors()) {
    const auto type = view.dtype == DType::kI64 ? torch::kInt64 : torch::kFloat64;
    Tensor tensor = torch::empty(view.shape, type);
    std::memcpy(tensor.data_ptr(), view.data, static_cast<size_t>(view.nbytes));
    out[view.name] = tensor;
  }
  return out;
}

// A row of the files, its end padded to a multiple of chunk_len.
Batch BatchOf(const std::map<std::string, Tensor>& t, const Tensor& ids, int64_t chunk_len) {
  const int64_t n = t.at("pos").size(0), pad = (chunk_len - n % chunk_len) % chunk_len;
  const auto padded = [&](const Tensor& x, int64_t value) {
    return torch::constant_pad_nd(x, {0, pad}, value).unsqueeze(0);
  };
  Batch batch;
  batch.ids = padded(ids, 0);
  batch.seq_idx = padded(t.at("seq_idx"), -1);
  batch.pos = torch::cat({t.at("pos"), torch::arange(pad) + t.at("pos")[n - 1] + 1}).unsqueeze(0);
  return batch;
}

const ModelOptions kF64{.dtype = torch::kFloat64};

void ExpectCase(const std::string& folder, const std::string& name, const ForwardOptions& options = {}) {
  SCOPED_TRACE(folder + "/" + name);
  Model model = LoadModel(kFolder + folder, kF64);
  const auto golden = ReadTensors(kFolder + folder + "/" + name + ".safetensors");
  const Tensor ids = golden.at("ids"), real = golden.at("seq_idx") >= 0;
  torch::NoGradGuard no_grad;
  const Tensor hidden =
      model.Forward(BatchOf(golden, ids, model.config().chunk_len), options).hidden[0].narrow(0, 0, ids.size(0));
  EXPECT_LT(Difference(hidden.index({real}), golden.at("hidden").index({real})), kTolF64);
  if (golden.contains("logits")) {
    EXPECT_LT(Difference(model.Logits(hidden), golden.at("logits")), kTolF64);
  }
  // The step form of nn, a document at a time.
  Stepper stepper(model, options);
  for (int64_t t = 0; t < ids.size(0); ++t) {
    if (!real[t].item<bool>()) continue;
    if (golden.at("pos")[t].item<int64_t>() == 0) stepper = Stepper(model, options);
    const Tensor got = stepper.StepEmbedding(model.Embed(ids[t]));
    EXPECT_LT(Difference(got, golden.at("hidden")[t]), kTolF64) << "step " << t;
  }
}

TEST(Golden, Mamba2WithGroupsAndController) {
  ExpectCase("mamba2", "plain");
  ExpectCase("mamba2", "packed");
}

TEST(Golden, OneGroupWithoutController) {
  ExpectCase("one_group_no_controller", "plain");
  ExpectCase("one_group_no_controller", "packed");
}

TEST(Golden, Diagonal) {
  ExpectCase("diagonal", "plain");
  ExpectCase("diagonal", "packed");
}

TEST(Golden, Controls) {
  ExpectCase("mamba2", "top1_tau2", {.controls = {.router_temperature = 2.0, .moe_top_k = 1}});
  ExpectCase("mamba2", "ban0_no_sga", {.controls = {.path_scale = {1, 0, 1}, .ban_experts = {0}}});
  ExpectCase("mamba2", "force13_half_reads",
             {.controls = {.workspace_read = 0.5, .pkm_read = 0.5, .force_experts = {1, 3}}});
  ExpectCase("mamba2", "path_scale", {.controls = {.path_scale = {0.5, 1.5, 0}, .workspace_read = 0, .pkm_read = 0}});
}

TEST(Golden, TheFamiliesOfTheControls) {
  ExpectCase("llama", "plain");
  ExpectCase("mamba2_family", "plain");
}

// Both kinds of attention; layers with negative and zero scales, one in which nobody is active.
TEST(Golden, BlockFfn) {
  ExpectCase("blockffn_mla", "plain");
  ExpectCase("blockffn_gqa", "plain");
}

// ---- parts ----

class GoldenParts : public ::testing::Test {
 protected:
  GoldenParts() : layout_(Layout::Make(BatchOf(parts_, torch::zeros_like(parts_.at("pos")), 8), 8)) {}
  [[nodiscard]] Tensor At(const std::string& name) const { return parts_.at(name); }
  [[nodiscard]] BlockWeights Weights(int layer) const { return BlockWeights::Of(model_, layer); }
  // On real tokens; the row of the file is a multiple of the chunk, so nothing was padded.
  void ExpectPart(const std::string& name, const Tensor& got) const {
    EXPECT_LT(Difference(got[0].index({layout_.real[0]}), At(name).index({layout_.real[0]})), kTolF64) << name;
  }

  std::map<std::string, Tensor> parts_ = ReadTensors(kFolder + "parts.safetensors");
  Model model_ = LoadModel(kFolder + "mamba2", kF64);
  Layout layout_;
  Tensor x_ = parts_.at("x").unsqueeze(0);
};

TEST_F(GoldenParts, SsdScanAndItsLastState) {
  for (const std::string name : {"ssd_one.", "ssd_documents."})
    for (const int64_t Q : {1, 4, 7, 16, 64}) {
      const auto row = [&](const char* part) { return At(name + part).unsqueeze(0); };
      const SsdOut out = SsdScan(row("x"), row("dt"), At(name + "A"), row("B"), row("C"), row("doc"), Q);
      EXPECT_LT(Difference(out.y, row("y")), kTolF64) << name << Q;
      EXPECT_LT(Difference(out.state, row("state")), kTolF64) << name << Q;
    }
}

TEST_F(GoldenParts, SsmPaths) {
  ExpectPart("0.ssm", Ssm(model_.config(), Weights(0).ssm, x_, layout_));
  Model diagonal = LoadModel(kFolder + "diagonal", kF64);
  ExpectPart("diagonal.0.ssm", Ssm(diagonal.config(), BlockWeights::Of(diagonal, 0).ssm, x_, layout_));
}

TEST_F(GoldenParts, SparseGlobalAttention) {
  ExpectPart("2.sga", Attention(model_.config(), AttentionKind::kSparse, Weights(2).attention, x_, layout_, {}));
}

TEST_F(GoldenParts, RoutingExpertsAndLosses) {
  for (const int layer : {0, 2}) {
    const std::string pre = std::to_string(layer) + ".";
    const MoeWeights w = Weights(layer).moe;
    const Routes routes = Route(model_.config(), layer, w, x_, layout_, {});
    const Tensor real = layout_.chunk_real[0];
    EXPECT_TRUE(torch::equal(routes.ids[0].index({real}), At(pre + "route_ids")));
    EXPECT_LT(Difference(routes.route_weights[0].index({real}), At(pre + "route_weights")), kTolF64);
    EXPECT_LT(Difference(routes.router_logits[0].index({real}), At(pre + "router_logits")), kTolF64);
    ExpectPart(pre + "moe", ApplyExperts(w, x_, routes, layout_));
    const RouterLosses losses = LossesOfRouter(model_.config().moe, routes, layout_, {});
    EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kBalance)].item<double>(), At(pre + "balance_loss").item<double>(),
                kTolF64);
    EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kZ)].item<double>(), At(pre + "z_loss").item<double>(), kTolF64);
    EXPECT_TRUE(torch::equal(losses.load.to(torch::kInt64), At(pre + "load")));
  }
}

TEST_F(GoldenParts, Memories) {
  for (const int layer : {1, 3})
    ExpectPart(std::to_string(layer) + ".workspace",
               Workspace(model_.config(), Weights(layer).workspace, x_, layout_, 1));
  const BlockWeights w = Weights(2);
  ExpectPart("2.pkm", Pkm(model_.config(), w.pkm, w.pkm_table, x_, 1));
}

}  // namespace
}  // namespace hydra::nn
