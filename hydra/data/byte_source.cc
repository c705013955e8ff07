// SPDX-License-Identifier: Apache-2.0
// zlib and Zstandard over one opened file, a block at a time.
#include "hydra/data/byte_source.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <string_view>
#include <utility>

#include "hydra/io/file.h"

namespace hydra {
namespace {

constexpr size_t kRawBytes = 1 << 20;
constexpr int kMaxWindowLog = 31;  // what zstd --long=31 writes, the most that it can
constexpr std::string_view kGzipMagic = "\x1f\x8b", kZstdMagic = "\x28\xb5\x2f\xfd";

bool EndsWith(const std::string& name, std::string_view ending) {
  return name.size() >= ending.size() &&
         std::equal(ending.begin(), ending.end(), name.end() - static_cast<std::ptrdiff_t>(ending.size()),
                    [](char a, char b) { return a == std::tolower(static_cast<unsigned char>(b)); });
}

}  // namespace

struct ByteSource::Impl {
  enum Kind { kPlain, kGzip, kZstd };
  explicit Impl(const std::string& path)
      : file(path, InputKind::kStream),
        kind(EndsWith(path, ".gz")    ? kGzip
             : EndsWith(path, ".zst") ? kZstd
                                      : kPlain) {}
  ~Impl() {
    if (inflating) ::inflateEnd(&gzip);
    ZSTD_freeDStream(zstd);
  }

  InputFile file;
  Kind kind;
  uint64_t bytes_read = 0;
  std::string input;  // raw bytes, from `at` on not yet used
  size_t at = 0;
  bool started = false;
  bool in_stream = false;     // inside a gzip member or a Zstandard frame
  bool after_member = false;  // at least one gzip member is whole
  bool inflating = false;     // `gzip` is set up
  z_stream gzip{};
  ZSTD_DStream* zstd = nullptr;

  // Replaces the input, which is used up, by the next block; false at the end.
  bool Refill() {
    input.resize(kRawBytes);
    input.resize(file.Read(input.data(), input.size()));
    bytes_read += input.size();
    at = 0;
    return !input.empty();
  }

  // Reads enough to see what it is.
  void Start() {
    started = true;
    (void)Refill();
    while (!input.empty() && input.size() < kZstdMagic.size()) {  // a pipe may give single bytes
      char byte = 0;
      if (file.Read(&byte, 1) == 0) break;
      ++bytes_read;
      input += byte;
    }
    if (kind == kPlain) kind = input.starts_with(kGzipMagic) ? kGzip : input.starts_with(kZstdMagic) ? kZstd : kPlain;
    if (kind == kGzip) {
      HYDRA_CHECK(::inflateInit2(&gzip, 15 + 16) == Z_OK, "inflateInit2");  // + 16: gzip's header, no other
      inflating = true;
    } else if (kind == kZstd) {
      zstd = ZSTD_createDStream();
      HYDRA_CHECK(zstd != nullptr, "ZSTD_createDStream");
      HYDRA_CHECK(!ZSTD_isError(ZSTD_DCtx_setParameter(zstd, ZSTD_d_windowLogMax, kMaxWindowLog)), "windowLogMax");
    }
  }

  [[noreturn]] void Damaged(const std::string& what) const {
    const std::string of = file.is_regular() ? " of " + WithCommas(file.size()) : "";
    throw Error(ErrorCode::kFormat, fmt::format("{}: {} data: {} near byte {}{}", file.name(),
                                                kind == kGzip ? "gzip" : "zstd", what, WithCommas(bytes_read), of));
  }

  // One step of decompression; returns the bytes put out, perhaps 0.
  size_t Decompress(char* out, size_t n) { return kind == kGzip ? Inflate(out, n) : DecompressZstd(out, n); }

  size_t Inflate(char* out, size_t n) {
    if (!in_stream && after_member && input[at] == 0) SkipPadding();
    gzip.next_in = reinterpret_cast<Bytef*>(input.data() + at);
    gzip.avail_in = static_cast<uInt>(input.size() - at);
    gzip.next_out = reinterpret_cast<Bytef*>(out);
    gzip.avail_out = static_cast<uInt>(n);
    if (gzip.avail_in == 0 && !in_stream) return 0;
    const bool first_bytes = !std::exchange(in_stream, true);
    const int status = ::inflate(&gzip, Z_NO_FLUSH);
    if (status == Z_STREAM_END) {
      in_stream = false;  // another member may follow
      after_member = true;
      ::inflateReset(&gzip);
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
      if (first_bytes && after_member) Damaged("what follows the last member is neither a member nor zeros,");
      Damaged(gzip.msg != nullptr ? gzip.msg : "damaged");
    }
    at = input.size() - gzip.avail_in;
    return n - gzip.avail_out;
  }

  // Tapes and file systems of fixed blocks fill the last one with zeros, which gzip passes over too.
  void SkipPadding() {
    do {
      if (input.find_first_not_of('\0', at) != std::string::npos)
        Damaged("what follows the last member and zeros is not zero,");
    } while (Refill());
  }

  size_t DecompressZstd(char* out, size_t n) {
    ZSTD_inBuffer in{input.data() + at, input.size() - at, 0};
    ZSTD_outBuffer put{out, n, 0};
    const size_t hint = ZSTD_decompressStream(zstd, &put, &in);
    const ZSTD_ErrorCode error = ZSTD_getErrorCode(hint);
    if (error == ZSTD_error_frameParameter_windowTooLarge)
      Damaged(
          "needs more than the 2 GiB of memory that --long=31 stands for: compress it again with --long=31 or less,");
    if (error == ZSTD_error_memory_allocation)
      Damaged("needs more memory than there is: compress it again with a smaller --long, or decompress it first,");
    if (ZSTD_isError(hint)) Damaged(ZSTD_getErrorName(hint));
    in_stream = hint != 0;
    at += in.pos;
    return put.pos;
  }

  size_t Read(char* out, size_t n) {
    if (!started) Start();
    if (kind == kPlain) {
      if (at == input.size() && !Refill()) return 0;
      const size_t got = std::min(n, input.size() - at);
      std::memcpy(out, input.data() + at, got);
      at += got;
      return got;
    }
    for (;;) {
      if (at == input.size()) {
        // Output that the decompressor still holds comes before more input.
        if (in_stream)
          if (const size_t got = Decompress(out, n); got > 0) return got;
        if (!Refill()) {
          if (in_stream || bytes_read == 0) Damaged("the file ends too early: incomplete copy?");
          return 0;
        }
      }
      if (const size_t got = Decompress(out, n); got > 0) return got;
    }
  }
};

ByteSource::ByteSource(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
ByteSource::~ByteSource() = default;
ByteSource::ByteSource(ByteSource&&) noexcept = default;
ByteSource& ByteSource::operator=(ByteSource&&) noexcept = default;
size_t ByteSource::Read(char* out, size_t n) { return impl_->Read(out, n); }
uint64_t ByteSource::bytes_read() const { return impl_->bytes_read; }
uint64_t ByteSource::file_bytes() const { return impl_->file.size(); }
const std::string& ByteSource::name() const { return impl_->file.name(); }

}  // namespace hydra
