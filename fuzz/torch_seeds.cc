// SPDX-License-Identifier: Apache-2.0
// Writes the first inputs of the targets pickle and torch_bin: a state_dict with views of several kinds, made as
// torch.save makes it. Not a fuzz target. Run as make_seeds is: torch_seeds FOLDER.
#include "fuzz/seeds.h"
#include "hydra/convert/testing_torch.h"

using namespace hydra;

int main(int argc, char** argv) {
  return fuzz::WriteSeeds(argc, argv, [](fuzz::Seeds& seeds) {
    using testing::Pickle;
    Pickle pickle;
    pickle.OrderedDict().Keep().Op("(");
    pickle.Text("a.weight").Tensor({.storage_size = 6, .shape = {2, 3}, .strides = {3, 1}});
    pickle.Text("a.turned").Tensor({.storage_size = 6, .shape = {3, 2}, .strides = {1, 3}});
    pickle.Text("none").Tensor({.storage_size = 6, .offset = 6, .shape = {0}, .strides = {1}});
    pickle.Text("p").Global("torch._utils", "_rebuild_parameter").Op("(").Tensor({.storage_size = 6});
    pickle.Op("\x88").OrderedDict().Op("tR");
    pickle.Text("b").Tensor(
        {.type = "BFloat16Storage", .storage = "1", .storage_size = 2, .shape = {2}, .strides = {1}});
    pickle.Op("u}(").Text("_metadata").OrderedDict().Op("ub.");
    seeds.Write("pickle", "state_dict", pickle.bytes);
    seeds.Write("torch_bin", "state_dict",
                testing::TorchBytes(pickle, {{"0", std::string(24, '\x3f')}, {"1", std::string(4, '\x3f')}}));
  });
}
