// SPDX-License-Identifier: Apache-2.0
// Comparison of keys by their hashes.
#include "hydra/serve/keys.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <span>

#include "hydra/base/error.h"

namespace hydra::serve {

Keys::Keys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (key.empty()) throw Error(ErrorCode::kUsage, "--api-key: must not be empty");
    digests_.push_back(Sha256::Of(key));
  }
}

std::vector<std::string> Keys::ReadFileOfKeys(const std::string& path) {
  const std::string text = ReadText(path);
  std::vector<std::string> keys;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
    if (!line.empty() && line[0] != '#') keys.push_back(line);
    at = end + 1;
  }
  if (keys.empty()) throw Error(ErrorCode::kUsage, "--api-key-file " + path + ": has no key");
  return keys;
}

std::optional<std::string> Keys::OwnerOf(std::string_view authorization) const {
  if (open()) return "";
  constexpr std::string_view kScheme = "bearer ";
  std::string_view key = authorization;
  bool scheme = key.size() >= kScheme.size();
  for (size_t i = 0; scheme && i < kScheme.size(); ++i) scheme = (key[i] | 0x20) == kScheme[i];  // in any capitals
  if (scheme) key.remove_prefix(kScheme.size());
  const Sha256Digest digest = Sha256::Of(scheme ? key : std::string_view());
  bool known = false;
  for (const Sha256Digest& each : digests_) known |= CRYPTO_memcmp(each.data(), digest.data(), digest.size()) == 0;
  if (!scheme || !known) return std::nullopt;
  constexpr size_t kOwnerBytes = 16;
  // Of the hash, so that the name of a folder on disk tells nothing that a key could be compared with.
  const Sha256Digest owner = Sha256::Of(std::as_bytes(std::span(digest)));
  return Hex(std::span(owner).first(kOwnerBytes));
}

}  // namespace hydra::serve
