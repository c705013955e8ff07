// SPDX-License-Identifier: Apache-2.0
// TensorBoard event files: TFRecord frames with masked CRC-32C around hand-encoded Event messages of scalars.
// Not here: which numbers are logged (metrics_log.h); images, histograms, text. Bytes: docs/formats.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hydra::train {

// CRC-32 with Castagnoli's polynomial; zlib and libcrypto have only the other one.
[[nodiscard]] uint32_t Crc32c(std::string_view bytes);

// One frame: u64 length, u32 masked CRC-32C of it, data, u32 masked CRC-32C of the data.
[[nodiscard]] std::string TfRecord(std::string_view data);

// The frame that begins a file: file_version "brain.Event:2".
[[nodiscard]] std::string EventFileStart(double wall_time);
// One frame with a scalar for each value.
[[nodiscard]] std::string ScalarEvent(double wall_time, int64_t step, const std::map<std::string, double>& values);

// The step of a frame's data; 0 where it has none, nullopt where it is no Event.
[[nodiscard]] std::optional<int64_t> EventStep(std::string_view data);
// The next frame of `file` from *at on, which moves past it; nullopt at the end, at a torn or at a damaged frame.
struct Frame {
  std::string_view data, whole;
};
[[nodiscard]] std::optional<Frame> NextFrame(std::string_view file, size_t* at);

}  // namespace hydra::train
