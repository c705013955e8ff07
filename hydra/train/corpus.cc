// SPDX-License-Identifier: Apache-2.0
// Documents by number, from shards or from memory.
#include "hydra/train/corpus.h"

#include <algorithm>

#include "hydra/base/error.h"

namespace hydra::train {

Corpus Corpus::Open(const std::string& folder, const std::string& split, const TokenDataset::Expect& expect) {
  Corpus corpus;
  corpus.shards_ = std::make_shared<const TokenDataset>(TokenDataset::Open(folder, split, expect));
  return corpus;
}

Corpus Corpus::FromDocuments(std::vector<std::vector<int32_t>> documents) {
  Corpus corpus;
  corpus.memory_ = std::make_shared<const std::vector<std::vector<int32_t>>>(std::move(documents));
  return corpus;
}

int64_t Corpus::n_docs() const { return shards_ ? shards_->n_docs() : static_cast<int64_t>(memory_->size()); }

int64_t Corpus::n_tokens() const {
  if (shards_) return shards_->n_tokens();
  int64_t sum = 0;
  for (const auto& document : *memory_) sum += static_cast<int64_t>(document.size());
  return sum;
}

int64_t Corpus::DocLength(int64_t doc) const {
  if (shards_) return shards_->DocLength(doc);
  return static_cast<int64_t>((*memory_)[static_cast<size_t>(doc)].size());
}

void Corpus::Read(int64_t doc, int64_t begin, std::span<int64_t> out) const {
  if (shards_) return shards_->Read(doc, begin, out);
  const std::vector<int32_t>& document = (*memory_)[static_cast<size_t>(doc)];
  HYDRA_CHECK(begin >= 0 && static_cast<size_t>(begin) + out.size() <= document.size(), "tokens ", begin, "+",
              out.size(), " of a document of ", document.size());
  std::copy_n(document.begin() + begin, out.size(), out.begin());
}

bool Corpus::has_mask() const { return shards_ && shards_->has_mask(); }

void Corpus::ReadMask(int64_t doc, int64_t begin, std::span<uint8_t> out) const {
  if (shards_) return shards_->ReadMask(doc, begin, out);
  std::fill(out.begin(), out.end(), uint8_t{1});
}

std::string Corpus::Fingerprint() const {
  Sha256 sums;
  if (shards_) {
    for (const TokenShard& shard : shards_->shards()) sums.Update(StrCat(shard.checksum(), "\n"));
  } else {
    for (const auto& document : *memory_) sums.Update(StrCat(Crc32(AsBytes(std::span(document))), "\n"));
  }
  return StrCat(shards_ ? shards_->manifest().tokenizer_sha256 : std::string("memory"), " documents ", n_docs(),
                " tokens ", n_tokens(), " checksum ", Hex(sums.Finish()).substr(0, 16));
}

void Corpus::Watch(SourceFiles* files) const {
  if (!shards_) return;
  for (const TokenShard& shard : shards_->shards()) {
    files->Add(shard.path(), [data = shards_, path = shard.path(), checksum = shard.checksum()] {
      const TokenShard now = TokenShard::Open(path);
      now.Verify();
      return now.checksum() == checksum;
    });
  }
}

}  // namespace hydra::train
