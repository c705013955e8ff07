// SPDX-License-Identifier: Apache-2.0
// Documents by number, from shards or from memory.
#include "hydra/train/corpus.h"

#include <algorithm>
#include <utility>

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

int64_t Corpus::n_docs() const {
  if (selected_) return static_cast<int64_t>(selected_->size());
  return shards_ ? shards_->n_docs() : static_cast<int64_t>(memory_->size());
}

int64_t Corpus::n_tokens() const {
  if (shards_ && !selected_) return shards_->n_tokens();
  int64_t sum = 0;
  for (int64_t doc = 0; doc < n_docs(); ++doc) sum += DocLength(doc);
  return sum;
}

int64_t Corpus::DocLength(int64_t doc) const {
  if (shards_) return shards_->DocLength(Source(doc));
  return static_cast<int64_t>((*memory_)[static_cast<size_t>(doc)].size());
}

void Corpus::Read(int64_t doc, int64_t begin, std::span<int64_t> out) const {
  if (shards_) return shards_->Read(Source(doc), begin, out);
  const std::vector<int32_t>& document = (*memory_)[static_cast<size_t>(doc)];
  HYDRA_CHECK(begin >= 0 && static_cast<size_t>(begin) + out.size() <= document.size(), "tokens ", begin, "+",
              out.size(), " of a document of ", document.size());
  std::copy_n(document.begin() + begin, out.size(), out.begin());
}

const std::vector<std::string>& Corpus::domains() const {
  static const std::vector<std::string> kNone;
  return shards_ ? shards_->manifest().domains : kNone;
}

Corpus Corpus::WithDomains(const std::vector<std::string>& names) const {
  Corpus corpus = *this;
  corpus.domain_of_.clear();
  for (const std::string& domain : domains()) {
    const auto at = std::ranges::find(names, domain);
    corpus.domain_of_.push_back(at == names.end() ? -1 : static_cast<int>(at - names.begin()));
  }
  return corpus;
}

int Corpus::Domain(int64_t doc) const {
  if (domain_of_.empty()) return -1;
  const int domain = shards_->Domain(Source(doc));
  return domain < 0 ? -1 : domain_of_[static_cast<size_t>(domain)];
}

bool Corpus::has_domains() const {
  return std::ranges::any_of(domain_of_, [](int domain) { return domain >= 0; });
}

Corpus Corpus::OfDomain(int domain) const {
  HYDRA_CHECK(shards_ && !selected_, "documents of a domain are selected from shards");
  std::vector<int64_t> documents;
  for (int64_t doc = 0; doc < n_docs(); ++doc)
    if (Domain(doc) == domain) documents.push_back(doc);
  Corpus corpus = *this;
  corpus.selected_ = std::make_shared<const std::vector<int64_t>>(std::move(documents));
  return corpus;
}

bool Corpus::has_mask() const { return shards_ && shards_->has_mask(); }

void Corpus::ReadMask(int64_t doc, int64_t begin, std::span<uint8_t> out) const {
  if (shards_) return shards_->ReadMask(Source(doc), begin, out);
  std::fill(out.begin(), out.end(), uint8_t{1});
}

std::string Corpus::Fingerprint() const {
  HYDRA_CHECK(!selected_, "a run reads all documents of its shards");
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
