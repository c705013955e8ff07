// SPDX-License-Identifier: Apache-2.0
// GGUF files: round trips, every bad file of the format by hand, truncation at every byte.
// Not here: models in GGUF (gguf_model_test.cc); Python's reader on our files (tests/parity/gguf_test.py).
#include "hydra/io/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

std::string Key(std::string_view key, uint32_t type, const std::string& value) {
  return GgufText(key) + Le(type) + value;
}

// A file put together from parts, each of which a test may replace.
struct Parts {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t n_tensors = 2, n_entries = 2;
  std::string entries = Key("general.architecture", 8, GgufText("llama")) + Key("n", 4, Le(uint32_t{7}));
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // as in the file: columns first
    uint32_t type;
    uint64_t offset;
  };
  std::vector<Tensor> tensors{{"a", {32, 2}, 8, 0}, {"b", {4}, 0, 96}};  // 68 bytes of Q8_0; 16 of F32
  uint64_t alignment = 32;
  std::string data = std::string(112, '\1');

  [[nodiscard]] std::string Bytes() const {
    std::string out = magic + Le(version) + Le(n_tensors) + Le(n_entries) + entries;
    for (const Tensor& t : tensors) {
      out += GgufText(t.name) + Le(static_cast<uint32_t>(t.dims.size()));
      for (const uint64_t d : t.dims) out += Le(d);
      out += Le(t.type) + Le(t.offset);
    }
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }
};

class GgufTest : public testing::Test {
 protected:
  [[nodiscard]] std::string Write(const std::string& bytes) const {
    std::string path = dir_ / "x.gguf";
    std::ofstream(path, std::ios::binary) << bytes;  // no fsync: there are thousands
    return path;
  }
  // `name`: its name in specs/product.md, or "".
  void Bad(const char* name, const std::function<void(Parts&)>& change, const char* field,
           std::vector<std::string> found = {}) const {
    Parts file;
    change(file);
    const std::string path = Write(file.Bytes());
    ExpectBadFile({.format = "GGUF", .name = name, .file = path, .field = field, .found = std::move(found)},
                  [&] { (void)GgufFile::Open(path); });
  }
  // One more metadata value, of type and bytes given.
  void BadValue(const char* name, uint32_t type, const std::string& value, const char* field,
                std::vector<std::string> found = {}) const {
    Bad(
        name,
        [&](Parts& p) {
          p.entries += Key("odd.key", type, value);
          ++p.n_entries;
        },
        field, std::move(found));
  }
  TempDir dir_;
};

TEST_F(GgufTest, ReadsAGoodFile) {
  const GgufFile file = GgufFile::Open(Write(Parts().Bytes()));
  EXPECT_EQ(file.Text("general.architecture"), "llama");
  EXPECT_EQ(file.Int("n"), 7);
  ASSERT_EQ(file.tensors().size(), 2u);
  const GgufTensor* a = file.FindTensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{2, 32}));
  EXPECT_EQ(a->type, WeightType::kQ8_0);
  EXPECT_EQ(a->nbytes, 68);
  EXPECT_EQ((a->data - file.bytes().data()) % 32, 0);
  EXPECT_EQ(file.FindTensor("c"), nullptr);
  EXPECT_TRUE(GgufFile::IsGguf(file.path()));
  EXPECT_FALSE(GgufFile::IsGguf(dir_ / "none"));
}

TEST_F(GgufTest, RefusesBadHeaders) {
  Bad(
      "bad-magic", [](Parts& p) { p.magic = "GGML"; }, "magic");
  Bad("version-2", [](Parts& p) { p.version = 2; }, "version", {"= 2", "3"});
  Bad("big-endian", [](Parts& p) { p.version = 0x03000000; }, "version", {"big-endian"});
  Bad("kv-count-over-file", [](Parts& p) { p.n_entries = uint64_t{1} << 60; }, "metadata count",
      {"1,152,921,504,606,846,976"});
  Bad("", [](Parts& p) { p.n_entries = 40; }, "metadata count", {"= 40"});
  Bad("tensor-count-over-file", [](Parts& p) { p.n_tensors = uint64_t{1} << 60; }, "tensor count",
      {"1,152,921,504,606,846,976"});
  Bad("", [](Parts& p) { p.n_tensors = 50; }, "tensor count", {"= 50"});
}

TEST_F(GgufTest, RefusesBadKeys) {
  Bad("key-too-long", [](Parts& p) { p.entries = Key(std::string(70000, 'k'), 4, Le(1u)) + Key("n", 4, Le(1u)); },
      "metadata[0]: key length", {"= 70000"});
  Bad("", [](Parts& p) { p.entries = Key("", 4, Le(1u)) + Key("n", 4, Le(1u)); }, "metadata[0]: key length", {"= 0"});
  Bad("key-twice", [](Parts& p) { p.entries = Key("n", 4, Le(1u)) + Key("n", 4, Le(1u)); }, "n", {"is given twice"});
}

TEST_F(GgufTest, RefusesBadValues) {
  BadValue("string-past-end", 8, Le(uint64_t{1} << 40), "odd.key", {"1,099,511,627,776", "incomplete copy"});
  BadValue("", 8, Le(UINT64_MAX), "odd.key");
  BadValue("array-count-wraps", 9, Le(uint32_t{5}) + Le(uint64_t{1} << 62), "odd.key",
           {"4611686018427387904", "64 bits"});
  BadValue("", 9, Le(uint32_t{8}) + Le(uint64_t{1} << 61), "odd.key", {"texts"});
  BadValue("array-in-array", 9, Le(uint32_t{9}) + Le(uint64_t{1}), "odd.key", {"arrays of arrays"});
  BadValue("", 9, Le(uint32_t{13}) + Le(uint64_t{1}), "odd.key", {"element type", "= 13"});
  BadValue("bool-two", 7, std::string(1, '\2'), "odd.key", {"= 2", "bool"});
  BadValue("", 9, Le(uint32_t{7}) + Le(uint64_t{3}) + std::string("\1\0\3", 3), "odd.key", {"= 3", "bool"});
  BadValue("unknown-value-type", 13, Le(1u), "odd.key", {"value type", "= 13"});
}

TEST_F(GgufTest, RefusesBadAlignments) {
  const char* const key = "general.alignment";
  for (const auto& [name, bad] :
       {std::pair{"alignment-zero", 0u}, {"alignment-odd", 4u}, {"alignment-odd", 48u}, {"alignment-huge", 131072u}})
    Bad(name,
        [&](Parts& p) {
          p.entries += Key(key, 4, Le(bad));
          ++p.n_entries;
        },
        key, {StrCat("= ", bad), "power of two"});
  Bad("",
      [&](Parts& p) {
        p.entries += Key(key, 10, Le(uint64_t{32}));
        ++p.n_entries;
      },
      key, {"u64", "u32"});
  Parts good;
  good.entries += Key(key, 4, Le(8u));
  ++good.n_entries;
  good.alignment = 8;
  good.tensors[1].offset = 72;
  EXPECT_EQ(GgufFile::Open(Write(good.Bytes())).alignment(), 8u);
}

TEST_F(GgufTest, RefusesBadTensors) {
  Bad("five-dims", [](Parts& p) { p.tensors[0].dims = {32, 1, 1, 1, 1}; }, "a: dimensions", {"= 5"});
  Bad("", [](Parts& p) { p.tensors[0].dims = {}; }, "a: dimensions", {"= 0"});
  Bad("zero-dim", [](Parts& p) { p.tensors[0].dims = {32, 0}; }, "a", {"dimension 1 = 0"});
  Bad("", [](Parts& p) { p.tensors[0].dims = {32, uint64_t{1} << 63}; }, "a", {"dimension 1"});
  Bad("dims-wrap",
      [](Parts& p) {
        p.tensors[0].dims = {uint64_t{1} << 62, 4};
      },
      "a", {"4611686018427387904", "63 bits"});
  Bad("", [](Parts& p) { p.tensors[0].dims = {uint64_t{1} << 40, uint64_t{1} << 40}; }, "a", {"63 bits"});
  Bad("row-not-whole-blocks", [](Parts& p) { p.tensors[0].dims = {48, 2}; }, "a", {"[2, 48]", "Q8_0", "blocks of 32"});
  Bad("", [](Parts& p) { p.tensors[0].type = 10; }, "a", {"type = 10", "Q4_K"});
  Bad("unknown-tensor-type", [](Parts& p) { p.tensors[0].type = 4; }, "a", {"type = 4"});
  Bad("offset-misaligned", [](Parts& p) { p.tensors[1].offset = 100; }, "b", {"offset 100", "alignment 32"});
  Bad("offset-overlap", [](Parts& p) { p.tensors[1].offset = 64; }, "b", {"offset 64", "overlaps \"a\""});
  Bad("offset-wraps", [](Parts& p) { p.tensors[1].offset = UINT64_MAX - 31; }, "b",
      {"offset 18446744073709551584", "64 bits"});
  Bad("data-cut", [](Parts& p) { p.data.pop_back(); }, "b", {"271 of 272", "incomplete copy"});
  Bad("", [](Parts& p) { p.data.clear(); }, "a", {"file ends at", "incomplete copy"});
  Bad("", [](Parts& p) { p.tensors[1].name = "a"; }, "a", {"is there twice"});
  Bad("", [](Parts& p) { p.tensors[1].name = std::string(300, 'x'); }, "tensors[1]: name length", {"= 300"});
}

TEST_F(GgufTest, RefusesEveryTruncation) {
  const std::string whole = Parts().Bytes();
  for (size_t n = 0; n < whole.size(); ++n) {
    SCOPED_TRACE(n);
    const std::string path = Write(whole.substr(0, n));
    ExpectError([&] { (void)GgufFile::Open(path); }, ErrorCode::kFormat, {"x.gguf"});
  }
}

TEST_F(GgufTest, SurvivesEveryByteChanged) {
  const std::string whole = Parts().Bytes();
  for (size_t at = 0; at < whole.size(); ++at)
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      const std::string path = Write(bytes);
      try {
        const GgufFile file = GgufFile::Open(path);
        for (const GgufTensor& t : file.tensors()) {
          ASSERT_GE(t.data, file.bytes().data());
          ASSERT_LE(t.data + t.nbytes, file.bytes().data() + file.file_bytes());
        }
        for (const GgufEntry& e : file.entries()) (void)file.Describe(e);
      } catch (const Error&) {  // named: fine
      }
    }
}

TEST_F(GgufTest, GettersCheckTypes) {
  Parts p;
  p.entries = Key("i", 5, Le(int32_t{-3})) + Key("big", 10, Le(UINT64_MAX)) + Key("f", 6, Le(0.5f)) +
              Key("d", 12, Le(0.25)) + Key("b", 7, std::string(1, '\1')) + Key("t", 8, GgufText("\x01text")) +
              Key("ints", 9, Le(uint32_t{3}) + Le(uint64_t{2}) + Le(int16_t{-1}) + Le(int16_t{300})) +
              Key("texts", 9, Le(uint32_t{8}) + Le(uint64_t{3}) + GgufText("x") + GgufText("") + GgufText("yz")) +
              Key("big ints", 9, Le(uint32_t{10}) + Le(uint64_t{1}) + Le(UINT64_MAX));
  p.n_entries = 9;
  const GgufFile file = GgufFile::Open(Write(p.Bytes()));
  EXPECT_EQ(file.Int("i"), -3);
  EXPECT_EQ(file.Float("i"), -3.0);
  EXPECT_EQ(file.Float("f"), 0.5);
  EXPECT_EQ(file.Float("d"), 0.25);
  EXPECT_TRUE(file.Bool("b"));
  EXPECT_EQ(file.Ints("ints"), (std::vector<int64_t>{-1, 300}));
  EXPECT_EQ(file.Texts("texts"), (std::vector<std::string_view>{"x", "", "yz"}));
  EXPECT_EQ(file.FindInt("none"), std::nullopt);
  EXPECT_EQ(file.Describe(*file.Find("t")), "\"\\x01text\"");
  EXPECT_EQ(file.Describe(*file.Find("texts")), "3 of text");
  const auto fails = [&](auto&& f, const char* field, std::vector<std::string> found = {}, const char* name = "") {
    ExpectBadFile({.format = "GGUF", .name = name, .file = file.path(), .field = field, .found = std::move(found)}, f);
  };
  fails([&] { (void)file.Int("none"); }, "none", {"is missing"});
  fails([&] { (void)file.Int("f"); }, "f", {"is f32", "integer"});
  fails([&] { (void)file.Int("big"); }, "big", {"2^63"});
  fails([&] { (void)file.Ints("big ints"); }, "big ints", {"2^63"});
  fails([&] { (void)file.Float("b"); }, "b", {"is bool", "number"});
  fails([&] { (void)file.Text("i"); }, "i", {"is i32", "text"});
  fails([&] { (void)file.Bool("i"); }, "i", {"is i32", "bool"});
  fails([&] { (void)file.Ints("texts"); }, "texts", {"is an array of text", "integers"}, "array-wrong-type");
  fails([&] { (void)file.Texts("ints"); }, "ints", {"is an array of i16", "texts"}, "array-wrong-type");
  fails([&] { (void)file.Texts("t"); }, "t", {"is text", "array"});
}

TEST_F(GgufTest, WritesWhatItReads) {
  GgufMetadata metadata;
  metadata.SetText("general.architecture", "hydra");
  metadata.SetU32("u", 4294967295);
  metadata.SetF32("f", 1e-5);
  metadata.SetBool("b", true);
  metadata.SetI32s("types", std::vector<int32_t>{1, -2, 3});
  metadata.SetTexts("texts", std::vector<std::string_view>{"a", "", "bc"});
  metadata.SetU32("gone", 1);
  metadata.Remove("gone");
  metadata.SetU32("u", 5);  // replaces
  const std::vector<GgufTensorInfo> infos{
      {"w", WeightType::kQ4_0, {3, 64}}, {"v", WeightType::kF32, {5}}, {"e", WeightType::kF16, {2, 3, 4}}};
  std::vector<std::string> data{std::string(3 * 2 * 18, 'w'), std::string(20, 'v'), std::string(48, 'e')};
  const std::string path = dir_ / "y.gguf";
  const auto bytes_of = [&](size_t i) { return AsBytes(data[i]); };
  const WrittenFile written = WriteGguf(path, metadata, infos, bytes_of);
  const GgufFile file = GgufFile::Open(path);
  EXPECT_EQ(written.bytes, file.file_bytes());
  EXPECT_EQ(written.bytes % 32, 0u);
  EXPECT_EQ(file.Int("u"), 5);
  EXPECT_EQ(file.Find("gone"), nullptr);
  EXPECT_EQ(file.Float("f"), static_cast<double>(1e-5f));
  EXPECT_EQ(file.Ints("types"), (std::vector<int64_t>{1, -2, 3}));
  ASSERT_EQ(file.tensors().size(), infos.size());
  for (size_t i = 0; i < infos.size(); ++i) {
    const GgufTensor& t = file.tensors()[i];
    EXPECT_EQ(t.name, infos[i].name);
    EXPECT_EQ(t.shape, infos[i].shape);
    EXPECT_EQ(t.type, infos[i].type);
    ASSERT_EQ(static_cast<size_t>(t.nbytes), data[i].size());
    EXPECT_EQ(std::memcmp(t.data, data[i].data(), data[i].size()), 0);
  }
  // A copy of all metadata gives the same bytes; a failed write leaves nothing.
  GgufMetadata copy;
  for (const GgufEntry& entry : file.entries()) copy.Set(entry);
  WriteGguf(dir_ / "z.gguf", copy, infos, bytes_of);
  EXPECT_EQ(ReadFile(path), ReadFile(dir_ / "z.gguf"));
  FileOps ops = FileOps::Real();
  ops.fsync = [](int) { return errno = EIO, -1; };
  const size_t before = dir_.CountFiles();
  ExpectError([&] { WriteGguf(dir_ / "no.gguf", metadata, infos, bytes_of, ops); }, ErrorCode::kIo, {"no.gguf"});
  EXPECT_EQ(dir_.CountFiles(), before);
}

}  // namespace
}  // namespace hydra
