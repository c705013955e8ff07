// SPDX-License-Identifier: Apache-2.0
// Numbers of bytes and counts: flags that take them, texts that show them.
#pragma once

#include <cstdint>
#include <string>

namespace hydra::cli {

// "2GB", "1.5GiB", "900000000", "25GB/s": a number of bytes. Throws kUsage naming `where` (verb and flag).
[[nodiscard]] int64_t ParseBytes(const std::string& where, std::string text);

// "1,234,567" of a count, which is never negative; "1,235" of bytes in MiB, to the nearest.
[[nodiscard]] std::string Commas(int64_t count);
[[nodiscard]] std::string MiB(int64_t bytes);

}  // namespace hydra::cli
