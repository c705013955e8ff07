// SPDX-License-Identifier: Apache-2.0
// Splitting into documents, the two forms of a JSON line, and what is mended in them.
#include "hydra/data/text_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <optional>
#include <utility>

#include "hydra/base/utf8.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

constexpr size_t kReadBytes = 1 << 20;

[[noreturn]] void BadData(const std::string& where, const std::string& rule) {
  throw Error(ErrorCode::kData, StrCat(where, ": ", OneLine(rule)));
}

bool IsBlank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

// "a/b.JSONL.gz" -> ".jsonl"
std::string TypeOf(const std::string& path) {
  const auto lower = [](std::string text) {
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
  };
  std::filesystem::path name(path);
  if (const std::string last = lower(name.extension().string()); last == ".gz" || last == ".zst") name = name.stem();
  return lower(name.extension().string());
}

// The 16 bits of an escape \uXXXX at the start of `text`.
std::optional<uint32_t> EscapedUnit(std::string_view text) {
  uint32_t unit = 0;
  if (text.size() < 6 || !text.starts_with("\\u")) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data() + 2, text.data() + 6, unit, 16);
  return error == std::errc() && end == text.data() + 6 ? std::optional(unit) : std::nullopt;
}

// JSON can spell half of a surrogate pair, which is no character: \ufffd takes its place, in as many bytes. Returns
// `line` itself where there is none, else a copy in `buffer`.
std::string_view MendSurrogates(std::string_view line, std::string& buffer) {
  const auto is_high = [](std::optional<uint32_t> unit) { return unit && *unit >= 0xD800 && *unit < 0xDC00; };
  const auto is_low = [](std::optional<uint32_t> unit) { return unit && *unit >= 0xDC00 && *unit < 0xE000; };
  bool copied = false;
  for (size_t at = 0; (at = line.find('\\', at)) != line.npos;) {
    const auto unit = EscapedUnit(line.substr(at));
    const bool high = is_high(unit);
    if (high && is_low(EscapedUnit(line.substr(at + 6)))) {
      at += 12;
    } else if (high || is_low(unit)) {
      if (!std::exchange(copied, true)) buffer.assign(line);
      buffer.replace(at, 6, "\\ufffd");
      at += 6;
    } else {
      at += 2;  // a backslash and what it escapes, such as another backslash
    }
  }
  return copied ? std::string_view(buffer) : line;
}

// The text with each `from` replaced.
std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at = 0;;) {
    const size_t found = text.find(from, at);
    out += text.substr(at, found - at);
    if (found == text.npos) return out;
    out += to;
    at = found + from.size();
  }
}

constexpr std::pair<char, char> kEscapes[] = {{'n', '\n'}, {'r', '\r'}, {'t', '\t'},
                                              {'f', '\f'}, {'v', '\v'}, {'\\', '\\'}};

// What a text means where its escapes (\n, \x0c) were to be characters.
std::string Unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const auto* const known = std::ranges::find(kEscapes, text[i + 1], &std::pair<char, char>::first);
    unsigned byte = 0;
    if (known != std::end(kEscapes)) {
      out += known->second;
      ++i;
    } else if (text[i + 1] == 'x' && i + 4 <= text.size() &&
               std::from_chars(text.data() + i + 2, text.data() + i + 4, byte, 16).ptr == text.data() + i + 4) {
      out += static_cast<char>(byte);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// As a shell takes it: $'\r\n'.
std::string ShellText(std::string_view text) {
  std::string out = "$'";
  for (const char c : text) {
    const auto* const known = std::ranges::find(kEscapes, c, &std::pair<char, char>::second);
    if (known != std::end(kEscapes)) {
      out += StrCat('\\', known->first);
    } else if (c == '\'') {
      out += "\\'";
    } else {
      out += static_cast<unsigned char>(c) < 32 ? fmt::format("\\x{:02x}", c) : std::string(1, c);
    }
  }
  return out + "'";
}

// How a separator that does not occur in a text would: with other line ends, or with its escapes read; "" for not.
std::string SeparatorHint(std::string_view text, std::string_view separator) {
  for (const std::string& base : {std::string(separator), Unescaped(separator)}) {
    const std::string lf = Replaced(base, "\r\n", "\n");
    for (const std::string& other : {base, lf, Replaced(lf, "\n", "\r\n")})
      if (text.find(other) != text.npos) return fmt::format("; --doc-sep {} does", ShellText(other));
  }
  return "";
}

}  // namespace

TextFormat ParseTextFormat(const std::string& name) {
  if (name == "auto") return TextFormat::kAuto;
  if (name == "text") return TextFormat::kText;
  if (name == "jsonl") return TextFormat::kJsonLines;
  throw Error(ErrorCode::kUsage, StrCat("--format ", OneLine(name, 40), ": must be auto, text or jsonl"));
}

uint64_t TextDocument::bytes() const {
  uint64_t sum = 0;
  for (const TextSegment& segment : segments) sum += segment.text.size();
  return sum;
}

TextInput::TextInput(const std::string& path, const TextInputOptions& options)
    : path_(path), options_(options), source_(path) {
  path_ = source_.name();
  const std::string type = TypeOf(path);
  if (options.format != TextFormat::kAuto) {
    json_ = options.format == TextFormat::kJsonLines;
  } else if (type == ".json") {
    BadData(path_, "one JSON document: must be JSON lines, an object a line (.jsonl; --format jsonl under any name)");
  } else {
    json_ = type == ".jsonl" || type == ".ndjson" || type == ".jsonlines";
    by_content_ = type.empty();
  }
}

// Reads on behind what the buffer holds; at_end_ is set where nothing comes.
void TextInput::Fill() {
  buffer_.erase(0, begin_);
  scanned_ -= begin_;
  begin_ = 0;
  const size_t used = buffer_.size();
  buffer_.resize(used + kReadBytes);
  const size_t got = source_.Read(buffer_.data() + used, kReadBytes);
  buffer_.resize(used + got);
  at_end_ = got == 0;
}

// The first bytes: a byte order mark, and what the file is where its name does not say so.
void TextInput::Begin() {
  at_start_ = false;
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  while (!at_end_ && buffer_.size() < kMark.size()) Fill();
  if (buffer_.starts_with(kMark)) begin_ = scanned_ = kMark.size();
  if (json_ || options_.format == TextFormat::kText || !FirstLineIsObject()) return;
  json_ = by_content_;
  if (!json_)
    notes_.push_back(
        fmt::format("{}: read as text, but its first line is a JSON object: --format jsonl reads a "
                    "document a line, --format text is quiet",
                    path_));
}

bool TextInput::FirstLineIsObject() {
  constexpr size_t kLongestLine = 16 * kReadBytes;  // longer ones are taken for text
  for (;;) {
    const size_t first = buffer_.find_first_not_of(" \t\r\n", begin_);
    if (first != buffer_.npos && buffer_[first] != '{') return false;
    const size_t end = first == buffer_.npos ? first : buffer_.find('\n', first);
    if (end == buffer_.npos && !at_end_ && buffer_.size() < kLongestLine) {
      Fill();
      continue;
    }
    if (first == buffer_.npos) return false;
    try {
      const std::string line(MendUtf8(std::string_view(buffer_).substr(first, end - first), mend_buffer_));
      return ParseJsonLine(MendSurrogates(line, surrogate_buffer_), path_).is_object();
    } catch (const Error&) {
      return false;
    }
  }
}

// The bytes up to the next separator or the end, not empty; valid until the next call. An empty separator takes all.
bool TextInput::NextPiece(std::string_view separator, std::string_view* piece) {
  for (;;) {
    const size_t found = separator.empty() ? std::string::npos : buffer_.find(separator, scanned_);
    if (found != std::string::npos || (at_end_ && begin_ < buffer_.size())) {
      const size_t end = found == std::string::npos ? buffer_.size() : found;
      const size_t next = found == std::string::npos ? end : found + separator.size();
      separator_seen_ |= found != std::string::npos;
      *piece = std::string_view(buffer_).substr(begin_, end - begin_);
      piece_line_ = line_;
      line_ += std::count(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_),
                          buffer_.begin() + static_cast<std::ptrdiff_t>(next), '\n');
      begin_ = scanned_ = next;
      if (piece->empty()) continue;
      return true;
    }
    if (at_end_) return false;
    if (buffer_.size() - begin_ > kMaxDocumentBytes)
      BadData(StrCat(path_, ":", line_),
              fmt::format("a {} of more than {} bytes: {}", json_ ? "line" : "document", WithCommas(kMaxDocumentBytes),
                          json_ ? "is it .jsonl?" : "split it with --doc-sep"));
    // What is left may end in the first bytes of a separator.
    const size_t keep = std::min(buffer_.size() - begin_, separator.empty() ? 0 : separator.size() - 1);
    scanned_ = buffer_.size() - keep;
    Fill();
  }
}

bool TextInput::Next(TextDocument* document) {
  if (at_start_) Begin();
  std::string_view piece;
  while (NextPiece(json_ ? std::string_view("\n") : std::string_view(options_.doc_sep), &piece)) {
    *document = {};
    document->where = StrCat(path_, ":", piece_line_);
    if (json_ && IsBlank(piece)) continue;  // an empty line is no document
    std::string_view text = MendUtf8(piece, mend_buffer_);
    bool mended = text.data() != piece.data();
    if (json_) {
      const std::string_view whole = MendSurrogates(text, surrogate_buffer_);
      mended |= whole.data() != text.data();
      JsonDocument(whole, document);
    } else {
      if (const size_t at = text.find('\0'); at != std::string_view::npos)
        BadData(StrCat(path_, ":",
                       piece_line_ + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n')),
                "a zero byte: not a text file, or not in UTF-8 (iconv -f UTF-16 -t UTF-8)");
      if (!options_.doc_sep.empty() && !separator_seen_)  // so this piece is the whole file
        notes_.push_back(fmt::format("{}: the separator --doc-sep {} does not occur: the file is one document{}", path_,
                                     ShellText(options_.doc_sep), SeparatorHint(text, options_.doc_sep)));
      document->segments.push_back({.text = std::string(text)});
    }
    mended_ += mended ? 1 : 0;
    const bool blank = std::ranges::all_of(document->segments, [](const TextSegment& s) { return IsBlank(s.text); });
    if (!blank) return true;
    ++skipped_;
  }
  return false;
}

void InputNotes::Add(const TextInput& input) {
  constexpr size_t kShown = 3;
  any_text_ |= !input.json_lines();
  for (const std::string& note : input.notes()) {
    if (first_.size() < kShown) {
      first_.push_back(note);
    } else {
      ++more_;
    }
  }
}

std::vector<std::string> InputNotes::Lines(const TextInputOptions& options) const {
  std::vector<std::string> lines = first_;
  if (more_ > 0) lines.push_back(fmt::format("and {} more such warnings", more_));
  if (!any_text_ && !options.doc_sep.empty())
    lines.push_back("the separator --doc-sep is not used: all files are JSON lines, a document a line");
  return lines;
}

void TextInput::JsonDocument(std::string_view line, TextDocument* document) const {
  const std::string& where = document->where;
  const auto json = ParseJsonLine(line, where);
  if (!json.is_object()) BadData(where, StrCat(JsonExcerpt(json), ": must be a JSON object"));
  const auto it = json.find(options_.field);
  if (it == json.end()) {
    const bool chat = options_.field != "messages" && json.contains("messages");
    std::vector<std::string> keys;
    for (const auto& [name, value] : json.items()) keys.push_back(name);
    BadData(where, StrCat("field \"", options_.field, "\" is missing",
                          chat ? " (--field messages?)" : DidYouMean(options_.field, keys),
                          by_content_ ? "; --format text reads it as text" : ""));
  }
  document->domain.clear();
  if (const auto domain = options_.domain_field.empty() ? json.end() : json.find(options_.domain_field);
      domain != json.end() && !domain->is_null()) {
    if (!domain->is_string())
      BadData(StrCat(where, ": ", options_.domain_field), StrCat(JsonExcerpt(*domain), ": must be a string"));
    document->domain = domain->get<std::string>();
  }
  const std::string field = StrCat(where, ": ", options_.field);
  if (it->is_string()) {
    document->segments.push_back({.text = it->get<std::string>()});
    return;
  }
  if (!it->is_array()) BadData(field, StrCat(JsonExcerpt(*it), ": must be a string or a list of messages"));
  std::vector<ChatTurn> turns;
  for (size_t i = 0; i < it->size(); ++i) {
    const auto& message = (*it)[i];
    const std::string at = StrCat(field, "[", i, "]");
    if (!message.is_object()) BadData(at, StrCat(JsonExcerpt(message), ": must be an object with role and content"));
    ChatTurn& turn = turns.emplace_back();
    for (const auto& [name, out] : {std::pair{"role", &turn.role}, {"content", &turn.content}}) {
      const auto value = message.find(name);
      if (value == message.end()) BadData(StrCat(at, ".", name), "is missing");
      if (!value->is_string()) BadData(StrCat(at, ".", name), StrCat(JsonExcerpt(*value), ": must be a string"));
      *out = value->get<std::string>();
    }
    // The role becomes part of the markup, so that it must not be able to end it.
    const bool plain = !turn.role.empty() && std::ranges::all_of(turn.role, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    });
    if (!plain) BadData(at + ".role", StrCat(JsonExcerpt(message["role"]), ": must be of letters, digits, - and _"));
  }
  document->segments = RenderChatml(turns);
  document->end_has_loss = false;
}

std::vector<TextSegment> RenderChatml(const std::vector<ChatTurn>& turns) {
  std::vector<TextSegment> segments;
  for (const ChatTurn& turn : turns) {
    const bool loss = turn.role == "assistant";
    segments.push_back({.text = "<|im_start|>", .special = true, .loss = false});
    if (loss) {
      segments.push_back({.text = turn.role + "\n", .special = false, .loss = false});
      if (!turn.content.empty()) segments.push_back({.text = turn.content, .special = false, .loss = true});
    } else {
      segments.push_back({.text = turn.role + "\n" + turn.content, .special = false, .loss = false});
    }
    segments.push_back({.text = "<|im_end|>", .special = true, .loss = loss});
    segments.push_back({.text = "\n", .special = false, .loss = false});
  }
  return segments;
}

}  // namespace hydra
