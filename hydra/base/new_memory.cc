// SPDX-License-Identifier: Apache-2.0
// The byte of new memory.
#include "hydra/base/new_memory.h"

#include <atomic>

namespace hydra {
namespace {

std::atomic<uint8_t> g_byte{0};

}  // namespace

uint8_t NewMemoryByte() { return g_byte.load(std::memory_order_relaxed); }
void SetNewMemoryByte(uint8_t byte) { g_byte.store(byte, std::memory_order_relaxed); }

}  // namespace hydra
