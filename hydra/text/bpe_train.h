// SPDX-License-Identifier: Apache-2.0
// Trains a byte-level BPE tokenizer: counts words, merges the most frequent pairs, writes tokenizer.json.
// Not here: reading corpora (text_input.h), using the result (tokenizer.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/text/pretokenizer_scan.h"

namespace hydra {

struct BpeTrainProgress {
  enum class Phase { kCount, kMerge };
  Phase phase;
  uint64_t done;   // bytes counted, or tokens made
  uint64_t total;  // tokens wanted; 0 while counting
};

struct BpeTrainOptions {
  int vocab_size = 32768;                                           // special tokens and the 256 bytes included
  SplitPattern pattern = SplitPattern::kGpt2;                       // how text becomes words
  std::vector<std::string> special_tokens = {"<|endoftext|>"};      // ids 0, 1, ... in this order
  uint64_t min_count = 1;                                           // pairs that are rarer are not merged
  std::function<void(const BpeTrainProgress&)> progress = nullptr;  // called now and then, from the calling thread
};

struct BpeTrainResult {
  std::string json;    // the tokenizer.json
  int vocab_size = 0;  // less than asked for where the corpus has no more pairs
  uint64_t bytes = 0;  // of text
  uint64_t words = 0;  // pieces, counted as often as they stand
  uint64_t distinct = 0;
};

// Feed documents, then Train. The result depends on the documents only, not on their order; pairs of equal count are
// taken by the lower ids, as the BpeTrainer of `tokenizers` does. Memory grows with the distinct words. Not
// thread-safe.
class BpeTrainer {
 public:
  // Throws kUsage for a vocab_size too small for the special tokens and the bytes, or special tokens that are empty,
  // double or not UTF-8.
  explicit BpeTrainer(BpeTrainOptions options);
  ~BpeTrainer();

  // Counts the words of one document; pieces never reach over its ends. Invalid UTF-8 counts as U+FFFD.
  void Add(std::string_view document);
  [[nodiscard]] bool empty() const;  // no text was added
  // Throws kData where empty(). Call once.
  [[nodiscard]] BpeTrainResult Train();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

[[nodiscard]] BpeTrainResult TrainBpe(const std::vector<std::string_view>& documents, const BpeTrainOptions& options);

}  // namespace hydra
