// SPDX-License-Identifier: Apache-2.0
// pytorch_model.bin: whatever the bytes are, the file opens with every number of every tensor inside it, or Error says
// why not. Checksums of an archive keep a fuzzer out, so that the pickle alone is also a target (pickle.cc).
#include "hydra/convert/torch_file.h"

#include "fuzz/input.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::InputFile input(fuzz::Text(data, size));
  fuzz::Accepts([&] {
    const TorchFile file = TorchFile::Open(input.path());
    for (const TorchTensor& tensor : file.tensors())
      if (static_cast<int64_t>(TorchFile::Gather(tensor).size()) != tensor.nbytes())
        fuzz::Broken("bytes are not shape times element size", tensor.name);
  });
  return 0;
}
