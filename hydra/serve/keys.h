// SPDX-License-Identifier: Apache-2.0
// API keys: who may ask, and under which name a key's sequences are kept. Keys themselves are not kept.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/file.h"

namespace hydra::serve {

// Immutable.
class Keys {
 public:
  // Throws kUsage for an empty key.
  explicit Keys(const std::vector<std::string>& keys);
  // Keys of a file, one a line; empty lines and lines that begin with # do not count. Throws kIo, kUsage for a file
  // without any.
  [[nodiscard]] static std::vector<std::string> ReadFileOfKeys(const std::string& path);

  // Whether nobody needs a key.
  [[nodiscard]] bool open() const { return digests_.empty(); }
  // The owner that "Bearer KEY" of a request stands for, "" where nobody needs a key; nothing where it stands for none.
  // Takes the same time whichever key it is.
  [[nodiscard]] std::optional<std::string> OwnerOf(std::string_view authorization) const;

 private:
  std::vector<Sha256Digest> digests_;
};

}  // namespace hydra::serve
