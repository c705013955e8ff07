// SPDX-License-Identifier: Apache-2.0
// The documents that training and evaluation read, by number: token shards on disk, or a list in memory.
// Not here: order, rows (packing.h), making shards (data/data_build.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hydra/data/token_dataset.h"
#include "hydra/train/source_files.h"

namespace hydra::train {

// Immutable: safe to share between threads.
class Corpus {
 public:
  // One split ("train", "val") of a folder made by `hydralm data build`; errors as TokenDataset::Open.
  [[nodiscard]] static Corpus Open(const std::string& folder, const std::string& split,
                                   const TokenDataset::Expect& expect);
  // Documents in memory; all tokens count in the loss.
  [[nodiscard]] static Corpus FromDocuments(std::vector<std::vector<int32_t>> documents);

  [[nodiscard]] int64_t n_docs() const;
  [[nodiscard]] int64_t n_tokens() const;
  [[nodiscard]] int64_t DocLength(int64_t doc) const;
  // Copies tokens [begin, begin + out.size()) of a document.
  void Read(int64_t doc, int64_t begin, std::span<int64_t> out) const;
  // Names of the domains that documents are of; none in memory.
  [[nodiscard]] const std::vector<std::string>& domains() const;
  // The same documents, Domain() being places in `names`.
  [[nodiscard]] Corpus WithDomains(const std::vector<std::string>& names) const;
  // Place of a document's domain in the names of WithDomains; -1: none, another one, or names were not given.
  [[nodiscard]] int Domain(int64_t doc) const;
  [[nodiscard]] bool has_domains() const;
  // The documents whose Domain() is `domain`.
  [[nodiscard]] Corpus OfDomain(int domain) const;
  [[nodiscard]] bool has_mask() const;
  // 1 where the token counts in the loss when it is the one to be predicted.
  void ReadMask(int64_t doc, int64_t begin, std::span<uint8_t> out) const;

  // What a resumed run must find again: the tokenizer's hash, counts, and a checksum of all shards (or of the documents
  // in memory): "SHA documents N tokens N checksum HEX".
  [[nodiscard]] std::string Fingerprint() const;

  // data.json as it was read; null in memory.
  [[nodiscard]] const DataManifest* manifest() const { return shards_ ? &shards_->manifest() : nullptr; }
  // Has `files` watch the shards.
  void Watch(SourceFiles* files) const;

 private:
  Corpus() = default;
  std::shared_ptr<const TokenDataset> shards_;  // or
  std::shared_ptr<const std::vector<std::vector<int32_t>>> memory_;
  std::vector<int> domain_of_;  // of each of domains(): its place in the names that are wanted
  std::shared_ptr<const std::vector<int64_t>> selected_;  // documents of OfDomain; null: all

  [[nodiscard]] int64_t Source(int64_t doc) const { return selected_ ? (*selected_)[static_cast<size_t>(doc)] : doc; }
};

}  // namespace hydra::train
