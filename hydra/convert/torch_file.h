// SPDX-License-Identifier: Apache-2.0
// pytorch_model.bin: the tensors of a state_dict as torch.save writes it, an archive (zip_file.h) of a pickle
// (pickle.h) and the bytes of storages. No LibTorch: bytes are read where they lie in the mapped file, and nothing of a
// file is executed. Only conversion reads such files. Not here: which tensors a model has (torch_weights.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/tensor/dtype.h"

namespace hydra {

struct TorchTensor {
  std::string_view name{};
  DType dtype = DType::kF32;
  std::vector<int64_t> shape{}, strides{};  // strides in numbers, 0 for what is repeated
  const std::byte* data = nullptr;          // of the first number; may be unaligned
  [[nodiscard]] int64_t size() const { return NumElements(shape); }
  [[nodiscard]] int64_t nbytes() const { return size() * DTypeSize(dtype); }
  // Whether its numbers lie in the order of its shape, one behind the other.
  [[nodiscard]] bool contiguous() const;
};

// Checked as a whole when it is opened: the archive, the pickle, and every tensor inside its storage, whose bytes have
// the size and the checksum that the file says. Throws kFormat naming file, member or tensor and value; kIo where the
// file cannot be read. Immutable; views live as long as the object (moves included).
class TorchFile {
 public:
  [[nodiscard]] static TorchFile Open(const std::string& path);

  // In the order of the state_dict.
  [[nodiscard]] const std::vector<TorchTensor>& tensors() const { return tensors_; }
  // The numbers of a tensor in the order of its shape, whatever its strides. [nbytes]
  [[nodiscard]] static std::vector<std::byte> Gather(const TorchTensor& tensor);

  [[nodiscard]] const std::string& path() const { return file_.path(); }
  [[nodiscard]] uint64_t file_bytes() const { return file_.size(); }
  // Throws kIo where the file was written to since it was opened.
  void CheckUnchanged() const { file_.CheckUnchanged(); }

 private:
  explicit TorchFile(const std::string& path) : file_(path) {}
  MappedFile file_;
  std::vector<TorchTensor> tensors_;
};

}  // namespace hydra
