// SPDX-License-Identifier: Apache-2.0
// pytorch_model.bin that declares much and holds little: memory and time of the reader (io/testing_memory.h). Not here:
// which files are refused and how (torch_file_test.cc).
#include "hydra/convert/testing_torch.h"
#include "hydra/convert/torch_file.h"
#include "hydra/io/testing_memory.h"

namespace hydra {
namespace {

using testing::Little;
using testing::Pickle;
using testing::TorchBytes;

TEST(HostileMemory, TorchFile) {
  const auto load = [](const std::string& path) {
    const TorchFile file = TorchFile::Open(path);
    for (const TorchTensor& tensor : file.tensors()) (void)TorchFile::Gather(tensor);
  };
  const auto with = [](const char* ops, int n, const char* end = ".") {
    Pickle p;
    for (int i = 0; i < n; ++i) p.Op(ops);
    return TorchBytes(p.Op(end), {});
  };
  for (const int n : {10000, 300000, 2000000}) {
    ExpectLittle("dictionaries", with("}", n), load);
    ExpectLittle("lists", with("]", n), load);
    ExpectLittle("empty tuples", with(")", n), load);
    ExpectLittle("marks", with("(", n), load);
    ExpectLittle("tuples of tuples", with("N\x85", n), load);
    ExpectLittle("numbers", with("K\x01", n), load);
    ExpectLittle("kept values", with("K\x01\x94", n), load);
  }
  Pickle entries;  // one tensor under many names
  entries.Tensor({.storage_size = 1}).Keep().OrderedDict().Op("(");
  for (int i = 0; i < 60000; ++i) entries.Text(std::to_string(i)).Get(0);
  ExpectLittle("one tensor, many names", TorchBytes(entries.Op("u."), {{"0", "1234"}}), load);
  Pickle wide;  // a number that becomes many
  wide.OrderedDict().Op("(").Text("w");
  wide.Tensor({.storage_size = 1, .shape = {1 << 30}, .strides = {0}}).Op("u.");
  ExpectLittle("a number repeated", TorchBytes(wide, {{"0", "1234"}}), load);
  testing::ZipBytes members;
  for (int i = 0; i < 60000; ++i) members.members.emplace_back(std::to_string(i), "");
  ExpectLittle("many members", members.Text(), load);
  // The end of an archive that says how many members there are, and nothing else.
  const std::string end =
      Little(uint32_t{0x06064b50}) + Little(uint64_t{44}) + Little(uint16_t{0}) + Little(uint16_t{0}) +
      Little(uint32_t{0}) + Little(uint32_t{0}) + Little(uint64_t{1} << 60) + Little(uint64_t{1} << 60) +
      Little(uint64_t{0}) + Little(uint64_t{4}) + Little(uint32_t{0x07064b50}) + Little(uint32_t{0}) +
      Little(uint64_t{4}) + Little(uint32_t{1}) + Little(uint32_t{0x06054b50}) + std::string(4, '\0') +
      Little(uint16_t{0xFFFF}) + Little(uint16_t{0xFFFF}) + std::string(10, '\xFF').substr(0, 8) + Little(uint16_t{0});
  ExpectLittle("members without end", "PK\x03\x04" + end, load);
}

TEST(HostileMemory, AGoodTorchFileLoads) {
  Pickle p;
  p.OrderedDict().Op("(");
  std::vector<std::pair<std::string, std::string>> storages;
  std::vector<std::string> names;
  for (int i = 0; i < 300; ++i) names.push_back(std::to_string(i));
  for (const std::string& name : names) {
    p.Text("model.layers." + name + ".mlp.up_proj")
        .Tensor({.storage = name, .storage_size = 1024, .shape = {32, 32}, .strides = {32, 1}});
    storages.emplace_back(name, std::string(4096, '\x3f'));
  }
  ExpectLoads("300 tensors", TorchBytes(p.Op("u."), storages),
              [](const std::string& path) { EXPECT_EQ(TorchFile::Open(path).tensors().size(), 300u); });
}

}  // namespace
}  // namespace hydra
