// SPDX-License-Identifier: Apache-2.0
// safetensors files, one or a folder of shards with an index: strict reading over mapped bytes, atomic writing.
// Not here: which tensors a model has (tensor_table.h), conversion of element types (dtype.h). Bytes: docs/formats.md.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/tensor/dtype.h"

namespace hydra {

using SafeTensorsMetadata = std::map<std::string, std::string>;

// What a file holds, checked as a whole when it is opened: header length and JSON, key duplicates, shapes times
// element sizes, offsets without overlap, hole or trailing byte; with an index, each tensor in exactly one shard.
// Throws kFormat naming file, tensor and field, kIo where a file cannot be read. Immutable, so safe to share
// between threads; views live as long as the object (moves included).
class SafeTensors {
 public:
  // A .safetensors file, a .safetensors.index.json file, or a folder with model.safetensors or its index.
  [[nodiscard]] static SafeTensors Open(const std::string& path);

  // In the order of the header (of each shard, in the order in which the index first names them). The data of a
  // foreign file may be unaligned: copy values out, or check the address. Ours are aligned to their elements.
  [[nodiscard]] const std::vector<TensorView>& tensors() const { return tensors_; }
  // Null where there is none.
  [[nodiscard]] const TensorView* Find(std::string_view name) const;
  // Throws kTensor with the nearest name where there is none.
  [[nodiscard]] const TensorView& Get(std::string_view name) const;
  // __metadata__ of the file, or of the first shard.
  [[nodiscard]] const SafeTensorsMetadata& metadata() const { return metadata_; }

  // What messages call the whole: the file or index that was opened.
  [[nodiscard]] const std::string& path() const { return path_; }
  // The files behind it, and their sizes together.
  [[nodiscard]] std::vector<std::string> files() const;
  [[nodiscard]] uint64_t file_bytes() const;
  // Throws kIo where one of them was written to since it was opened.
  void CheckUnchanged() const;

 private:
  SafeTensors() = default;
  void IndexNames();

  std::string path_;
  std::vector<MappedFile> files_;
  std::vector<TensorView> tensors_;
  std::vector<uint32_t> by_name_;  // positions in tensors_, sorted by name
  SafeTensorsMetadata metadata_;
};

// Calls found(TENSOR, FILE) for each pair of an index's weight_map ({"metadata": {...}, "weight_map": {TENSOR: FILE}}),
// as it is read. Throws kFormat naming file and field.
void ReadWeightMap(const MappedFile& index,
                   const std::function<void(const std::string& tensor, const std::string& file)>& found);

struct WrittenFile {
  uint64_t bytes = 0;
  uint32_t crc32 = 0;  // of the whole file
};

// Writes one file atomically. The header lists tensors as given; data begin at a multiple of 64 bytes (the header is
// padded with spaces) and lie without holes, as every reader demands: larger element types first, else as given, so
// each tensor is aligned to its elements. `data` and `nbytes` of the views must be set.
WrittenFile WriteSafeTensors(const std::string& path, std::span<const TensorView> tensors,
                             const SafeTensorsMetadata& metadata, const FileOps& ops = FileOps::Real());

// The same for tensors that are not in host memory at once: bytes_of is called once for each tensor, in the order of
// the data, and its result is used until the next call. `data` is ignored; sizes follow from shape and dtype.
using TensorBytesFn = std::function<std::span<const std::byte>(const TensorView&)>;
WrittenFile WriteSafeTensors(const std::string& path, std::span<const TensorView> tensors,
                             const SafeTensorsMetadata& metadata, const TensorBytesFn& bytes_of,
                             const FileOps& ops = FileOps::Real());

}  // namespace hydra
