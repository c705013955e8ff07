// SPDX-License-Identifier: Apache-2.0
// A list of mappings that only grows: places are used again and never freed, so that it can be read at any moment.
#include "hydra/io/mapped_files.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace hydra {
namespace {

constexpr size_t kPathBytes = 240;

struct Place {
  std::atomic<uintptr_t> begin{0}, end{0};  // both 0: free
  char path[kPathBytes] = {};
  Place* next = nullptr;
};

// The dispatch table apart, the one global of the libraries: a handler of signals gets no parameters.
std::atomic<Place*> g_places{nullptr};
std::mutex g_writers;
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<Place*>::is_always_lock_free);

}  // namespace

void RememberMapping(const void* data, size_t bytes, const std::string& path) {
  const std::scoped_lock lock(g_writers);
  Place* place = g_places.load();
  while (place != nullptr && place->begin.load() != 0) place = place->next;
  const bool made = place == nullptr;
  if (made) place = new Place;
  const size_t from = path.size() < kPathBytes ? 0 : path.size() - (kPathBytes - 1);
  std::memcpy(place->path, path.c_str() + from, path.size() - from + 1);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  place->end.store(begin + bytes);
  place->begin.store(begin);
  if (!made) return;
  place->next = g_places.load();
  g_places.store(place);
}

void ForgetMapping(const void* data) {
  const std::scoped_lock lock(g_writers);
  for (Place* place = g_places.load(); place != nullptr; place = place->next) {
    if (place->begin.load() != reinterpret_cast<uintptr_t>(data)) continue;
    place->begin.store(0);
    return;
  }
}

const char* MappedPathAt(const void* address) noexcept {
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (const Place* place = g_places.load(); place != nullptr; place = place->next) {
    const uintptr_t begin = place->begin.load();
    if (begin != 0 && begin <= at && at < place->end.load()) return place->path;
  }
  return nullptr;
}

}  // namespace hydra
