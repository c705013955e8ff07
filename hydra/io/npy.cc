// SPDX-License-Identifier: Apache-2.0
// .npy: magic, version, a Python dictionary as text, then the values.
#include "hydra/io/npy.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string_view>

namespace hydra {
namespace {

constexpr std::string_view kNpyMagic("\x93NUMPY\x01\x00", 8);
// Room for any two dimensions, so that the header can be written last; NumPy wants a multiple of 64.
constexpr size_t kRowHeader = 128;

std::string Header(const std::vector<int64_t>& shape, size_t at_least) {
  std::string dims;
  for (size_t i = 0; i < shape.size(); ++i) dims += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  if (shape.size() == 1) dims += ',';  // a Python tuple of one
  std::string text = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims);
  const size_t total = std::max<size_t>(at_least, *CheckedAlignUp(kNpyMagic.size() + 2 + text.size() + 1, 64));
  text.resize(total - kNpyMagic.size() - 2 - 1, ' ');
  text += '\n';
  const auto length = static_cast<uint16_t>(text.size());
  std::string header(kNpyMagic);
  header += static_cast<char>(length & 255);
  header += static_cast<char>(length >> 8);
  return header + text;
}

// Reads the dictionary that NumPy writes: quoted keys, and as values a string, True or False, or a tuple of integers.
class DictReader {
 public:
  DictReader(std::string_view text, const ByteReader& file) : text_(text), file_(file) {}

  void Expect(char c) {
    Space();
    if (at_ >= text_.size() || text_[at_] != c) Fail(fmt::format("must have '{}' at its character {}", c, at_));
    ++at_;
  }
  bool Accept(char c) {
    Space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string_view Quoted() {
    Space();
    const char quote = at_ < text_.size() && text_[at_] == '"' ? '"' : '\'';
    Expect(quote);
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) Fail("has a string without an end");
    const auto result = text_.substr(at_, end - at_);
    at_ = end + 1;
    return result;
  }
  bool Bool() {
    Space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_).starts_with(word)) return at_ += word.size(), value;
    }
    Fail("fortran_order must be True or False");
  }
  std::vector<int64_t> Tuple() {
    std::vector<int64_t> dims;
    Expect('(');
    while (!Accept(')')) {
      Space();
      int64_t dim = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), dim);
      if (error != std::errc() || dim < 0 || dims.size() == 32)
        Fail(fmt::format("shape[{}] must be a non-negative integer, of at most 32", dims.size()));
      at_ = static_cast<size_t>(end - text_.data());
      dims.push_back(dim);
      if (!Accept(',')) {
        Expect(')');
        break;
      }
    }
    return dims;
  }
  [[noreturn]] void Fail(const std::string& rule) const { file_.Fail("header", rule); }

 private:
  void Space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  std::string_view text_;
  const ByteReader& file_;
  size_t at_ = 0;
};

}  // namespace

void WriteNpy(const std::string& path, std::span<const float> values, const std::vector<int64_t>& shape,
              const FileOps& ops) {
  HYDRA_CHECK(static_cast<int64_t>(values.size()) == NumElements(shape), values.size(), " values for ",
              ShapeText(shape));
  AtomicFile file(path, ops);
  file.Write(Header(shape, 0));
  file.Write(std::as_bytes(values));
  file.Commit();
}

NpyRowWriter::NpyRowWriter(const std::string& path, int64_t row_elements, const FileOps& ops)
    : file_(path, ops), row_elements_(row_elements) {
  HYDRA_CHECK(row_elements > 0, "rows of ", row_elements, " elements");
  file_.NeedSeek();
  file_.WriteZeros(kRowHeader);
}

void NpyRowWriter::Write(std::span<const float> rows) {
  HYDRA_CHECK(rows.size() % static_cast<size_t>(row_elements_) == 0, rows.size(), " values in rows of ", row_elements_);
  file_.Write(std::as_bytes(rows));
  rows_ += static_cast<int64_t>(rows.size()) / row_elements_;
}

void NpyRowWriter::Finish() {
  const std::string header = Header({rows_, row_elements_}, kRowHeader);
  HYDRA_CHECK(header.size() == kRowHeader, "npy header of ", header.size(), " bytes");
  file_.WriteAt(0, AsBytes(header));
  file_.Commit();
}

NpyArray NpyArray::Open(const std::string& path) {
  NpyArray array{MappedFile(path)};
  ByteReader reader(array.file_.bytes(), path);
  if (reader.Text(6, "magic") != kNpyMagic.substr(0, 6)) reader.Fail("magic", "must be \\x93NUMPY");
  const int major = reader.U8("version"), minor = reader.U8("version");
  if (major < 1 || major > 3 || minor != 0)
    reader.Fail("version", fmt::format("= {}.{}: must be 1.0, 2.0 or 3.0", major, minor));
  const uint64_t length = major == 1 ? reader.U16("header length") : reader.U32("header length");
  DictReader dict(reader.Text(length, "header"), reader);
  std::optional<std::string_view> descr;
  std::optional<bool> fortran;
  bool has_shape = false;
  dict.Expect('{');
  while (!dict.Accept('}')) {
    const std::string_view key = dict.Quoted();
    dict.Expect(':');
    if (key == "descr") {
      descr = dict.Quoted();
    } else if (key == "fortran_order") {
      fortran = dict.Bool();
    } else if (key == "shape") {
      array.shape_ = dict.Tuple();
      has_shape = true;
    } else {
      dict.Fail(fmt::format("has an unknown key '{}'", key.substr(0, 32)));
    }
    if (!dict.Accept(',')) {
      dict.Expect('}');
      break;
    }
  }
  if (!descr || !fortran || !has_shape) dict.Fail("must have descr, fortran_order and shape");
  if (*descr == "<f4") {
    array.dtype_ = DType::kF32;
  } else if (*descr == "<i4") {
    array.dtype_ = DType::kI32;
  } else if (*descr == "<i8") {
    array.dtype_ = DType::kI64;
  } else {
    reader.Fail("descr", fmt::format("= '{}': must be <f4, <i4 or <i8", descr->substr(0, 32)));
  }
  if (*fortran) reader.Fail("fortran_order", "= True: must be False (numpy.ascontiguousarray)");

  std::optional<uint64_t> need = static_cast<uint64_t>(DTypeSize(array.dtype_));
  for (const int64_t dim : array.shape_)
    if (need) need = CheckedMul(*need, static_cast<uint64_t>(std::max<int64_t>(dim, 1)));
  if (!need) reader.Fail("shape", fmt::format("{}: more bytes than 64 bits can count", ShapeText(array.shape_)));
  for (const int64_t dim : array.shape_)
    if (dim == 0) need = 0;
  array.data_ = reader.Bytes(*need, "values");
  if (reader.left() != 0) reader.Fail("values", fmt::format("are followed by {} bytes: must be none", reader.left()));
  return array;
}

std::vector<float> NpyArray::Floats() const {
  if (dtype_ != DType::kF32)
    throw Error(ErrorCode::kFormat, fmt::format("{}: descr: {} values: must be F32", file_.path(), DTypeName(dtype_)));
  std::vector<float> values(data_.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), data_.data(), data_.size());
  return values;
}

std::vector<int64_t> NpyArray::Int64s() const {
  if (dtype_ == DType::kF32)
    throw Error(ErrorCode::kFormat, fmt::format("{}: descr: F32 values: must be I32 or I64", file_.path()));
  std::vector<int64_t> values(static_cast<size_t>(size()));
  if (dtype_ == DType::kI64) {
    if (!values.empty()) std::memcpy(values.data(), data_.data(), data_.size());
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    int32_t value;
    std::memcpy(&value, data_.data() + i * sizeof value, sizeof value);
    values[i] = value;
  }
  return values;
}

}  // namespace hydra
