// SPDX-License-Identifier: Apache-2.0
// A folder of token shards: data.json, and the documents of one split by number. Made by data_build.h.
// Not here: batches, packing, shuffling (hydra/train). Bytes: docs/formats.md.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/data/token_shard.h"

namespace hydra {

// Sums over a split, or of one shard.
struct SplitCounts {
  int64_t documents = 0;
  int64_t tokens = 0;      // appended ends of text included
  int64_t text_bytes = 0;  // UTF-8 bytes of the text behind the tokens, the appended ends of text left out
  bool operator==(const SplitCounts&) const = default;
};

// Throws kIo for what is no folder, or one without data.json; the message says what to give.
void CheckDataFolder(const std::string& folder);

// data.json.
struct DataManifest {
  struct Shard {
    std::string file;   // plain name in the same folder
    std::string split;  // "train" or "val"
    SplitCounts counts;
    bool operator==(const Shard&) const = default;
  };
  std::string tokenizer_sha256;  // 64 hexadecimal digits; the file itself is tokenizer.json beside it
  int64_t vocab_size = 0;
  int64_t eos_id = 0;                     // the token that ends each document
  double val_fraction = 0;                // as asked for
  std::vector<std::string> domains = {};  // names of the numbers that shards give documents; may be empty
  std::vector<Shard> shards;              // each split in the order of its documents
  bool operator==(const DataManifest&) const = default;

  // Throws kIo or kFormat naming file and field.
  [[nodiscard]] static DataManifest Load(const std::string& folder);
  void Save(const std::string& folder, const FileOps& ops = FileOps::Real()) const;
  [[nodiscard]] std::string Text() const;  // of data.json
  [[nodiscard]] SplitCounts Totals(std::string_view split) const;
  // The tokenizer.json of the folder. A build that was stopped while it put its own in that place has left it under
  // another name, tokenizer-DIGITS.json with the first 16 of the SHA-256.
  [[nodiscard]] std::string TokenizerPath(const std::string& folder) const;
  [[nodiscard]] std::string NewTokenizerName() const;  // that other name
};

// Throws kFormat where a shard is another than its row of data.json says: tokenizer, vocabulary, counts.
void CheckShard(const TokenShard& shard, const DataManifest::Shard& row, const DataManifest& manifest);

// The documents of one split. Immutable after Open(): safe to share between threads.
class TokenDataset {
 public:
  struct Expect {
    std::string tokenizer_sha256 = {};  // hexadecimal; empty: any
    int64_t vocab_size = 0;             // the model's, which must hold every id; 0: any
  };

  // `split` is "train" or "val"; a split without documents opens with n_docs() == 0. Throws kIo, kFormat (file and
  // field), or kData where the folder was made for another tokenizer or vocabulary than expected.
  [[nodiscard]] static TokenDataset Open(const std::string& folder, const std::string& split, const Expect& expect);
  [[nodiscard]] static TokenDataset Open(const std::string& folder, const std::string& split);

  [[nodiscard]] int64_t n_docs() const { return counts_.documents; }
  [[nodiscard]] int64_t n_tokens() const { return counts_.tokens; }
  [[nodiscard]] int64_t n_bytes() const { return counts_.text_bytes; }  // of text: for bits per byte
  [[nodiscard]] bool has_mask() const;
  // Of a document: its number in the manifest's domains; -1: none.
  [[nodiscard]] int Domain(int64_t doc) const;
  [[nodiscard]] const DataManifest& manifest() const { return manifest_; }
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] const std::vector<TokenShard>& shards() const { return shards_; }  // of the split

  // Tokens of document `doc` (of [0, n_docs)), the end of text included; at least 1.
  [[nodiscard]] int64_t DocLength(int64_t doc) const;
  // Copies tokens [begin, begin + out.size()) of a document; ids are checked to be below the vocabulary size.
  void Read(int64_t doc, int64_t begin, std::span<int32_t> out) const;
  void Read(int64_t doc, int64_t begin, std::span<int64_t> out) const;
  // 1 where the token counts in the loss when it is the one to be predicted, else 0.
  void ReadMask(int64_t doc, int64_t begin, std::span<uint8_t> out) const;
  // A whole document.
  [[nodiscard]] std::vector<int32_t> Document(int64_t doc) const;

  // Reads everything: checksums, ids. Throws at the first fault.
  void Verify() const;

 private:
  struct Place {
    const TokenShard* shard;
    int64_t begin, end;  // tokens of the shard
  };
  TokenDataset() = default;
  [[nodiscard]] Place Find(int64_t doc, int64_t begin, size_t n) const;

  std::string folder_;
  DataManifest manifest_;
  SplitCounts counts_;
  std::vector<TokenShard> shards_;
  std::vector<int64_t> first_doc_;  // of each shard
};

}  // namespace hydra
