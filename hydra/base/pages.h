// SPDX-License-Identifier: Apache-2.0
// Large blocks of memory straight from the system, in huge pages where it has them. Not here: mapped files (file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace hydra {

constexpr int64_t kHugePage = int64_t{2} << 20;

// `bytes` zeros (or what a test asked for: new_memory.h); memory is taken where they are first written. Two megabytes
// and more begin on a huge page's boundary and ask for huge pages, of which one translation serves 512 small ones: what
// a decoding step streams has more pages than a processor remembers. `huge` off: small pages only, for memory of which
// perhaps a little is ever used. Throws std::bad_alloc.
[[nodiscard]] std::shared_ptr<std::byte> MapPages(int64_t bytes, bool huge = true);

// What lies within memory of MapPages and has not been written yet comes in huge pages from now on, where the system
// has them; small pages that are there it may join in time.
void AskForHugePages(std::byte* data, int64_t bytes);

}  // namespace hydra
