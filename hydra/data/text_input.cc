// SPDX-License-Identifier: Apache-2.0
// Decompression, splitting into documents, and the two forms of a .jsonl line.
#include "hydra/data/text_input.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
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

// "a/b.jsonl.gz" -> ".jsonl"
std::string TypeOf(const std::string& path) {
  std::filesystem::path name(path);
  if (name.extension() == ".gz" || name.extension() == ".zst") name = name.stem();
  return name.extension().string();
}

}  // namespace

struct ByteSource::Impl {
  enum Kind { kPlain, kGzip, kZstd };
  std::string path;
  Kind kind = kPlain;
  int fd = -1;
  uint64_t file_bytes = 0, bytes_read = 0;
  std::string input;  // compressed bytes, from `at` on not yet used
  size_t at = 0;
  bool in_stream = false;  // inside a gzip member or a Zstandard frame
  z_stream gzip{};
  ZSTD_DStream* zstd = nullptr;

  ~Impl() {
    if (kind == kGzip) ::inflateEnd(&gzip);
    ZSTD_freeDStream(zstd);
    if (fd >= 0) ::close(fd);
  }

  size_t ReadRaw(char* out, size_t n) {
    ssize_t got;
    do got = ::read(fd, out, n);
    while (got < 0 && errno == EINTR);
    if (got < 0) ThrowIo(path, "cannot read", errno);
    bytes_read += static_cast<uint64_t>(got);
    return static_cast<size_t>(got);
  }

  [[noreturn]] void Damaged(const char* what) const {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: {} data: {} near byte {} of {}", path, kind == kGzip ? "gzip" : "zstd", what,
                            WithCommas(bytes_read), WithCommas(file_bytes)));
  }

  // One step of decompression; returns the bytes put out, perhaps 0.
  size_t Decompress(char* out, size_t n) {
    const auto left = input.size() - at;
    if (kind == kGzip) {
      gzip.next_in = reinterpret_cast<Bytef*>(input.data() + at);
      gzip.avail_in = static_cast<uInt>(left);
      gzip.next_out = reinterpret_cast<Bytef*>(out);
      gzip.avail_out = static_cast<uInt>(n);
      in_stream = true;
      const int status = ::inflate(&gzip, Z_NO_FLUSH);
      if (status == Z_STREAM_END) {
        in_stream = false;  // another member may follow
        ::inflateReset(&gzip);
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        Damaged(gzip.msg != nullptr ? gzip.msg : "damaged");
      }
      at = input.size() - gzip.avail_in;
      return n - gzip.avail_out;
    }
    ZSTD_inBuffer in{input.data() + at, left, 0};
    ZSTD_outBuffer put{out, n, 0};
    const size_t hint = ZSTD_decompressStream(zstd, &put, &in);
    if (ZSTD_isError(hint)) Damaged(ZSTD_getErrorName(hint));
    in_stream = hint != 0;
    at += in.pos;
    return put.pos;
  }

  size_t Read(char* out, size_t n) {
    if (kind == kPlain) return ReadRaw(out, n);
    for (;;) {
      if (at == input.size()) {
        // Output that the decompressor still holds comes before more input.
        if (in_stream)
          if (const size_t got = Decompress(out, n); got > 0) return got;
        input.resize(kReadBytes);
        input.resize(ReadRaw(input.data(), input.size()));
        at = 0;
        if (input.empty()) {
          if (in_stream || bytes_read == 0) Damaged("the file ends too early: incomplete copy?");
          return 0;
        }
      }
      if (const size_t got = Decompress(out, n); got > 0) return got;
    }
  }
};

ByteSource::ByteSource(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (impl_->fd < 0) ThrowIo(path, "cannot open", errno);
  struct stat info {};
  if (::fstat(impl_->fd, &info) != 0) ThrowIo(path, "cannot stat", errno);
  if (S_ISDIR(info.st_mode)) ThrowIo(path, "cannot read", EISDIR);
  impl_->file_bytes = static_cast<uint64_t>(info.st_size);
  if (path.ends_with(".gz")) {
    HYDRA_CHECK(::inflateInit2(&impl_->gzip, 15 + 16) == Z_OK, "inflateInit2");  // + 16: gzip's header, no other
    impl_->kind = Impl::kGzip;
  } else if (path.ends_with(".zst")) {
    impl_->zstd = ZSTD_createDStream();
    HYDRA_CHECK(impl_->zstd != nullptr, "ZSTD_createDStream");
    impl_->kind = Impl::kZstd;
  }
}

ByteSource::~ByteSource() = default;
ByteSource::ByteSource(ByteSource&&) noexcept = default;
ByteSource& ByteSource::operator=(ByteSource&&) noexcept = default;
size_t ByteSource::Read(char* out, size_t n) { return impl_->Read(out, n); }
uint64_t ByteSource::bytes_read() const { return impl_->bytes_read; }
uint64_t ByteSource::file_bytes() const { return impl_->file_bytes; }

uint64_t TextDocument::bytes() const {
  uint64_t sum = 0;
  for (const TextSegment& segment : segments) sum += segment.text.size();
  return sum;
}

TextInput::TextInput(const std::string& path, const TextInputOptions& options)
    : path_(path), options_(options), source_(path), json_(TypeOf(path) == ".jsonl") {
  if (TypeOf(path) == ".json") BadData(path, "one JSON document: must be .jsonl, a JSON object a line");
}

// The bytes up to the next separator or the end, not empty; valid until the next call. An empty separator takes all.
bool TextInput::NextPiece(std::string_view separator, std::string_view* piece) {
  for (;;) {
    const size_t found = separator.empty() ? std::string::npos : buffer_.find(separator, scanned_);
    if (found != std::string::npos || (at_end_ && begin_ < buffer_.size())) {
      const size_t end = found == std::string::npos ? buffer_.size() : found;
      const size_t next = found == std::string::npos ? end : found + separator.size();
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
    const size_t used = buffer_.size() - begin_;
    // What is left may end in the first bytes of a separator.
    const size_t keep = std::min(used, separator.empty() ? 0 : separator.size() - 1);
    buffer_.erase(0, begin_);
    begin_ = 0;
    scanned_ = used - keep;
    buffer_.resize(used + kReadBytes);
    const size_t got = source_.Read(buffer_.data() + used, kReadBytes);
    buffer_.resize(used + got);
    at_end_ = got == 0;
    if (std::exchange(at_start_, false) && std::string_view(buffer_).starts_with("\xEF\xBB\xBF")) begin_ = scanned_ = 3;
  }
}

bool TextInput::Next(TextDocument* document) {
  std::string_view piece;
  while (NextPiece(json_ ? std::string_view("\n") : std::string_view(options_.doc_sep), &piece)) {
    *document = {};
    document->where = StrCat(path_, ":", piece_line_);
    if (json_ && IsBlank(piece)) continue;  // an empty line is no document
    const std::string_view text = MendUtf8(piece, mend_buffer_);
    mended_ += text.data() != piece.data() ? 1 : 0;
    if (json_) {
      JsonDocument(text, document);
    } else {
      if (const size_t at = text.find('\0'); at != std::string_view::npos)
        BadData(StrCat(path_, ":",
                       piece_line_ + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n')),
                "a zero byte: not a text file");
      document->segments.push_back({.text = std::string(text)});
    }
    const bool blank = std::ranges::all_of(document->segments, [](const TextSegment& s) { return IsBlank(s.text); });
    if (!blank) return true;
    ++skipped_;
  }
  return false;
}

void TextInput::JsonDocument(std::string_view line, TextDocument* document) const {
  const std::string& where = document->where;
  const auto json = ParseJson(line, where);
  if (!json.is_object()) BadData(where, StrCat(JsonExcerpt(json), ": must be a JSON object"));
  const auto it = json.find(options_.field);
  if (it == json.end()) {
    const bool chat = options_.field != "messages" && json.contains("messages");
    std::vector<std::string> keys;
    for (const auto& [name, value] : json.items()) keys.push_back(name);
    BadData(where, StrCat("field \"", options_.field, "\" is missing",
                          chat ? " (--field messages?)" : DidYouMean(options_.field, keys)));
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
