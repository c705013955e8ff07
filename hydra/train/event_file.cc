// SPDX-License-Identifier: Apache-2.0
// Encoding and reading of event files: protobuf's wire format by hand, for three messages and five fields.
#include "hydra/train/event_file.h"

#include <array>
#include <cstring>

namespace hydra::train {
namespace {

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = c;
  }
  return table;
}();

// TFRecord rotates and offsets checksums, so that data holding its own checksum is not weakened.
uint32_t Masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

template <class T>
void AppendRaw(std::string* out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}

template <class T>
T LoadRaw(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

// Protobuf: key = field << 3 | wire type (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
enum Wire : uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void AppendVarint(std::string* out, uint64_t value) {
  for (; value >= 128; value >>= 7) *out += static_cast<char>(value | 128);
  *out += static_cast<char>(value);
}
void AppendKey(std::string* out, uint64_t field, Wire wire) { AppendVarint(out, field << 3 | wire); }
void AppendBytes(std::string* out, uint64_t field, std::string_view bytes) {
  AppendKey(out, field, kBytes);
  AppendVarint(out, bytes.size());
  out->append(bytes);
}

std::optional<uint64_t> ReadVarint(std::string_view bytes, size_t* at) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && *at < bytes.size(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes[(*at)++]);
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
  return std::nullopt;
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffff;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 255] ^ (crc >> 8);
  return ~crc;
}

std::string TfRecord(std::string_view data) {
  std::string out;
  AppendRaw(&out, static_cast<uint64_t>(data.size()));
  AppendRaw(&out, Masked(Crc32c(out)));
  out += data;
  AppendRaw(&out, Masked(Crc32c(data)));
  return out;
}

std::string EventFileStart(double wall_time) {
  std::string event;
  AppendKey(&event, 1, kFixed64);  // Event.wall_time
  AppendRaw(&event, wall_time);
  AppendBytes(&event, 3, "brain.Event:2");  // Event.file_version
  return TfRecord(event);
}

std::string ScalarEvent(double wall_time, int64_t step, const std::map<std::string, double>& values) {
  std::string summary;
  for (const auto& [tag, value] : values) {
    std::string item;
    AppendBytes(&item, 1, tag);     // Value.tag
    AppendKey(&item, 2, kFixed32);  // Value.simple_value
    AppendRaw(&item, static_cast<float>(value));
    AppendBytes(&summary, 1, item);  // Summary.value
  }
  std::string event;
  AppendKey(&event, 1, kFixed64);
  AppendRaw(&event, wall_time);
  AppendKey(&event, 2, kVarint);  // Event.step
  AppendVarint(&event, static_cast<uint64_t>(step));
  AppendBytes(&event, 5, summary);  // Event.summary
  return TfRecord(event);
}

std::optional<int64_t> EventStep(std::string_view data) {
  int64_t step = 0;
  for (size_t at = 0; at < data.size();) {
    const auto key = ReadVarint(data, &at);
    if (!key) return std::nullopt;
    uint64_t skip = 0;
    switch (*key & 7) {
      case kVarint: {
        const auto value = ReadVarint(data, &at);
        if (!value) return std::nullopt;
        if (*key >> 3 == 2) step = static_cast<int64_t>(*value);
        break;
      }
      case kFixed64: skip = 8; break;
      case kFixed32: skip = 4; break;
      case kBytes: {
        const auto length = ReadVarint(data, &at);
        if (!length) return std::nullopt;
        skip = *length;
        break;
      }
      default: return std::nullopt;
    }
    if (skip > data.size() - at) return std::nullopt;
    at += skip;
  }
  return step;
}

std::optional<Frame> NextFrame(std::string_view file, size_t* at) {
  constexpr size_t kHead = 12, kTail = 4;
  const std::string_view rest = file.substr(*at);
  if (rest.size() < kHead + kTail || LoadRaw<uint32_t>(rest.substr(8)) != Masked(Crc32c(rest.substr(0, 8))))
    return std::nullopt;
  const auto length = LoadRaw<uint64_t>(rest);
  if (length > rest.size() - kHead - kTail) return std::nullopt;
  const std::string_view data = rest.substr(kHead, length);
  if (LoadRaw<uint32_t>(rest.substr(kHead + length)) != Masked(Crc32c(data))) return std::nullopt;
  *at += kHead + length + kTail;
  return Frame{data, rest.substr(0, kHead + length + kTail)};
}

}  // namespace hydra::train
