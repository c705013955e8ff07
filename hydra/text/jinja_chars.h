// SPDX-License-Identifier: Apache-2.0
// Characters, numbers and literals as Python sees and writes them. Not here: values (jinja_value.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hydra::jinja {

// str.isspace() of one character.
[[nodiscard]] bool IsSpace(char32_t c);
// Bytes of the white space that begins at `at`, or ends before `end`. Text is valid UTF-8.
[[nodiscard]] size_t SpaceAt(std::string_view text, size_t at);
[[nodiscard]] size_t SpaceBefore(std::string_view text, size_t end);

[[nodiscard]] size_t CharCount(std::string_view text);
// The byte at which character `index` begins; the text's size beyond its end.
[[nodiscard]] size_t CharOffset(std::string_view text, size_t index);
// The character before byte `at` begins there; at > 0.
[[nodiscard]] size_t CharBefore(std::string_view text, size_t at);

[[nodiscard]] bool IsUpper(char32_t c);
[[nodiscard]] bool IsLower(char32_t c);
[[nodiscard]] bool IsLetter(char32_t c);
[[nodiscard]] bool IsDecimal(char32_t c);
// One character in the other case, which may be several.
void AppendUpper(char32_t c, std::string* out);
void AppendLower(char32_t c, std::string* out);

// What stands between the quotes of a literal, its escapes read. Null, or what is wrong with it.
[[nodiscard]] const char* Unescape(std::string_view literal, std::string* out);

// repr() of a text and a float; str() of a float is the same.
[[nodiscard]] std::string Repr(std::string_view text);
[[nodiscard]] std::string FloatText(double value);
// A text as json.dumps writes it.
void AppendJsonText(std::string_view text, bool ascii, std::string* out);

// int(text, base) and float(text); none where Python throws ValueError.
[[nodiscard]] std::optional<int64_t> ParseInt(std::string_view text, int base);
[[nodiscard]] std::optional<double> ParseFloat(std::string_view text);

// The first place of `what` from `from` on; npos. Linear time.
[[nodiscard]] size_t Find(std::string_view text, std::string_view what, size_t from);

}  // namespace hydra::jinja
