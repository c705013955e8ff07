// SPDX-License-Identifier: Apache-2.0
// Binds the tensors of the pickle to the archive's members, with every offset and size checked.
#include "hydra/convert/torch_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "hydra/base/error.h"
#include "hydra/convert/pickle.h"
#include "hydra/convert/zip_file.h"

namespace hydra {
namespace {

constexpr std::string_view kPickle = "data.pkl";
constexpr std::string_view kZipSign = "PK\x03\x04";
constexpr std::string_view kPickleSign = "\x80\x02\x8a\x0a";  // of files before torch 1.6
constexpr uint64_t kFreeBytes = 1 << 19;

std::string TensorText(std::string_view name) { return OneLine(name, 160); }

void CheckKind(const MappedFile& file) {
  const std::string_view text = file.text();
  if (text.starts_with(kZipSign)) return;
  if (text.starts_with(kPickleSign))
    throw Error(ErrorCode::kFormat,
                fmt::format("{0}: legacy format of torch before 1.6: save it again: python3 -c \"import torch; p = "
                            "'{0}'; torch.save(torch.load(p, map_location='cpu', weights_only=True), p + '.new')\"",
                            file.path()));
  throw Error(ErrorCode::kFormat,
              fmt::format("{}: begins with \"{}\": must be an archive as torch.save writes it (\"PK\")", file.path(),
                          OneLine(text.substr(0, 8))));
}

// NAME/data.pkl, whatever the archive is called.
const ZipMember& PickleOf(const ZipFile& zip, const std::string& path) {
  const ZipMember* found = nullptr;
  for (const ZipMember& member : zip.members()) {
    const size_t slash = member.name.find('/');
    if (slash == std::string_view::npos || member.name.substr(slash + 1) != kPickle) continue;
    if (found != nullptr)
      throw Error(ErrorCode::kFormat, fmt::format("{}: member {}: there is {} already", path, OneLine(member.name, 120),
                                                  OneLine(found->name, 120)));
    found = &member;
  }
  if (found == nullptr)
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}: is not in the archive: torch.save writes it", path, kPickle));
  return *found;
}

// The bytes of a file are those of this machine.
void CheckByteOrder(const ZipFile& zip, const std::string& root, const std::string& path) {
  const ZipMember* member = zip.Find(root + "byteorder");
  if (member == nullptr) return;  // files before torch 2.1
  const std::string_view text(reinterpret_cast<const char*>(member->data.data()), member->data.size());
  if (text != "little")
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: byteorder: \"{}\": must be little", path, OneLine(text.substr(0, 20))));
}

// The storages that tensors name, each looked up and checked once.
class Storages {
 public:
  Storages(const ZipFile& zip, std::string root, const std::string& path)
      : zip_(zip), root_(std::move(root)), path_(path) {}

  // The bytes of a tensor's storage.
  std::span<const std::byte> Of(const PickledTensor& tensor) {
    const auto known = found_.find(tensor.storage);
    if (known != found_.end()) {
      const PickledTensor& before = *known->second.tensor;
      if (before.dtype != tensor.dtype || before.storage_size != tensor.storage_size)
        Fail(tensor, fmt::format("storage {} has {} numbers of {}, for {} it has {} of {}", OneLine(tensor.storage, 40),
                                 tensor.storage_size, DTypeName(tensor.dtype), TensorText(before.name),
                                 before.storage_size, DTypeName(before.dtype)));
      return known->second.bytes;
    }
    const ZipMember* member = zip_.Find(fmt::format("{}data/{}", root_, tensor.storage));
    if (member == nullptr) Fail(tensor, fmt::format("storage {} is not in the archive", OneLine(tensor.storage, 40)));
    const auto want =
        CheckedMul(static_cast<uint64_t>(tensor.storage_size), static_cast<uint64_t>(DTypeSize(tensor.dtype)));
    if (want != member->data.size())
      Fail(tensor, fmt::format("storage {} has {} bytes: {} numbers of {} take {}", OneLine(tensor.storage, 40),
                               WithCommas(member->data.size()), tensor.storage_size, DTypeName(tensor.dtype),
                               want ? WithCommas(*want) : "more than 64 bits count"));
    zip_.CheckCrc(*member);
    found_.emplace(tensor.storage, Found{member->data, &tensor});
    return member->data;
  }

  [[noreturn]] void Fail(const PickledTensor& tensor, const std::string& rule) const {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}: {}", path_, TensorText(tensor.name), rule));
  }

 private:
  struct Found {
    std::span<const std::byte> bytes;
    const PickledTensor* tensor;  // the first of it
  };
  const ZipFile& zip_;
  std::string root_;
  const std::string& path_;
  std::map<std::string_view, Found> found_;
};

// A tensor inside the bytes of its storage.
TorchTensor Bind(const PickledTensor& tensor, Storages& storages, uint64_t most) {
  const auto bytes = storages.Of(tensor);
  const auto element = static_cast<uint64_t>(DTypeSize(tensor.dtype));
  std::optional<uint64_t> count = 1, last = static_cast<uint64_t>(tensor.offset);  // of numbers; the last one's place
  bool empty = false;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const auto size = static_cast<uint64_t>(tensor.shape[i]), stride = static_cast<uint64_t>(tensor.strides[i]);
    empty |= size == 0;
    if (count) count = CheckedMul(*count, std::max<uint64_t>(size, 1));
    const auto reach = CheckedMul(size > 0 ? size - 1 : 0, stride);
    if (last) last = reach ? CheckedAdd(*last, *reach) : std::nullopt;
  }
  const auto shape = [&] {
    return fmt::format("shape {}, strides {}, offset {}", ShapeText(tensor.shape), ShapeText(tensor.strides),
                       tensor.offset);
  };
  const auto needed = count ? CheckedMul(*count, element) : std::nullopt;
  if (!empty && (!last || *last >= static_cast<uint64_t>(tensor.storage_size)))
    storages.Fail(tensor, fmt::format("{}: reaches past its storage of {} numbers", shape(), tensor.storage_size));
  if (!needed || *needed > most)  // numbers that are repeated, or dimensions beside one of 0
    storages.Fail(tensor, fmt::format("{}: more numbers than a file of its size may have", shape()));
  TorchTensor out{.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape, .strides = tensor.strides};
  out.data = empty ? bytes.data() : bytes.data() + static_cast<uint64_t>(tensor.offset) * element;
  return out;
}

// Copies the part of a tensor below its dimension `dim` to `to`, which moves on.
void GatherInto(const TorchTensor& tensor, size_t dim, const std::byte* from, std::byte** to) {
  const auto element = static_cast<int64_t>(DTypeSize(tensor.dtype));
  if (dim == tensor.shape.size()) {
    std::memcpy(*to, from, static_cast<size_t>(element));
    *to += element;
    return;
  }
  const int64_t size = tensor.shape[dim], stride = tensor.strides[dim] * element;
  if (dim + 1 == tensor.shape.size() && stride == element) {
    std::memcpy(*to, from, static_cast<size_t>(size * element));
    *to += size * element;
    return;
  }
  for (int64_t i = 0; i < size; ++i) GatherInto(tensor, dim + 1, from + i * stride, to);
}

}  // namespace

bool TorchTensor::contiguous() const {
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != step) return false;
    step *= shape[i];
  }
  return true;
}

std::vector<std::byte> TorchFile::Gather(const TorchTensor& tensor) {
  std::vector<std::byte> out(static_cast<size_t>(tensor.nbytes()));
  std::byte* to = out.data();
  if (!out.empty()) GatherInto(tensor, 0, tensor.data, &to);
  return out;
}

TorchFile TorchFile::Open(const std::string& path) {
  TorchFile result(path);
  CheckKind(result.file_);
  const ZipFile zip(result.file_.bytes(), path);
  const ZipMember& pickle = PickleOf(zip, path);
  zip.CheckCrc(pickle);
  const std::string root(pickle.name.substr(0, pickle.name.size() - kPickle.size()));
  CheckByteOrder(zip, root, path);
  const uint64_t memory = result.file_.size() + kFreeBytes;  // the other half is for the archive's list and the tensors
  const std::string where = fmt::format("{}: {}", path, kPickle);
  const std::vector<PickledTensor> pickled = ReadStateDict(pickle.data, where, memory);
  Storages storages(zip, root, path);
  result.tensors_.reserve(pickled.size());
  for (const PickledTensor& tensor : pickled)
    result.tensors_.push_back(Bind(tensor, storages, result.file_.size() + kFreeBytes));
  return result;
}

}  // namespace hydra
