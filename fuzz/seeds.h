// SPDX-License-Identifier: Apache-2.0
// What the programs that write first inputs share. Not here: the inputs (make_seeds.cc, state_seeds.cc,
// torch_seeds.cc).
#pragma once

#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>

#include "hydra/io/file.h"

namespace hydra::fuzz {

// A folder for each target.
class Seeds {
 public:
  explicit Seeds(std::string folder) : folder_(std::move(folder)) {}

  std::string Path(const std::string& target, const std::string& name) {
    const std::filesystem::path folder = std::filesystem::path(folder_) / target;
    MakeDirs(folder.string());
    return (folder / name).string();
  }
  void Write(const std::string& target, const std::string& name, std::string_view bytes) {
    WriteFileAtomic(Path(target, name), bytes);
  }

 private:
  std::string folder_;
};

// The main function: PROGRAM FOLDER.
template <class F>
int WriteSeeds(int argc, char** argv, F&& write) {
  if (argc != 2) {
    std::fprintf(stderr, "%s FOLDER\n", argv[0]);
    return 2;
  }
  try {
    Seeds seeds(argv[1]);
    write(seeds);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
    return 1;
  }
  return 0;
}

}  // namespace hydra::fuzz
