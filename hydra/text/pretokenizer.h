// SPDX-License-Identifier: Apache-2.0
// Text in pieces: the normalizer and the pre-tokenizer of tokenizer.json. Not here: tokens (bpe.h), added tokens
// (tokenizer_added.h).
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "hydra/text/pretokenizer_regex.h"
#include "hydra/text/pretokenizer_scan.h"

namespace hydra {

// A literal text or a regular expression, as Split and Replace have it.
class TextPattern {
 public:
  // `json` is {"String": ...} or {"Regex": ...}; `where` names file and field.
  [[nodiscard]] static TextPattern FromJson(const nlohmann::json& json, const std::string& where);

  void ForEachMatch(std::string_view text, const std::function<void(Regex::Span)>& found) const;
  // Throws kData where the result has more than `most` bytes.
  [[nodiscard]] std::string Replace(std::string_view text, std::string_view by, size_t most) const;
  // Set where the pattern is one of the known ones.
  [[nodiscard]] std::optional<SplitPattern> known() const { return known_; }

 private:
  std::variant<std::string, Regex> pattern_;
  std::optional<SplitPattern> known_;
};

enum class TextStart { kOwn, kGoesOn };  // a text of its own; one that goes on behind another: nothing is put before it

// Normalizer steps null, NFC, Prepend, Replace, Sequence; any other is refused by name.
class Normalizer {
 public:
  [[nodiscard]] static Normalizer FromJson(const nlohmann::json& json, const std::string& where);

  [[nodiscard]] bool empty() const { return steps_.empty(); }
  [[nodiscard]] std::string Apply(std::string_view text, TextStart start = TextStart::kOwn) const;

 private:
  struct ComposeStep {};
  struct PrependStep {
    std::string text;
  };
  struct ReplaceStep {
    TextPattern pattern;
    std::string by;
  };
  void Add(const nlohmann::json& json, const std::string& where);
  std::vector<std::variant<ComposeStep, PrependStep, ReplaceStep>> steps_;
};

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Pre-tokenizer steps null, ByteLevel, Split, Digits, Metaspace, Sequence; any other is refused by name.
class PreTokenizer {
 public:
  [[nodiscard]] static PreTokenizer FromJson(const nlohmann::json& json, const std::string& where);

  // Whether pieces are spelled in the byte-level alphabet. (Here pieces stay bytes; bpe.h maps them.)
  [[nodiscard]] bool byte_level() const { return byte_level_; }
  // Set where the steps amount to one known pattern: ScanPieces then gives the pieces, faster than ForEachPiece.
  [[nodiscard]] std::optional<SplitPattern> known() const { return known_; }
  // "gpt2", "llama3", "qwen2", or what the steps are, as "Split + Digits + ByteLevel".
  [[nodiscard]] const std::string& description() const { return description_; }

  // Calls `found` with each piece of `text` (valid UTF-8). `at_start`: the text begins the whole input, which
  // Metaspace's prepend_scheme "first" asks about. Pieces live during the call only.
  void ForEachPiece(std::string_view text, bool at_start, const std::function<void(std::string_view)>& found) const;

 private:
  struct SplitStep {
    TextPattern pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct DigitsStep {
    bool individual;
  };
  struct ByteLevelStep {
    bool add_prefix_space;
    bool use_regex;
  };
  enum class Prepend { kAlways, kFirst, kNever };
  struct MetaspaceStep {
    std::string replacement;
    Prepend prepend;
    bool split;
  };
  using Step = std::variant<SplitStep, DigitsStep, ByteLevelStep, MetaspaceStep>;
  struct Piece {
    std::string_view text;
    bool at_start;
  };
  // What a step writes: views into the text given or into `made`, which does not move its strings.
  struct Output {
    std::vector<Piece> pieces;
    std::deque<std::string>* made;
  };
  void Add(const nlohmann::json& json, const std::string& where);
  void Finish();
  static void Run(const SplitStep& step, Piece piece, Output& out);
  static void Run(const DigitsStep& step, Piece piece, Output& out);
  static void Run(const ByteLevelStep& step, Piece piece, Output& out);
  static void Run(const MetaspaceStep& step, Piece piece, Output& out);

  std::vector<Step> steps_;
  bool byte_level_ = false;
  std::optional<SplitPattern> known_;
  std::string description_;
};

// Field access for the parts of tokenizer.json; `where` is "FILE: FIELD". Throws kFormat on a wrong type.
namespace tokenizer_json {
[[nodiscard]] std::string StepType(const nlohmann::json& json, const std::string& where);
[[nodiscard]] bool Bool(const nlohmann::json& json, const char* key, bool missing, const std::string& where);
[[nodiscard]] std::string String(const nlohmann::json& json, const char* key, const std::string& where);
[[noreturn]] void Refuse(const std::string& where, const std::string& why);
// Steps are few and make little of a text: a file that says otherwise would cost memory without end.
void CheckStepCount(size_t n, const std::string& where);
[[nodiscard]] size_t MostBytes(size_t text_bytes);  // that steps may make of a text
void CheckGrowth(size_t bytes, size_t most);        // throws kData
}  // namespace tokenizer_json

}  // namespace hydra
