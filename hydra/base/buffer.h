// SPDX-License-Identifier: Apache-2.0
// Scratch memory of a computation that is done again and again. Not here: how a call's floats are laid out in it
// (kernels/scratch.h), memory of pages that are given back (pages.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#include "hydra/base/new_memory.h"

namespace hydra {

// Memory for n numbers that grows to what is asked for and keeps it, at a multiple of 64 bytes. New memory is zero,
// which nobody may count on: it may be what an earlier call left, and tests fill it with something else.
// Contents are lost when it grows. Not thread-safe.
template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // Room for at least n; throws std::bad_alloc.
  T* Get(int64_t n) {
    const int64_t wanted = n * static_cast<int64_t>(sizeof(T));
    if (wanted <= bytes_) return data();
    memory_.reset();
    bytes_ = 0;
    const int64_t rounded = (wanted + kRound - 1) / kRound * kRound;
    memory_.reset(static_cast<T*>(::operator new(static_cast<size_t>(rounded), kAlign)));
    std::memset(static_cast<void*>(memory_.get()), NewMemoryByte(), static_cast<size_t>(rounded));
    bytes_ = rounded;
    return data();
  }
  [[nodiscard]] T* data() const { return memory_.get(); }
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kRound = 4096;  // so that what grows by a few numbers a call is not moved at each
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace hydra
