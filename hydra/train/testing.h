// SPDX-License-Identifier: Apache-2.0
// Small models, corpora and folders for the tests of this folder. Not installed, not used by the library.
#pragma once

#include <gtest/gtest.h>
#include "hydra/nn/torch.h"

#include <cstring>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/base/testing.h"
#include "hydra/model/config.h"
#include "hydra/train/corpus.h"

namespace hydra::train::testing {

// Every part once: experts, sparse attention with landmarks, workspace, product-key memory.
inline ModelConfig TinyConfig() {
  ModelConfig c = HydraNano();
  c.vocab_size = 64;
  c.d_model = 32;
  c.dtype = DType::kF32;
  c.layers = {{.ffn = FfnKind::kChunkMoe},
              {.attention = AttentionKind::kSparse, .workspace = true},
              {.ffn = FfnKind::kChunkMoe, .pkm = true}};
  c.chunk_len = 8;
  c.ssm.n_heads = 4;
  c.ssm.head_dim = 16;
  c.ssm.d_state = 8;
  c.ssm.scan_chunk = 16;
  c.attention.n_heads = c.attention.n_kv_heads = 2;
  c.attention.head_dim = 16;
  c.attention.window = 16;
  c.attention.landmark_budget = 8;
  c.moe.n_experts = 4;
  c.moe.d_expert = 16;
  c.workspace = {.n_slots = 8, .rank = 8, .write_slots = 4, .gate_bias = -1};
  c.pkm = {.n_heads = 2, .n_keys = 8, .d_key = 8, .d_value = 16, .top_k = 2, .gate_bias = -2};
  c.Validate("tiny");
  return c;
}

// Documents of 2 .. longest tokens in which a token mostly follows from the one before, so that there is something
// to learn.
inline std::vector<std::vector<int32_t>> RandomDocuments(uint64_t seed, int n_docs, int64_t longest, int64_t vocab) {
  Rng rng(seed);
  std::vector<std::vector<int32_t>> documents(static_cast<size_t>(n_docs));
  for (auto& document : documents) {
    const auto n = 2 + static_cast<int64_t>(rng.Below(static_cast<uint64_t>(longest - 1)));
    int64_t id = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(vocab)));
    for (int64_t i = 0; i < n; ++i) {
      document.push_back(static_cast<int32_t>(id));
      id = rng.Below(8) == 0 ? static_cast<int64_t>(rng.Below(static_cast<uint64_t>(vocab))) : (id * 5 + 3) % vocab;
    }
  }
  return documents;
}

// The same documents from a shard on disk in which masks[i] says what counts in the loss of document i, and
// domains[i] which of "even" and "odd" it is.
inline Corpus MaskedCorpus(const std::string& folder, const std::vector<std::vector<int32_t>>& documents,
                           const std::vector<std::vector<uint8_t>>& masks, const std::vector<int>& domains = {}) {
  const Sha256Digest tokenizer = Sha256::Of("tokenizer");
  DataManifest::Shard row{.file = "train-00001-of-00001.tok", .split = "train", .counts = {}};
  TokenShardWriter writer(folder + "/" + row.file, 64, tokenizer);
  for (size_t i = 0; i < documents.size(); ++i) {
    writer.AddDocument(documents[i], masks[i], domains.empty() ? -1 : domains[i]);
    ++row.counts.documents;
    row.counts.tokens += static_cast<int64_t>(documents[i].size());
  }
  writer.Finish();
  DataManifest manifest;
  manifest.tokenizer_sha256 = Hex(tokenizer);
  manifest.vocab_size = 64;
  if (!domains.empty()) manifest.domains = {"even", "odd"};
  manifest.shards.push_back(row);
  manifest.Save(folder);
  return Corpus::Open(folder, "train", {});
}

inline Corpus TinyCorpus(uint64_t seed, int n_docs = 40) {
  return Corpus::FromDocuments(RandomDocuments(seed, n_docs, 100, 64));
}

using hydra::TempDir;

// Same shape, type and bits; NaNs with equal bits are equal.
inline ::testing::AssertionResult SameBits(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  if (x.sizes() != y.sizes() || x.scalar_type() != y.scalar_type())
    return ::testing::AssertionFailure() << "other shape or type";
  if (std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "largest difference " << (x - y).abs().max().item<double>();
}

// The message of the Error that `body` throws; "" and a failure when it throws none.
template <class Body>
std::string ErrorText(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

}  // namespace hydra::train::testing
