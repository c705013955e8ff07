// SPDX-License-Identifier: Apache-2.0
// The choice of the SIMD level: Highway's, plus avx3_vnni, avx3_bf16 and avx3_amx, which are Highway's AVX3 with
// kernels of our own where dot products of int8 and of bf16 count. Not here: those kernels (matmul_int8.cc,
// matmul_bf16.cc).
#include "hydra/kernels/target.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdlib>
#include <mutex>
#include <string_view>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"

namespace hydra::kernels {
namespace {

using internal::Extension;

struct Level {
  std::string name;
  int64_t highway;  // HWY_AVX2, HWY_NEON, ...
  Extension extension = Extension::kNone;
};

// Tiles are 8 KB of registers a thread, which Linux saves for a process that has asked it to.
[[maybe_unused]] bool MayUseTiles() {
#if HWY_ARCH_X86_64 && defined(__linux__)
  constexpr unsigned kParts = (1U << 22) | (1U << 24) | (1U << 25);  // of CPUID 7, edx: bf16, tiles, int8
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kParts) != kParts) return false;
  constexpr int kAskForState = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return ::syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
  return false;
#endif
}

// The processor's best one. Highway's AVX3_DL is not used: 1.0.3 compiles it with AVX-VNNI, which Zen 4 lacks.
Extension BestExtension() {
#if HWY_ARCH_X86
  if (__builtin_cpu_supports("avx512vnni") == 0) return Extension::kNone;
  if (__builtin_cpu_supports("avx512bf16") == 0) return Extension::kVnni;
  return MayUseTiles() ? Extension::kAmx : Extension::kBf16;
#else
  return Extension::kNone;
#endif
}

std::vector<Level> Levels() {
  std::vector<Level> levels;
  hwy::SetSupportedTargetsForTest(0);  // what the machine has, not what an earlier SetTarget left
  const int64_t supported = (hwy::SupportedTargets() | HWY_STATIC_TARGET) & HWY_TARGETS;
  for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const int64_t bit = rest & ~(rest - 1);
    if (bit == HWY_SCALAR || bit == HWY_EMU128) {
      levels.push_back({"scalar", bit});
      continue;
    }
    std::string name = hwy::TargetName(bit);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (bit == HWY_AVX3) {
      const Extension best = BestExtension();
      if (best >= Extension::kAmx) levels.push_back({"avx3_amx", bit, Extension::kAmx});
      if (best >= Extension::kBf16) levels.push_back({"avx3_bf16", bit, Extension::kBf16});
      if (best >= Extension::kVnni) levels.push_back({"avx3_vnni", bit, Extension::kVnni});
    }
    levels.push_back({name, bit});
  }
  return levels;
}

struct Choice {
  std::mutex mutex;
  std::atomic<Extension> extension{Extension::kNone};
  std::string name;  // guarded by mutex; "" = not chosen yet
};
Choice& Chosen() {
  static Choice choice;
  return choice;
}

// With the mutex held.
void Choose(Choice& choice, std::string_view name, std::string_view where) {
  const std::vector<Level> levels = Levels();
  const auto found = name == "best" ? levels.begin() : std::ranges::find(levels, name, &Level::name);
  if (found == levels.end()) {
    std::vector<std::string> names;
    for (const Level& level : levels) names.push_back(level.name);
    throw Error(ErrorCode::kUsage, fmt::format("{} = {}: must be best or one of those of this machine: {}", where, name,
                                               fmt::join(names, ", ")));
  }
  choice.name = found->name;
  choice.extension = found->extension;
  hwy::GetChosenTarget().Update(found->highway);  // last: it says to other threads that the choice is made
}

// With the mutex held.
void ChooseOnce(Choice& choice) {
  if (!choice.name.empty()) return;
  const char* wanted = std::getenv("HYDRALM_ARG_TARGET");
  Choose(choice, wanted == nullptr || *wanted == '\0' ? "best" : wanted, "HYDRALM_ARG_TARGET");
}

}  // namespace

namespace internal {

void ChooseTarget() {
  Choice& choice = Chosen();
  const std::lock_guard lock(choice.mutex);
  ChooseOnce(choice);
}

Extension CurrentExtension() { return Chosen().extension.load(std::memory_order_relaxed); }

}  // namespace internal

bool HasBf16Dots() {
  internal::EnsureTarget();
  return internal::CurrentExtension() >= Extension::kBf16;
}

std::vector<std::string> Targets() {
  const std::lock_guard lock(Chosen().mutex);
  std::vector<std::string> names;
  for (const Level& level : Levels()) names.push_back(level.name);
  return names;
}

std::string CurrentTarget() {
  Choice& choice = Chosen();
  const std::lock_guard lock(choice.mutex);
  ChooseOnce(choice);
  return choice.name;
}

void SetTarget(const std::string& name) {
  Choice& choice = Chosen();
  const std::lock_guard lock(choice.mutex);
  Choose(choice, name, "target");
}

}  // namespace hydra::kernels
