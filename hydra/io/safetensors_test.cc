// SPDX-License-Identifier: Apache-2.0
// safetensors: round trips, and each kind of bad file, refused with the field's name.
#include "hydra/io/safetensors.h"

#include <algorithm>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

// A file from its parts; the length defaults to the header's.
std::string Raw(const std::string& header, const std::string& data, int64_t length = -1) {
  const uint64_t n = length < 0 ? header.size() : static_cast<uint64_t>(length);
  return std::string(reinterpret_cast<const char*>(&n), 8) + header + data;
}

struct Case {
  const char* name;
  std::string bytes;
  const char* field;
  std::vector<std::string> found = {};
};

TEST(SafeTensors, RoundTripKeepsOrderValuesAndAlignment) {
  TempDir dir;
  const std::vector<float> f = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> h = {7, 8, 9};
  const std::vector<int64_t> i = {-1};
  const auto view = [](const char* name, DType dtype, std::vector<int64_t> shape, const auto& values) {
    return TensorView{name, dtype, std::move(shape), reinterpret_cast<const std::byte*>(values.data()),
                      static_cast<int64_t>(values.size() * sizeof(values[0]))};
  };
  const std::vector<TensorView> views = {view("z.half", DType::kBF16, {3}, h), view("a.w", DType::kF32, {2, 3}, f),
                                         view("empty", DType::kF32, {0, 4}, std::vector<float>()),
                                         view("scalar \"x\"", DType::kI64, {}, i)};
  const WrittenFile written = WriteSafeTensors(dir / "m.safetensors", views, {{"format", "pt"}, {"k", "v"}});
  const std::string bytes = ReadFile(dir / "m.safetensors");
  EXPECT_EQ(written.bytes, bytes.size());
  EXPECT_EQ(written.crc32, Crc32(AsBytes(bytes)));
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ((8 + header) % 64, 0u);

  SafeTensors opened = SafeTensors::Open(dir / "m.safetensors");
  const SafeTensors file = std::move(opened);  // views outlive the move
  ASSERT_EQ(file.tensors().size(), 4u);
  for (size_t k = 0; k < views.size(); ++k) {
    const TensorView& got = file.tensors()[k];
    EXPECT_EQ(got.name, views[k].name);
    EXPECT_EQ(got.dtype, views[k].dtype);
    EXPECT_EQ(got.shape, views[k].shape);
    ASSERT_EQ(got.nbytes, views[k].nbytes);
    EXPECT_TRUE(std::equal(got.data, got.data + got.nbytes, views[k].data));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(got.data) % static_cast<uintptr_t>(DTypeSize(got.dtype)), 0u);
  }
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.Get("a.w").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.Find("a.v"), nullptr);
  ExpectError([&] { (void)file.Get("a.v"); }, ErrorCode::kTensor, {"a.v", "did you mean a.w"});
  EXPECT_EQ(file.file_bytes(), bytes.size());
}

TEST(SafeTensors, WritesFromACallbackInDataOrder) {
  TempDir dir;
  std::vector<TensorView> views = {{.name = "h", .dtype = DType::kF16, .shape = {2}},
                                   {.name = "f", .dtype = DType::kF32, .shape = {2}}};
  std::string order;
  std::vector<std::byte> buffer;
  WriteSafeTensors(dir / "m.safetensors", views, {}, [&](const TensorView& t) {
    order += t.name;
    buffer.assign(static_cast<size_t>(NumElements(t.shape) * DTypeSize(t.dtype)), std::byte(t.name[0]));
    return std::span<const std::byte>(buffer);
  });
  EXPECT_EQ(order, "fh");  // wider elements first
  const SafeTensors file = SafeTensors::Open(dir / "m.safetensors");
  EXPECT_EQ(file.tensors()[0].name, "h");
  EXPECT_EQ(file.Get("f").data[7], std::byte('f'));
  EXPECT_EQ(file.Get("h").data[3], std::byte('h'));
}

TEST(SafeTensors, RefusesEachKindOfBadFile) {
  const std::string one = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string d8(8, '\1');
  const auto two = [](const std::string& a, const std::string& b) { return "{\"a\":" + a + ",\"b\":" + b + "}"; };
  const auto t = [](const char* dtype, const char* shape, const char* offsets) {
    return StrCat("{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", offsets, "}");
  };
  const Case cases[] = {
      {"empty", "", "header length", {"the file is empty"}},
      {"length-cut", std::string("\x10\0\0", 3), "header length", {"ends at 3"}},
      {"header-past-end", Raw(one, "", 4000), "header", {"4,000", "incomplete copy"}},
      {"header-over-limit", Raw(one, d8, int64_t{1} << 40), "header length", {"1,099,511,627,776"}},
      {"header-empty", Raw("", d8), "header"},
      {"not-json", Raw("{\"a\": nope}", d8), "header", {"not JSON"}},
      {"not-utf8", Raw("{\"a\xff\": 1}", d8), "header", {"not JSON"}},
      {"not-object", Raw("[1, 2]", d8), "header", {"must be an object"}},
      {"name-twice",
       Raw("{\"a\":" + t("F32", "[1]", "[0,4]") + ",\"a\":" + t("F32", "[1]", "[4,8]") + "}", d8),
       "a",
       {"twice"}},
      {"key-twice",
       Raw(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", d8),
       "a: dtype",
       {"twice"}},
      {"metadata-twice", Raw("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "__metadata__", {"twice"}},
      {"metadata-key-twice", Raw("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""), "__metadata__.k", {"twice"}},
      {"key-missing", Raw(R"({"a":{"dtype":"F32","shape":[2]}})", d8), "a", {"data_offsets", "missing"}},
      {"key-unknown",
       Raw(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", d8),
       "a",
       {"unknown key \"x\""}},
      {"offsets-reversed", Raw("{\"a\":" + t("F32", "[2]", "[8,0]") + "}", d8), "a: data_offsets [8, 0]", {"descend"}},
      {"offsets-three", Raw("{\"a\":" + t("F32", "[2]", "[0,8,8]") + "}", d8), "a: data_offsets", {"must have 2"}},
      {"offsets-one", Raw("{\"a\":" + t("F32", "[2]", "[0]") + "}", d8), "a: data_offsets", {"must have 2"}},
      {"offsets-huge",
       Raw("{\"a\":" + t("F32", "[2]", "[18446744073709551608,18446744073709551615]") + "}", d8),
       "a: data_offsets[0]",
       {"18446744073709551608"}},
      {"offsets-past-data",
       Raw("{\"a\":" + t("F32", "[3]", "[0,12]") + "}", d8),
       "a: data_offsets [0, 12]",
       {"file ends at 71 of 75", "incomplete copy"}},
      {"overlap",
       Raw(two(t("F32", "[1]", "[0,4]"), t("F32", "[1]", "[2,6]")), d8),
       "b: data_offsets [2, 6]",
       {"overlap with \"a\""}},
      {"overlap-same",
       Raw(two(t("F32", "[2]", "[0,8]"), t("F32", "[2]", "[0,8]")), d8),
       "b: data_offsets [0, 8]",
       {"overlap"}},
      {"hole",
       Raw(two(t("U8", "[3]", "[0,3]"), t("F32", "[1]", "[4,8]")), d8),
       "b: data_offsets [4, 8]",
       {"hole of 1"}},
      {"trailing-bytes", Raw(one, d8 + "x"), "data", {"1 bytes after the last tensor"}},
      {"shape-wraps", Raw("{\"a\":" + t("F32", "[4294967296,4294967296]", "[0,0]") + "}", ""),
       "a: shape [4294967296, 4294967296]"},
      {"shape-wraps-to-size",
       Raw("{\"a\":" + t("F32", "[4611686018427387904,2]", "[0,8]") + "}", d8),
       "a: shape",
       {"4611686018427387904"}},
      {"negative-dim", Raw("{\"a\":" + t("F32", "[-2]", "[0,8]") + "}", d8), "a: shape[0]: -2"},
      {"float-dim", Raw("{\"a\":" + t("F32", "[2.5]", "[0,8]") + "}", d8), "a: shape[0]: 2.5"},
      {"huge-dim", Raw("{\"a\":" + t("F32", "[1e999]", "[0,8]") + "}", d8), "header", {"not JSON"}},
      {"string-dim", Raw("{\"a\":" + t("F32", "[\"2\"]", "[0,8]") + "}", d8), "a: shape", {"non-negative integer"}},
      {"nested-shape", Raw("{\"a\":" + t("F32", "[[2]]", "[0,8]") + "}", d8), "a: shape", {"non-negative integer"}},
      {"many-dims", Raw("{\"a\":" + t("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") + "}", d8), "a: shape", {"8 dimensions"}},
      {"size-not-shape",
       Raw("{\"a\":" + t("F32", "[3]", "[0,8]") + "}", d8),
       "a: data_offsets [0, 8] hold 8 bytes",
       {"[3]", "needs 12"}},
      {"unknown-dtype", Raw("{\"a\":" + t("F33", "[2]", "[0,8]") + "}", d8), "a: dtype", {"F33"}},
      {"dtype-number",
       Raw(R"({"a":{"dtype":5,"shape":[2],"data_offsets":[0,8]}})", d8),
       "a: dtype",
       {"must be a string"}},
      {"dtype-object",
       Raw(R"({"a":{"dtype":{},"shape":[2],"data_offsets":[0,8]}})", d8),
       "a: dtype",
       {"must be a string"}},
      {"shape-string",
       Raw(R"({"a":{"dtype":"F32","shape":"2","data_offsets":[0,8]}})", d8),
       "a: shape",
       {"must be an array"}},
      {"metadata-not-string",
       Raw(R"({"__metadata__":{"k":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", d8),
       "__metadata__.k",
       {"must be a string"}},
      {"metadata-nested", Raw(R"({"__metadata__":{"k":{}}})", ""), "__metadata__.k", {"must be a string"}},
      {"metadata-list", Raw(R"({"__metadata__":[]})", ""), "__metadata__", {"must be an object"}},
      {"tensor-number", Raw(R"({"a":7})", ""), "a", {"must be an object"}},
      {"two-values", Raw(one + one, d8), "header", {"not JSON"}},
      {"deep", Raw("{\"a\":" + std::string(100000, '['), ""), "a", {"must be an object"}},
  };
  TempDir dir;
  const std::string path = dir / "bad.safetensors";
  WriteFileAtomic(path, Raw(one, d8));
  EXPECT_EQ(SafeTensors::Open(path).tensors().size(), 1u);  // the base of the cases is good
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    WriteFileAtomic(path, c.bytes);
    ExpectBadFile({.format = "safetensors", .name = c.name, .file = path, .field = c.field, .found = c.found},
                  [&] { (void)SafeTensors::Open(path); });
  }
}

TEST(SafeTensors, TruncationAtEveryByteIsRefused) {
  TempDir dir;
  const std::vector<float> f = {1, 2, 3};
  const std::vector<TensorView> views = {{"a", DType::kF32, {3}, reinterpret_cast<const std::byte*>(f.data()), 12}};
  WriteSafeTensors(dir / "m.safetensors", views, {{"format", "pt"}});
  const std::string whole = ReadFile(dir / "m.safetensors");
  for (size_t n = 0; n < whole.size(); ++n) {
    WriteFileAtomic(dir / "cut.safetensors", whole.substr(0, n));
    ExpectError([&] { (void)SafeTensors::Open(dir / "cut.safetensors"); }, ErrorCode::kFormat, {"cut.safetensors"});
  }
}

TEST(SafeTensors, TimeGrowsWithTheTensorsNotWithTheirSquare) {
  TempDir dir;
  ExpectLessThanQuadraticTime(20000, [&](int64_t n) {
    std::string header = "{";
    constexpr int64_t kBytes = 128;
    for (int64_t i = 0; i < n; ++i)
      header += StrCat(i ? "," : "", "\"t", i, "\":{\"dtype\":\"U8\",\"shape\":[", kBytes, "],\"data_offsets\":[",
                       i * kBytes, ",", (i + 1) * kBytes, "]}");
    WriteFileAtomic(dir / "m.safetensors", Raw(header + "}", std::string(static_cast<size_t>(n * kBytes), '\0')));
    return [&dir, n] { EXPECT_EQ(SafeTensors::Open(dir / "m.safetensors").tensors().size(), static_cast<size_t>(n)); };
  });
}

class Shards : public testing::Test {
 protected:
  void SetUp() override {
    Write("x-1.safetensors", {"a", "b"});
    Write("x-2.safetensors", {"c"});
  }
  void Write(const std::string& file, const std::vector<std::string>& names) {
    std::vector<TensorView> views;
    for (const std::string& name : names)
      views.push_back({name, DType::kF32, {1}, reinterpret_cast<const std::byte*>(&value_), 4});
    WriteSafeTensors(dir_ / file, views, {{"format", "pt"}});
  }
  SafeTensors Open(const std::string& index) {
    WriteFileAtomic(dir_ / "model.safetensors.index.json", index);
    return SafeTensors::Open(dir_.path());
  }
  static std::string Map(const std::string& rows) {
    return R"({"metadata":{"total_size":12},"weight_map":{)" + rows + "}}";
  }
  // `name`: its name in specs/product.md, or "".
  void Bad(const char* name, const std::string& index, const char* field, std::vector<std::string> found = {},
           ErrorCode code = ErrorCode::kFormat) {
    ExpectBadFile({.format = "safetensors",
                   .name = name,
                   .file = dir_ / "model.safetensors.index.json",
                   .field = field,
                   .found = std::move(found),
                   .code = code},
                  [&] { (void)Open(index); });
  }
  TempDir dir_;
  float value_ = 2.5f;
};

const std::string kGood = R"("a":"x-1.safetensors","b":"x-1.safetensors","c":"x-2.safetensors")";

TEST_F(Shards, OpenAsOne) {
  const SafeTensors all = Open(Map(kGood));
  EXPECT_EQ(all.tensors().size(), 3u);
  EXPECT_EQ(all.files().size(), 2u);
  EXPECT_EQ(all.metadata().at("format"), "pt");
  float got = 0;
  std::memcpy(&got, all.Get("c").data, 4);
  EXPECT_EQ(got, 2.5f);
}

TEST_F(Shards, RefuseEachKindOfBadIndex) {
  Bad("shard-missing", Map(kGood + R"(,"d":"x-3.safetensors")"), "weight_map: d", {"x-3.safetensors is missing"},
      ErrorCode::kIo);
  for (const char* name :
       {"../x-1.safetensors", "/etc/passwd", "..", ".", "", "s/x-1.safetensors", "s\\\\x", "x\\u0000"})
    Bad("path-escapes", Map(StrCat("\"a\":\"", name, "\"")), "weight_map: a",
        {*name == 's' || *name == 'x' ? "" : name, "plain file name"});
  Bad("tensor-in-none", Map(kGood + R"(,"d":"x-2.safetensors")"), "weight_map: d", {"no such tensor"});
  Bad("orphan", Map(R"("a":"x-1.safetensors","c":"x-2.safetensors")"), "b", {"x-1.safetensors", "not in weight_map"});
  Bad("", Map(kGood + R"(,"a":"x-1.safetensors")"), "weight_map: a", {"twice"});
  Bad("", R"({"weight_map":{},"weight_map":{}})", "weight_map", {"twice"});
  Bad("", Map(R"("a":5)"), "weight_map: a", {"file name"});
  Bad("", Map(R"("a":["x"])"), "weight_map: a", {"file name"});
  Bad("", R"({"metadata":{}})", "weight_map", {"missing"});
  Bad("", R"({"weight_map":[]})", "weight_map", {"must be an object"});
  Bad("", "[]", "index", {"must be an object"});
  Bad("", "", "index", {"not JSON"});
  Bad("", "{\"metadata\":" + std::string(200, '['), "index", {"nested deeper"});
  Write("x-2.safetensors", {"c", "a"});
  Bad("tensor-in-two", Map(kGood), "a", {"in two shards"});
}

TEST_F(Shards, AFolderWithoutWeightsSaysSo) {
  TempDir empty;
  ExpectError([&] { (void)SafeTensors::Open(empty.path()); }, ErrorCode::kIo, {"no model.safetensors"});
  WriteFileAtomic(empty / "pytorch_model.bin", "x");
  ExpectError([&] { (void)SafeTensors::Open(empty.path()); }, ErrorCode::kIo, {"hydralm convert"});
}

TEST(SafeTensors, AFailedWriteKeepsTheOldFile) {
  TempDir dir;
  const float f = 1;
  const std::vector<TensorView> views = {{"a", DType::kF32, {1}, reinterpret_cast<const std::byte*>(&f), 4}};
  WriteFileAtomic(dir / "m.safetensors", "old");
  FileOps ops = FileOps::Real();
  ops.fsync = [](int) { return errno = ENOSPC, -1; };
  ExpectError([&] { WriteSafeTensors(dir / "m.safetensors", views, {}, ops); }, ErrorCode::kIo,
              {"m.safetensors", "No space"});
  EXPECT_EQ(ReadFile(dir / "m.safetensors"), "old");
  EXPECT_EQ(dir.CountFiles(), 1u);
}

}  // namespace
}  // namespace hydra
