// SPDX-License-Identifier: Apache-2.0
// Conversations over a random model of byte tokens: a turn that is cancelled loses nothing, and a sampler knows the
// conversation that its state holds. Not here: what the templates write (text/chat_template_test.cc).
#include "hydra/runtime/conversation.h"

#include <memory>

#include "hydra/base/testing.h"
#include "hydra/runtime/testing.h"
#include "hydra/runtime/testing_tokenizer.h"

namespace hydra {
namespace {

// Two special tokens make turns: 256 and 257.
struct Talk {
  explicit Talk(uint64_t seed = 7) {
    ModelConfig config = HydraNano();
    config.vocab_size = 320;
    config.layers.resize(2);
    model = std::make_unique<Model>(testing::BuildModel(testing::RandomSource(config, seed)));
  }
  [[nodiscard]] Conversation Begin(SamplerOptions sampling = {.temperature = 0}) {
    const ChatTemplate form = ChatTemplate::Choose("test", "chatml", {}, tokenizer);
    return Conversation({*model, tokenizer, pool, scratch}, form,
                        {.system = "be brief", .end_ids = {0}, .sampling = sampling}, SequenceState(*model));
  }
  std::vector<int32_t> All(const Conversation& c) {
    std::vector<int32_t> ids(c.state().ids().begin(), c.state().ids().end());
    ids.insert(ids.end(), c.state().pending().begin(), c.state().pending().end());
    return ids;
  }
  std::unique_ptr<Model> model;
  Tokenizer tokenizer = testing::ByteTokenizer({"<|im_start|>", "<|im_end|>"});
  ThreadPool pool{2};
  ForwardScratch scratch;
};

// Turns are cut between passes, so equal tokens are no matter of luck: each seed must give them.
TEST(Conversation, ACancelledTurnIsStillThere) {
  const std::string question(1000, 'q');  // two passes
  for (const auto& [seed, passes] : {std::pair{7, 0}, {7, 1}, {8, 0}, {8, 1}, {9, 1}}) {
    SCOPED_TRACE(StrCat("seed ", seed, ", ", passes, " passes"));
    Talk talk(static_cast<uint64_t>(seed));
    Conversation whole = talk.Begin();
    EXPECT_EQ(whole.Say("hi", {.max_tokens = 3}, {}).ids.size(), 3U);
    Conversation cut = talk.Begin();
    EXPECT_EQ(cut.Say("hi", {.max_tokens = 3}, {}).ids.size(), 3U);
    (void)whole.Say(question, {.max_tokens = 0}, {});
    int asked = 0;
    const GenerateResult result =
        cut.Say(question, {.max_tokens = 0, .cancelled = [&] { return ++asked > passes; }}, {});
    EXPECT_EQ(result.reason, FinishReason::kCancelled);
    EXPECT_EQ(result.prompt_tokens, passes * 512);
    EXPECT_GT(cut.state().pending().size(), 400U);
    EXPECT_EQ(talk.All(cut), talk.All(whole));
    // The next turn reads the rest, and the end of the answer that was none.
    const GenerateResult a = whole.Say("go on", {.max_tokens = 8}, {}), b = cut.Say("go on", {.max_tokens = 8}, {});
    EXPECT_EQ(a.ids, b.ids);
    EXPECT_EQ(talk.All(cut), talk.All(whole));
    EXPECT_NE(talk.tokenizer.Decode(talk.All(cut)).find(question + "<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"),
              std::string::npos);
  }
}

TEST(Conversation, TheSamplerKnowsTheConversationOfItsState) {
  Talk talk;
  const SamplerOptions sampling{
      .repeat_penalty = 1.3, .repeat_last_n = 1 << 20, .frequency_penalty = 0.8, .temperature = 0};
  Conversation first = talk.Begin(sampling);
  (void)first.Say("hello", {.max_tokens = 30}, {});
  SequenceState saved = first.state().Fork();
  const std::vector<int32_t> want = first.Say("go on", {.max_tokens = 30}, {}).ids;
  Conversation other = talk.Begin(sampling);  // another talk before it, whose penalties must go
  (void)other.Say("quite another matter", {.max_tokens = 60}, {});
  other.GoOnFrom(std::move(saved));
  EXPECT_EQ(other.Say("go on", {.max_tokens = 30}, {}).ids, want);
  Conversation free = talk.Begin();
  (void)free.Say("hello", {.max_tokens = 30}, {});
  EXPECT_NE(free.Say("go on", {.max_tokens = 30}, {}).ids, want);  // or the penalties show nothing
}

}  // namespace
}  // namespace hydra
