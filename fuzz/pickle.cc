// SPDX-License-Identifier: Apache-2.0
// The pickle of a state_dict (data.pkl): whatever the bytes are, they give tensors that are described whole, or Error
// says why not. Not here: the archive around it (torch_bin.cc).
#include "hydra/convert/pickle.h"

#include "fuzz/input.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::Text(data, size);
  const std::string where = "data.pkl";
  fuzz::Accepts([&] {
    for (const PickledTensor& tensor : ReadStateDict(std::as_bytes(std::span(text)), where, 2 * size + (1 << 20))) {
      if (tensor.shape.size() != tensor.strides.size()) fuzz::Broken("dimensions without strides", tensor.name);
      if (tensor.offset < 0 || tensor.storage_size < 0) fuzz::Broken("a negative place", tensor.name);
      for (size_t i = 0; i < tensor.shape.size(); ++i)
        if (tensor.shape[i] < 0 || tensor.strides[i] < 0) fuzz::Broken("a negative size", tensor.name);
      if (tensor.name.size() > size || tensor.storage.size() > size) fuzz::Broken("a text past the pickle", "");
    }
  });
  return 0;
}
