// SPDX-License-Identifier: Apache-2.0
// One token shard (.tok): documents as token ids, their ends, and perhaps a loss mask, mapped. Bytes: docs/formats.md.
// Not here: a folder of shards and data.json (token_dataset.h), text to tokens (data_build.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hydra/io/file.h"

namespace hydra {

struct TokenShardHeader {
  uint32_t token_bytes = 2;  // 2 or 4
  uint64_t n_tokens = 0;
  uint64_t n_docs = 0;
  uint32_t vocab_size = 0;  // every id is below it
  bool has_mask = false;
  bool has_domains = false;
  Sha256Digest tokenizer{};  // SHA-256 of the tokenizer.json that made the ids
};

// Open() checks header, sizes and document ends, and copies the ends (8 bytes a document); ids are checked as they are
// read, so that opening costs no pass over the tokens. All errors are kFormat and name file and field. Immutable: safe
// to share between threads.
class TokenShard {
 public:
  [[nodiscard]] static TokenShard Open(const std::string& path);

  [[nodiscard]] const TokenShardHeader& header() const { return header_; }
  [[nodiscard]] const std::string& path() const { return file_.path(); }
  [[nodiscard]] int64_t n_docs() const { return static_cast<int64_t>(header_.n_docs); }
  [[nodiscard]] int64_t n_tokens() const { return static_cast<int64_t>(header_.n_tokens); }
  // CRC-32 of the header, which has that of the payload: shards of other bytes have another one.
  [[nodiscard]] uint32_t checksum() const { return header_crc_; }
  // Document i holds tokens [DocBegin(i), DocEnd(i)), at least one.
  [[nodiscard]] int64_t DocBegin(int64_t doc) const { return doc == 0 ? 0 : DocEnd(doc - 1); }
  [[nodiscard]] int64_t DocEnd(int64_t doc) const { return static_cast<int64_t>(ends_[static_cast<size_t>(doc)]); }

  // Of a document: its number in data.json's list of domains; -1: none.
  [[nodiscard]] int Domain(int64_t doc) const {
    const uint16_t domain = domains_ == nullptr ? kNoDomain : domains_[doc];
    return domain == kNoDomain ? -1 : domain;
  }

  // Copies tokens [begin, begin + out.size()).
  void Read(int64_t begin, std::span<int32_t> out) const;
  void Read(int64_t begin, std::span<int64_t> out) const;
  // 1 where the token counts in the loss (as the one to be predicted), else 0; all 1 without a mask.
  void ReadMask(int64_t begin, std::span<uint8_t> out) const;

  // Reads every byte: checksum of the payload, ids, padding bits.
  void Verify() const;

 private:
  explicit TokenShard(MappedFile file) : file_(std::move(file)) {}
  template <class T>
  void ReadAs(int64_t begin, std::span<T> out) const;

  MappedFile file_;
  TokenShardHeader header_;
  uint32_t payload_crc_ = 0, header_crc_ = 0;
  const std::byte* tokens_ = nullptr;
  std::vector<uint64_t> ends_;     // [n_docs]; copied, so that they stay what was checked if the file is overwritten
  const uint8_t* mask_ = nullptr;  // a bit a token, lowest first; null without a mask
  const uint16_t* domains_ = nullptr;  // of each document; null without domains
  static constexpr uint16_t kNoDomain = 0xFFFF;
};

// Writes a shard atomically; memory: 8 bytes a document and a bit a token. A mask is stored only if it masks something.
class TokenShardWriter {
 public:
  // 2 bytes a token where the vocabulary allows, else 4.
  TokenShardWriter(const std::string& path, uint32_t vocab_size, const Sha256Digest& tokenizer,
                   const FileOps& ops = FileOps::Real());

  // A document of at least one token; `mask` is empty (all count) or has one 0 or 1 a token; -1: of no domain. Domains
  // are stored only if a document has one.
  void AddDocument(std::span<const int32_t> ids, std::span<const uint8_t> mask = {}, int domain = -1);
  // The file appears under its name. Without this call nothing is left behind.
  void Finish();

  [[nodiscard]] const TokenShardHeader& header() const { return header_; }  // counts so far
  [[nodiscard]] uint64_t file_bytes() const { return file_.size(); }

 private:
  AtomicFile file_;
  TokenShardHeader header_;
  std::vector<uint64_t> ends_;
  std::vector<uint8_t> mask_;
  std::vector<uint16_t> domains_;
  std::vector<std::byte> scratch_;
};

}  // namespace hydra
