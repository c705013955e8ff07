// SPDX-License-Identifier: Apache-2.0
// Large blocks of memory straight from the system, in huge pages where it has them. Not here: mapped files (file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace hydra {

// `bytes` zeros (or what a test asked for: new_memory.h); memory is taken where they are first written. Two megabytes
// and more begin on a huge page's boundary and ask for huge pages, of which one translation serves 512 small ones: what
// a decoding step streams has more pages than a processor remembers. `huge` off: small pages only, for memory of which
// perhaps a little is ever used. Throws std::bad_alloc.
[[nodiscard]] std::shared_ptr<std::byte> MapPages(int64_t bytes, bool huge = true);

}  // namespace hydra
