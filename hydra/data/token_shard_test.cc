// SPDX-License-Identifier: Apache-2.0
// Token shards and folders of them: round trips, and each kind of bad file.
#include "hydra/data/token_shard.h"

#include "hydra/base/rng.h"
#include "hydra/base/testing.h"
#include "hydra/data/token_dataset.h"

namespace hydra {
namespace {

const Sha256Digest kTokenizer = Sha256::Of("a tokenizer");
const std::string kTokenizerHex = Hex(kTokenizer);

struct Doc {
  std::vector<int32_t> ids;
  std::vector<uint8_t> mask;
};

std::vector<Doc> RandomDocs(int n, uint32_t vocab, bool masked) {
  Rng rng(static_cast<uint64_t>(n) + vocab);
  std::vector<Doc> docs(static_cast<size_t>(n));
  for (Doc& doc : docs) {
    doc.ids.resize(1 + rng.Below(40));
    for (int32_t& id : doc.ids) id = static_cast<int32_t>(rng.Below(vocab));
    if (!masked || rng.Below(2) == 0) continue;
    for (size_t i = 0; i < doc.ids.size(); ++i) doc.mask.push_back(static_cast<uint8_t>(rng.Below(2)));
    doc.mask[0] = 0;
  }
  return docs;
}

void WriteShard(const std::string& path, const std::vector<Doc>& docs, uint32_t vocab) {
  TokenShardWriter writer(path, vocab, kTokenizer);
  for (const Doc& doc : docs) writer.AddDocument(doc.ids, doc.mask);
  writer.Finish();
}

TEST(TokenShard, RoundTrips) {
  for (const uint32_t vocab : {1u, 500u, 65536u, 65537u, 2000000u})
    for (const bool masked : {false, true})
      for (const int n : {1, 50}) {
        TempDir dir;
        const auto docs = RandomDocs(n, vocab, masked);
        WriteShard(dir / "a.tok", docs, vocab);
        EXPECT_EQ(dir.CountFiles(), 1u);
        const TokenShard shard = TokenShard::Open(dir / "a.tok");
        shard.Verify();
        EXPECT_EQ(shard.header().token_bytes, vocab <= 65536 ? 2u : 4u);
        EXPECT_EQ(shard.header().tokenizer, kTokenizer);
        ASSERT_EQ(shard.n_docs(), n);
        for (int64_t d = 0; d < n; ++d) {
          const Doc& want = docs[static_cast<size_t>(d)];
          ASSERT_EQ(shard.DocEnd(d) - shard.DocBegin(d), static_cast<int64_t>(want.ids.size()));
          std::vector<int32_t> ids(want.ids.size());
          std::vector<int64_t> wide(want.ids.size());
          std::vector<uint8_t> mask(want.ids.size());
          shard.Read(shard.DocBegin(d), ids);
          shard.Read(shard.DocBegin(d), wide);
          shard.ReadMask(shard.DocBegin(d), mask);
          EXPECT_EQ(ids, want.ids);
          EXPECT_EQ(std::vector<int64_t>(ids.begin(), ids.end()), wide);
          EXPECT_EQ(mask, want.mask.empty() ? std::vector<uint8_t>(ids.size(), 1) : want.mask);
        }
      }
}

TEST(TokenShard, KeepsADomainForEachDocument) {
  for (const bool masked : {false, true}) {
    TempDir dir;
    const auto docs = RandomDocs(5, 300, masked);
    const std::vector<int> domains = {2, -1, 0, 0xFFFE, -1};
    TokenShardWriter writer(dir / "a.tok", 300, kTokenizer);
    for (size_t i = 0; i < docs.size(); ++i) writer.AddDocument(docs[i].ids, docs[i].mask, domains[i]);
    writer.Finish();
    const TokenShard shard = TokenShard::Open(dir / "a.tok");
    shard.Verify();
    EXPECT_TRUE(shard.header().has_domains);
    for (size_t i = 0; i < docs.size(); ++i) {
      EXPECT_EQ(shard.Domain(static_cast<int64_t>(i)), domains[i]);
      std::vector<uint8_t> mask(docs[i].ids.size());
      shard.ReadMask(shard.DocBegin(static_cast<int64_t>(i)), mask);
      EXPECT_EQ(mask, docs[i].mask.empty() ? std::vector<uint8_t>(mask.size(), 1) : docs[i].mask);
    }
    // Documents that are of none leave no section behind.
    WriteShard(dir / "b.tok", docs, 300);
    const TokenShard without = TokenShard::Open(dir / "b.tok");
    EXPECT_FALSE(without.header().has_domains);
    EXPECT_EQ(without.Domain(0), -1);
  }
}

// The bytes of a small shard (2 documents, 5 tokens, a mask) that cases change; Seal() makes the checksums right again,
// so that the fault itself has to be found.
class BadShard : public testing::Test {
 protected:
  void SetUp() override {
    WriteShard(path_, {{{1, 2, 3}, {0, 1, 1}}, {{4, 5}, {}}}, 6);
    good_ = bytes_ = ReadFile(path_);
    ends_ = Get<uint64_t>(80);
    mask_ = Get<uint64_t>(88);
  }
  template <class T>
  T Get(size_t at) const {
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof(T));
    return value;
  }
  template <class T>
  void Put(size_t at, T value) {
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void Seal() {
    Put(96, Crc32(AsBytes(bytes_).subspan(256)));
    Put(100, Crc32(AsBytes(bytes_).first(100)));
  }
  // Opens and verifies what `bytes_` holds; then starts again from the good bytes.
  // `name`: its name in specs/product.md, or "".
  void Refused(const char* name, const char* field, std::vector<std::string> found = {}) {
    WriteFileAtomic(path_, bytes_);
    bytes_ = good_;
    ExpectBadFile({.format = "token shards", .name = name, .file = path_, .field = field, .found = std::move(found)},
                  [&] { TokenShard::Open(path_).Verify(); });
  }
  TempDir dir_;
  const std::string path_ = dir_ / "a.tok";
  std::string good_, bytes_;
  size_t ends_ = 0, mask_ = 0;
};

TEST_F(BadShard, EachKindIsRefusedByField) {
  bytes_[0] = 'X';
  Refused("bad-magic", "magic", {"HYDRATOK"});
  bytes_.clear();
  Refused("", "magic");
  Put<uint32_t>(8, 2), Seal();
  Refused("", "version = 2");
  Put<uint32_t>(12, 3), Seal();
  Refused("token-bytes-3", "token bytes = 3", {"2 or 4"});
  Put<uint64_t>(16, 1 << 20), Seal();
  Refused("count-past-file", "document ends offset", {"n_tokens = 1048576"});
  Put<uint64_t>(16, 1 << 20), Put<uint64_t>(80, 4096 + (2 << 20)), Put<uint64_t>(88, 4096 + (2 << 20) + 64), Seal();
  Refused("", "tokens", {"n_tokens = 1048576", "file ends at", "incomplete copy"});
  Put<uint64_t>(16, UINT64_MAX / 2), Seal();
  Refused("", "n_tokens", {"64 bits"});
  Put<uint64_t>(24, UINT64_MAX / 4), Seal();
  Refused("", "n_tokens", {"n_docs", "64 bits"});
  Put<uint64_t>(24, uint64_t{1} << 58), Seal();
  Refused("", "mask offset", {"n_docs"});
  Put<uint32_t>(32, 0), Seal();
  Refused("", "vocab_size = 0");
  Put<uint32_t>(36, 5), Seal();
  Refused("", "flags = 5");
  Put<uint32_t>(36, 3), Seal();
  Refused("", "domains offset = 0");
  Put<uint64_t>(104, 4096), Seal();
  Refused("", "domains offset = 4096");
  Put<uint64_t>(72, 256), Seal();
  Refused("", "tokens offset = 256");
  bytes_[200] = 1;
  Refused("", "reserved bytes");
  Put<uint16_t>(4096 + 2 * 3, 6), Seal();
  Refused("id-over-vocab", "tokens[3] = 6", {"vocab_size = 6"});
  Put<uint64_t>(ends_, 0), Seal();
  Refused("", "document ends[0] = 0", {"above"});
  Put<uint64_t>(ends_, 5), Seal();
  Refused("ends-descend", "document ends[1] = 5", {"above the one before, 5"});
  Put<uint64_t>(ends_ + 8, 9), Seal();
  Refused("ends-past-tokens", "document ends[1] = 9", {"n_tokens = 5"});
  Put<uint64_t>(ends_ + 8, 4), Seal();
  Refused("", "document ends = 4", {"n_tokens = 5"});
  bytes_.pop_back(), Seal();
  Refused("mask-short", "mask", {"incomplete copy"});
  bytes_ += 'x', Seal();
  Refused("", "payload", {"followed by 1 bytes"});
  bytes_[mask_] = static_cast<char>(0xff), Seal();
  Refused("", "mask", {"past the last token"});
  bytes_[4096] ^= 1;
  Refused("crc-wrong", "payload CRC");
  bytes_[3000] = 1;  // padding counts too
  Refused("", "payload CRC");
  bytes_[50] ^= 1;
  Refused("", "header CRC");
  WriteFileAtomic(path_, good_);
  TokenShard::Open(path_).Verify();
}

TEST_F(BadShard, TruncationAnywhereIsRefused) {
  for (size_t n = 0; n < good_.size(); n += n < 4090 && n > 260 ? 97 : 1) {
    bytes_ = good_.substr(0, n);
    Refused("", "", {"incomplete copy"});
  }
}

TEST_F(BadShard, AnUnfinishedOneIsNotThere) {
  {
    TokenShardWriter writer(dir_ / "b.tok", 10, kTokenizer);
    writer.AddDocument(std::vector<int32_t>{1});
  }
  EXPECT_EQ(dir_.CountFiles(), 1u);
}

class Dataset : public testing::Test {
 protected:
  void SetUp() override {
    manifest_ = {.tokenizer_sha256 = kTokenizerHex, .vocab_size = 500, .eos_id = 3, .val_fraction = 0.1, .shards = {}};
    for (int s = 0; s < 3; ++s) {
      const auto docs = RandomDocs(5 + s, 500, s == 1);
      const std::string name = StrCat("train-0000", s + 1, "-of-00003.tok");
      WriteShard(dir_ / name, docs, 500);
      int64_t tokens = 0;
      for (const Doc& doc : docs) tokens += static_cast<int64_t>(doc.ids.size());
      manifest_.shards.push_back({name, "train", {static_cast<int64_t>(docs.size()), tokens, 10 * tokens}});
      docs_.insert(docs_.end(), docs.begin(), docs.end());
    }
    manifest_.Save(dir_.path());
  }
  std::string Json() { return ReadFile(dir_ / "data.json"); }
  // Replaces the first `from` of data.json and expects an error.
  void Bad(const std::string& from, const std::string& to, std::initializer_list<std::string_view> parts) {
    const std::string good = Json();
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    WriteFileAtomic(dir_ / "data.json", text.replace(at, from.size(), to));
    ExpectError([&] { (void)TokenDataset::Open(dir_.path(), "train"); }, ErrorCode::kFormat, parts);
    WriteFileAtomic(dir_ / "data.json", good);
  }
  TempDir dir_;
  DataManifest manifest_;
  std::vector<Doc> docs_;
};

TEST_F(Dataset, NumbersDocumentsOverShards) {
  const TokenDataset data =
      TokenDataset::Open(dir_.path(), "train", {.tokenizer_sha256 = kTokenizerHex, .vocab_size = 500});
  data.Verify();
  ASSERT_EQ(data.n_docs(), 18);
  EXPECT_EQ(data.n_bytes(), 10 * data.n_tokens());
  EXPECT_TRUE(data.has_mask());
  for (int64_t d = 0; d < data.n_docs(); ++d) {
    const Doc& want = docs_[static_cast<size_t>(d)];
    EXPECT_EQ(data.Document(d), want.ids);
    const int64_t half = data.DocLength(d) / 2;
    std::vector<int64_t> tail(static_cast<size_t>(data.DocLength(d) - half));
    data.Read(d, half, tail);
    for (size_t i = 0; i < tail.size(); ++i) EXPECT_EQ(tail[i], want.ids[static_cast<size_t>(half) + i]);
    std::vector<uint8_t> mask(static_cast<size_t>(data.DocLength(d)));
    data.ReadMask(d, 0, mask);
    EXPECT_EQ(mask, want.mask.empty() ? std::vector<uint8_t>(mask.size(), 1) : want.mask);
  }
  EXPECT_EQ(TokenDataset::Open(dir_.path(), "val").n_docs(), 0);
}

TEST_F(Dataset, ForeignDataAreRefused) {
  ExpectError([&] { (void)TokenDataset::Open(dir_.path(), "train", {.tokenizer_sha256 = std::string(64, '0')}); },
              ErrorCode::kData, {"data.json", "tokenizer_sha256", "000000000000"});
  ExpectError([&] { (void)TokenDataset::Open(dir_.path(), "train", {.vocab_size = 499}); }, ErrorCode::kData,
              {"data.json", "vocab_size = 500", "499"});
  (void)TokenDataset::Open(dir_.path(), "train", {.vocab_size = 512});  // a padded embedding
  // A shard of another tokenizer under the right name.
  const std::string path = dir_ / "train-00002-of-00003.tok";
  TokenShardWriter writer(path, 500, Sha256::Of("another"));
  writer.AddDocument(std::vector<int32_t>{1});
  writer.Finish();
  ExpectBadFile({.format = "token shards",
                 .name = "other-tokenizer",
                 .file = path,
                 .field = "tokenizer SHA-256",
                 .found = {Hex(Sha256::Of("another")), "data.json says"}},
                [&] { (void)TokenDataset::Open(dir_.path(), "train"); });
  std::filesystem::remove(path);
  ExpectError([&] { (void)TokenDataset::Open(dir_.path(), "train"); }, ErrorCode::kIo, {"train-00002"});
}

TEST_F(Dataset, BadManifestsAreRefusedByField) {
  Bad("\"hydralm-data\"", "\"other\"", {"format", "other"});
  Bad("\"version\": 1", "\"version\": 2", {"version", "2"});
  Bad(kTokenizerHex, "xyz", {"tokenizer_sha256", "64 hexadecimal"});
  Bad("\"eos_id\": 3", "\"eos_id\": 500", {"eos_id", "500"});
  Bad("\"eos_id\": 3", "\"eos_id\": -1", {"eos_id", "-1"});
  Bad("\"vocab_size\": 500", "\"vocab_size\": 600", {"vocab_size = 500", "data.json says 600"});
  Bad("\"val_fraction\": 0.1", "\"val_fraction\": 2", {"val_fraction"});
  Bad("\"eos_id\"", "\"eos\"", {"eos_id", "missing"});
  Bad("\"version\": 1", "\"version\": 1, \"extra\": 1", {"unknown key \"extra\""});
  Bad("train-00002-of-00003.tok", "../x.tok", {"shards[1]: file", "plain file name"});
  Bad("train-00002-of-00003.tok", "train-00001-of-00003.tok", {"shards[1]: file", "twice"});
  Bad("\"split\": \"train\"", "\"split\": \"test\"", {"shards[0]: split", "test"});
  Bad("\"documents\": 18", "\"documents\": 17", {"train", "17 documents", "the shards have 18"});
  Bad("\"documents\": 5", "\"documents\": 9223372036854775807", {"shards[0]: documents", "2^40"});
  Bad("{", "[", {"data.json"});
  TempDir empty;
  ExpectError([&] { (void)TokenDataset::Open(empty.path(), "train"); }, ErrorCode::kIo,
              {empty.path() + ": has no data.json: give a folder that"});
}

}  // namespace
}  // namespace hydra
