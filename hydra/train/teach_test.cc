// SPDX-License-Identifier: Apache-2.0
// Teaching facts: only rows of the table that questions read move, answers follow, the pack is the change; facts in bad
// files are refused by line and field.
#include "hydra/train/teach.h"

#include <gtest/gtest.h>

#include <set>

#include "hydra/io/file.h"
#include "hydra/train/testing.h"

namespace hydra::train {
namespace {

using testing::ErrorText;
using testing::SameBits;
using testing::TinyConfig;
using testing::TinyCorpus;

// A model whose gates are open, so that the table can say something.
nn::Model OpenModel() {
  nn::Model model(TinyConfig());
  const torch::NoGradGuard no_grad;
  model.at(TensorRole::kPkmGateBias, 2).fill_(3);
  model.at(TensorRole::kPkmValueProj, 2).mul_(10);
  return model;
}

// Questions of six tokens with an answer of one.
std::vector<FactExample> Facts(int n) {
  std::vector<FactExample> facts;
  for (int i = 0; i < n; ++i) {
    FactExample one{.ids = {}, .answer = 6, .fact = static_cast<size_t>(i)};
    for (int j = 0; j < 6; ++j) one.ids.push_back((i * 11 + j * 7 + 1) % 64);
    one.ids.push_back((i * 17 + 5) % 64);
    facts.push_back(one);
  }
  return facts;
}

TEST(Teach, MovesRowsOfTheTableAlone) {
  nn::Model model = OpenModel();
  std::vector<torch::Tensor> before;
  for (const auto& [spec, tensor] : model.Tensors()) before.push_back(tensor.detach().clone());
  const auto facts = Facts(3);
  const TeachReport report =
      Teach(model, facts, {}, TinyCorpus(3), "base", {.steps = 200, .rehearsal_rows = 2, .rehearsal_tokens = 32});
  EXPECT_LT(report.trained_before, 1);
  EXPECT_EQ(report.trained_after, 1) << "after " << report.steps << " steps";
  EXPECT_EQ(AnswersRight(model, facts), report.trained_after);
  EXPECT_GT(report.mean_gate, 0.9);
  ASSERT_TRUE(report.pack);
  EXPECT_EQ(report.pack->base, "base");
  EXPECT_GT(report.rows, 0);
  const std::set<int32_t> moved(report.pack->rows.begin(), report.pack->rows.end());
  size_t i = 0;
  for (const auto& [spec, tensor] : model.Tensors()) {
    const torch::Tensor& was = before[i++];
    if (spec->role != TensorRole::kPkmTable) {
      EXPECT_TRUE(SameBits(tensor, was)) << spec->name;
      continue;
    }
    for (int32_t row = 0; row < tensor.size(0); ++row)
      EXPECT_EQ(torch::equal(tensor[row], was[row]), !moved.contains(row)) << row;
    const torch::Tensor delta = (tensor - was).detach();
    for (size_t r = 0; r < report.pack->rows.size(); ++r)
      for (int64_t d = 0; d < delta.size(1); ++d)
        EXPECT_EQ(report.pack->delta[r * static_cast<size_t>(delta.size(1)) + static_cast<size_t>(d)],
                  delta[report.pack->rows[r]][d].item<float>());
  }
}

TEST(Teach, OtherPlacesAreForComparison) {
  for (const TeachInto into : {TeachInto::kLowRank, TeachInto::kAll}) {
    nn::Model model = OpenModel();
    const auto facts = Facts(3);
    const TeachReport report =
        Teach(model, facts, Facts(3), TinyCorpus(3), "",
              {.into = into, .steps = 300, .rehearsal_rows = 2, .rehearsal_tokens = 32, .lr = 1e-2, .low_rank = 4});
    EXPECT_FALSE(report.pack);
    EXPECT_GT(report.numbers, 0);
    EXPECT_EQ(report.trained_after, 1) << "after " << report.steps << " steps";
    EXPECT_EQ(report.held_out_after, 1);  // the same questions here
    for (const auto& [spec, tensor] : model.Tensors()) EXPECT_TRUE(torch::isfinite(tensor).all().item<bool>());
  }
}

TEST(Teach, AModelWithoutATableIsRefused) {
  ModelConfig config = TinyConfig();
  for (LayerConfig& layer : config.layers) layer.pkm = false;
  nn::Model model(config);
  EXPECT_NE(ErrorText([&] { (void)Teach(model, Facts(1), {}, TinyCorpus(3), "", {}); }).find("no product-key memory"),
            std::string::npos);
}

TEST(Facts, AreReadByLine) {
  const TempDir dir;
  const std::string path = dir / "facts.jsonl";
  WriteFileAtomic(path, std::string_view("{\"prompt\": \"a\", \"answer\": \"b\"}\n\n"
                                         "{\"prompt\": \"c\", \"answer\": \"d\", \"paraphrases\": [\"e\", \"f\"]}\n"));
  const std::vector<Fact> facts = ReadFacts(path);
  ASSERT_EQ(facts.size(), 2U);
  EXPECT_EQ(facts[1].paraphrases, (std::vector<std::string>{"e", "f"}));
  for (const auto& [text, part] :
       {std::pair("{\"prompt\": \"a\"}", "facts.jsonl:1: answer: missing"),
        {"{\"prompt\": \"a\", \"answer\": \"\"}", "facts.jsonl:1: answer: is empty"},
        {"{\"prompt\": 3, \"answer\": \"b\"}", "facts.jsonl:1: prompt"},
        {"{\"prompt\": \"a\", \"answer\": \"b\", \"paraphrase\": []}", "did you mean paraphrases"},
        {"[1]", "facts.jsonl:1: must be an object"},
        {"", "no facts"},
        {"{", "facts.jsonl:1"}}) {
    WriteFileAtomic(path, std::string_view(text));
    EXPECT_NE(ErrorText([&] { (void)ReadFacts(path); }).find(part), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace hydra::train
