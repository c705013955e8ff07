// SPDX-License-Identifier: Apache-2.0
// The byte that new working memory is filled with: Buffer and MapPages ask for it. It is zero, unless a test wants to
// see that no result depends on memory that nobody wrote (NewMemoryFill of testing.h). Not here: memory that is used
// again.
#pragma once

#include <cstdint>

namespace hydra {

[[nodiscard]] uint8_t NewMemoryByte();
// For tests alone; tests/rules/habits_test.py sees to it.
void SetNewMemoryByte(uint8_t byte);

}  // namespace hydra
