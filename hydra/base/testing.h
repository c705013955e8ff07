// SPDX-License-Identifier: Apache-2.0
// Helpers of tests: a folder that goes away, errors whose text is checked. Not part of any library.
#pragma once

#include <gtest/gtest.h>
#include <cstdlib>  // NOLINT(modernize-deprecated-headers): mkdtemp is POSIX's

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/new_memory.h"

namespace hydra {

// Sanitizers find a fault in the first of many like cases, and each takes ten times as long: a test that goes through
// seeds, types or threads takes fewer of them there.
#ifdef HYDRA_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// A new folder, removed with all that is in it.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "hydralm-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string operator/(std::string_view name) const {
    return (std::filesystem::path(path_) / name).string();
  }
  // Names in it, to see that nothing was left behind.
  [[nodiscard]] size_t CountFiles() const {
    size_t n = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path_)) ++n;
    return n;
  }

 private:
  std::string path_;
};

// While it lives, new working memory of the process holds this byte in the place of zeros.
class NewMemoryFill {
 public:
  explicit NewMemoryFill(uint8_t byte) : before_(NewMemoryByte()) { SetNewMemoryByte(byte); }
  ~NewMemoryFill() { SetNewMemoryByte(before_); }
  NewMemoryFill(const NewMemoryFill&) = delete;
  NewMemoryFill& operator=(const NewMemoryFill&) = delete;

 private:
  uint8_t before_;
};

// `f` must throw Error with this code, in one line, with each of `parts` in it.
template <class F>
void ExpectError(F&& f, ErrorCode code, std::initializer_list<std::string_view> parts) {
  try {
    f();
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_EQ(ErrorCodeText(e.code()), std::string_view(ErrorCodeText(code))) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    for (const std::string_view part : parts)
      EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
    return;
  }
  ADD_FAILURE() << "no Error was thrown" << (parts.size() > 0 ? "; wanted " : "")
                << (parts.size() > 0 ? *parts.begin() : "");
}

// What the message of a bad file must say.
struct BadFile {
  std::string format;                   // as specs/product.md has it: "GGUF"
  std::string name;                     // as it lists the case: "bad-magic"; "" for a case that it does not list
  std::string file;                     // the message begins with it
  std::string field;                    // comes right behind the file, as whole words
  std::vector<std::string> found = {};  // comes behind the field: the value, what is wrong with it
  ErrorCode code = ErrorCode::kFormat;
};

// Why `text` is not what `want` says; "" where it is.
inline std::string BadFileFault(const std::string& text, const BadFile& want) {
  const auto in_a_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  const std::string begin = want.file + ": " + want.field;
  if (text.find('\n') != std::string::npos) return "it has more than one line";
  if (text.rfind(begin, 0) != 0) return "it must begin with \"" + begin + "\"";
  if (begin.size() < text.size() && in_a_word(begin.back()) && in_a_word(text[begin.size()]))
    return "its field is longer than \"" + want.field + "\"";
  for (const std::string& part : want.found)
    if (text.find(part, begin.size()) == std::string::npos)
      return "\"" + part + "\" must come behind \"" + begin + "\"";
  return "";
}

// `f` must throw an Error as `want` says. The name of a case that held is printed: tests/rules/bad_files.py misses the
// names of the specification that no test prints.
template <class F>
void ExpectBadFile(const BadFile& want, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_STREQ(ErrorCodeText(e.code()), ErrorCodeText(want.code)) << e.what();
    const std::string fault = BadFileFault(e.what(), want);
    EXPECT_EQ(fault, "") << want.name << ": the message is: " << e.what();
    if (fault.empty() && !want.name.empty())
      std::printf("bad file %s: %s: %s\n", want.format.c_str(), want.name.c_str(), e.what());
    return;
  }
  ADD_FAILURE() << want.name << ": no Error was thrown; wanted \"" << want.file << ": " << want.field << "\"";
}

// Four times the size takes less than ten times the processor's time; what is quadratic takes 16. prepare(size) returns
// the work to time.
template <class Prepare>
void ExpectLessThanQuadraticTime(int64_t size, Prepare&& prepare) {
  const auto time = [&](int64_t n) {
    const auto work = prepare(n);
    const std::clock_t begin = std::clock();
    work();
    return std::clock() - begin;
  };
  const std::clock_t once = time(size);
  EXPECT_LT(time(4 * size), 10 * once) << "at " << size << ": " << once;
}

// Parts of binary files: a number in little endian; a text of GGUF, its length first.
template <class T>
std::string Le(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
inline std::string GgufText(std::string_view text) { return Le(uint64_t{text.size()}) + std::string(text); }

}  // namespace hydra
