// SPDX-License-Identifier: Apache-2.0
// The files that a run read at its start and that must stay what they were while it goes on. Torch-free.
// Not here: what they hold (data/token_dataset.h, text/tokenizer.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace hydra::train {

// Not thread-safe.
class SourceFiles {
 public:
  // Watches a file that was just read. `same` reads it again and says whether it still holds what was read (it may
  // throw Error: then it does not). It is asked only where size, time or place on the disk have changed, so that a
  // touch or a copy of the same bytes is no change.
  void Add(const std::string& path, std::function<bool()> same);
  // One stat for each file. Throws kData naming the first that is gone or holds something else.
  void Check();

 private:
  struct Stamp {
    uint64_t device = 0, inode = 0;
    int64_t size = 0, seconds = 0, nanoseconds = 0;  // of the last change of its bytes
    bool operator==(const Stamp&) const = default;
  };
  struct File {
    std::string path;
    std::optional<Stamp> stamp;  // none: it could not be looked at
    std::function<bool()> same;
  };
  [[nodiscard]] static std::optional<Stamp> StampOf(const std::string& path);

  std::vector<File> files_;
};

}  // namespace hydra::train
