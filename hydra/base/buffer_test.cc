// SPDX-License-Identifier: Apache-2.0
// Scratch memory: aligned, zero when new (or what a test wants there), kept when less is asked for.
#include "hydra/base/buffer.h"

#include "hydra/base/testing.h"

namespace hydra {
namespace {

TEST(Buffer, GrowsAndKeeps) {
  Buffer<float> buffer;
  EXPECT_EQ(buffer.data(), nullptr);
  EXPECT_EQ(buffer.bytes(), 0);
  float* first = buffer.Get(10);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0U);
  EXPECT_GE(buffer.bytes(), 40);
  first[9] = 3;
  EXPECT_EQ(buffer.Get(10), first);
  EXPECT_EQ(buffer.Get(4), first);
  EXPECT_EQ(first[9], 3);
  float* larger = buffer.Get(100000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(larger) % 64, 0U);
  EXPECT_GE(buffer.bytes(), 400000);
  for (int64_t i = 0; i < 100000; ++i) ASSERT_EQ(larger[i], 0) << i;
  EXPECT_EQ(buffer.Get(0), larger);
}

TEST(Buffer, HoldsWhatATestAskedFor) {
  Buffer<uint8_t> buffer;
  {
    const NewMemoryFill fill(0x3e);
    EXPECT_EQ(buffer.Get(5000)[4999], 0x3e);
  }
  EXPECT_EQ(buffer.Get(10000)[9999], 0);
}

}  // namespace
}  // namespace hydra
