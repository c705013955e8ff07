// SPDX-License-Identifier: Apache-2.0
// Memory packs in files: what is written is read, and each kind of bad file is refused by field.
#include "hydra/model/memory_pack.h"

#include <cmath>
#include <functional>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

MemoryPack Pack() {
  return {.name = "facts",
          .base = std::string(64, 'a'),
          .n_keys = 4,
          .width = 2,
          .rows = {1, 5, 15},
          .delta = {1, 2, 3, 4, 5, 6}};
}

TEST(MemoryPack, ComesBackEqual) {
  const TempDir dir;
  Pack().Save(dir / "a.safetensors");
  const MemoryPack read = MemoryPack::Load(dir / "a.safetensors");
  EXPECT_EQ(read.name, "facts");
  EXPECT_EQ(read.base, Pack().base);
  EXPECT_EQ(read.n_keys, 4);
  EXPECT_EQ(read.width, 2);
  EXPECT_EQ(read.rows, Pack().rows);
  EXPECT_EQ(read.delta, Pack().delta);
  MemoryPack empty = Pack();
  empty.rows.clear();
  empty.delta.clear();
  empty.Save(dir / "empty.safetensors");
  EXPECT_TRUE(MemoryPack::Load(dir / "empty.safetensors").rows.empty());
}

TEST(MemoryPack, BadFilesAreRefusedByField) {
  const TempDir dir;
  const std::string path = dir / "bad.safetensors";
  const auto refused = [&](const std::function<void(MemoryPack&)>& damage,
                           std::initializer_list<std::string_view> parts) {
    MemoryPack pack = Pack();
    damage(pack);
    pack.Save(path);
    ExpectError([&] { (void)MemoryPack::Load(path); }, ErrorCode::kFormat, parts);
  };
  refused([](MemoryPack& p) { p.rows[2] = 16; }, {"bad.safetensors", "rows[2] = 16", "16 rows"});
  refused([](MemoryPack& p) { p.rows[0] = -1; }, {"rows[0] = -1"});
  refused([](MemoryPack& p) { p.rows[1] = 1; }, {"rows[1] = 1", "above rows[0] = 1"});
  refused([](MemoryPack& p) { p.delta[3] = std::nanf(""); }, {"delta[1]", "not finite"});
  const float values[] = {1, 2};
  const TensorView view{"x", DType::kF32, {2}, reinterpret_cast<const std::byte*>(values), 8};
  WriteSafeTensors(path, {&view, 1}, {{"format", "hydra-memory-pack-1"}, {"name", "a"}});
  ExpectError([&] { (void)MemoryPack::Load(path); }, ErrorCode::kFormat, {"base", "missing"});
  WriteSafeTensors(path, {&view, 1}, {{"format", "pt"}});
  ExpectError([&] { (void)MemoryPack::Load(path); }, ErrorCode::kFormat, {"format = \"pt\"", "hydra-memory-pack-1"});
}

TEST(MemoryPack, WhatAModelFolderRecords) {
  EXPECT_EQ(RecordedMemoryBase({}), std::nullopt);
  EXPECT_EQ(RecordedMemoryBase({{"gguf:general.memory_base", "\"abc\""}}), "abc");
  EXPECT_EQ(RecordedMemoryBase({{"gguf:general.memory_base", "[1"}}), std::nullopt);
}

}  // namespace
}  // namespace hydra
