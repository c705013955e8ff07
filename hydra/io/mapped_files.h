// SPDX-License-Identifier: Apache-2.0
// Which files lie mapped where in this process, so that the handler of a bus error can name the one that was cut.
// Not here: the mapping (MappedFile of file.h), the handler (hydra/cli/signals.cc).
#pragma once

#include <cstddef>
#include <string>

namespace hydra {

// Called by MappedFile for its own pages; safe from many threads.
void RememberMapping(const void* data, size_t bytes, const std::string& path);
void ForgetMapping(const void* data);

// The path of the file that is mapped at an address, or null; a long path has its end only. Takes no lock and no
// memory, so a signal handler may call it.
[[nodiscard]] const char* MappedPathAt(const void* address) noexcept;

}  // namespace hydra
