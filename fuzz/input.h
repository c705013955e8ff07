// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share: an input as a file that never touches a disk, and the rule that a loader may fail only
// by throwing Error with a message of one line. Not here: seeds (make_seeds.cc).
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "hydra/base/error.h"

namespace hydra::fuzz {

[[noreturn]] inline void Broken(const char* rule, std::string_view what) {
  std::fprintf(stderr, "fuzz: %s: %.*s\n", rule, static_cast<int>(what.size()), what.data());
  std::abort();
}

inline std::string_view Text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// An input under a path that loaders can open.
class InputFile {
 public:
  explicit InputFile(std::string_view bytes) : fd_(::memfd_create("input", 0)) {
    if (fd_ < 0) Broken("memfd_create failed", "");
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = ::write(fd_, bytes.data() + at, bytes.size() - at);
      if (n <= 0) Broken("write failed", "");
      at += static_cast<size_t>(n);
    }
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  ~InputFile() { ::close(fd_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

// Runs `f`; true where it did not throw. Any exception but Error ends the process, and so does an Error whose message
// is empty or holds control characters.
template <class F>
bool Accepts(F&& f) {
  try {
    f();
    return true;
  } catch (const Error& e) {
    const std::string_view what = e.what();
    if (what.empty()) Broken("an Error without a message", "");
    for (const char c : what)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) Broken("a message that is not one line of text", what);
    return false;
  }
}

}  // namespace hydra::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
