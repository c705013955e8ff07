// SPDX-License-Identifier: Apache-2.0
// Files as torch.save writes them, made without torch: for tests and first inputs of fuzzers. Not part of any library;
// files of torch itself are read by tests/parity/torch_bin_test.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/io/file.h"

namespace hydra::testing {

// A number in little endian.
template <class T>
std::string Little(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// A pickle by its operations.
struct Pickle {
  std::string bytes = "\x80\x02";
  int kept = 0;

  Pickle& Op(std::string_view op) {
    bytes += op;
    return *this;
  }
  Pickle& Keep() { return Op("q").Op(std::string(1, static_cast<char>(kept++))); }
  Pickle& Get(int kept_as) { return Op("h").Op(std::string(1, static_cast<char>(kept_as))); }
  Pickle& Global(std::string_view module, std::string_view name) {
    return Op("c").Op(module).Op("\n").Op(name).Op("\n");
  }
  Pickle& Text(std::string_view text) { return Op("X").Op(Little(static_cast<uint32_t>(text.size()))).Op(text); }
  Pickle& Int(int64_t value) {
    if (value >= 0 && value < 256) return Op("K").Op(std::string(1, static_cast<char>(value)));
    if (value == static_cast<int32_t>(value)) return Op("J").Op(Little(static_cast<int32_t>(value)));
    return Op("\x8a\x08").Op(Little(value));
  }
  Pickle& Ints(const std::vector<int64_t>& values) {
    Op("(");
    for (const int64_t value : values) Int(value);
    return Op("t");
  }
  Pickle& OrderedDict() { return Global("collections", "OrderedDict").Op(")R"); }
  // torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())
  struct View {
    std::string_view type = "FloatStorage", storage = "0";
    int64_t storage_size = 0, offset = 0;
    std::vector<int64_t> shape{}, strides{};
  };
  Pickle& Tensor(const View& view) {
    Global("torch._utils", "_rebuild_tensor_v2").Op("((").Text("storage").Global("torch", view.type);
    Text(view.storage).Text("cpu").Int(view.storage_size).Op("tQ").Int(view.offset).Ints(view.shape);
    return Ints(view.strides).Op("\x89").OrderedDict().Op("tR");
  }
};

// An archive with 64-bit sizes in its end, as torch.save makes it.
struct ZipBytes {
  std::vector<std::pair<std::string, std::string>> members;
  uint16_t method = 0, flags = 0;
  uint32_t crc_change = 0;  // added to the checksum of the last member

  [[nodiscard]] std::string Text() const {
    std::string out, directory;
    for (size_t i = 0; i < members.size(); ++i) {
      const std::string &name = members[i].first, &data = members[i].second;
      const auto size = static_cast<uint32_t>(data.size()), at = static_cast<uint32_t>(out.size());
      const uint32_t crc = Crc32(AsBytes(data)) + (i + 1 == members.size() ? crc_change : 0);
      const std::string pad((64 - (out.size() + 30 + name.size() + 4) % 64) % 64, 'Z');
      const auto sizes = [&] {
        return Little(crc) + Little(size) + Little(size) + Little(static_cast<uint16_t>(name.size()));
      };
      out += Little(uint32_t{0x04034b50}) + Little(uint16_t{0}) + Little(flags) + Little(method) + Little(uint32_t{0}) +
             sizes() + Little(static_cast<uint16_t>(4 + pad.size())) + name + "FB" +
             Little(static_cast<uint16_t>(pad.size())) + pad + data;
      directory += Little(uint32_t{0x02014b50}) + Little(uint16_t{0}) + Little(uint16_t{0}) + Little(flags) +
                   Little(method) + Little(uint32_t{0}) + sizes() + Little(uint16_t{0}) + Little(uint16_t{0}) +
                   Little(uint16_t{0}) + Little(uint16_t{0}) + Little(uint32_t{0}) + Little(at) + name;
    }
    const uint64_t n = members.size(), at = out.size(), bytes = directory.size(), wide = at + bytes;
    const auto small = static_cast<uint16_t>(n);
    out += directory;
    out += Little(uint32_t{0x06064b50}) + Little(uint64_t{44}) + Little(uint16_t{0}) + Little(uint16_t{0}) +
           Little(uint32_t{0}) + Little(uint32_t{0}) + Little(n) + Little(n) + Little(bytes) + Little(at);
    out += Little(uint32_t{0x07064b50}) + Little(uint32_t{0}) + Little(wide) + Little(uint32_t{1});
    out += Little(uint32_t{0x06054b50}) + Little(uint16_t{0}) + Little(uint16_t{0}) + Little(small) + Little(small) +
           Little(static_cast<uint32_t>(bytes)) + Little(static_cast<uint32_t>(at)) + Little(uint16_t{0});
    return out;
  }
};

// The file of a state_dict: its pickle, and storages by name.
inline std::string TorchBytes(const Pickle& pickle, const std::vector<std::pair<std::string, std::string>>& storages) {
  ZipBytes zip;
  zip.members.emplace_back("archive/data.pkl", pickle.bytes);
  zip.members.emplace_back("archive/byteorder", "little");
  for (const auto& [name, data] : storages) zip.members.emplace_back("archive/data/" + name, data);
  zip.members.emplace_back("archive/version", "3\n");
  return zip.Text();
}

}  // namespace hydra::testing
