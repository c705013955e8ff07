// SPDX-License-Identifier: Apache-2.0
// Text of the error codes, the failed-check exception and the edit distance behind "did you mean".
#include "hydra/base/error.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace hydra {

const char* ErrorCodeText(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage: return "bad usage";
    case ErrorCode::kConfig: return "bad config";
    case ErrorCode::kIo: return "i/o error";
    case ErrorCode::kFormat: return "bad format";
    case ErrorCode::kTensor: return "bad tensor";
    case ErrorCode::kData: return "bad data";
    case ErrorCode::kNotBuilt: return "not built";
    case ErrorCode::kDiverged: return "diverged";
  }
  return "unknown error";
}

int EditDistance(const std::string& a, const std::string& b) {
  constexpr size_t kLongest = 256;  // no word of ours is longer, and a stranger's may have megabytes
  if (std::max(a.size(), b.size()) > kLongest)
    return static_cast<int>(std::min(std::max(a.size(), b.size()), size_t{1} << 30));
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

namespace internal {
std::string WithoutControls(const std::string& text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]), next = static_cast<unsigned char>(text[i + 1]);
    const bool c1 = byte == 0xc2 && next >= 0x80 && next < 0xa0;  // U+0080 to U+009F: some terminals obey them
    if (byte >= 0x20 && byte != 0x7f && !c1) {
      out += text[i];
      continue;
    }
    (out += "\\x") += {kHex[byte >> 4], kHex[byte & 15]};
    if (c1) (out += "\\x") += {kHex[next >> 4], kHex[next & 15]}, ++i;
  }
  return out;
}

void CheckFailed(const char* file, int line, const char* condition, const std::string& message) {
  throw std::logic_error(StrCat(file, ":", line, ": check failed: ", condition, message.empty() ? "" : ": ", message));
}
}  // namespace internal
}  // namespace hydra
