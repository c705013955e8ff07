// SPDX-License-Identifier: Apache-2.0
// The one unit that is compiled with the version number.
#include "hydra/base/version.h"

namespace hydra {
const char* Version() { return HYDRALM_VERSION; }
}  // namespace hydra
