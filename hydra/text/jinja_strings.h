// SPDX-License-Identifier: Apache-2.0
// Work on marked texts that methods and filters share. Not here: the methods (jinja_methods.cc).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hydra/text/jinja_run.h"

namespace hydra::jinja {

// kTitle: str.title(); kWords: the filter title, whose words end at white space, hyphens and opening brackets.
enum class CaseMap { kUpper, kLower, kCapitalize, kTitle, kWords, kSwap };
[[nodiscard]] Value MapCase(Run& run, const MarkedText& text, CaseMap map);
// Whether all letters with a case are of this one, and there are some.
[[nodiscard]] bool IsCased(Run& run, std::string_view text, bool upper);
// chars: none for white space.
[[nodiscard]] Value StripText(Run& run, const MarkedText& text, const Value& chars, bool left, bool right);
// most < 0: all.
[[nodiscard]] Value ReplaceText(Run& run, const MarkedText& text, const MarkedText& from, const MarkedText& to,
                                int64_t most);
[[nodiscard]] std::vector<Value> SplitLines(Run& run, const MarkedText& text, bool keep_ends);
// str() of each item.
[[nodiscard]] Value JoinTexts(Run& run, const std::vector<Value>& items, const MarkedText& between);
// align: < > ^
[[nodiscard]] Value JustifyText(Run& run, const MarkedText& text, int64_t width, const MarkedText& fill, char align);
// For HTML; a text that is markup stays as it is.
[[nodiscard]] MarkedText Escaped(Run& run, const Value& value);
// The same for each text of a tuple, list or dict.
[[nodiscard]] Value EscapedParts(Run& run, const Value& value);
[[nodiscard]] size_t FindLast(Run& run, std::string_view text, std::string_view what);
[[nodiscard]] std::vector<Value> PairsOf(Run& run, const Dict& dict);

}  // namespace hydra::jinja
