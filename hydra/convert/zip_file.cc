// SPDX-License-Identifier: Apache-2.0
// The directory at the end of an archive, then the members that it lists. Source: PKWARE's APPNOTE.TXT, 4.3 and 4.5.3.
#include "hydra/convert/zip_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

namespace hydra {
namespace {

constexpr uint32_t kLocalSign = 0x04034b50, kMemberSign = 0x02014b50, kEndSign = 0x06054b50;
constexpr uint32_t kWideEndSign = 0x06064b50, kLocatorSign = 0x07064b50;
constexpr uint64_t kEndBytes = 22, kLocatorBytes = 20, kLeastMemberBytes = 46, kLocalBytes = 30;
constexpr uint64_t kMaxComment = 65535;
constexpr uint16_t kWideSizes = 1;  // the extra field with sizes of 64 bits
constexpr uint16_t kEncrypted = 1;  // a flag
constexpr uint32_t kSeeWide = 0xFFFFFFFF;
constexpr uint16_t kSeeWide16 = 0xFFFF;

// Where the directory lies.
struct Directory {
  uint64_t offset = 0, bytes = 0, count = 0;
  uint64_t end = 0;  // of what members and directory may take: the records about it begin here
};

// A member as the directory lists it.
struct Listed {
  std::string_view name;
  uint64_t local = 0, bytes = 0;
  uint32_t crc32 = 0;
};

std::string MemberText(std::string_view name) { return OneLine(name, 120); }

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> bytes, const std::string& file) : in_(bytes, file) {}

  std::vector<ZipMember> Read() {
    const Directory directory = FindDirectory();
    // Each takes at least so many bytes, so what is declared costs nothing before it is there.
    if (directory.count > directory.bytes / kLeastMemberBytes)
      in_.Fail("directory", fmt::format("has {} bytes for {} members: each takes at least {}", directory.bytes,
                                        WithCommas(directory.count), kLeastMemberBytes));
    in_.Seek(directory.offset, "directory");
    std::vector<Listed> listed;
    listed.reserve(directory.count);
    for (uint64_t i = 0; i < directory.count; ++i) listed.push_back(ReadListed());
    if (in_.pos() != directory.offset + directory.bytes)
      in_.Fail("directory",
               fmt::format("ends at {}: its {} members end at {}", WithCommas(directory.offset + directory.bytes),
                           directory.count, WithCommas(in_.pos())));
    return Place(listed, directory);
  }

 private:
  [[noreturn]] void FailMember(std::string_view name, const std::string& rule) const {
    in_.Fail(fmt::format("member {}", MemberText(name)), rule);
  }

  // The last record, behind which only its own comment may stand.
  uint64_t FindEnd() {
    if (in_.size() >= kEndBytes) {
      const uint64_t last = in_.size() - kEndBytes, first = last > kMaxComment ? last - kMaxComment : 0;
      for (uint64_t at = last + 1; at-- > first;) {
        in_.Seek(at, "end of the archive");
        if (in_.U32("end of the archive") != kEndSign) continue;
        in_.Skip(kEndBytes - 6, "end of the archive");
        if (in_.U16("length of the comment") == last - at) return at;
      }
    }
    in_.Fail("end of the archive", "is not there: an incomplete copy?");
  }

  Directory FindDirectory() {
    const uint64_t end = FindEnd();
    in_.Seek(end + 4, "end of the archive");
    Directory out;
    uint64_t disks = in_.U16("number of this disk");
    disks |= in_.U16("disk of the directory");
    const uint16_t here = in_.U16("members on this disk"), all = in_.U16("members");
    const uint32_t bytes = in_.U32("bytes of the directory"), offset = in_.U32("offset of the directory");
    out = {.offset = offset, .bytes = bytes, .count = all, .end = end};
    if (here != all) in_.Fail("members", fmt::format("= {}, on this disk {}: must be equal", all, here));
    if (end >= kLocatorBytes && SignAt(end - kLocatorBytes) == kLocatorSign) {
      const uint64_t wide = WideEnd(end - kLocatorBytes);
      disks = 0;  // those numbers are 64-bit ones' placeholders
      Directory from = ReadWideEnd(wide);
      const auto agrees = [](uint64_t small, uint64_t small_limit, uint64_t large) {
        return small == large || small == small_limit;
      };
      if (!agrees(all, kSeeWide16, from.count) || !agrees(bytes, kSeeWide, from.bytes) ||
          !agrees(offset, kSeeWide, from.offset))
        in_.Fail("end of the archive", "says another directory than its 64-bit form");
      out = from;
      out.end = wide;
    }
    if (disks != 0) in_.Fail("number of disks", "is not one: archives in parts are not read");
    const auto stop = CheckedAdd(out.offset, out.bytes);
    if (!stop || *stop > out.end)
      in_.Fail("directory", fmt::format("has {} bytes at {}: must end by {}", WithCommas(out.bytes),
                                        WithCommas(out.offset), WithCommas(out.end)));
    return out;
  }

  uint32_t SignAt(uint64_t at) {
    in_.Seek(at, "signature");
    return in_.U32("signature");
  }

  // Where the 64-bit form of the last record is.
  uint64_t WideEnd(uint64_t locator) {
    in_.Seek(locator + 4, "locator");
    const uint32_t disk = in_.U32("disk of the 64-bit end");
    const uint64_t at = in_.U64("offset of the 64-bit end");
    const uint32_t disks = in_.U32("number of disks");
    if (disk != 0 || disks > 1) in_.Fail("number of disks", "is not one: archives in parts are not read");
    if (at >= locator || SignAt(at) != kWideEndSign)
      in_.Fail("offset of the 64-bit end", fmt::format("= {}: no such record is there", WithCommas(at)));
    return at;
  }

  Directory ReadWideEnd(uint64_t at) {
    in_.Seek(at + 4, "64-bit end");
    in_.Skip(8 + 2 + 2, "64-bit end");
    const uint32_t disk = in_.U32("number of this disk"), of_directory = in_.U32("disk of the directory");
    const uint64_t here = in_.U64("members on this disk"), all = in_.U64("members");
    if (disk != 0 || of_directory != 0 || here != all)
      in_.Fail("number of disks", "is not one: archives in parts are not read");
    Directory out;
    out.count = all;
    out.bytes = in_.U64("bytes of the directory");
    out.offset = in_.U64("offset of the directory");
    return out;
  }

  Listed ReadListed() {
    const uint64_t at = in_.pos();
    if (in_.U32("directory") != kMemberSign) in_.Fail("directory", fmt::format("has no member at {}", WithCommas(at)));
    in_.Skip(4, "versions");
    const uint16_t flags = in_.U16("flags"), method = in_.U16("method");
    in_.Skip(4, "time");
    Listed out;
    out.crc32 = in_.U32("checksum");
    const uint32_t packed = in_.U32("packed size"), size = in_.U32("size");
    const uint16_t name = in_.U16("length of a name"), extra = in_.U16("length of extra fields"),
                   comment = in_.U16("length of a comment"), disk = in_.U16("disk of a member");
    in_.Skip(2 + 4, "attributes");
    const uint32_t local = in_.U32("offset of a member");
    out.name = in_.Text(name, "name of a member");
    Sizes sizes{.packed = packed, .size = size, .local = local, .disk = disk};
    ReadWide(in_.Bytes(extra, "extra fields"), out.name, &sizes);
    in_.Skip(comment, "comment of a member");
    if (flags & kEncrypted) FailMember(out.name, "is encrypted");
    if (method != 0)
      FailMember(out.name, fmt::format("has method {}: must be 0 (stored), as torch.save writes it", method));
    if (sizes.packed != sizes.size)
      FailMember(out.name, fmt::format("takes {} bytes for {}: a stored one takes as many", sizes.packed, sizes.size));
    if (sizes.disk != 0) FailMember(out.name, fmt::format("is on disk {}: archives in parts are not read", sizes.disk));
    out.local = sizes.local, out.bytes = sizes.size;
    return out;
  }

  struct Sizes {
    uint64_t packed, size, local, disk;
  };

  // Each number that is all ones in the record stands in the extra field, in this order.
  void ReadWide(std::span<const std::byte> extra, std::string_view name, Sizes* out) const {
    ByteReader fields(extra, fmt::format("{}: member {}", in_.file(), MemberText(name)));
    while (fields.left() >= 4) {
      const uint16_t id = fields.U16("extra field"), length = fields.U16("length of an extra field");
      if (id != kWideSizes) {
        fields.Skip(length, "extra field");
        continue;
      }
      ByteReader wide(fields.Bytes(length, "64-bit sizes"), fields.file());
      if (out->size == kSeeWide) out->size = wide.U64("64-bit size");
      if (out->packed == kSeeWide) out->packed = wide.U64("64-bit packed size");
      if (out->local == kSeeWide) out->local = wide.U64("64-bit offset");
      if (out->disk == kSeeWide16) out->disk = wide.U32("disk");
      return;
    }
  }

  std::vector<ZipMember> Place(const std::vector<Listed>& listed, const Directory& directory) {
    std::vector<ZipMember> members;
    members.reserve(listed.size());
    std::vector<uint32_t> order(listed.size());
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::sort(order, {}, [&](uint32_t i) { return listed[i].local; });
    for (const Listed& member : listed) members.push_back(PlaceOne(member, directory));
    for (size_t i = 0; i + 1 < order.size(); ++i) {
      const std::span<const std::byte> data = members[order[i]].data;
      const uint64_t end = static_cast<uint64_t>(data.data() + data.size() - Begin());
      if (end > listed[order[i + 1]].local)
        FailMember(listed[order[i + 1]].name,
                   fmt::format("begins at {}: member {} ends at {}", WithCommas(listed[order[i + 1]].local),
                               MemberText(listed[order[i]].name), WithCommas(end)));
    }
    return members;
  }

  // The record before the data repeats the name; its sizes may be placeholders.
  ZipMember PlaceOne(const Listed& member, const Directory& directory) {
    const auto after = CheckedAdd(member.local, kLocalBytes);
    if (!after || *after > directory.offset)
      FailMember(member.name, fmt::format("is said to begin at {}: the directory begins at {}",
                                          WithCommas(member.local), WithCommas(directory.offset)));
    if (SignAt(member.local) != kLocalSign)
      FailMember(member.name, fmt::format("is said to begin at {}: no member is there", WithCommas(member.local)));
    in_.Skip(22, "record of a member");
    const uint16_t name = in_.U16("length of a name"), extra = in_.U16("length of extra fields");
    if (in_.Text(name, "name of a member") != member.name)
      FailMember(member.name, fmt::format("has another name at {}", WithCommas(member.local)));
    in_.Skip(extra, "extra fields");
    const auto end = CheckedAdd(in_.pos(), member.bytes);
    if (!end || *end > directory.offset)
      FailMember(member.name, fmt::format("has {} bytes at {}: the directory begins at {}", WithCommas(member.bytes),
                                          WithCommas(in_.pos()), WithCommas(directory.offset)));
    return {.name = member.name, .data = in_.Bytes(member.bytes, "data"), .crc32 = member.crc32};
  }

  const std::byte* Begin() {
    in_.Seek(0, "file");
    return in_.Bytes(0, "file").data();
  }

  ByteReader in_;
};

}  // namespace

ZipFile::ZipFile(std::span<const std::byte> bytes, const std::string& file)
    : file_(file), members_(ZipReader(bytes, file).Read()), by_name_(members_.size()) {
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  const auto name = [&](uint32_t i) { return members_[i].name; };
  std::ranges::sort(by_name_, {}, name);
  const auto twice = std::ranges::adjacent_find(by_name_, {}, name);
  if (twice != by_name_.end())
    throw Error(ErrorCode::kFormat, fmt::format("{}: member {}: is there twice", file, MemberText(name(*twice))));
}

const ZipMember* ZipFile::Find(std::string_view name) const {
  const auto key = [&](uint32_t i) { return members_[i].name; };
  const auto it = std::ranges::lower_bound(by_name_, name, {}, key);
  return it != by_name_.end() && key(*it) == name ? &members_[*it] : nullptr;
}

void ZipFile::CheckCrc(const ZipMember& member) const {
  const uint32_t crc = Crc32(member.data);
  if (crc != member.crc32)
    throw Error(ErrorCode::kFormat, fmt::format("{}: member {}: checksum {:08x}, the archive says {:08x}: damaged",
                                                file_, MemberText(member.name), crc, member.crc32));
}

}  // namespace hydra
