// SPDX-License-Identifier: Apache-2.0
// Weight types against golden rows (tests/golden/make_weight_golden.py), bit for bit, and their own rules.
#include "hydra/tensor/weight_type.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "hydra/base/testing.h"
#include "hydra/io/safetensors.h"

namespace hydra {
namespace {

constexpr int64_t kColumns = 512;

bool IsWritten(WeightType type) {
  return type != WeightType::kQ5_0 && type != WeightType::kQ5_1 && type != WeightType::kQ5_K;
}

std::vector<float> Floats(const TensorView& view) {
  std::vector<float> out(static_cast<size_t>(view.nbytes) / sizeof(float));
  std::memcpy(out.data(), view.data, static_cast<size_t>(view.nbytes));
  return out;
}

TEST(WeightType, TableIsConsistent) {
  uint32_t seen = 0;
  for (const WeightTypeInfo& info : AllWeightTypes()) {
    EXPECT_EQ(&Info(info.type), &info) << info.name;
    EXPECT_EQ(WeightTypeOfGgml(info.ggml_id), info.type) << info.name;
    std::string lower = info.name;
    for (char& c : lower) c = static_cast<char>(std::tolower(c));
    EXPECT_EQ(ParseWeightType(lower), info.type);
    EXPECT_EQ(RowBytes(info.type, 3 * info.block), 3 * info.block_bytes);
    ++seen;
  }
  EXPECT_EQ(seen, 11u);
  EXPECT_EQ(WeightTypeOfGgml(10), std::nullopt);  // Q2_K
  EXPECT_EQ(ParseWeightType("Q4"), std::nullopt);
  EXPECT_EQ(WeightTypeOf(DType::kBF16), WeightType::kBF16);
  EXPECT_EQ(WeightTypeOf(DType::kF64), std::nullopt);
  EXPECT_THROW((void)RowBytes(WeightType::kQ4_K, 128), std::logic_error);
}

TEST(WeightType, DecodesAsTheFormatDefines) {
  const SafeTensors golden = SafeTensors::Open("tests/golden/weights.safetensors");
  for (const WeightTypeInfo& info : AllWeightTypes()) {
    SCOPED_TRACE(info.name);
    const TensorView& raw = golden.Get(std::string(info.name) + ".raw");
    const std::vector<float> want = Floats(golden.Get(std::string(info.name) + ".decoded"));
    ASSERT_EQ(raw.nbytes, RowBytes(info.type, kColumns));
    for (size_t shift = 0; shift < 2; ++shift) {  // unaligned as well
      std::vector<std::byte> bytes(static_cast<size_t>(raw.nbytes) + shift);
      std::memcpy(bytes.data() + shift, raw.data, static_cast<size_t>(raw.nbytes));
      std::vector<float> got(kColumns);
      DecodeRow(info.type, bytes.data() + shift, kColumns, got.data());
      EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0);
    }
  }
}

TEST(WeightType, EncodesTheBytesOfTheReference) {
  const SafeTensors golden = SafeTensors::Open("tests/golden/weights.safetensors");
  const std::vector<float> values = Floats(golden.Get("values"));
  for (const WeightTypeInfo& info : AllWeightTypes()) {
    if (!IsWritten(info.type)) continue;
    const TensorView& want = golden.Get(std::string(info.name) + ".bytes");
    const auto row_bytes = static_cast<size_t>(RowBytes(info.type, kColumns));
    const size_t n_rows = values.size() / kColumns;
    ASSERT_EQ(static_cast<size_t>(want.nbytes), row_bytes * n_rows);
    for (size_t row = 0; row < n_rows; ++row) {
      SCOPED_TRACE(std::string(info.name) + " row " + std::to_string(row));
      std::vector<std::byte> got(row_bytes);
      EncodeRow(info.type, values.data() + row * kColumns, kColumns, got.data());
      EXPECT_EQ(std::memcmp(got.data(), want.data + row * row_bytes, row_bytes), 0);
    }
  }
}

// Half a step of the coarsest scale bounds the error of one block: |x - decode(encode(x))| <= share * max|x|.
TEST(WeightType, RoundTripErrorIsBounded) {
  const auto bound = [](WeightType type) {
    switch (type) {
      case WeightType::kF32: return 0.0;
      case WeightType::kF16: return 0x1p-11;
      case WeightType::kBF16: return 0x1p-8;
      case WeightType::kQ8_0: return 0.5 / 127 + 0x1p-11;  // the scale is rounded to f16
      case WeightType::kQ6_K: return 1.0 / 32;             // scales have eight bits, the fit may clip
      case WeightType::kQ4_0: return 1.0 / 8;              // the side without the extreme has one step less
      default: return 2.0 / 15;  // range up to 2 max|x| in 15 steps; Q4_K's scales have six bits
    }
  };
  for (const unsigned seed : {1u, 2u, 3u}) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0, 0.02f);
    std::vector<float> x(kColumns);
    for (float& v : x) v = normal(rng);
    for (const WeightTypeInfo& info : AllWeightTypes()) {
      if (!IsWritten(info.type)) continue;
      SCOPED_TRACE(std::string(info.name) + " seed " + std::to_string(seed));
      std::vector<std::byte> bytes(static_cast<size_t>(RowBytes(info.type, kColumns)));
      std::vector<float> back(kColumns);
      EncodeRow(info.type, x.data(), kColumns, bytes.data());
      DecodeRow(info.type, bytes.data(), kColumns, back.data());
      double max = 0, error = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        max = std::max(max, std::fabs(static_cast<double>(x[i])));
        error = std::max(error, std::fabs(static_cast<double>(x[i]) - static_cast<double>(back[i])));
      }
      EXPECT_LE(error, bound(info.type) * max);
    }
  }
}

TEST(WeightType, RefusesWhatItCannotStore) {
  std::vector<float> x(256, 1.0f);
  std::vector<std::byte> out(1024);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    x[17] = bad;
    for (const WeightTypeInfo& info : AllWeightTypes())
      ExpectError([&] { EncodeRow(info.type, x.data(), 256, out.data()); }, ErrorCode::kTensor,
                  {"column 17", "finite"});
  }
  for (const float large : {3e8f, 1e30f}) {
    x[17] = large;
    for (const WeightType type : {WeightType::kF16, WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ4_1,
                                  WeightType::kQ4_K, WeightType::kQ6_K})
      ExpectError([&] { EncodeRow(type, x.data(), 256, out.data()); }, ErrorCode::kTensor,
                  {"too large", Info(type).name});
  }
  // Of numbers with no inverse nothing is left, and nothing breaks.
  std::fill(x.begin(), x.end(), 0.0f);
  x[17] = 1e-42f;
  for (const WeightTypeInfo& info : AllWeightTypes()) {
    if (!IsQuantised(info.type) || !IsWritten(info.type)) continue;
    std::vector<float> back(256, 1.0f);
    EncodeRow(info.type, x.data(), 256, out.data());
    DecodeRow(info.type, out.data(), 256, back.data());
    for (const float v : back) EXPECT_EQ(v, 0.0f) << info.name;
  }
  x[17] = 1;
  for (const WeightType type : {WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ5_K})
    ExpectError([&] { EncodeRow(type, x.data(), 256, out.data()); }, ErrorCode::kUsage, {Info(type).name, "Q4_K"});
}

}  // namespace
}  // namespace hydra
