// SPDX-License-Identifier: Apache-2.0
// GGUF: the container, then the model it describes, then its tokenizer; each may refuse, none may crash. Not here:
// tokenizer.json as such (tokenizer_file.cc).
#include "hydra/io/gguf.h"

#include "fuzz/input.h"
#include "hydra/model/gguf_model.h"
#include "hydra/text/chat_template.h"
#include "hydra/text/tokenizer.h"

using namespace hydra;

namespace {

void ReadAll(const GgufFile& file, size_t size) {
  unsigned sum = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    if (static_cast<uint64_t>(tensor.nbytes) > size) fuzz::Broken("a tensor is larger than the file", tensor.name);
    if (file.FindTensor(tensor.name) != &tensor) fuzz::Broken("a tensor is not found by its name", tensor.name);
    for (int64_t i = 0; i < tensor.nbytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
  }
  for (const GgufEntry& entry : file.entries()) {
    if (file.Find(entry.key) != &entry) fuzz::Broken("an entry is not found by its key", entry.key);
    fuzz::Accepts([&] { sum += static_cast<unsigned>(file.Describe(entry).size()); });
    fuzz::Accepts([&] { sum += static_cast<unsigned>(file.Ints(entry.key).size()); });
    fuzz::Accepts([&] { sum += static_cast<unsigned>(file.Texts(entry.key).size()); });
    fuzz::Accepts([&] { (void)file.Float(entry.key); });
  }
  volatile unsigned keep = sum;  // nothing above may be left out
  (void)keep;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::InputFile input(fuzz::Text(data, size));
  if (!fuzz::Accepts([&] { ReadAll(GgufFile::Open(input.path()), size); })) return 0;
  fuzz::Accepts([&] {
    std::vector<std::string> warnings;
    const GgufModel model = GgufModel::Open(input.path(), &warnings);
    const TensorTable table(model.config());
    for (const TensorSpec& spec : table.specs()) (void)model.Tensor(spec);
  });
  fuzz::Accepts([&] {
    const Tokenizer tokenizer = Tokenizer::Load(input.path());
    (void)tokenizer.Decode(tokenizer.Encode("The cat's 12 mats\n", {.add_special = true}));
    (void)ChatTemplate::Load(input.path(), "", tokenizer).Encode(tokenizer, {{"user", "hi"}}, true);
  });
  return 0;
}
