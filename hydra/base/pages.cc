// SPDX-License-Identifier: Apache-2.0
// Anonymous mappings, aligned by hand: older systems place them anywhere.
#include "hydra/base/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "hydra/base/new_memory.h"

namespace hydra {

std::shared_ptr<std::byte> MapPages(int64_t bytes, bool huge) {
  constexpr uintptr_t kPage = 4096, kHuge = kHugePage;
  const uintptr_t n = (static_cast<uintptr_t>(std::max<int64_t>(bytes, 1)) + kPage - 1) / kPage * kPage;
  const bool aligned = huge && n >= kHuge;
  const uintptr_t room = aligned ? n + kHuge - kPage : n;
  void* p = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  const auto at = reinterpret_cast<uintptr_t>(p);
  const uintptr_t begin = aligned ? (at + kHuge - 1) / kHuge * kHuge : at;
  if (begin > at) (void)::munmap(p, begin - at);
  if (at + room > begin + n) (void)::munmap(reinterpret_cast<void*>(begin + n), at + room - begin - n);
  auto* data = reinterpret_cast<std::byte*>(begin);
  if (aligned) AskForHugePages(data, static_cast<int64_t>(n));
  if (const uint8_t byte = NewMemoryByte(); byte != 0) std::memset(data, byte, n);
  return {data, [n](std::byte* q) { (void)::munmap(q, n); }};
}

void AskForHugePages(std::byte* data, int64_t bytes) {
  (void)::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // no harm where the system has none
}

}  // namespace hydra
