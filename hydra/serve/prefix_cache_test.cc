// SPDX-License-Identifier: Apache-2.0
// What the prefix cache finds, how far it goes back, what it forgets; over models whose states can go back and such
// that need snapshots.
#include "hydra/serve/prefix_cache.h"

#include "hydra/base/testing.h"
#include "hydra/serve/testing.h"

namespace hydra::serve {
namespace {

using testing::Kit;
using testing::RandomPrompt;

// A sequence that has read `ids`, with snapshots behind every `every` tokens; 0: none.
std::unique_ptr<CachedSequence> Read(Kit& kit, std::span<const int32_t> ids, int64_t every = 0) {
  auto sequence = std::make_unique<CachedSequence>(SequenceState(kit.model));
  ForwardScratch scratch;
  const int64_t step = every > 0 ? every : static_cast<int64_t>(ids.size());
  while (!ids.empty()) {
    const auto piece = ids.first(static_cast<size_t>(std::min<int64_t>(step, static_cast<int64_t>(ids.size()))));
    (void)kit.model.Prefill(sequence->state, piece, kit.pool, scratch);
    ids = ids.subspan(piece.size());
    if (every > 0) sequence->TakeSnapshot();
  }
  sequence->prompt_tokens = sequence->state.pos();
  return sequence;
}

// The logits behind `next` are those of a sequence that read all of it at once.
void ExpectStandsBehind(Kit& kit, CachedSequence& sequence, std::span<const int32_t> ids, int32_t next) {
  ASSERT_EQ(sequence.state.pos(), static_cast<int64_t>(ids.size()));
  EXPECT_TRUE(std::ranges::equal(sequence.state.ids(), ids));
  ForwardScratch scratch, other;
  SequenceState fresh(kit.model);
  (void)kit.model.Prefill(fresh, ids, kit.pool, scratch);
  const auto want = kit.model.Step(fresh, next, kit.pool, scratch);
  const auto got = kit.model.Step(sequence.state, next, kit.pool, other);
  EXPECT_LT(hydra::testing::Difference(got, want), 1e-4);
}

constexpr int64_t kLarge = int64_t{1} << 30;

TEST(PrefixCache, GoesBackToWhereThePromptsPart) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    const std::vector<int32_t> ids = RandomPrompt(100, 1);
    PrefixCache cache(kit.tokenizer, kLarge);
    cache.Keep(Read(kit, ids, 16), {});
    std::vector<int32_t> prompt(ids.begin(), ids.begin() + 70);
    prompt.push_back(ids[70] + 1);
    prompt.push_back(1);
    const PrefixFound found = cache.Find({.prompt = prompt, .owner = "", .kind = ""}, {});
    ASSERT_NE(found.from, nullptr);
    const bool any = found.from->state.CanTruncate(70);
    EXPECT_EQ(any, family.name == "transformer");
    EXPECT_EQ(found.pos, any ? 70 : 64);
    EXPECT_EQ(found.prompt_pos, found.pos);
    const auto fork = found.from->ForkAt(found.pos);
    ExpectStandsBehind(kit, *fork, std::span(prompt).first(static_cast<size_t>(found.pos)), 5);
    EXPECT_EQ(cache.size(), 1U);
    ExpectStandsBehind(kit, *cache.Use(found), std::span(prompt).first(static_cast<size_t>(found.pos)), 5);
  }
}

TEST(PrefixCache, ALongTextStaysWhenAnotherTakesItsBeginning) {
  Kit kit(testing::Families()[0].config);
  const std::vector<int32_t> ids = RandomPrompt(400, 2);
  PrefixCache cache(kit.tokenizer, kLarge);
  cache.Keep(Read(kit, ids, 50), {});
  std::vector<int32_t> other(ids.begin(), ids.begin() + 120);
  other.push_back(7);
  const auto begun = cache.Use(cache.Find({.prompt = other, .owner = "", .kind = ""}, {}));
  EXPECT_EQ(begun->state.pos(), 100);
  EXPECT_EQ(cache.size(), 1U);
  std::vector<int32_t> next = ids;
  next.push_back(9);
  const auto whole = cache.Use(cache.Find({.prompt = next, .owner = "", .kind = ""}, {}));
  EXPECT_EQ(whole->state.pos(), 400);
  EXPECT_EQ(cache.size(), 0U);  // it goes on itself
  EXPECT_EQ(whole->snapshots.size(), 8U);
}

TEST(PrefixCache, LeavesAtLeastOneTokenToRead) {
  for (const auto& family : testing::Families()) {
    Kit kit(family.config);
    const std::vector<int32_t> ids = RandomPrompt(64, 3);
    PrefixCache cache(kit.tokenizer, kLarge);
    cache.Keep(Read(kit, ids, 32), {});
    const PrefixFound found = cache.Find({.prompt = ids, .owner = "", .kind = ""}, {});
    ASSERT_NE(found.from, nullptr) << family.name;
    EXPECT_LT(found.prompt_pos, 64);
    EXPECT_GE(found.prompt_pos, 32);
  }
}

TEST(PrefixCache, SequencesOfOthersAndOfOtherControlsAreNotFound) {
  Kit kit(testing::Families()[0].config);
  const std::vector<int32_t> ids = RandomPrompt(64, 4);
  PrefixCache cache(kit.tokenizer, kLarge);
  auto sequence = Read(kit, ids, 16);
  sequence->owner = "anna";
  sequence->kind = "plain";
  cache.Keep(std::move(sequence), {});
  const auto miss = [&](std::string_view owner, std::string_view kind, std::span<const int32_t> prompt) {
    return cache.Find({.prompt = prompt, .owner = owner, .kind = kind}, {}).miss;
  };
  EXPECT_EQ(miss("anna", "plain", ids), PrefixMiss::kNone);
  EXPECT_EQ(miss("bert", "plain", ids), PrefixMiss::kNew);
  EXPECT_EQ(miss("anna", "other", ids), PrefixMiss::kOtherKind);
  EXPECT_EQ(miss("anna", "plain", RandomPrompt(64, 5)), PrefixMiss::kNew);
  EXPECT_EQ(miss("anna", "plain", std::span(ids).first(12)), PrefixMiss::kNoSnapshot);
  PrefixCache off(kit.tokenizer, 0);
  EXPECT_EQ(off.Find({.prompt = ids, .owner = "", .kind = ""}, {}).miss, PrefixMiss::kOff);
}

TEST(PrefixCache, ForgetsTheOldestAndKnowsThatItDid) {
  Kit kit(testing::Families()[0].config);
  const auto one = Read(kit, RandomPrompt(64, 10), 64);
  PrefixCache probe(kit.tokenizer, kLarge);
  probe.Keep(one->ForkAt(64), {});
  const int64_t each = probe.bytes({});
  PrefixCache cache(kit.tokenizer, 2 * each + each / 2);
  for (uint64_t i = 0; i < 3; ++i) cache.Keep(Read(kit, RandomPrompt(64, 20 + i), 64), {});
  EXPECT_EQ(cache.size(), 2U);
  EXPECT_LE(cache.bytes({}), 2 * each + each / 2);
  const auto ask = [&](uint64_t i) {
    std::vector<int32_t> prompt = RandomPrompt(64, 20 + i);
    prompt.push_back(3);
    return cache.Find({.prompt = prompt, .owner = "", .kind = ""}, {});
  };
  EXPECT_EQ(ask(0).miss, PrefixMiss::kEvicted);
  EXPECT_NE(ask(1).from, nullptr);
  EXPECT_NE(ask(2).from, nullptr);
}

TEST(PrefixCache, SnapshotsOfRunningSequencesStayWithinTheBudget) {
  Kit kit(testing::Families()[0].config);
  const auto sequence = Read(kit, RandomPrompt(320, 6), 32);
  ASSERT_EQ(sequence->snapshots.size(), 10U);
  const auto bytes = static_cast<int64_t>(sequence->snapshots[0].bytes->size());
  PrefixCache cache(kit.tokenizer, 4 * bytes + bytes / 2);
  CachedSequence* const running = sequence.get();
  cache.Trim({&running, 1});
  ASSERT_EQ(sequence->snapshots.size(), 4U);
  for (size_t i = 1; i < 4; ++i)  // spread over the sequence
    EXPECT_LE(sequence->snapshots[i].pos - sequence->snapshots[i - 1].pos, 160);
}

// "ab" may be one token or two.
Tokenizer PairTokenizer() {
  nlohmann::json vocab;
  for (int i = 0; i < 256; ++i) vocab[ToByteLevel(std::string(1, static_cast<char>(i)))] = i;
  vocab["ab"] = 256;
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::json json = {
      {"version", "1.0"},
      {"added_tokens", nlohmann::json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array({"a b"})}}}};
  return Tokenizer::FromJson(json.dump(), "pairs");
}

TEST(PrefixCache, AReplyThatIsSpelledOtherwiseIsStillFound) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    const Tokenizer pairs = PairTokenizer();
    PrefixCache cache(pairs, kLarge);
    std::vector<int32_t> ids = RandomPrompt(20, 7);
    std::vector<int32_t> reply{'x', 'a', 'b', 'y'};  // the model wrote a and b apart
    ids.insert(ids.end(), reply.begin(), reply.end());
    auto sequence = Read(kit, ids, 10);
    sequence->prompt_tokens = 20;
    const int64_t end = sequence->state.pos();
    cache.Keep(std::move(sequence), {});
    std::vector<int32_t> prompt(ids.begin(), ids.begin() + 20);
    for (const int32_t id : {int32_t{'x'}, 256, int32_t{'y'}, 50, 51}) prompt.push_back(id);
    const PrefixFound found = cache.Find({.prompt = prompt, .owner = "", .kind = ""}, {});
    ASSERT_NE(found.from, nullptr);
    EXPECT_EQ(found.pos, end);
    EXPECT_EQ(found.prompt_pos, 23);
    // What somebody gave is read as it is.
    found.from->prompt_tokens = end;
    EXPECT_LE(cache.Find({.prompt = prompt, .owner = "", .kind = ""}, {}).prompt_pos, 21);
  }
}

}  // namespace
}  // namespace hydra::serve
