// SPDX-License-Identifier: Apache-2.0
// The two ways to fail: Error for what a user can cause, HYDRA_CHECK for what only our own bug can.
// Not here: printing or exit codes (hydra/cli).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace hydra {

// What went wrong, for programs; the message is for people.
enum class ErrorCode {
  kUsage,     // a flag or an argument
  kConfig,    // a field of a config or run file
  kIo,        // a file that cannot be opened, read or written
  kFormat,    // a file whose bytes break its format
  kTensor,    // a tensor missing, extra or of another shape or type
  kData,      // a corpus, shard or document
  kNotBuilt,  // a part that this build leaves out
  kDiverged,  // training stopped by a guard
};

// One English word or two for each code ("bad config"); used by --json errors.
[[nodiscard]] const char* ErrorCodeText(ErrorCode code);

namespace internal {
// `text` with control characters as \x0a, since messages quote names and values of strangers' files.
[[nodiscard]] std::string WithoutControls(const std::string& text);
}  // namespace internal

// Something a user can cause and mend. what() names the file, field or tensor, its value and the rule,
// in one line without a trailing full stop, whatever the message was made of.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message)
      : std::runtime_error(internal::WithoutControls(message)), code_(code) {}
  [[nodiscard]] ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Streams its arguments into one string. Where fmt is at hand (units without torch), prefer fmt::format.
template <class... Args>
[[nodiscard]] std::string StrCat(const Args&... args) {
  std::ostringstream out;
  (void)(out << ... << args);  // with no arguments it is a bare name, which -Wextra calls useless
  return out.str();
}

// The candidate nearest to `name` by edit distance, or "" when none is near; for "did you mean".
template <class Range>
[[nodiscard]] std::string NearestName(const std::string& name, const Range& candidates);
[[nodiscard]] int EditDistance(const std::string& a, const std::string& b);

// " (did you mean X?)" or "".
template <class Range>
[[nodiscard]] std::string DidYouMean(const std::string& name, const Range& candidates) {
  const std::string near = NearestName(name, candidates);
  return near.empty() ? "" : StrCat(" (did you mean ", near, "?)");
}

template <class Range>
std::string NearestName(const std::string& name, const Range& candidates) {
  std::string best;
  int best_distance = 1 + static_cast<int>(name.size()) / 3;  // farther than that is another word
  for (const auto& candidate : candidates) {
    const int distance = EditDistance(name, std::string(candidate));
    if (distance < best_distance) {
      best_distance = distance;
      best = std::string(candidate);
    }
  }
  return best;
}

namespace internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, const std::string& message);
}  // namespace internal
}  // namespace hydra

// Throws std::logic_error with file, line and message when a broken invariant of ours is found.
#define HYDRA_CHECK(condition, ...)                                                                                 \
  do {                                                                                                              \
    if (!(condition)) ::hydra::internal::CheckFailed(__FILE__, __LINE__, #condition, ::hydra::StrCat(__VA_ARGS__)); \
  } while (0)
