// SPDX-License-Identifier: Apache-2.0
// pytorch_model.bin: views of shared and transposed storages, each kind of bad file, files with any byte changed or cut
// anywhere, pickles with any byte changed under a right checksum. Files of torch itself:
// tests/parity/torch_bin_test.py.
#include "hydra/convert/torch_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <numeric>
#include <random>

#include "hydra/base/testing.h"
#include "hydra/convert/testing_torch.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

using testing::Pickle;
using testing::TorchBytes;
using testing::ZipBytes;

std::string Floats(int n) {
  std::vector<float> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0.0f);
  return {reinterpret_cast<const char*>(values.data()), values.size() * 4};
}

std::vector<float> Values(const TorchTensor& tensor) {
  const auto bytes = TorchFile::Gather(tensor);
  std::vector<float> values(bytes.size() / 4);
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// Storage 0 holds 0 .. 11 in several views, storage 1 two bf16.
Pickle GoodPickle() {
  const Pickle::View all{.storage_size = 12, .shape = {3, 4}, .strides = {4, 1}};
  Pickle p;
  p.OrderedDict().Keep().Op("(");
  p.Text("whole").Tensor(all);
  p.Text("turned").Tensor({.storage_size = 12, .shape = {4, 3}, .strides = {1, 4}});
  p.Text("part").Tensor({.storage_size = 12, .offset = 5, .shape = {2, 2}, .strides = {4, 1}});
  p.Text("repeated").Tensor({.storage_size = 12, .offset = 11, .shape = {2, 3}, .strides = {0, 0}});
  p.Text("none").Tensor({.storage_size = 12, .shape = {0, 4}, .strides = {4, 1}});
  p.Text("scalar").Tensor({.storage_size = 12, .offset = 7});
  p.Text("parameter").Global("torch._utils", "_rebuild_parameter").Op("(").Tensor(all).Op("\x88").OrderedDict();
  p.Op("tR");
  p.Text("narrow").Tensor({.type = "BFloat16Storage", .storage = "1", .storage_size = 2, .shape = {2}, .strides = {1}});
  // The attribute that a module's state_dict has.
  p.Op("u}(").Text("_metadata").OrderedDict().Op("(").Text("").Op("}(").Text("version").Int(1).Op("uuub.");
  return p;
}
std::vector<std::pair<std::string, std::string>> GoodStorages() {
  return {{"0", Floats(12)}, {"1", std::string("\x80\x3f\x00\x40", 4)}};
}
std::string GoodBytes() { return TorchBytes(GoodPickle(), GoodStorages()); }

class TorchFileTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::string Write(const std::string& bytes) const {
    std::string path = dir_ / "pytorch_model.bin";
    WriteFileAtomic(path, bytes);
    return path;
  }
  // One tensor "w", as the view says.
  [[nodiscard]] std::string WriteView(const Pickle::View& view) const {
    Pickle p;
    p.OrderedDict().Op("(").Text("w").Tensor(view).Op("u.");
    return Write(TorchBytes(p, {{"0", Floats(12)}}));
  }
  TempDir dir_;
};

TEST_F(TorchFileTest, ReadsViewsOfStorages) {
  const TorchFile file = TorchFile::Open(Write(GoodBytes()));
  ASSERT_EQ(file.tensors().size(), 8u);
  const auto get = [&](std::string_view name) -> const TorchTensor& {
    for (const TorchTensor& tensor : file.tensors())
      if (tensor.name == name) return tensor;
    throw std::runtime_error(std::string(name));
  };
  std::vector<float> all(12);
  std::iota(all.begin(), all.end(), 0.0f);
  EXPECT_EQ(Values(get("whole")), all);
  EXPECT_TRUE(get("whole").contiguous());
  EXPECT_EQ(Values(get("turned")), (std::vector<float>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));
  EXPECT_FALSE(get("turned").contiguous());
  EXPECT_EQ(Values(get("part")), (std::vector<float>{5, 6, 9, 10}));
  EXPECT_EQ(Values(get("repeated")), std::vector<float>(6, 11));
  EXPECT_EQ(get("none").nbytes(), 0);
  EXPECT_TRUE(Values(get("none")).empty());
  EXPECT_EQ(Values(get("scalar")), std::vector<float>{7});
  EXPECT_EQ(get("scalar").shape, std::vector<int64_t>());
  EXPECT_EQ(Values(get("parameter")), all);
  EXPECT_EQ(get("narrow").dtype, DType::kBF16);
  EXPECT_EQ(TorchFile::Gather(get("narrow")).size(), 4u);
}

TEST_F(TorchFileTest, ReadsProtocol4) {
  Pickle p;
  p.bytes = "\x80\x04\x95" + Le(uint64_t{8}) + "\x8c\x0b" + "collections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94";
  p.Op("(\x8c\x01w").Tensor({.storage_size = 12, .shape = {12}, .strides = {1}}).Op("u.");
  const TorchFile file = TorchFile::Open(Write(TorchBytes(p, {{"0", Floats(12)}})));
  ASSERT_EQ(file.tensors().size(), 1u);
  EXPECT_EQ(file.tensors()[0].name, "w");
}

TEST_F(TorchFileTest, RefusesBadFiles) {
  const std::string format = "pytorch_model.bin";
  const auto bad = [&](const char* name, const std::string& path, const char* field, std::vector<std::string> found) {
    ExpectBadFile({.format = format, .name = name, .file = path, .field = field, .found = std::move(found)},
                  [&] { (void)TorchFile::Open(path); });
  };
  const auto with = [&](const std::function<void(Pickle&)>& value) {
    Pickle p;
    p.OrderedDict().Op("(").Text("w");
    value(p);
    p.Op("u.");
    return Write(TorchBytes(p, {{"0", Floats(12)}}));
  };
  bad("unknown-global", with([](Pickle& p) { p.Global("os", "system").Op("(").Text("touch harm").Op("tR"); }),
      "data.pkl", {"global os.system", "nothing of the file was executed"});
  bad("", with([](Pickle& p) { p.Global("torch", "FloatTensor"); }), "data.pkl", {"global torch.FloatTensor"});
  bad("unknown-opcode", with([](Pickle& p) { p.Op("i"); }), "data.pkl", {"opcode 0x69"});
  bad("stride-past-storage", WriteView({.storage_size = 12, .shape = {3, 4}, .strides = {5, 1}}), "w",
      {"strides [5, 1]", "reaches past its storage of 12 numbers"});
  bad("", WriteView({.storage_size = 12, .offset = 12, .shape = {1}, .strides = {1}}), "w", {"offset 12"});
  bad("", WriteView({.storage_size = 12, .shape = {int64_t{1} << 62, 8}, .strides = {8, 1}}), "w", {"reaches past"});
  bad("", WriteView({.storage_size = 12, .shape = {2, 2}, .strides = {INT64_MAX, INT64_MAX}}), "w", {"reaches past"});
  bad("", WriteView({.storage_size = 12, .shape = {int64_t{1} << 40, 2}, .strides = {0, 1}}), "w", {"more numbers"});
  bad("", WriteView({.storage_size = 12, .shape = {0, INT64_MAX, INT64_MAX}, .strides = {1, 1, 1}}), "w",
      {"more numbers"});
  bad("", WriteView({.storage_size = 12, .shape = {2, 3}, .strides = {1}}), "data.pkl",
      {"2 dimensions with 1 strides"});
  bad("", WriteView({.storage_size = 12, .shape = {-2}, .strides = {1}}), "data.pkl", {"-2 in the shape"});
  bad("", WriteView({.storage_size = 12, .shape = {2}, .strides = {-1}}), "data.pkl", {"-1 in the strides"});
  bad("", WriteView({.storage_size = 12, .offset = -1, .shape = {2}, .strides = {1}}), "data.pkl", {"offset -1"});
  bad("", WriteView({.storage_size = 12, .shape = std::vector<int64_t>(9, 1), .strides = std::vector<int64_t>(9, 1)}),
      "data.pkl", {"shape of 9 numbers"});
  bad("", WriteView({.storage_size = 13, .shape = {2}, .strides = {1}}), "w", {"storage 0 has 48 bytes", "13 numbers"});
  bad("", WriteView({.type = "HalfStorage", .storage_size = 12, .shape = {2}, .strides = {1}}), "w",
      {"of F16 take 24"});
  bad("", WriteView({.storage = "7", .storage_size = 12, .shape = {2}, .strides = {1}}), "w",
      {"storage 7 is not in the archive"});
  bad("", with([](Pickle& p) { p.Int(3); }), "data.pkl", {"w: is a number: must be a tensor"});
  bad("", with([](Pickle& p) { p.Op("}"); }), "data.pkl", {"w: is a dictionary"});
  bad("", with([](Pickle& p) { p.Tensor({.storage_size = 12}).Text("w").Tensor({.storage_size = 12}); }), "data.pkl",
      {"w: the tensor is there twice"});
  const std::string good = GoodBytes();
  bad("record-cut", Write(good.substr(0, good.size() - 200)), "end of the archive", {"is not there", "incomplete"});
  const std::string legacy = Write(std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9", 9) + std::string(100, '.'));
  bad("legacy-format", legacy, "legacy format", {"save it again: python3 -c", legacy, "weights_only=True"});
  bad("", Write("hello"), "begins with \"hello\"", {"torch.save"});
  bad("", Write(""), "begins with \"\"", {});
  Pickle number;
  number.Int(1).Op(".");
  bad("", Write(TorchBytes(number, {})), "data.pkl", {"holds a number: must be a dictionary"});
  for (const char* ops : {".", "t.", "(u.", "R.", "h\x09.", "q\x01.", "1.", "}K\x01K\x02K\x03(u.", "X\xff\xff\xff\xff",
                          "\x8a\x09", "}.."}) {
    Pickle p;
    p.Op(ops);
    const std::string path = Write(TorchBytes(p, {}));
    ExpectError([&] { (void)TorchFile::Open(path); }, ErrorCode::kFormat, {path, "data.pkl"});
  }
}

TEST_F(TorchFileTest, RefusesBadArchives) {
  const auto bad = [&](const std::function<void(ZipBytes&)>& change, std::initializer_list<std::string_view> parts) {
    ZipBytes zip;
    zip.members = {
        {"x/data.pkl", GoodPickle().bytes}, {"x/data/1", GoodStorages()[1].second}, {"x/data/0", Floats(12)}};
    change(zip);
    const std::string path = Write(zip.Text());
    ExpectError([&] { (void)TorchFile::Open(path); }, ErrorCode::kFormat, parts);
  };
  bad([](ZipBytes& z) { z.method = 8; }, {"member x/data.pkl has method 8", "stored"});
  bad([](ZipBytes& z) { z.flags = 1; }, {"is encrypted"});
  bad([](ZipBytes& z) { z.crc_change = 1; }, {"member x/data/0", "checksum"});
  bad([](ZipBytes& z) { z.members.push_back(z.members[1]); }, {"member x/data/1", "twice"});
  bad([](ZipBytes& z) { z.members[0].first = "x/other.pkl"; }, {"data.pkl", "is not in the archive"});
  bad([](ZipBytes& z) { z.members.push_back({"y/data.pkl", "."}); }, {"y/data.pkl", "x/data.pkl already"});
  bad([](ZipBytes& z) { z.members.push_back({"x/byteorder", "big"}); }, {"byteorder", "\"big\"", "little"});
}

// What is accepted of a damaged file must be what was written.
void ExpectErrorOrSame(const std::string& path, const std::vector<std::vector<std::byte>>& good) {
  try {
    const TorchFile file = TorchFile::Open(path);
    ASSERT_EQ(file.tensors().size(), good.size());
    for (size_t i = 0; i < good.size(); ++i) ASSERT_EQ(TorchFile::Gather(file.tensors()[i]), good[i]);
  } catch (const Error& e) {
    ASSERT_NE(std::string_view(e.what()), "");
    ASSERT_EQ(std::string_view(e.what()).find('\n'), std::string_view::npos) << e.what();
  }
}

TEST_F(TorchFileTest, AnyChangeOfAByteAndAnyCutIsSeen) {
  const std::string good = GoodBytes();
  std::vector<std::vector<std::byte>> values;
  const TorchFile file = TorchFile::Open(Write(good));
  for (const TorchTensor& tensor : file.tensors()) values.push_back(TorchFile::Gather(tensor));
  for (size_t at = 0; at < good.size(); ++at) {
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ (at % 3 == 0 ? 0xFF : 1 << at % 8));
    ExpectErrorOrSame(Write(damaged), values);
    ExpectError([&] { (void)TorchFile::Open(Write(good.substr(0, at))); }, ErrorCode::kFormat, {"pytorch_model.bin"});
  }
}

TEST_F(TorchFileTest, PicklesWithAnyByteChangedDoNoHarm) {
  const Pickle good = GoodPickle();
  std::mt19937_64 rng(1);
  for (size_t at = 0; at < good.bytes.size(); ++at)
    for (int round = 0; round < 4; ++round) {
      Pickle damaged = good;
      damaged.bytes[at] = static_cast<char>(rng());
      if (round == 3) damaged.bytes.erase(at, 1 + rng() % 3);
      const std::string path = Write(TorchBytes(damaged, GoodStorages()));
      try {
        const TorchFile file = TorchFile::Open(path);
        for (const TorchTensor& tensor : file.tensors())
          ASSERT_EQ(static_cast<int64_t>(TorchFile::Gather(tensor).size()), tensor.nbytes());
      } catch (const Error& e) {
        ASSERT_EQ(std::string_view(e.what()).find('\n'), std::string_view::npos) << e.what();
      }
    }
}

}  // namespace
}  // namespace hydra
