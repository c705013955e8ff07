// SPDX-License-Identifier: Apache-2.0
// Documents of a corpus, streamed: .jsonl line by line, any other file as text, either of them also .gz or .zst.
// Not here: tokens (data_build.h), chat templates other than chatml.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/data/byte_source.h"

namespace hydra {

// A document larger than this is refused: it has to be in memory, with its tokens, at once.
inline constexpr uint64_t kMaxDocumentBytes = uint64_t{1} << 30;

// A stretch of a document that is tokenised by itself.
struct TextSegment {
  std::string text;      // valid UTF-8
  bool special = false;  // markup: special tokens in it are parsed; in other text they are plain characters
  bool loss = true;      // its tokens count in the loss
};

struct TextDocument {
  std::vector<TextSegment> segments;
  std::string where;         // "file:line" at which it begins
  std::string domain;        // of a JSON line, by domain_field; "": none
  bool end_has_loss = true;  // whether the end of text that `data build` appends counts in the loss

  [[nodiscard]] uint64_t bytes() const;
};

// How documents lie in a file.
enum class TextFormat {
  kAuto,       // by the name's ending; where it has none (a pipe), by the first line: a JSON object is JSON lines
  kText,       // the whole file, or the pieces between doc_sep
  kJsonLines,  // a JSON object a line
};
// "auto", "text" or "jsonl". Throws kUsage naming --format.
[[nodiscard]] TextFormat ParseTextFormat(const std::string& name);

struct TextInputOptions {
  std::string doc_sep = {};       // literal text between the documents of a text file; empty: a file is one document
  std::string field = "text";     // key of a JSON line: a string, or a list of {role, content} rendered as chatml
  std::string domain_field = {};  // key of a JSON line: the document's domain; empty: documents have none
  TextFormat format = TextFormat::kAuto;
};

// The documents of one file in order; those without a character other than white space are skipped and counted.
// Invalid UTF-8 and half a surrogate pair in a JSON text become U+FFFD, a byte order mark at the start is dropped.
// Throws kData naming file:line and field, kIo, kFormat. Memory: one document and a few MB.
class TextInput {
 public:
  // Opens the file, or stdin for "-", and reads nothing yet. By name, whatever its capitals: .jsonl, .ndjson and
  // .jsonlines are JSON lines, .json is refused, other endings are text; .gz and .zst may follow.
  TextInput(const std::string& path, const TextInputOptions& options);

  // False at the end.
  [[nodiscard]] bool Next(TextDocument* document);

  [[nodiscard]] int64_t skipped() const { return skipped_; }  // blank documents
  [[nodiscard]] int64_t mended() const { return mended_; }    // documents with U+FFFD put in
  [[nodiscard]] bool json_lines() const { return json_; }     // known when Next() was called
  // What a user should know of this file when it was read to its end, a line each: a separator that never occurs, JSON
  // lines that were read as text.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }
  [[nodiscard]] uint64_t bytes_read() const { return source_.bytes_read(); }
  [[nodiscard]] uint64_t file_bytes() const { return source_.file_bytes(); }

 private:
  void Fill();
  void Begin();
  [[nodiscard]] bool FirstLineIsObject();
  [[nodiscard]] bool NextPiece(std::string_view separator, std::string_view* piece);
  void JsonDocument(std::string_view line, TextDocument* document) const;

  std::string path_;
  TextInputOptions options_;
  ByteSource source_;
  bool json_ = false;
  bool by_content_ = false;  // the name does not say what it is
  std::string buffer_;       // bytes read and not yet handed out, from begin_ on
  size_t begin_ = 0;
  size_t scanned_ = 0;  // no separator begins before this
  bool at_start_ = true, at_end_ = false;
  bool separator_seen_ = false;
  std::string mend_buffer_, surrogate_buffer_;
  int64_t line_ = 1;        // of buffer_[begin_]
  int64_t piece_line_ = 1;  // of the piece last handed out
  int64_t skipped_ = 0, mended_ = 0;
  std::vector<std::string> notes_;
};

// The notes of many files: the first few of them, then how many more there are.
class InputNotes {
 public:
  void Add(const TextInput& input);
  [[nodiscard]] std::vector<std::string> Lines(const TextInputOptions& options) const;

 private:
  std::vector<std::string> first_;
  int64_t more_ = 0;
  bool any_text_ = false;
};

// {role, content} turns as chatml: <|im_start|>ROLE\nCONTENT<|im_end|>\n. Only an assistant's content and the
// <|im_end|> after it have loss. An assistant's header is a segment of its own, as it is when a model is asked.
struct ChatTurn {
  std::string role, content;
};
[[nodiscard]] std::vector<TextSegment> RenderChatml(const std::vector<ChatTurn>& turns);

}  // namespace hydra
