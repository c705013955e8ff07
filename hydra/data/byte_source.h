// SPDX-License-Identifier: Apache-2.0
// The bytes of an input, decompressed. Not here: what they mean (text_input.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace hydra {

// The bytes of a file, or of what was piped to this process (InputKind::kStream), decompressed where its name ends in
// .gz or .zst in any capitals, or where it begins as such files do, which no text does. gzip: members one after
// another, then zeros; Zstandard: frames one after another, with windows of up to 2 GiB (zstd --long=31).
// Throws kIo, or kFormat for damaged or truncated compressed data. Not thread-safe.
class ByteSource {
 public:
  // Opens; nothing is read yet.
  explicit ByteSource(const std::string& path);
  ~ByteSource();
  ByteSource(ByteSource&&) noexcept;
  ByteSource& operator=(ByteSource&&) noexcept;

  // Up to n bytes into `out`; 0 only at the end.
  size_t Read(char* out, size_t n);
  // Of the file as it lies on disk; file_bytes() is 0 for a pipe.
  [[nodiscard]] uint64_t bytes_read() const;
  [[nodiscard]] uint64_t file_bytes() const;
  [[nodiscard]] const std::string& name() const;  // for messages

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hydra
