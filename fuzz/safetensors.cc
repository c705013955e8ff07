// SPDX-License-Identifier: Apache-2.0
// safetensors: whatever the bytes are, the file opens with every tensor inside it, or Error says why not. Not here:
// indexes of several files, which need a folder.
#include "hydra/io/safetensors.h"

#include "fuzz/input.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::InputFile input(fuzz::Text(data, size));
  fuzz::Accepts([&] {
    const SafeTensors file = SafeTensors::Open(input.path());
    uint64_t bytes = 0;
    unsigned sum = 0;
    for (const TensorView& tensor : file.tensors()) {
      if (tensor.nbytes != NumElements(tensor.shape) * DTypeSize(tensor.dtype))
        fuzz::Broken("bytes are not shape times element size", tensor.name);
      if (&file.Get(tensor.name) != &tensor) fuzz::Broken("a tensor is not found by its name", tensor.name);
      for (int64_t i = 0; i < tensor.nbytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);  // readable
      bytes += static_cast<uint64_t>(tensor.nbytes);
    }
    volatile unsigned keep = sum;  // the reads may not be left out
    (void)keep;
    if (bytes > size) fuzz::Broken("tensors hold more bytes than the file", std::to_string(bytes));
  });
  return 0;
}
