// SPDX-License-Identifier: Apache-2.0
// Packs in files.
#include "hydra/model/memory_pack.h"

#include <cmath>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/base/version.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

constexpr const char* kFormat = "hydra-memory-pack-1";

const std::string& Text(const SafeTensors& file, const char* key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end())
    throw Error(ErrorCode::kFormat, StrCat(file.path(), ": __metadata__: ", key, ": missing: no memory pack"));
  return found->second;
}

int64_t Number(const SafeTensors& file, const char* key) {
  constexpr int64_t kMost = 1 << 20;
  return ParseWholeNumber(Text(file, key), 1, kMost, StrCat(file.path(), ": __metadata__: ", key));
}

const TensorView& Tensor(const SafeTensors& file, const char* name, DType dtype, size_t dims) {
  const TensorView& view = file.Get(name);
  if (view.dtype != dtype || view.shape.size() != dims)
    throw Error(ErrorCode::kFormat, StrCat(file.path(), ": ", name, ": ", DTypeName(view.dtype), " of ",
                                           view.shape.size(), " dimensions: must be ", DTypeName(dtype), " of ", dims));
  return view;
}

}  // namespace

MemoryPack MemoryPack::Load(const std::string& path) {
  const SafeTensors file = SafeTensors::Open(path);
  if (Text(file, "format") != kFormat)
    throw Error(ErrorCode::kFormat, StrCat(path, ": __metadata__: format = \"", OneLine(Text(file, "format"), 40),
                                           "\": must be ", kFormat));
  MemoryPack pack{.name = Text(file, "name"), .base = Text(file, "base"), .rows = {}, .delta = {}};
  pack.n_keys = Number(file, "n");
  pack.width = Number(file, "dv");
  const TensorView& rows = Tensor(file, "rows", DType::kI32, 1);
  const TensorView& delta = Tensor(file, "delta", DType::kF32, 2);
  if (delta.shape[0] != rows.shape[0] || delta.shape[1] != pack.width)
    throw Error(ErrorCode::kFormat, StrCat(path, ": delta: [", delta.shape[0], ", ", delta.shape[1], "]: must be [",
                                           rows.shape[0], ", ", pack.width, "]"));
  pack.rows.resize(static_cast<size_t>(rows.shape[0]));
  pack.delta.resize(static_cast<size_t>(delta.shape[0] * delta.shape[1]));
  if (rows.nbytes > 0) std::memcpy(pack.rows.data(), rows.data, static_cast<size_t>(rows.nbytes));
  if (delta.nbytes > 0) std::memcpy(pack.delta.data(), delta.data, static_cast<size_t>(delta.nbytes));
  for (size_t i = 0; i < pack.rows.size(); ++i) {
    if (pack.rows[i] < 0 || pack.rows[i] >= pack.n_keys * pack.n_keys)
      throw Error(ErrorCode::kFormat, StrCat(path, ": rows[", i, "] = ", pack.rows[i], ": the table has ",
                                             pack.n_keys * pack.n_keys, " rows"));
    if (i > 0 && pack.rows[i] <= pack.rows[i - 1])
      throw Error(ErrorCode::kFormat, StrCat(path, ": rows[", i, "] = ", pack.rows[i], ": must be above rows[", i - 1,
                                             "] = ", pack.rows[i - 1]));
  }
  for (size_t i = 0; i < pack.delta.size(); ++i)
    if (!std::isfinite(pack.delta[i]))
      throw Error(ErrorCode::kFormat, StrCat(path, ": delta[", i / static_cast<size_t>(pack.width), "]: not finite"));
  return pack;
}

void MemoryPack::Save(const std::string& path) const {
  const auto R = static_cast<int64_t>(rows.size());
  const TensorView views[] = {
      {"rows", DType::kI32, {R}, reinterpret_cast<const std::byte*>(rows.data()), R * 4},
      {"delta", DType::kF32, {R, width}, reinterpret_cast<const std::byte*>(delta.data()), R * width * 4}};
  WriteSafeTensors(path, views,
                   {{"format", kFormat},
                    {"hydralm", Version()},
                    {"name", name},
                    {"base", base},
                    {"n", StrCat(n_keys)},
                    {"dv", StrCat(width)}});
}

bool MemoryBaseHash::Covers(TensorRole role) {
  return role == TensorRole::kPkmQueryProj || role == TensorRole::kPkmQueryNorm || role == TensorRole::kPkmSubKeys;
}

std::optional<std::string> RecordedMemoryBase(const SafeTensorsMetadata& metadata) {
  const auto found = metadata.find(StrCat("gguf:", kMemoryBaseKey));
  if (found == metadata.end()) return std::nullopt;
  const Json value = Json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
}

}  // namespace hydra
