// SPDX-License-Identifier: Apache-2.0
// Token shards: the two checksums are made right, so that the other checks are reached; a shard that opens and verifies
// holds documents that cover its tokens, ids below vocab_size. Not here: folders of shards (data.json).
#include "hydra/data/token_shard.h"

#include <cstring>

#include "fuzz/input.h"
#include "hydra/io/file.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(fuzz::Text(data, size));
  if (bytes.size() >= 256) {
    const uint32_t payload = Crc32(AsBytes(bytes).subspan(256));
    std::memcpy(bytes.data() + 96, &payload, 4);
    const uint32_t header = Crc32(AsBytes(bytes).first(100));
    std::memcpy(bytes.data() + 100, &header, 4);
  }
  const fuzz::InputFile input(bytes);
  fuzz::Accepts([&] {
    const TokenShard shard = TokenShard::Open(input.path());
    shard.Verify();
    int64_t at = 0;
    for (int64_t doc = 0; doc < shard.n_docs(); ++doc) {
      if (shard.DocBegin(doc) != at) fuzz::Broken("documents leave a gap", std::to_string(doc));
      at = shard.DocEnd(doc);
      std::vector<int32_t> ids(static_cast<size_t>(at - shard.DocBegin(doc)));
      std::vector<uint8_t> mask(ids.size());
      shard.Read(shard.DocBegin(doc), ids);
      shard.ReadMask(shard.DocBegin(doc), mask);
      for (const int32_t id : ids)
        if (id < 0 || static_cast<uint32_t>(id) >= shard.header().vocab_size)
          fuzz::Broken("an id is outside the vocabulary", std::to_string(id));
    }
    if (at != shard.n_tokens()) fuzz::Broken("documents do not cover the tokens", std::to_string(at));
  });
  return 0;
}
