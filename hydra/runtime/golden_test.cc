// SPDX-License-Identifier: Apache-2.0
// The runtime against the numpy oracle's logits in tests/golden, whole, in pieces and token by token.
#include <algorithm>

#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::kTolF32;

const std::string kFolder = "tests/golden/";  // tests run in the root of the sources

template <class T>
std::vector<T> Values(const SafeTensors& file, const char* name) {
  const TensorView& view = file.Get(name);
  std::vector<T> out(static_cast<size_t>(view.nbytes) / sizeof(T));
  std::memcpy(out.data(), view.data, static_cast<size_t>(view.nbytes));
  return out;
}

// One document of a golden row.
struct Document {
  std::vector<int32_t> ids;
  std::vector<size_t> rows;
};

std::vector<Document> Documents(const SafeTensors& file) {
  const auto ids = Values<int64_t>(file, "ids"), seq = Values<int64_t>(file, "seq_idx"),
             pos = Values<int64_t>(file, "pos");
  std::vector<Document> out;
  for (size_t t = 0; t < ids.size(); ++t) {
    if (seq[t] < 0) continue;
    if (pos[t] == 0) out.emplace_back();
    out.back().ids.push_back(static_cast<int32_t>(ids[t]));
    out.back().rows.push_back(t);
  }
  return out;
}

// The files hold the final hidden states; the head is a product with them.
std::vector<float> WantedLogits(const std::string& folder, const SafeTensors& file, const ModelConfig& config,
                                std::span<const size_t> rows) {
  const TensorTable table(config);
  const SafeTensors weights = SafeTensors::Open(kFolder + folder);
  const TensorSpec* head = table.Find(config.tie_embeddings ? TensorRole::kEmbedding : TensorRole::kHead);
  const auto hidden = Values<double>(file, "hidden"), w = Values<double>(weights, head->name.c_str());
  const auto V = static_cast<size_t>(config.vocab_size), D = static_cast<size_t>(config.d_model);
  std::vector<float> out;
  for (const size_t row : rows)
    for (size_t v = 0; v < V; ++v) {
      double sum = 0;
      for (size_t d = 0; d < D; ++d) sum += w[v * D + d] * hidden[row * D + d];
      out.push_back(static_cast<float>(sum));
    }
  return out;
}

void ExpectCase(const std::string& folder, const std::string& name, const Controls& controls = {}) {
  const Model model = testing::BuildModel(testing::GoldenSource(kFolder + folder));
  const SafeTensors file = SafeTensors::Open(kFolder + folder + "/" + name + ".safetensors");
  const int64_t C = model.config().chunk_len, Q = model.config().ssm.scan_chunk;
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{
             {1 << 20}, {1}, {std::max<int64_t>(1, C - 1)}, {C + 1}, {Q}, {3, 1, 2 * C + 1, 1, 1}}) {
      int number = 0;
      for (const Document& document : Documents(file)) {
        SCOPED_TRACE(StrCat(folder, "/", name, ", document ", number++, " of ", document.ids.size(),
                            " tokens, pieces of ", sizes[0], ", ", threads, " threads"));
        SequenceState state(model, controls);
        const auto got = testing::LogitsInPieces(model, state, document.ids, sizes, pool);
        EXPECT_LT(testing::Difference(got, WantedLogits(folder, file, model.config(), document.rows)), kTolF32);
      }
    }
  }
}

TEST(RuntimeGolden, Mamba2WithGroupsAndController) {
  ExpectCase("mamba2", "plain");
  ExpectCase("mamba2", "packed");
}

TEST(RuntimeGolden, OneGroupWithoutController) {
  ExpectCase("one_group_no_controller", "plain");
  ExpectCase("one_group_no_controller", "packed");
}

TEST(RuntimeGolden, Diagonal) {
  ExpectCase("diagonal", "plain");
  ExpectCase("diagonal", "packed");
}

TEST(RuntimeGolden, Controls) {
  ExpectCase("mamba2", "top1_tau2", {.router_temperature = 2.0, .moe_top_k = 1});
  ExpectCase("mamba2", "ban0_no_sga", {.path_scale = {1, 0, 1}, .ban_experts = {0}});
  ExpectCase("mamba2", "force13_half_reads", {.workspace_read = 0.5, .pkm_read = 0.5, .force_experts = {1, 3}});
  ExpectCase("mamba2", "path_scale", {.path_scale = {0.5, 1.5, 0}, .workspace_read = 0, .pkm_read = 0});
}

TEST(RuntimeGolden, TheFamiliesOfTheControls) {
  ExpectCase("llama", "plain");
  ExpectCase("mamba2_family", "plain");
}

// Absorbed latent attention against the oracle's expanded one; grouped keys; layers with negative and zero scales, one
// in which nobody is active.
TEST(RuntimeGolden, BlockFfn) {
  ExpectCase("blockffn_mla", "plain");
  ExpectCase("blockffn_gqa", "plain");
}

// Folders as `transformers` writes them, against its logits (tests/golden/make_hf_golden.py).
class HuggingFace : public ::testing::TestWithParam<const char*> {};

TEST_P(HuggingFace, LogitsEqualThoseOfTransformers) {
  const std::string folder = kFolder + "hf/" + GetParam();
  const Model model = Model::Load(folder, {.kv_dtype = KvDtype::kF32, .act = Activations::kF32});
  const SafeTensors file = SafeTensors::Open(folder + "/logits.safetensors");
  const auto ids = Values<int64_t>(file, "ids");
  const std::vector<int32_t> tokens(ids.begin(), ids.end());
  ThreadPool pool(2);
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{1 << 20}, {1}, {7}, {17}}) {
    SCOPED_TRACE(StrCat("pieces of ", sizes[0]));
    SequenceState state(model);
    EXPECT_LT(
        testing::Difference(testing::LogitsInPieces(model, state, tokens, sizes, pool), Values<float>(file, "logits")),
        kTolF32);
  }
}

INSTANTIATE_TEST_SUITE_P(Runtime, HuggingFace,
                         ::testing::Values("llama_untied", "llama_tied_llama3_rope", "qwen2", "qwen3",
                                           "mamba2_one_group", "mamba2_two_groups"),
                         [](const auto& name) { return std::string(name.param); });

}  // namespace
}  // namespace hydra
