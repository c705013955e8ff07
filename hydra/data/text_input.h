// SPDX-License-Identifier: Apache-2.0
// Documents of a corpus, streamed: .jsonl line by line, any other file as text, either of them also .gz or .zst.
// Not here: tokens (data_build.h), chat templates other than chatml.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

// A document larger than this is refused: it has to be in memory, with its tokens, at once.
inline constexpr uint64_t kMaxDocumentBytes = uint64_t{1} << 30;

// The bytes of a file, decompressed by its name's ending (.gz: gzip, members concatenated; .zst: Zstandard frames).
// Throws kIo, or kFormat for damaged or truncated compressed data. Not thread-safe.
class ByteSource {
 public:
  explicit ByteSource(const std::string& path);
  ~ByteSource();
  ByteSource(ByteSource&&) noexcept;
  ByteSource& operator=(ByteSource&&) noexcept;

  // Up to n bytes into `out`; 0 only at the end.
  size_t Read(char* out, size_t n);
  // Of the file as it lies on disk.
  [[nodiscard]] uint64_t bytes_read() const;
  [[nodiscard]] uint64_t file_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A stretch of a document that is tokenised by itself.
struct TextSegment {
  std::string text;      // valid UTF-8
  bool special = false;  // markup: special tokens in it are parsed; in other text they are plain characters
  bool loss = true;      // its tokens count in the loss
};

struct TextDocument {
  std::vector<TextSegment> segments;
  std::string where;         // "file:line" at which it begins
  bool end_has_loss = true;  // whether the end of text that `data build` appends counts in the loss

  [[nodiscard]] uint64_t bytes() const;
};

struct TextInputOptions {
  std::string doc_sep = {};    // literal text between the documents of a text file; empty: a file is one document
  std::string field = "text";  // key of a .jsonl line: a string, or a list of {role, content} rendered as chatml
};

// The documents of one file in order; those without a character other than white space are skipped and counted.
// Invalid UTF-8 becomes U+FFFD, a byte order mark at the start is dropped. Throws kData naming file:line and field,
// kIo, kFormat. Memory: one document and a few MB.
class TextInput {
 public:
  TextInput(const std::string& path, const TextInputOptions& options);

  // False at the end.
  [[nodiscard]] bool Next(TextDocument* document);

  [[nodiscard]] int64_t skipped() const { return skipped_; }  // blank documents
  [[nodiscard]] int64_t mended() const { return mended_; }    // documents with invalid UTF-8
  [[nodiscard]] uint64_t bytes_read() const { return source_.bytes_read(); }
  [[nodiscard]] uint64_t file_bytes() const { return source_.file_bytes(); }

 private:
  [[nodiscard]] bool NextPiece(std::string_view separator, std::string_view* piece);
  void JsonDocument(std::string_view line, TextDocument* document) const;

  std::string path_;
  TextInputOptions options_;
  ByteSource source_;
  bool json_;
  std::string buffer_;  // bytes read and not yet handed out, from begin_ on
  size_t begin_ = 0;
  size_t scanned_ = 0;  // no separator begins before this
  bool at_start_ = true, at_end_ = false;
  std::string mend_buffer_;
  int64_t line_ = 1;        // of buffer_[begin_]
  int64_t piece_line_ = 1;  // of the piece last handed out
  int64_t skipped_ = 0, mended_ = 0;
};

// {role, content} turns as chatml: <|im_start|>ROLE\nCONTENT<|im_end|>\n. Only an assistant's content and the
// <|im_end|> after it have loss. An assistant's header is a segment of its own, as it is when a model is asked.
struct ChatTurn {
  std::string role, content;
};
[[nodiscard]] std::vector<TextSegment> RenderChatml(const std::vector<ChatTurn>& turns);

}  // namespace hydra
