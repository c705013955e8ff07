// SPDX-License-Identifier: Apache-2.0
// The version of this build, as the root CMakeLists.txt states it.
#pragma once

namespace hydra {
[[nodiscard]] const char* Version();  // "0.1.0"
}  // namespace hydra
