// SPDX-License-Identifier: Apache-2.0
// Memory packs while a model runs: the bits of a table that has them folded in, strength, stacking, unloading, packs of
// single sequences, quantised tables, saved states; and packs that do not fit. Packs in bad files are in
// model/memory_pack_test.cc.
#include "hydra/runtime/memory_overlay.h"

#include <algorithm>

#include "hydra/base/testing.h"
#include "hydra/io/json.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;
using testing::RandomSource;

ModelConfig Config() {
  ModelConfig config = HydraNano();
  config.vocab_size = 128;
  config.pkm = {.n_heads = 2, .n_keys = 8, .d_key = 32, .d_value = 32, .top_k = 4};  // few rows: each is read
  return config;
}

MemoryPack RandomPack(const WeightSource& source, uint64_t seed, int32_t first, int32_t every) {
  const PkmConfig& c = source.config.pkm;
  MemoryPack pack{.name = StrCat("pack", seed),
                  .base = MemoryBase(source),
                  .n_keys = c.n_keys,
                  .width = c.d_value,
                  .rows = {},
                  .delta = {}};
  Rng rng(seed);
  for (int32_t row = first; row < c.n_keys * c.n_keys; row += every) {
    pack.rows.push_back(row);
    for (int64_t d = 0; d < c.d_value; ++d) pack.delta.push_back(static_cast<float>(rng.Normal()));
  }
  return pack;
}

// The source with strength * delta added to its table.
WeightSource Folded(const WeightSource& source, const std::vector<WeightedPack>& packs) {
  WeightSource out = source;
  auto table = std::make_shared<std::vector<float>>();
  out.keep =
      std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<std::vector<float>>>>(source.keep, table);
  out.tensor = [source, packs, table](const TensorSpec& spec) {
    StoredTensor stored = source.tensor(spec);
    if (spec.role != TensorRole::kPkmTable) return stored;
    const auto* values = reinterpret_cast<const float*>(stored.data);
    table->assign(values, values + spec.size());
    for (const WeightedPack& one : packs)
      for (size_t i = 0; i < one.pack.rows.size(); ++i)
        for (int64_t d = 0; d < one.pack.width; ++d)
          (*table)[static_cast<size_t>(one.pack.rows[i] * one.pack.width + d)] +=
              static_cast<float>(one.strength) *
              one.pack.delta[i * static_cast<size_t>(one.pack.width) + static_cast<size_t>(d)];
    stored.data = reinterpret_cast<const std::byte*>(table->data());
    return stored;
  };
  return out;
}

std::vector<float> Logits(const Model& model, std::shared_ptr<const MemoryOverlay> memory, std::span<const int32_t> ids,
                          ThreadPool& pool, int64_t piece = 60) {
  SequenceState state(model);
  state.SetMemory(std::move(memory));
  return LogitsInPieces(model, state, ids, {piece}, pool);
}

class Memory : public ::testing::Test {
 protected:
  const WeightSource source_ = RandomSource(Config(), 91);
  const Model model_ = BuildModel(source_);
  ThreadPool pool_{2};
  const std::vector<int32_t> ids_ = RandomIds(60, 128, 92);
};

TEST_F(Memory, IsTheTableWithThePackFoldedIn) {
  for (const double strength : {1.0, 0.5, -1.0}) {
    const std::vector<WeightedPack> packs{{RandomPack(source_, 1, 0, 3), "a", strength}};
    const auto memory = MemoryOverlay::Make(packs, source_, false);
    const Model folded = BuildModel(Folded(source_, packs));
    const auto with = Logits(model_, memory, ids_, pool_);
    ExpectSameBits(with, Logits(folded, nullptr, ids_, pool_));
    ExpectSameBits(Logits(model_, memory, ids_, pool_, 1), Logits(folded, nullptr, ids_, pool_, 1));
    EXPECT_NE(with, Logits(model_, nullptr, ids_, pool_));
  }
}

TEST_F(Memory, PacksStackAndUnloadExactly) {
  const WeightedPack a{RandomPack(source_, 1, 0, 4), "a", 1}, b{RandomPack(source_, 2, 1, 4), "b", 0.25};
  const std::vector<WeightedPack> both{a, b};
  ExpectSameBits(Logits(model_, MemoryOverlay::Make(both, source_, false), ids_, pool_),
                 Logits(BuildModel(Folded(source_, both)), nullptr, ids_, pool_));
  const auto plain = Logits(model_, nullptr, ids_, pool_);
  SequenceState state(model_);
  state.SetMemory(MemoryOverlay::Make(both, source_, false));
  state.SetMemory(nullptr);
  ExpectSameBits(LogitsInPieces(model_, state, ids_, {60}, pool_), plain);
  const std::vector<WeightedPack> twice{a, {a.pack, "again", -1}};
  ExpectError([&] { (void)MemoryOverlay::Make(twice, source_, false); }, ErrorCode::kUsage,
              {"--memory again", "row 0", "is in a too", "--memory-merge add"});
  ExpectSameBits(Logits(model_, MemoryOverlay::Make(twice, source_, true), ids_, pool_), plain);
}

TEST_F(Memory, EachSequenceOfABatchHasItsOwn) {
  const std::vector<WeightedPack> packs{{RandomPack(source_, 3, 0, 2), "a", 1}};
  const auto memory = MemoryOverlay::Make(packs, source_, false);
  SequenceState with(model_), without(model_);
  with.SetMemory(memory);
  SequenceState fork = with.Fork();
  EXPECT_EQ(fork.memory(), memory);
  const auto want_with = Logits(model_, memory, ids_, pool_, 1), want_without = Logits(model_, nullptr, ids_, pool_, 1);
  ForwardScratch scratch;
  for (size_t t = 0; t < ids_.size(); ++t) {
    const Segment segments[] = {{&with, std::span(ids_).subspan(t, 1)}, {&without, std::span(ids_).subspan(t, 1)}};
    const auto logits = model_.Forward(segments, pool_, scratch);
    ExpectSameBits(logits.first(128), std::span(want_with).subspan(t * 128, 128));
    ExpectSameBits(logits.last(128), std::span(want_without).subspan(t * 128, 128));
  }
}

TEST_F(Memory, QuantisedTablesServeWhereTheFileSaysWhatFits) {
  WeightSource quantised = RandomSource(Config(), 91, WeightType::kQ8_0);
  ExpectError([&] { (void)MemoryBase(quantised); }, ErrorCode::kFormat, {"general.memory_base", "quantise"});
  quantised.metadata[StrCat("gguf:", kMemoryBaseKey)] = Json(MemoryBase(source_)).dump();
  const std::vector<WeightedPack> packs{{RandomPack(source_, 4, 0, 2), "a", 1}};
  const auto memory = MemoryOverlay::Make(packs, quantised, false);
  const Model model = BuildModel(quantised);
  const auto with = Logits(model, memory, ids_, pool_), close = Logits(model_, memory, ids_, pool_);
  EXPECT_LT(testing::Difference(with, close), 0.1);
  EXPECT_GT(testing::Difference(with, Logits(model, nullptr, ids_, pool_)), 0.1);
}

TEST_F(Memory, PacksOfOtherModelsAreRefused) {
  WeightedPack other{RandomPack(RandomSource(Config(), 93), 1, 0, 3), "other.safetensors", 1};
  ExpectError(
      [&] {
        (void)MemoryOverlay::Make({&other, 1}, source_, false);
      },
      ErrorCode::kUsage, {"--memory other.safetensors", "another model", "--teach"});
  other.pack.n_keys = 9;
  ExpectError([&] { (void)MemoryOverlay::Make({&other, 1}, source_, false); }, ErrorCode::kUsage, {"[9^2, 32]"});
  ExpectError([&] { (void)MemoryBase(RandomSource(TransformerNano(), 1)); }, ErrorCode::kUsage,
              {"no product-key memory"});
}

TEST_F(Memory, ASavedStateWantsItsPacks) {
  const TempDir dir;
  const std::string path = dir / "a.state";
  const std::vector<WeightedPack> packs{{RandomPack(source_, 5, 0, 2), "a", 1}};
  const auto memory = MemoryOverlay::Make(packs, source_, false);
  SequenceState state(model_);
  state.SetMemory(memory);
  (void)LogitsInPieces(model_, state, ids_, {60}, pool_);
  state.Save(path);
  SequenceState loaded = SequenceState::Load(path, model_, nullptr, memory);
  ExpectSameBits(LogitsInPieces(model_, loaded, ids_, {60}, pool_), LogitsInPieces(model_, state, ids_, {60}, pool_));
  ExpectError([&] { (void)SequenceState::Load(path, model_); }, ErrorCode::kUsage, {"a.state", "--memory", "pack5:1"});
}

}  // namespace
}  // namespace hydra
