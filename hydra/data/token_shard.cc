// SPDX-License-Identifier: Apache-2.0
// The bytes of a token shard: header, tokens at 4096, document ends, loss mask. docs/formats.md has the table.
#include "hydra/data/token_shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace hydra {
namespace {

constexpr std::string_view kMagic = "HYDRATOK";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kFlagMask = 1, kFlagDomains = 2;
constexpr uint64_t kHeaderBytes = 256;
constexpr uint64_t kTokensOffset = 4096;  // a page, so that the tokens of a mapped file are aligned to anything
constexpr uint64_t kAlignment = 64;

// The header as it lies in the file; natural alignment leaves no gaps.
struct RawHeader {
  char magic[8];
  uint32_t version, token_bytes;
  uint64_t n_tokens, n_docs;
  uint32_t vocab_size, flags;
  uint8_t tokenizer[32];
  uint64_t tokens_offset, ends_offset, mask_offset;
  uint32_t payload_crc, header_crc;  // header_crc: of all bytes before it
  uint64_t domains_offset;           // 0 without domains
  uint8_t reserved[144];
};
static_assert(sizeof(RawHeader) == kHeaderBytes);
static_assert(offsetof(RawHeader, tokenizer) == 40 && offsetof(RawHeader, payload_crc) == 96);
constexpr size_t kCrcBytes = offsetof(RawHeader, header_crc);

// Where each part must lie; nullopt if the counts do not fit 64 bits.
struct Layout {
  uint64_t ends_offset, mask_offset, domains_offset, file_bytes;
};
std::optional<Layout> LayoutOf(uint64_t token_bytes, uint64_t n_tokens, uint64_t n_docs, bool has_mask,
                               bool has_domains) {
  Layout layout{};
  uint64_t at = kTokensOffset;
  // Moves `at` past `n` bytes, and up to where the next part may begin.
  const auto pass = [&at](std::optional<uint64_t> n) {
    const auto end = n ? CheckedAdd(at, *n) : std::nullopt;
    const auto next = end ? CheckedAlignUp(*end, kAlignment) : std::nullopt;
    if (next) at = *next;
    return next ? end : std::nullopt;
  };
  if (!pass(CheckedMul(n_tokens, token_bytes))) return std::nullopt;
  layout.ends_offset = at;
  auto end = pass(CheckedMul(n_docs, 8));
  if (!end) return std::nullopt;
  if (has_mask) {
    layout.mask_offset = at;
    end = pass(n_tokens / 8 + (n_tokens % 8 != 0 ? 1 : 0));
    if (!end) return std::nullopt;
  }
  if (has_domains) {
    layout.domains_offset = at;
    end = pass(CheckedMul(n_docs, 2));
    if (!end) return std::nullopt;
  }
  layout.file_bytes = *end;
  return layout;
}

[[noreturn]] void FailValue(const ByteReader& reader, const std::string& field, uint64_t value,
                            const std::string& rule) {
  reader.Fail(field, fmt::format("= {}: {}", value, rule));
}

// The header, each field checked by itself.
RawHeader ReadHeader(ByteReader& reader) {
  if (reader.Text(8, "magic") != kMagic) reader.Fail("magic", "must be HYDRATOK: not a token shard");
  reader.Seek(0, "header");
  const auto bytes = reader.Bytes(kHeaderBytes, "header");
  RawHeader raw{};
  std::memcpy(&raw, bytes.data(), kHeaderBytes);
  if (raw.version != kVersion) FailValue(reader, "version", raw.version, "must be 1");
  const uint32_t header_crc = Crc32(bytes.first(kCrcBytes));
  if (raw.header_crc != header_crc)
    reader.Fail("header CRC",
                fmt::format("= {:08x}: the header's bytes have {:08x}: damaged", raw.header_crc, header_crc));
  if (raw.token_bytes != 2 && raw.token_bytes != 4) FailValue(reader, "token bytes", raw.token_bytes, "must be 2 or 4");
  if (raw.vocab_size == 0 || raw.vocab_size > std::numeric_limits<int32_t>::max())
    FailValue(reader, "vocab_size", raw.vocab_size, "must be 1 to 2^31 - 1");
  if ((raw.flags & ~(kFlagMask | kFlagDomains)) != 0)
    FailValue(reader, "flags", raw.flags, "only bits 0 (mask) and 1 (domains) are known");
  if (std::ranges::any_of(raw.reserved, [](uint8_t b) { return b != 0; })) reader.Fail("reserved bytes", "must be 0");
  if (raw.tokens_offset != kTokensOffset) FailValue(reader, "tokens offset", raw.tokens_offset, "must be 4096");
  return raw;
}

// Offsets and the file's size against the counts: after this every part lies within the file.
void CheckLayout(const ByteReader& reader, const RawHeader& raw) {
  const bool has_mask = (raw.flags & kFlagMask) != 0, has_domains = (raw.flags & kFlagDomains) != 0;
  const auto layout = LayoutOf(raw.token_bytes, raw.n_tokens, raw.n_docs, has_mask, has_domains);
  if (!layout)
    FailValue(reader, "n_tokens", raw.n_tokens,
              fmt::format("with n_docs = {}: more bytes than 64 bits can count", raw.n_docs));
  if (raw.ends_offset != layout->ends_offset)
    FailValue(reader, "document ends offset", raw.ends_offset,
              fmt::format("n_tokens = {} puts it at {}", raw.n_tokens, layout->ends_offset));
  if (raw.mask_offset != layout->mask_offset)
    FailValue(reader, "mask offset", raw.mask_offset,
              fmt::format("n_docs = {} puts it at {}", raw.n_docs, layout->mask_offset));
  if (raw.domains_offset != layout->domains_offset)
    FailValue(reader, "domains offset", raw.domains_offset,
              fmt::format("n_docs = {} puts it at {}", raw.n_docs, layout->domains_offset));
  const char* const part = has_domains && reader.size() >= raw.domains_offset ? "domains"
                           : has_mask && reader.size() >= raw.mask_offset     ? "mask"
                           : reader.size() >= raw.ends_offset                 ? "document ends"
                                                                              : "tokens";
  if (reader.size() < layout->file_bytes)
    reader.Fail(part, fmt::format("(n_tokens = {}, n_docs = {}): file ends at {} of {} bytes: incomplete copy?",
                                  raw.n_tokens, raw.n_docs, WithCommas(reader.size()), WithCommas(layout->file_bytes)));
  if (reader.size() > layout->file_bytes)
    reader.Fail("payload",
                fmt::format("is followed by {} bytes: must be none", WithCommas(reader.size() - layout->file_bytes)));
}

void CheckEnds(const ByteReader& reader, std::span<const uint64_t> ends, uint64_t n_tokens) {
  uint64_t before = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    if (ends[i] <= before)
      FailValue(reader, fmt::format("document ends[{}]", i), ends[i],
                fmt::format("must be above the one before, {}", before));
    if (ends[i] > n_tokens)
      FailValue(reader, fmt::format("document ends[{}]", i), ends[i],
                fmt::format("must be at most n_tokens = {}", n_tokens));
    before = ends[i];
  }
  if (before != n_tokens)
    FailValue(reader, "document ends", before, fmt::format("the last must be n_tokens = {}", n_tokens));
}

}  // namespace

TokenShard TokenShard::Open(const std::string& path) {
  TokenShard shard{MappedFile(path)};
  ByteReader reader(shard.file_.bytes(), path);
  const RawHeader raw = ReadHeader(reader);
  CheckLayout(reader, raw);
  shard.header_ = {.token_bytes = raw.token_bytes,
                   .n_tokens = raw.n_tokens,
                   .n_docs = raw.n_docs,
                   .vocab_size = raw.vocab_size,
                   .has_mask = (raw.flags & kFlagMask) != 0,
                   .has_domains = (raw.flags & kFlagDomains) != 0,
                   .tokenizer = std::to_array(raw.tokenizer)};
  shard.payload_crc_ = raw.payload_crc;
  shard.header_crc_ = raw.header_crc;
  const std::byte* const base = shard.file_.bytes().data();
  shard.tokens_ = base + raw.tokens_offset;
  const auto* const ends = reinterpret_cast<const uint64_t*>(base + raw.ends_offset);  // aligned: 64, in a mapping
  shard.ends_.assign(ends, ends + raw.n_docs);
  if (shard.header_.has_mask) shard.mask_ = reinterpret_cast<const uint8_t*>(base + raw.mask_offset);
  if (shard.header_.has_domains) shard.domains_ = reinterpret_cast<const uint16_t*>(base + raw.domains_offset);
  CheckEnds(reader, shard.ends_, raw.n_tokens);
  return shard;
}

template <class T>
void TokenShard::ReadAs(int64_t begin, std::span<T> out) const {
  HYDRA_CHECK(begin >= 0 && static_cast<uint64_t>(begin) <= header_.n_tokens &&
                  out.size() <= header_.n_tokens - static_cast<uint64_t>(begin),
              "tokens [", begin, ", +", out.size(), ") of ", header_.n_tokens);
  uint32_t largest = 0;
  const auto copy = [&]<class Id>(const Id* ids) {
    for (size_t i = 0; i < out.size(); ++i) {
      largest = std::max<uint32_t>(largest, ids[i]);
      out[i] = static_cast<T>(ids[i]);
    }
  };
  if (header_.token_bytes == 2) {
    copy(reinterpret_cast<const uint16_t*>(tokens_) + begin);
  } else {
    copy(reinterpret_cast<const uint32_t*>(tokens_) + begin);
  }
  if (largest < header_.vocab_size) return;
  for (size_t i = 0; i < out.size(); ++i)
    if (static_cast<uint32_t>(out[i]) >= header_.vocab_size)
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: tokens[{}] = {}: must be below vocab_size = {}", path(),
                              static_cast<uint64_t>(begin) + i, static_cast<uint32_t>(out[i]), header_.vocab_size));
}

void TokenShard::Read(int64_t begin, std::span<int32_t> out) const { ReadAs(begin, out); }
void TokenShard::Read(int64_t begin, std::span<int64_t> out) const { ReadAs(begin, out); }

void TokenShard::ReadMask(int64_t begin, std::span<uint8_t> out) const {
  HYDRA_CHECK(begin >= 0 && static_cast<uint64_t>(begin) <= header_.n_tokens &&
                  out.size() <= header_.n_tokens - static_cast<uint64_t>(begin),
              "mask [", begin, ", +", out.size(), ") of ", header_.n_tokens);
  if (mask_ == nullptr) {
    std::ranges::fill(out, uint8_t{1});
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t at = static_cast<size_t>(begin) + i;
    out[i] = (mask_[at / 8] >> (at % 8)) & 1;
  }
}

void TokenShard::Verify() const {
  const uint32_t crc = Crc32(file_.bytes().subspan(kHeaderBytes));
  if (crc != payload_crc_)
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: payload CRC = {:08x}: the bytes have {:08x}: damaged", path(), payload_crc_, crc));
  std::vector<int32_t> ids(1 << 16);
  for (int64_t at = 0; at < n_tokens();) {
    const auto n = std::min<int64_t>(n_tokens() - at, static_cast<int64_t>(ids.size()));
    Read(at, std::span(ids).first(static_cast<size_t>(n)));
    at += n;
  }
  if (mask_ != nullptr && n_tokens() % 8 != 0 && mask_[n_tokens() / 8] >> (n_tokens() % 8) != 0)
    throw Error(ErrorCode::kFormat, path() + ": mask: the bits past the last token must be 0");
}

TokenShardWriter::TokenShardWriter(const std::string& path, uint32_t vocab_size, const Sha256Digest& tokenizer,
                                   const FileOps& ops)
    : file_(path, ops) {
  HYDRA_CHECK(vocab_size > 0 && vocab_size <= std::numeric_limits<int32_t>::max(), "vocab_size ", vocab_size);
  header_ = {.token_bytes = vocab_size <= 65536 ? 2u : 4u,
             .n_tokens = 0,
             .n_docs = 0,
             .vocab_size = vocab_size,
             .has_mask = false,
             .has_domains = false,
             .tokenizer = tokenizer};
  file_.NeedSeek();
  file_.WriteZeros(kHeaderBytes);
  file_.RestartCrc();
  file_.WriteZeros(kTokensOffset - kHeaderBytes);
}

void TokenShardWriter::AddDocument(std::span<const int32_t> ids, std::span<const uint8_t> mask, int domain) {
  constexpr int kMostDomains = 0xFFFF;
  HYDRA_CHECK(domain >= -1 && domain < kMostDomains, "domain ", domain);
  header_.has_domains |= domain >= 0;
  domains_.push_back(static_cast<uint16_t>(domain));  // -1 is 0xFFFF
  HYDRA_CHECK(!ids.empty(), "a document without tokens");
  HYDRA_CHECK(mask.empty() || mask.size() == ids.size(), mask.size(), " mask values for ", ids.size(), " tokens");
  scratch_.resize(ids.size() * header_.token_bytes);
  for (size_t i = 0; i < ids.size(); ++i) {
    HYDRA_CHECK(ids[i] >= 0 && static_cast<uint32_t>(ids[i]) < header_.vocab_size, "id ", ids[i],
                " of a vocabulary of ", header_.vocab_size);
    // Little-endian, so the low bytes of the id are its first.
    std::memcpy(scratch_.data() + i * header_.token_bytes, &ids[i], header_.token_bytes);
  }
  file_.Write(scratch_);
  const uint64_t begin = header_.n_tokens;
  header_.n_tokens += ids.size();
  header_.n_docs += 1;
  ends_.push_back(header_.n_tokens);
  mask_.resize((header_.n_tokens + 7) / 8);
  for (size_t i = 0; i < ids.size(); ++i) {
    const bool counts = mask.empty() || mask[i] != 0;
    header_.has_mask |= !counts;
    mask_[(begin + i) / 8] |= static_cast<uint8_t>(counts << ((begin + i) % 8));
  }
}

void TokenShardWriter::Finish() {
  const auto layout =
      LayoutOf(header_.token_bytes, header_.n_tokens, header_.n_docs, header_.has_mask, header_.has_domains);
  HYDRA_CHECK(layout.has_value(), "shard of ", header_.n_tokens, " tokens");
  file_.WriteZeros(layout->ends_offset - file_.size());
  file_.Write(std::as_bytes(std::span(ends_)));
  if (header_.has_mask) {
    file_.WriteZeros(layout->mask_offset - file_.size());
    file_.Write(std::as_bytes(std::span(mask_)));
  }
  if (header_.has_domains) {
    file_.WriteZeros(layout->domains_offset - file_.size());
    file_.Write(std::as_bytes(std::span(domains_)));
  }
  HYDRA_CHECK(file_.size() == layout->file_bytes, "shard of ", file_.size(), " bytes");
  RawHeader raw{};
  std::ranges::copy(kMagic, raw.magic);
  raw.version = kVersion;
  raw.token_bytes = header_.token_bytes;
  raw.n_tokens = header_.n_tokens;
  raw.n_docs = header_.n_docs;
  raw.vocab_size = header_.vocab_size;
  raw.flags = (header_.has_mask ? kFlagMask : 0) | (header_.has_domains ? kFlagDomains : 0);
  std::ranges::copy(header_.tokenizer, raw.tokenizer);
  raw.tokens_offset = kTokensOffset;
  raw.ends_offset = layout->ends_offset;
  raw.mask_offset = layout->mask_offset;
  raw.domains_offset = layout->domains_offset;
  raw.payload_crc = file_.crc32();
  raw.header_crc = Crc32(std::as_bytes(std::span(&raw, 1)).first(kCrcBytes));
  file_.WriteAt(0, std::as_bytes(std::span(&raw, 1)));
  file_.Commit();
}

}  // namespace hydra
