// SPDX-License-Identifier: Apache-2.0
// The part of Python's pickle format that a saved state_dict is written in, read as data. A pickle is a program for a
// stack machine that can call anything; here 34 operations are known, and of names only OrderedDict, torch's rebuilding
// of tensors and its types of storage, which are words and not functions. All else is an error: nothing is executed.
// Not here: the file around it and the bytes of storages (torch_file.h). Bytes: docs/formats.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/tensor/dtype.h"

namespace hydra {

// A tensor of a state_dict: a view into a storage that other tensors may share. Nothing is known yet of the storage's
// bytes: who reads them holds offset and strides to them.
struct PickledTensor {
  std::string_view name{};     // its key in the state_dict
  std::string_view storage{};  // name of the storage
  DType dtype = DType::kF32;
  int64_t storage_size = 0;                 // numbers that the storage is said to hold
  int64_t offset = 0;                       // of the first number, in numbers; not negative
  std::vector<int64_t> shape{}, strides{};  // as many, at most 8; strides in numbers; none is negative
};

// The tensors of a pickled dictionary, in its order, each name once. `where` names the bytes in messages, and the views
// live as long as they do. What is made of the pickle may take `memory` bytes. Throws kFormat "WHERE: byte N: ...", and
// "WHERE: KEY: ..." for an entry that is no tensor.
[[nodiscard]] std::vector<PickledTensor> ReadStateDict(std::span<const std::byte> pickle, const std::string& where,
                                                       uint64_t memory);

}  // namespace hydra
