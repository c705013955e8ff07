// SPDX-License-Identifier: Apache-2.0
// ZIP archives as torch.save writes them: members that are stored, not compressed, so that they can be read where they
// lie in a mapped file. Not here: what the members mean (torch_file.h). Bytes: docs/formats.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/file.h"

namespace hydra {

struct ZipMember {
  std::string_view name;
  std::span<const std::byte> data;
  uint32_t crc32 = 0;  // that the archive says
};

// Checked as a whole when it is opened: the directory at the end of the file, 64-bit sizes, every member inside the
// file before the directory, under one name in both places, without overlap and stored. Throws kFormat naming file,
// member and value. Views live as long as the bytes that were given.
class ZipFile {
 public:
  // `file` is what messages call the bytes.
  ZipFile(std::span<const std::byte> bytes, const std::string& file);

  // In the order of the directory.
  [[nodiscard]] const std::vector<ZipMember>& members() const { return members_; }
  // Null where there is none.
  [[nodiscard]] const ZipMember* Find(std::string_view name) const;
  // Throws kFormat where the bytes of a member have another checksum than the archive says.
  void CheckCrc(const ZipMember& member) const;

 private:
  std::string file_;
  std::vector<ZipMember> members_;
  std::vector<uint32_t> by_name_;  // positions in members_, sorted by name
};

}  // namespace hydra
