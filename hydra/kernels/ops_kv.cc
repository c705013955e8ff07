// SPDX-License-Identifier: Apache-2.0
// Rows of keys and values: f32 to a KV dtype and back. Not here: what reads them (ops_attention.cc).
#include <cstring>

#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"
#include "hydra/tensor/dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_kv.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_kv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

void StoreF16(const float* x, int64_t n, uint16_t* row) {
  int64_t i = 0;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2  // where the processor rounds
  const FloatTag d;
  const hn::Rebind<hwy::float16_t, FloatTag> half;
  const hn::Rebind<uint16_t, FloatTag> d16;
  for (; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
    StorePart(hn::BitCast(d16, hn::DemoteTo(half, LoadPart(d, x + i, Left(n, i)))), d16, row + i, Left(n, i));
#endif
  for (; i < n; ++i) row[i] = FloatToF16(x[i]);
}

void StoreBF16(const float* x, int64_t n, std::byte* row) {
  const FloatTag d;
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
    BF16Row::Store(LoadPart(d, x + i, Left(n, i)), row, i, Left(n, i));
}

// Blocks of 32: d = amax / 127 as f16, q = x / d of the unrounded d to nearest; the last block ends in zeros.
void StoreQ8(const float* x, int64_t n, std::byte* row) {
  const FloatTag d;
  const hn::Rebind<int8_t, FloatTag> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += 32, row += 34) {
    HWY_ALIGN float padded[32] = {};
    const float* block = x + i;
    if (n - i < 32) {
      std::memcpy(padded, x + i, Left(n, i) * sizeof(float));
      block = padded;
    }
    auto max = hn::Zero(d);
    for (int64_t j = 0; j < 32; j += lanes) max = hn::Max(max, hn::Abs(hn::LoadU(d, block + j)));
    const float amax = ReduceMax(d, max);
    const uint16_t bits = FloatToF16(amax / 127);
    const auto inverse = hn::Set(d, amax > 0 ? 127 / amax : 0.0f);
    HWY_ALIGN int8_t q[32];
    for (int64_t j = 0; j < 32; j += lanes)
      hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(hn::Mul(hn::LoadU(d, block + j), inverse))), d8, q + j);
    std::memcpy(row, &bits, sizeof(bits));
    std::memcpy(row + 2, q, sizeof(q));
  }
}

void StoreKvRow(KvDtype dtype, const float* x, int64_t n, void* row) {
  switch (dtype) {
    case KvDtype::kF32: std::memcpy(row, x, static_cast<size_t>(n) * sizeof(float)); return;
    case KvDtype::kBF16: return StoreBF16(x, n, static_cast<std::byte*>(row));
    case KvDtype::kF16: return StoreF16(x, n, static_cast<uint16_t*>(row));
    case KvDtype::kQ8_0: return StoreQ8(x, n, static_cast<std::byte*>(row));
  }
}

void LoadKvRow(KvDtype dtype, const void* row, int64_t n, float* x) {
  const FloatTag d;
  WithKvRow(dtype, [&](auto type) HWY_ATTR {
    for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
      StorePart(decltype(type)::Load(static_cast<const std::byte*>(row), i, Left(n, i)), d, x + i, Left(n, i));
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(StoreKvRow);
HWY_EXPORT(LoadKvRow);

void StoreKvRow(KvDtype dtype, const float* x, int64_t n, void* row) { HYDRA_DISPATCH(StoreKvRow)(dtype, x, n, row); }
void LoadKvRow(KvDtype dtype, const void* row, int64_t n, float* x) { HYDRA_DISPATCH(LoadKvRow)(dtype, row, n, x); }

}  // namespace hydra::kernels
#endif
