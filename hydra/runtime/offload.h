// SPDX-License-Identifier: Apache-2.0
// Packed weights in a file that is mapped in the place of memory: models larger than it run, and a second start packs
// nothing. What of it is asked for before it is read. Not here: packing (weights.cc), what reads it (part_blockffn.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "hydra/kernels/matmul.h"

namespace hydra {

struct WeightSource;

// What of weights in a file is asked for ahead of the products that read them; else a product waits for each page.
enum class AskAhead {
  kOff,
  kRouted,  // experts that a token runs and the token before it did not, when the router has said so
  kLast,    // besides, what a layer ran for the last token, a layer earlier
};

// A file of packed weights (docs/formats.md). One that is there is mapped, read-only; a new one appears when all is
// packed, whole or not at all.
class OffloadFile {
 public:
  // `key` names model and layout (OffloadKey). Throws kFormat for a file that is none, kUsage for one of other weights
  // and where another process is making it, kIo where it cannot be made or the disk has too little room.
  OffloadFile(const std::string& path, int64_t bytes, const std::string& key);
  ~OffloadFile();
  OffloadFile(const OffloadFile&) = delete;
  OffloadFile& operator=(const OffloadFile&) = delete;

  // The packed weights: to be read where whole(), else to be filled and then Commit()ted. They outlive this object.
  [[nodiscard]] const std::shared_ptr<std::byte>& data() const { return data_; }
  [[nodiscard]] bool whole() const { return fd_ < 0; }
  void Commit();

 private:
  void Open(int fd);
  void Create();
  void Map(int fd, int protection);  // all of the file, as data_

  std::string path_, header_;
  int64_t bytes_;
  std::shared_ptr<std::byte> data_;
  int fd_ = -1;  // of the file that is being made
};

// SHA-256 of a model's config, of types, sizes, first and last bytes of its tensors, and of the SIMD level in use:
// other weights have other ones.
[[nodiscard]] std::string OffloadKey(const WeightSource& source);

// Asks the system to read these bytes from their file; returns at once.
void AskFor(const std::byte* data, int64_t n);

}  // namespace hydra
