// SPDX-License-Identifier: Apache-2.0
// Flags that take a number of bytes.
#pragma once

#include <cstdint>
#include <string>

namespace hydra::cli {

// "2GB", "1.5GiB", "900000000", "25GB/s": a number of bytes. Throws kUsage naming `where` (verb and flag).
[[nodiscard]] int64_t ParseBytes(const std::string& where, std::string text);

}  // namespace hydra::cli
