// SPDX-License-Identifier: Apache-2.0
// Files that declare much and hold little, for the tests of loaders: each is held to twice the file's size + 1 MiB of
// memory and to seconds. Memory is counted by an operator new of its own, so that a test program includes this once.
// Not part of any library.
#pragma once

#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <new>
#include <string>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra::memory_counter {

// Bytes that this thread holds more than when counting began, and their peak.
struct Counter {
  bool on = false;
  int64_t now = 0, peak = 0;
};
inline Counter& TheCounter() {
  static thread_local Counter counter;
  return counter;
}

inline void* TryAllocate(std::size_t n, std::size_t alignment) noexcept {
  void* p = alignment == 0 ? std::malloc(n == 0 ? 1 : n)
                           : std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment);
  if (TheCounter().on && p != nullptr) {
    TheCounter().now += static_cast<int64_t>(::malloc_usable_size(p));
    TheCounter().peak = std::max(TheCounter().peak, TheCounter().now);
  }
  return p;
}
inline void* Allocate(std::size_t n, std::size_t alignment) {
  void* p = TryAllocate(n, alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
inline void Release(void* p) noexcept {
  if (TheCounter().on && p != nullptr) TheCounter().now -= static_cast<int64_t>(::malloc_usable_size(p));
  std::free(p);
}

}  // namespace hydra::memory_counter

void* operator new(std::size_t n) { return hydra::memory_counter::Allocate(n, 0); }
void* operator new[](std::size_t n) { return hydra::memory_counter::Allocate(n, 0); }
void* operator new(std::size_t n, std::align_val_t a) {
  return hydra::memory_counter::Allocate(n, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t n, std::align_val_t a) {
  return hydra::memory_counter::Allocate(n, static_cast<std::size_t>(a));
}
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return hydra::memory_counter::TryAllocate(n, 0); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return hydra::memory_counter::TryAllocate(n, 0); }
void operator delete(void* p, const std::nothrow_t&) noexcept { hydra::memory_counter::Release(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { hydra::memory_counter::Release(p); }
void operator delete(void* p) noexcept { hydra::memory_counter::Release(p); }
void operator delete[](void* p) noexcept { hydra::memory_counter::Release(p); }
void operator delete(void* p, std::size_t) noexcept { hydra::memory_counter::Release(p); }
void operator delete[](void* p, std::size_t) noexcept { hydra::memory_counter::Release(p); }
void operator delete(void* p, std::align_val_t) noexcept { hydra::memory_counter::Release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { hydra::memory_counter::Release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { hydra::memory_counter::Release(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { hydra::memory_counter::Release(p); }

namespace hydra {

// Runs `load` on a file of these bytes; an Error goes to `refusal`.
template <class F>
int64_t PeakOf(const std::string& bytes, F&& load, std::string* refusal = nullptr) {
  const TempDir dir;
  const std::string path = dir / "x";
  WriteFileAtomic(path, bytes);
  const std::clock_t begin = std::clock();
  memory_counter::Counter& counter = memory_counter::TheCounter();
  counter = {.on = true};
  try {
    load(path);
  } catch (const Error& error) {
    counter.on = false;
    if (refusal != nullptr) *refusal = error.what();
  } catch (...) {
    counter.on = false;
    throw;
  }
  counter.on = false;
  EXPECT_LT(std::clock() - begin, 10 * CLOCKS_PER_SEC);  // 1 s; the slack is for sanitizers
  return counter.peak;
}

template <class F>
void ExpectLittle(const char* name, const std::string& bytes, F&& load) {
  SCOPED_TRACE(name);
  EXPECT_LE(PeakOf(bytes, load), 2 * static_cast<int64_t>(bytes.size()) + (1 << 20))
      << bytes.size() << " bytes of file";
}

// A file that nothing is wrong with.
template <class F>
void ExpectLoads(const char* name, const std::string& bytes, F&& load) {
  SCOPED_TRACE(name);
  std::string refusal;
  EXPECT_LE(PeakOf(bytes, load, &refusal), 2 * static_cast<int64_t>(bytes.size()) + (1 << 20))
      << bytes.size() << " bytes of file";
  EXPECT_EQ(refusal, "");
}

[[nodiscard]] inline std::string Repeat(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

}  // namespace hydra
