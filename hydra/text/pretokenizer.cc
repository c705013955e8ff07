// SPDX-License-Identifier: Apache-2.0
// The normalizer and pre-tokenizer steps of tokenizer.json. Not here: the patterns' engines (pretokenizer_scan.h,
// pretokenizer_regex.cc).
#include "hydra/text/pretokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "hydra/base/error.h"

namespace hydra {

using nlohmann::json;

namespace tokenizer_json {

void Refuse(const std::string& where, const std::string& why) {
  throw Error(ErrorCode::kFormat, fmt::format("{}: {}", where, why));
}

std::string StepType(const json& value, const std::string& where) {
  if (!value.is_object()) Refuse(where, "must be an object with a type, or null");
  return String(value, "type", where);
}

bool Bool(const json& value, const char* key, bool missing, const std::string& where) {
  const auto found = value.find(key);
  if (found == value.end()) return missing;
  if (!found->is_boolean())
    Refuse(fmt::format("{}.{}", where, key), fmt::format("= {}: must be true or false", found->dump()));
  return found->get<bool>();
}

std::string String(const json& value, const char* key, const std::string& where) {
  const auto found = value.find(key);
  if (found == value.end()) Refuse(fmt::format("{}.{}", where, key), "is missing: must be a string");
  if (!found->is_string()) Refuse(fmt::format("{}.{}", where, key), "must be a string");
  return found->get<std::string>();
}

void CheckStepCount(size_t n, const std::string& where) {
  constexpr size_t kMaxSteps = 64;
  if (n >= kMaxSteps) Refuse(where, fmt::format("more than {} steps", kMaxSteps));
}

size_t MostBytes(size_t text_bytes) { return 16 * text_bytes + 4096; }

void CheckGrowth(size_t bytes, size_t most) {
  if (bytes > most)
    throw Error(ErrorCode::kData, fmt::format("the tokenizer's steps make more than {} bytes of one text", most));
}

}  // namespace tokenizer_json

using tokenizer_json::Bool;
using tokenizer_json::Refuse;
using tokenizer_json::StepType;
using tokenizer_json::String;

namespace {

// The elements of a Sequence.
const json& Elements(const json& value, const char* key, const std::string& where) {
  const auto found = value.find(key);
  if (found == value.end() || !found->is_array()) Refuse(fmt::format("{}.{}", where, key), "must be an array of steps");
  return *found;
}

SplitBehavior BehaviorFromName(const std::string& name, const std::string& where) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  Refuse(where + ".behavior",
         fmt::format("= '{}': must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", name));
}

// A stretch of text, matched by the pattern or not; all stretches together are the text.
struct Stretch {
  size_t begin, end;
  bool match;
};

void Extend(std::vector<Stretch>& out, const Stretch& stretch, bool join) {
  if (join && !out.empty()) {
    out.back().end = stretch.end;
  } else {
    out.push_back(stretch);
  }
}

// Joins and drops stretches as `behavior` says.
std::vector<Stretch> Arrange(const std::vector<Stretch>& stretches, SplitBehavior behavior) {
  std::vector<Stretch> out;
  bool previous = false;
  switch (behavior) {
    case SplitBehavior::kIsolated: return stretches;
    case SplitBehavior::kRemoved:
      for (const Stretch& s : stretches) {
        if (!s.match) out.push_back(s);
      }
      break;
    case SplitBehavior::kContiguous:
      for (const Stretch& s : stretches) {
        Extend(out, s, s.match == previous);
        previous = s.match;
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      for (const Stretch& s : stretches) {
        Extend(out, s, s.match && !previous);
        previous = s.match;
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (auto s = stretches.rbegin(); s != stretches.rend(); ++s) {
        if (s->match && !previous && !out.empty()) {
          out.back().begin = s->begin;
        } else {
          out.push_back(*s);
        }
        previous = s->match;
      }
      std::reverse(out.begin(), out.end());
      break;
  }
  return out;
}

// Collects matches, filling the gaps between them.
class Stretches {
 public:
  Stretches(size_t text_bytes, bool invert) : text_bytes_(text_bytes), invert_(invert) {}
  void Match(size_t begin, size_t end) {
    Gap(begin);
    list_.push_back({begin, end, !invert_});
    at_ = end;
  }
  std::vector<Stretch> Finish() {
    Gap(text_bytes_);
    return std::move(list_);
  }

 private:
  void Gap(size_t to) {
    if (at_ < to) list_.push_back({at_, to, invert_});
  }
  size_t text_bytes_;
  bool invert_;
  size_t at_ = 0;
  std::vector<Stretch> list_;
};

}  // namespace

// ---- TextPattern ----

TextPattern TextPattern::FromJson(const json& value, const std::string& where) {
  TextPattern pattern;
  if (value.is_string()) {  // an older form
    pattern.pattern_ = value.get<std::string>();
    if (std::get<std::string>(pattern.pattern_).empty()) Refuse(where, "must not be empty");
    return pattern;
  }
  if (!value.is_object() || value.size() != 1) Refuse(where, "must be {\"String\": ...} or {\"Regex\": ...}");
  if (value.contains("String")) {
    pattern.pattern_ = String(value, "String", where);
    if (std::get<std::string>(pattern.pattern_).empty()) Refuse(where + ".String", "must not be empty");
    return pattern;
  }
  if (!value.contains("Regex")) Refuse(where, "must be {\"String\": ...} or {\"Regex\": ...}");
  const std::string regex = String(value, "Regex", where);
  if (regex == kGpt2Regex) pattern.known_ = SplitPattern::kGpt2;
  if (regex == kLlama3Regex) pattern.known_ = SplitPattern::kLlama3;
  if (regex == kQwen2Regex) pattern.known_ = SplitPattern::kQwen2;
  if (!pattern.known_) pattern.pattern_.emplace<Regex>(regex, where + ".Regex");
  return pattern;
}

void TextPattern::ForEachMatch(std::string_view text, const std::function<void(Regex::Span)>& found) const {
  if (known_) {  // they match everywhere
    ScanPieces(*known_, text, [&](std::string_view piece) {
      const auto begin = static_cast<size_t>(piece.data() - text.data());
      found({begin, begin + piece.size()});
    });
  } else if (const auto* literal = std::get_if<std::string>(&pattern_)) {
    for (size_t at = text.find(*literal); at != std::string_view::npos;
         at = text.find(*literal, at + literal->size())) {
      found({at, at + literal->size()});
    }
  } else {
    std::get<Regex>(pattern_).ForEachMatch(text, found);
  }
}

std::string TextPattern::Replace(std::string_view text, std::string_view by, size_t most) const {
  std::string out;
  size_t at = 0;
  ForEachMatch(text, [&](Regex::Span span) {
    out.append(text.substr(at, span.begin - at)).append(by);
    at = span.end;
    tokenizer_json::CheckGrowth(out.size(), most);
  });
  return out.append(text.substr(at));
}

// ---- Normalizer ----

Normalizer Normalizer::FromJson(const json& value, const std::string& where) {
  Normalizer normalizer;
  if (!value.is_null()) normalizer.Add(value, where);
  return normalizer;
}

void Normalizer::Add(const json& value, const std::string& where) {
  const std::string type = StepType(value, where);
  tokenizer_json::CheckStepCount(steps_.size(), where);
  if (type == "Sequence") {
    const json& elements = Elements(value, "normalizers", where);
    for (size_t i = 0; i < elements.size(); ++i) Add(elements[i], fmt::format("{}.normalizers[{}]", where, i));
  } else if (type == "NFC") {
    steps_.emplace_back(ComposeStep{});
  } else if (type == "Prepend") {
    steps_.emplace_back(PrependStep{String(value, "prepend", where)});
  } else if (type == "Replace") {
    if (!value.contains("pattern")) Refuse(where + ".pattern", "is missing");
    steps_.emplace_back(
        ReplaceStep{TextPattern::FromJson(value["pattern"], where + ".pattern"), String(value, "content", where)});
  } else {
    Refuse(where + ".type", fmt::format("= '{}': unknown step; supported are NFC, Prepend, Replace, Sequence", type));
  }
}

std::string Normalizer::Apply(std::string_view text, TextStart start) const {
  std::string now(text);
  const size_t most = tokenizer_json::MostBytes(text.size());
  for (const auto& step : steps_) {
    if (std::holds_alternative<ComposeStep>(step)) {
      now = Nfc(now);
    } else if (const auto* prepend = std::get_if<PrependStep>(&step)) {
      if (!now.empty() && start == TextStart::kOwn) now.insert(0, prepend->text);
      tokenizer_json::CheckGrowth(now.size(), most);
    } else {
      const auto& replace = std::get<ReplaceStep>(step);
      now = replace.pattern.Replace(now, replace.by, most);
    }
  }
  return now;
}

// ---- PreTokenizer ----

PreTokenizer PreTokenizer::FromJson(const json& value, const std::string& where) {
  PreTokenizer pre_tokenizer;
  if (!value.is_null()) pre_tokenizer.Add(value, where);
  pre_tokenizer.Finish();
  return pre_tokenizer;
}

void PreTokenizer::Add(const json& value, const std::string& where) {
  const std::string type = StepType(value, where);
  tokenizer_json::CheckStepCount(steps_.size(), where);
  if (byte_level_)
    Refuse(where, fmt::format("{} after ByteLevel is not supported: ByteLevel must be the last step", type));
  if (type == "Sequence") {
    const json& elements = Elements(value, "pretokenizers", where);
    for (size_t i = 0; i < elements.size(); ++i) Add(elements[i], fmt::format("{}.pretokenizers[{}]", where, i));
    return;
  }
  description_ += (description_.empty() ? "" : " + ") + type;
  if (type == "ByteLevel") {
    steps_.emplace_back(
        ByteLevelStep{Bool(value, "add_prefix_space", true, where), Bool(value, "use_regex", true, where)});
    byte_level_ = true;
  } else if (type == "Split") {
    if (!value.contains("pattern")) Refuse(where + ".pattern", "is missing");
    const SplitBehavior behavior = BehaviorFromName(String(value, "behavior", where), where);
    steps_.emplace_back(SplitStep{TextPattern::FromJson(value["pattern"], where + ".pattern"), behavior,
                                  Bool(value, "invert", false, where)});
  } else if (type == "Digits") {
    steps_.emplace_back(DigitsStep{Bool(value, "individual_digits", false, where)});
  } else if (type == "Metaspace") {
    MetaspaceStep step{String(value, "replacement", where), Prepend::kAlways, Bool(value, "split", true, where)};
    if (step.replacement.empty() || step.replacement.size() != static_cast<size_t>(Utf8Length(step.replacement[0]))) {
      Refuse(where + ".replacement", fmt::format("= '{}': must be one character", step.replacement));
    }
    const std::string scheme = value.contains("prepend_scheme") ? String(value, "prepend_scheme", where) : "always";
    if (scheme == "first")
      step.prepend = Prepend::kFirst;
    else if (scheme == "never")
      step.prepend = Prepend::kNever;
    else if (scheme != "always")
      Refuse(where + ".prepend_scheme", fmt::format("= '{}': must be always, first or never", scheme));
    steps_.emplace_back(std::move(step));
  } else {
    Refuse(where + ".type",
           fmt::format("= '{}': unknown step; supported are ByteLevel, Split, Digits, Metaspace, Sequence", type));
  }
}

// Recognises the chains that amount to one known pattern.
void PreTokenizer::Finish() {
  if (steps_.empty()) description_ = "none";
  if (!byte_level_) return;
  const auto& last = std::get<ByteLevelStep>(steps_.back());
  if (last.add_prefix_space) return;
  if (steps_.size() == 1 && last.use_regex) known_ = SplitPattern::kGpt2;
  if (steps_.size() == 2 && !last.use_regex) {
    const auto* split = std::get_if<SplitStep>(&steps_.front());
    const bool plain = split != nullptr && (split->behavior == SplitBehavior::kIsolated ||
                                            (split->behavior == SplitBehavior::kRemoved && split->invert));
    if (plain) known_ = split->pattern.known();
  }
  if (known_) {
    description_ = *known_ == SplitPattern::kGpt2 ? "gpt2" : *known_ == SplitPattern::kLlama3 ? "llama3" : "qwen2";
  }
}

void PreTokenizer::ForEachPiece(std::string_view text, bool at_start,
                                const std::function<void(std::string_view)>& found) const {
  std::deque<std::string> made;
  std::vector<Piece> pieces{{text, at_start}};
  for (const Step& step : steps_) {
    Output out{{}, &made};
    std::visit(
        [&](const auto& s) {
          for (const Piece& piece : pieces) Run(s, piece, out);
        },
        step);
    pieces = std::move(out.pieces);
  }
  for (const Piece& piece : pieces) {
    if (!piece.text.empty()) found(piece.text);
  }
}

namespace {

// Sends each stretch of the piece to `emit(text, begins the piece)`.
template <class Emit>
void EmitStretches(std::string_view text, const std::vector<Stretch>& stretches, Emit&& emit) {
  for (const Stretch& s : stretches) {
    if (s.end > s.begin) emit(text.substr(s.begin, s.end - s.begin), s.begin == 0);
  }
}

}  // namespace

void PreTokenizer::Run(const SplitStep& step, Piece piece, Output& out) {
  Stretches stretches(piece.text.size(), step.invert);
  step.pattern.ForEachMatch(piece.text, [&](Regex::Span span) { stretches.Match(span.begin, span.end); });
  EmitStretches(piece.text, Arrange(stretches.Finish(), step.behavior), [&](std::string_view text, bool first) {
    out.pieces.push_back({text, piece.at_start && first});
  });
}

void PreTokenizer::Run(const DigitsStep& step, Piece piece, Output& out) {
  const auto& classes = CharClasses::Get();
  Stretches stretches(piece.text.size(), false);
  for (size_t i = 0; i < piece.text.size();) {
    const CodePoint c = DecodeUtf8(piece.text.data() + i);
    const size_t end = i + static_cast<size_t>(c.bytes);
    if (classes.Of(c.value) == CharClass::kNumber) stretches.Match(i, end);
    i = end;
  }
  const auto behavior = step.individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
  EmitStretches(piece.text, Arrange(stretches.Finish(), behavior), [&](std::string_view text, bool first) {
    out.pieces.push_back({text, piece.at_start && first});
  });
}

void PreTokenizer::Run(const ByteLevelStep& step, Piece piece, Output& out) {
  std::string_view text = piece.text;
  if (step.add_prefix_space && !text.empty() && text.front() != ' ')
    text = out.made->emplace_back(" " + std::string(text));
  if (!step.use_regex) {
    out.pieces.push_back({text, piece.at_start});
    return;
  }
  ScanPieces(SplitPattern::kGpt2, text, [&](std::string_view part) {
    out.pieces.push_back({part, piece.at_start && part.data() == text.data()});
  });
}

void PreTokenizer::Run(const MetaspaceStep& step, Piece piece, Output& out) {
  std::string text;
  for (const char c : piece.text) {
    if (c == ' ') {
      text += step.replacement;
    } else {
      text.push_back(c);
    }
  }
  const bool prepend = step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && piece.at_start);
  if (prepend && !text.starts_with(step.replacement)) text.insert(0, step.replacement);
  const std::string_view made = out.made->emplace_back(std::move(text));
  if (!step.split) {
    out.pieces.push_back({made, piece.at_start});
    return;
  }
  Stretches stretches(made.size(), false);
  for (size_t at = made.find(step.replacement); at != std::string_view::npos;
       at = made.find(step.replacement, at + 1)) {
    stretches.Match(at, at + step.replacement.size());
  }
  EmitStretches(made, Arrange(stretches.Finish(), SplitBehavior::kMergedWithNext),
                [&](std::string_view part, bool first) {
                  out.pieces.push_back({part, piece.at_start && first});
                });
}

}  // namespace hydra
