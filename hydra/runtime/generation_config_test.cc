// SPDX-License-Identifier: Apache-2.0
// generation_config.json: what is read, what is refused, where it is looked for.
#include "hydra/runtime/generation_config.h"

#include <gtest/gtest.h>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

TEST(GenerationConfig, ReadsWhatItKnows) {
  const GenerationConfig c = ParseGenerationConfig(
      R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05,
          "eos_token_id": [2, 7], "transformers_version": "5.0.0", "bos_token_id": 1})",
      "g.json");
  EXPECT_EQ(c.do_sample, true);
  EXPECT_EQ(c.temperature, 0.6);
  EXPECT_EQ(c.top_k, 20);
  EXPECT_EQ(c.top_p, 0.95);
  EXPECT_EQ(c.min_p, std::nullopt);
  EXPECT_EQ(c.repetition_penalty, 1.05);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(ParseGenerationConfig(R"({"eos_token_id": 3, "top_k": null})", "g.json").eos_token_ids,
            std::vector<int32_t>{3});
  EXPECT_EQ(ParseGenerationConfig("{}", "g.json").eos_token_ids, std::vector<int32_t>{});
}

TEST(GenerationConfig, RefusesBadValuesByName) {
  const auto bad = [](const char* text, ErrorCode code, std::initializer_list<std::string_view> parts) {
    ExpectError([&] { (void)ParseGenerationConfig(text, "g.json"); }, code, parts);
  };
  bad("[]", ErrorCode::kFormat, {"g.json", "object"});
  bad("{", ErrorCode::kFormat, {"g.json"});
  bad(R"({"temperature": -1})", ErrorCode::kConfig, {"g.json: temperature = -1"});
  bad(R"({"temperature": "hot"})", ErrorCode::kConfig, {"temperature"});
  bad(R"({"top_p": 1.5})", ErrorCode::kConfig, {"top_p = 1.5"});
  bad(R"({"top_p": 0})", ErrorCode::kConfig, {"g.json: top_p = 0", "above 0"});
  bad(R"({"top_k": -2})", ErrorCode::kConfig, {"top_k = -2"});
  bad(R"({"repetition_penalty": 0})", ErrorCode::kConfig, {"repetition_penalty = 0"});
  bad(R"({"eos_token_id": [1, -5]})", ErrorCode::kConfig, {"eos_token_id = -5"});
  bad(R"({"temperature": 1e-50})", ErrorCode::kConfig, {"temperature = 1e-50", "too small"});
  bad(R"({"eos_token_id": "x"})", ErrorCode::kConfig, {"eos_token_id"});
}

TEST(GenerationConfig, NamesWhatIsNotObeyed) {
  const auto warnings = [](const char* text) { return ParseGenerationConfig(text, "g.json").warnings; };
  // What other programs write without asking for anything.
  EXPECT_TRUE(
      warnings(R"({"_from_model_config": true, "transformers_version": "4.57.0", "bos_token_id": 1, "pad_token_id": 0,
      "use_cache": true, "temperature": 0.5, "num_beams": 1, "length_penalty": 1.0, "typical_p": 1.0,
      "early_stopping": false, "no_repeat_ngram_size": 0, "suppress_tokens": [], "max_new_tokens": null,
      "output_scores": false})")
          .empty());
  const std::vector<std::string> got = warnings(
      R"({"num_beams": 4, "no_repeat_ngram_size": 3, "suppress_tokens": [5], "stop_strings": ["z"], "top_k": 3,
          "max_new_tokens": 7, "forced_eos_token_id": 2, "typical_p": 0.9, "a_key_of_the_future": "x"})");
  ASSERT_EQ(got.size(), 1U);
  EXPECT_EQ(
      got[0],
      "g.json: not obeyed: num_beams = 4, no_repeat_ngram_size = 3, suppress_tokens, stop_strings, max_new_tokens = 7, "
      "forced_eos_token_id = 2, typical_p = 0.9, a_key_of_the_future = \"x\"");
}

TEST(GenerationConfig, EndsOutsideTheVocabularyAreLeftOut) {
  GenerationConfig c = ParseGenerationConfig(R"({"eos_token_id": [2, 320, 319]})", "g.json");
  c.DropEndsBeyond(320);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int32_t>{2, 319}));
  ASSERT_EQ(c.warnings.size(), 1U);
  EXPECT_EQ(c.warnings[0], "g.json: eos_token_id = 320: not obeyed: ids are 0 to 319");
}

TEST(GenerationConfig, IsLookedForBesideTheModel) {
  const TempDir dir;
  EXPECT_EQ(LoadGenerationConfig(dir.path()).top_k, std::nullopt);
  WriteFileAtomic(dir / "generation_config.json", R"({"top_k": 9})");
  EXPECT_EQ(LoadGenerationConfig(dir.path()).top_k, 9);
  EXPECT_EQ(LoadGenerationConfig(dir / "model.safetensors").top_k, 9);
  EXPECT_EQ(LoadGenerationConfig(dir / "model.gguf").top_k, std::nullopt);
}

}  // namespace
}  // namespace hydra
