// SPDX-License-Identifier: Apache-2.0
// Preloaded into Python, so that torch runs there as in hydralm-train: process.cc answers MKL's question for the maker
// of the processor and sets what malloc keeps. Built with hydra/cli/process.cc by python.sh. Not here: what is measured
// (torch_models.py).
#include "hydra/cli/process.h"

namespace {

const bool kSetUp = (hydra::cli::SetUpProcess(), true);

}  // namespace

// Found in a process by its name, it says that the library was loaded; what it returns, that it was set up.
extern "C" __attribute__((visibility("default"))) int HydraSameProcess() { return kSetUp ? 1 : 0; }
