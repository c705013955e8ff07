// SPDX-License-Identifier: Apache-2.0
// Files of ours for other programs to read: tests/parity/data_formats.py opens them with Python's libraries. The folder
// is in HYDRALM_SAMPLES; without it there is nothing to do.
#include <gtest/gtest.h>
#include <cstdlib>

#include <string>
#include <vector>

#include "hydra/io/npy.h"
#include "hydra/io/safetensors.h"

namespace hydra {
namespace {

template <class T>
TensorView View(const char* name, DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  return {name, dtype, std::move(shape), reinterpret_cast<const std::byte*>(values.data()),
          static_cast<int64_t>(values.size() * sizeof(T))};
}

TEST(FormatSamples, AreWritten) {
  const char* const folder = ::getenv("HYDRALM_SAMPLES");
  if (folder == nullptr) GTEST_SKIP() << "HYDRALM_SAMPLES names no folder";
  const std::string base = std::string(folder) + "/";
  const std::vector<float> f = {0.5f, -1.5f, 3e38f, 0, 1, 2};
  const std::vector<uint16_t> half = {FloatToF16(0.25f), FloatToF16(-2), FloatToF16(3)};
  const std::vector<uint16_t> brain = {FloatToBF16(1.5f), FloatToBF16(-8)};
  const std::vector<double> d = {1.0 / 3};
  const std::vector<int64_t> i64 = {int64_t{1} << 40, -1};
  const std::vector<int32_t> i32 = {7};
  const std::vector<uint8_t> u8 = {1, 0, 255};
  const std::vector<TensorView> views = {
      View("u8", DType::kU8, {3}, u8),     View("f32", DType::kF32, {2, 3}, f),
      View("f16", DType::kF16, {3}, half), View("bf16", DType::kBF16, {2, 1}, brain),
      View("f64", DType::kF64, {1}, d),    View("i64", DType::kI64, {2}, i64),
      View("i32", DType::kI32, {}, i32),   View("none", DType::kF32, {0, 5}, std::vector<float>())};
  WriteSafeTensors(base + "ours.safetensors", views, {{"format", "pt"}, {"note", "a \"quoted\" \xc3\xa9"}});
  WriteNpy(base + "ours.npy", f, {2, 3});
  WriteNpy(base + "ours1.npy", f, {6});
  NpyRowWriter rows(base + "rows.npy", 3);
  rows.Write(f);
  rows.Finish();
  // The other way: what Python wrote must read as it says.
  const SafeTensors theirs = SafeTensors::Open(base + "theirs.safetensors");
  EXPECT_EQ(theirs.Get("a").shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(theirs.Get("b").dtype, DType::kF16);
  EXPECT_EQ(theirs.metadata().at("k"), "v");
  EXPECT_EQ(NpyArray::Open(base + "theirs_i4.npy").Int64s(), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(NpyArray::Open(base + "theirs_i8.npy").Int64s(), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(NpyArray::Open(base + "theirs_f4.npy").Floats(), (std::vector<float>{1, -2, 3}));
}

}  // namespace
}  // namespace hydra
