// SPDX-License-Identifier: Apache-2.0
// Names of the element types of keys, values and state, and the bytes of a row.
#include "hydra/tensor/cache_dtype.h"

#include "hydra/base/error.h"

namespace hydra {

const char* KvDtypeName(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF32: return "f32";
    case KvDtype::kBF16: return "bf16";
    case KvDtype::kF16: return "f16";
    case KvDtype::kQ8_0: return "q8_0";
  }
  return "?";
}

KvDtype ParseKvDtype(std::string_view name, const std::string& where) {
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kQ8_0})
    if (name == KvDtypeName(dtype)) return dtype;
  throw Error(ErrorCode::kUsage, StrCat(where, " ", name, ": must be f32, bf16, f16 or q8_0"));
}

const char* StateDtypeName(StateDtype dtype) { return dtype == StateDtype::kBF16 ? "bf16" : "f32"; }

StateDtype ParseStateDtype(std::string_view name, const std::string& where) {
  for (const StateDtype dtype : {StateDtype::kF32, StateDtype::kBF16})
    if (name == StateDtypeName(dtype)) return dtype;
  throw Error(ErrorCode::kUsage, StrCat(where, " ", name, ": must be f32 or bf16"));
}

int64_t KvRowBytes(KvDtype dtype, int64_t n) {
  switch (dtype) {
    case KvDtype::kF32: return 4 * n;
    case KvDtype::kBF16:
    case KvDtype::kF16: return 2 * n;
    case KvDtype::kQ8_0: return (n + 31) / 32 * 34;  // 32 int8 and an f16 scale
  }
  return 0;
}

}  // namespace hydra
