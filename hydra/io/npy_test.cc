// SPDX-License-Identifier: Apache-2.0
// .npy: round trips and bad files. That NumPy agrees is tested by tests/parity/data_formats.py.
#include "hydra/io/npy.h"

#include "hydra/base/testing.h"

namespace hydra {
namespace {

std::string RawNpy(const std::string& dict, const std::string& data, const char* version = "\x01") {
  const size_t n = dict.size();
  return std::string("\x93NUMPY") + version[0] + '\0' + static_cast<char>(n & 255) + static_cast<char>(n >> 8) + dict +
         data;
}

TEST(Npy, RoundTripsEveryShape) {
  TempDir dir;
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {3}, {2, 3}, {0}, {4, 0}, {2, 3, 4}}) {
    std::vector<float> values(static_cast<size_t>(NumElements(shape)));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + 0.5f;
    WriteNpy(dir / "a.npy", values, shape);
    EXPECT_EQ((ReadFile(dir / "a.npy").size() - 4 * values.size()) % 64, 0u);
    const NpyArray array = NpyArray::Open(dir / "a.npy");
    EXPECT_EQ(array.shape(), shape);
    EXPECT_EQ(array.Floats(), values);
    ExpectError([&] { (void)array.Int64s(); }, ErrorCode::kFormat, {"a.npy", "descr", "F32"});
  }
}

TEST(Npy, RowsWrittenOneByOneEqualThoseWrittenAtOnce) {
  TempDir dir;
  std::vector<float> values(35);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  NpyRowWriter writer(dir / "rows.npy", 7);
  writer.Write(std::span(values).first(7));
  writer.Write(std::span(values).subspan(7));
  writer.Finish();
  const NpyArray array = NpyArray::Open(dir / "rows.npy");
  EXPECT_EQ(array.shape(), (std::vector<int64_t>{5, 7}));
  EXPECT_EQ(array.Floats(), values);
  NpyRowWriter abandoned(dir / "none.npy", 7);
  abandoned.Write(values);
  EXPECT_FALSE(std::filesystem::exists(dir / "none.npy"));
}

TEST(Npy, ReadsIntegers) {
  TempDir dir;
  WriteFileAtomic(dir / "i4.npy", RawNpy("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n",
                                         std::string("\1\0\0\0\xff\xff\xff\xff", 8)));
  EXPECT_EQ(NpyArray::Open(dir / "i4.npy").Int64s(), (std::vector<int64_t>{1, -1}));
  WriteFileAtomic(dir / "i8.npy", RawNpy("{\"shape\": (1, 1), \"descr\": \"<i8\", \"fortran_order\": False}",
                                         std::string("\2\0\0\0\0\0\0\0", 8)));
  const NpyArray array = NpyArray::Open(dir / "i8.npy");
  EXPECT_EQ(array.dtype(), DType::kI64);
  EXPECT_EQ(array.Int64s(), (std::vector<int64_t>{2}));
}

TEST(Npy, BadFilesAreRefusedByField) {
  struct Case {
    std::string bytes;
    std::initializer_list<std::string_view> parts;
  };
  const std::string d8(8, '\0');
  const auto dict = [](const char* descr, const char* order, const char* shape) {
    return StrCat("{'descr': ", descr, ", 'fortran_order': ", order, ", 'shape': ", shape, "}");
  };
  const std::string good = dict("'<f4'", "False", "(2,)");
  const Case cases[] = {
      {"", {"magic"}},
      {"\x93NUMPX\x01", {"magic"}},
      {RawNpy(good, d8, "\x09"), {"version", "9.0"}},
      {RawNpy(dict("'<f8'", "False", "(1,)"), d8), {"descr", "<f8"}},
      {RawNpy(dict("'>f4'", "False", "(2,)"), d8), {"descr", ">f4"}},
      {RawNpy(dict("'|O'", "False", "(1,)"), d8), {"descr", "|O"}},
      {RawNpy(dict("'<f4'", "True", "(2,)"), d8), {"fortran_order"}},
      {RawNpy(dict("'<f4'", "Maybe", "(2,)"), d8), {"fortran_order"}},
      {RawNpy(dict("'<f4'", "False", "(3,)"), d8), {"values", "incomplete"}},
      {RawNpy(dict("'<f4'", "False", "(1,)"), d8), {"values", "followed by 4 bytes"}},
      {RawNpy(dict("'<f4'", "False", "(-2,)"), d8), {"shape[0]"}},
      {RawNpy(dict("'<f4'", "False", "(x,)"), d8), {"shape[0]"}},
      {RawNpy(dict("'<f4'", "False", "(4294967296, 4294967296)"), d8), {"shape", "64 bits"}},
      {RawNpy(dict("'<f4'", "False", "(4611686018427387904, 2, 2)"), ""), {"shape", "64 bits"}},
      {RawNpy(dict("'<f4'", "False", "(2"), d8), {"header"}},
      {RawNpy("{'descr': '<f4', 'shape': (2,)}", d8), {"header", "fortran_order"}},
      {RawNpy("{'descr': '<f4', 'x': (2,)}", d8), {"header", "unknown key 'x'"}},
      {RawNpy("{'descr", d8), {"header", "without an end"}},
      {RawNpy("", d8), {"header"}},
  };
  TempDir dir;
  WriteFileAtomic(dir / "bad.npy", RawNpy(good, d8));
  EXPECT_EQ(NpyArray::Open(dir / "bad.npy").size(), 2);
  for (const Case& c : cases) {
    WriteFileAtomic(dir / "bad.npy", c.bytes);
    ExpectError([&] { (void)NpyArray::Open(dir / "bad.npy"); }, ErrorCode::kFormat, c.parts);
  }
  const std::string whole = RawNpy(good, d8);
  for (size_t n = 0; n < whole.size(); ++n) {
    WriteFileAtomic(dir / "cut.npy", whole.substr(0, n));
    ExpectError([&] { (void)NpyArray::Open(dir / "cut.npy"); }, ErrorCode::kFormat, {"cut.npy"});
  }
}

}  // namespace
}  // namespace hydra
