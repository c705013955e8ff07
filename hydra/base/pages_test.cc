// SPDX-License-Identifier: Apache-2.0
// Blocks of pages: zeros, writable to the last byte, on the boundaries that were promised.
#include "hydra/base/pages.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

TEST(MapPages, GivesZerosToTheLastByte) {
  for (const bool huge : {true, false})
    for (const int64_t n :
         {int64_t{0}, int64_t{1}, int64_t{4096}, int64_t{4097}, kHugePage - 1, kHugePage, 3 * kHugePage + 12345}) {
      const auto pages = MapPages(n, huge);
      const auto at = reinterpret_cast<uintptr_t>(pages.get());
      EXPECT_EQ(at % static_cast<uintptr_t>(huge && n >= kHugePage ? kHugePage : ::getpagesize()), 0u) << n;
      EXPECT_TRUE(std::all_of(pages.get(), pages.get() + n, [](std::byte b) { return b == std::byte{0}; })) << n;
      std::fill_n(pages.get(), n, std::byte{0xA5});
    }
}

TEST(MapPages, HoldsWhatATestAskedFor) {
  const NewMemoryFill fill(0x3e);
  const auto pages = MapPages(10000);
  EXPECT_TRUE(std::all_of(pages.get(), pages.get() + 10000, [](std::byte b) { return b == std::byte{0x3e}; }));
}

TEST(MapPages, ThrowsWhereTheSystemRefuses) {
  EXPECT_THROW((void)MapPages(std::numeric_limits<int64_t>::max() / 2), std::bad_alloc);
}

}  // namespace
}  // namespace hydra
