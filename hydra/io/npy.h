// SPDX-License-Identifier: Apache-2.0
// NumPy's .npy files, header version 1.0: written as float32 in C order; float32, int32 and int64 are read.
// Not here: .npz, other element types, Fortran order.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/tensor/dtype.h"

namespace hydra {

// values.size() must be the product of `shape`. Atomic.
void WriteNpy(const std::string& path, std::span<const float> values, const std::vector<int64_t>& shape,
              const FileOps& ops = FileOps::Real());

// Writes rows as they come: the logits of a long text need not be in memory at once. The number of rows is in the
// header, which is written last. Nothing appears under the name before Finish().
class NpyRowWriter {
 public:
  NpyRowWriter(const std::string& path, int64_t row_elements, const FileOps& ops = FileOps::Real());
  // A whole number of rows, [n, row_elements].
  void Write(std::span<const float> rows);
  void Finish();
  [[nodiscard]] int64_t rows() const { return rows_; }

 private:
  AtomicFile file_;
  int64_t row_elements_;
  int64_t rows_ = 0;
};

// A mapped .npy file. Throws kFormat naming file and field on anything but little-endian f32, i32, i64 in C order, or
// bytes that do not match the shape.
class NpyArray {
 public:
  [[nodiscard]] static NpyArray Open(const std::string& path);

  [[nodiscard]] DType dtype() const { return dtype_; }  // kF32, kI32 or kI64
  [[nodiscard]] const std::vector<int64_t>& shape() const { return shape_; }
  [[nodiscard]] int64_t size() const { return NumElements(shape_); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return data_; }

  // A copy of the values; kFormat where the file holds another type. Int64s() widens int32.
  [[nodiscard]] std::vector<float> Floats() const;
  [[nodiscard]] std::vector<int64_t> Int64s() const;

 private:
  explicit NpyArray(MappedFile file) : file_(std::move(file)) {}
  MappedFile file_;
  DType dtype_ = DType::kF32;
  std::vector<int64_t> shape_;
  std::span<const std::byte> data_;
};

}  // namespace hydra
