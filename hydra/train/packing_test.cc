// SPDX-License-Identifier: Apache-2.0
// Packing: what every row must be, that nothing is lost, and that a saved position goes on exactly.
#include "hydra/train/packing.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "hydra/base/error.h"
#include "hydra/train/batches.h"
#include "hydra/train/testing.h"

namespace hydra::train {
namespace {

using testing::RandomDocuments;

std::string RowText(const std::vector<PlacedPiece>& row) {
  std::string text;
  for (const PlacedPiece& p : row)
    text += StrCat(p.piece.doc, ":", p.piece.begin, "-", p.piece.end, "@", p.offset, " ");
  return text;
}

TEST(Packing, RowsKeepTheRules) {
  for (const uint64_t seed : {1, 2, 3}) {
    for (const int64_t chunk : {1, 8, 16}) {
      for (const int64_t row_len : {16, 64, 256}) {
        SCOPED_TRACE(StrCat("seed ", seed, " chunk ", chunk, " row ", row_len));
        const Corpus corpus = Corpus::FromDocuments(RandomDocuments(seed, 60, 150, 64));
        RowPacker packer(corpus, {.chunk_len = chunk, .seed = seed});
        int64_t used = 0, pads = 0;
        for (int i = 0; i < 200; ++i) {
          int64_t end = 0, tokens = 0;
          for (const PlacedPiece& p : packer.Next(row_len)) {
            EXPECT_EQ(p.offset % chunk, 0);
            EXPECT_GE(p.offset, end);
            EXPECT_LT(p.offset - end, chunk);
            EXPECT_GE(p.piece.size(), 2);
            EXPECT_GE(p.piece.begin, 0);
            EXPECT_LE(p.piece.end, corpus.DocLength(p.piece.doc));
            end = p.offset + p.piece.size();
            tokens += p.piece.size();
          }
          EXPECT_LE(end, row_len);
          used += tokens;
          pads += row_len - tokens;
        }
        // Pads between pieces are half a chunk on average, what a row's end may waste is a sixteenth.
        const double most =
            chunk == 1 ? 200.0 * static_cast<double>(row_len) / 16 + 200 : static_cast<double>(used) / 2;
        if (row_len >= 4 * chunk) {
          EXPECT_LE(static_cast<double>(pads), most);
        }
      }
    }
  }
}

// In one pass every token but the first of each document is predicted exactly once.
TEST(Packing, APassPredictsEachTokenOnce) {
  for (const bool cut : {false, true}) {
    SCOPED_TRACE(cut);
    const auto documents = RandomDocuments(7, 50, 200, 64);
    RowPacker packer(Corpus::FromDocuments(documents),
                     {.chunk_len = 8, .seed = 3, .repeat = false, .cut_to_fill = cut});
    std::map<std::pair<int64_t, int64_t>, int> predicted;
    for (auto row = packer.Next(64); !row.empty(); row = packer.Next(64))
      for (const PlacedPiece& p : row)
        for (int64_t t = p.piece.begin + 1; t < p.piece.end; ++t) ++predicted[{p.piece.doc, t}];
    size_t want = 0;
    for (const auto& document : documents) want += document.size() - 1;
    EXPECT_EQ(predicted.size(), want);
    for (const auto& [token, count] : predicted) EXPECT_EQ(count, 1) << token.first << ":" << token.second;
    EXPECT_TRUE(packer.Next(64).empty());
  }
}

TEST(Packing, OrderDependsOnSeedAndPass) {
  const Corpus corpus = testing::TinyCorpus(5);
  const auto stream = [&](uint64_t seed, int rows) {
    RowPacker packer(corpus, {.chunk_len = 8, .seed = seed});
    std::string text;
    for (int i = 0; i < rows; ++i) text += RowText(packer.Next(64)) + "\n";
    return text;
  };
  EXPECT_EQ(stream(1, 100), stream(1, 100));
  EXPECT_NE(stream(1, 10), stream(2, 10));
  RowPacker packer(corpus, {.chunk_len = 8, .seed = 1});
  std::vector<std::vector<Piece>> passes(3);
  while (packer.position().pass < 3) {
    const auto pass = static_cast<size_t>(packer.position().pass);
    for (const PlacedPiece& p : packer.Next(64)) passes[pass].push_back(p.piece);
  }
  EXPECT_NE(passes[1], passes[2]);
}

TEST(Packing, SavedPositionGoesOnExactly) {
  for (const uint64_t seed : {11, 12, 13, 14}) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    const Corpus corpus = Corpus::FromDocuments(RandomDocuments(seed, 30, 300, 64));
    RowPacker going(corpus, {.chunk_len = 8, .seed = seed}), resumed(corpus, {.chunk_len = 8, .seed = seed});
    int64_t row_len = 64;
    for (int i = 0; i < 300; ++i) {
      if (rng.Below(40) == 0) row_len = 32 << rng.Below(3);
      EXPECT_EQ(RowText(going.Next(row_len)), RowText(resumed.Next(row_len)));
      EXPECT_EQ(going.position(), resumed.position());
      if (rng.Below(5) != 0) continue;
      const std::string saved = ToJson(resumed.position()).dump();
      resumed = RowPacker(corpus, {.chunk_len = 8, .seed = seed});
      resumed.set_position(PositionFromJson(nlohmann::ordered_json::parse(saved), "loader", corpus));
    }
    EXPECT_GT(going.position().pass, 2);
  }
}

TEST(Packing, BadPositionsAreRefused) {
  const Corpus corpus = testing::TinyCorpus(1);
  RowPacker packer(corpus, {.chunk_len = 8});
  for (int i = 0; i < 5; ++i) (void)packer.Next(64);
  const auto good = ToJson(packer.position());
  EXPECT_NO_THROW((void)PositionFromJson(good, "loader", corpus));
  for (const char* patch : {R"({"next": -1})", R"({"next": 1000000})", R"({"pass": null})", R"({"pending": [[0, 0]]})",
                            R"({"pending": [[1000, 0, 5]]})", R"({"pending": [[0, 5, 5]]})", R"({"row_len": 1})",
                            R"({"pending": 3})", R"({"pending": [[0, 0, 99999]]})", R"({"rows": "many"})"}) {
    auto bad = good;
    bad.merge_patch(nlohmann::ordered_json::parse(patch));
    EXPECT_THROW((void)PositionFromJson(bad, "loader", corpus), Error) << patch;
  }
  EXPECT_THROW((void)RowPacker(Corpus::FromDocuments({{1}, {2}}), {}), Error);
}

// The rows of a step are the same however they are grouped.
TEST(Batches, SameRowsWhateverTheSplit) {
  const Corpus corpus = testing::TinyCorpus(9);
  const auto ids = [&](int64_t accum, int64_t rows) {
    RowMix mix({{"", corpus}}, {.chunk_len = 8, .seed = 4});
    std::vector<torch::Tensor> out;
    for (int step = 0; step < 4; ++step)
      for (const TokenBatch& micro : NextStep(mix, accum, rows, 64).micro) out.push_back(micro.batch.ids);
    return torch::cat(out);
  };
  EXPECT_TRUE(torch::equal(ids(1, 12), ids(3, 4)));
  EXPECT_TRUE(torch::equal(ids(12, 1), ids(2, 6)));
}

TEST(Batches, TensorsSayWhatTheModelReads) {
  // Two documents in a row of 16 with C = 8, as nn's own packing has them.
  const std::vector<std::vector<int32_t>> documents = {{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10, 11, 12}};
  RowPacker packer(Corpus::FromDocuments(documents), {.chunk_len = 8, .shuffle = false, .repeat = false});
  const TokenBatch batch = NextBatch(packer, 1, 16);
  const nn::Batch want = nn::Batch::Pack({{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10, 11, 12}}, 8, 16);
  EXPECT_TRUE(torch::equal(batch.batch.ids, want.ids)) << batch.batch.ids;
  EXPECT_TRUE(torch::equal(batch.batch.targets, want.targets)) << batch.batch.targets;
  EXPECT_TRUE(torch::equal(batch.batch.seq_idx, want.seq_idx)) << batch.batch.seq_idx;
  EXPECT_TRUE(torch::equal(batch.batch.pos, want.pos)) << batch.batch.pos;
  EXPECT_EQ(batch.n_targets, 4 + 6);
  EXPECT_EQ(batch.n_tokens, 12);
  EXPECT_EQ(batch.n_rows, 1);
}

}  // namespace
}  // namespace hydra::train
