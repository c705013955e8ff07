// SPDX-License-Identifier: Apache-2.0
// The wire format of protobuf and the fields of sentencepiece_model.proto that decide which ids a text has.
#include "hydra/text/sentencepiece_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/tokenizer_gguf_keys.h"
#include "hydra/text/tokenizer_spm.h"

namespace hydra {
namespace {

using namespace gguf_keys;

constexpr int64_t kModelTypeBpe = 2;  // TrainerSpec.ModelType
constexpr const char* kModelTypeNames[] = {"", "UNIGRAM", "BPE", "WORD", "CHAR"};
constexpr size_t kMergesPerPiece = 8, kFreeMerges = 1 << 16;

// Numbers of fields.
enum ModelField : uint32_t { kFieldPieces = 1, kFieldTrainer = 2, kFieldNormalizer = 3, kFieldDenormalizer = 5 };
enum PieceField : uint32_t { kFieldText = 1, kFieldScore = 2, kFieldType = 3 };
enum TrainerField : uint32_t {
  kFieldModelType = 3,
  kFieldVocabSize = 4,
  kFieldSuffix = 24,
  kFieldByteFallback = 35,
  kFieldUnkId = 40,
  kFieldBosId = 41,
  kFieldEosId = 42,
  kFieldPadId = 43,
};
enum NormalizerField : uint32_t {
  kFieldRule = 1,
  kFieldTable = 2,
  kFieldAddPrefix = 3,
  kFieldRemoveSpaces = 4,
  kFieldEscape = 5
};

// ---- The wire format ----

enum Wire : uint32_t { kWireVarint = 0, kWireFixed64 = 1, kWireBytes = 2, kWireFixed32 = 5 };

// One message: fields as they come, each with the bytes of its value.
class ProtoMessage {
 public:
  ProtoMessage(std::span<const std::byte> bytes, std::string where) : in_(bytes, std::move(where)) {}

  // Moves to the next field; false at the end.
  bool Next() {
    if (in_.left() == 0) return false;
    const uint64_t tag = Varint("tag");
    field_ = static_cast<uint32_t>(tag >> 3);
    if (tag >> 3 == 0 || tag >> 32 != 0) in_.Fail("tag", fmt::format("= {}: no field has it", tag));
    wire_ = static_cast<uint32_t>(tag & 7);
    switch (wire_) {
      case kWireVarint: number_ = Varint(Name()); break;
      case kWireFixed64: bytes_ = in_.Bytes(8, Name()); break;
      case kWireBytes: bytes_ = in_.Bytes(Varint(Name()), Name()); break;
      case kWireFixed32: bytes_ = in_.Bytes(4, Name()); break;
      default: in_.Fail(Name(), fmt::format("has wire type {}: must be 0, 1, 2 or 5", wire_));
    }
    return true;
  }

  [[nodiscard]] uint32_t field() const { return field_; }
  int64_t Int(const char* name) { return Need(kWireVarint, name), static_cast<int64_t>(number_); }
  bool Bool(const char* name) { return Int(name) != 0; }
  std::span<const std::byte> Bytes(const char* name) { return Need(kWireBytes, name), bytes_; }
  std::string_view Text(const char* name) {
    const auto bytes = Bytes(name);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  float Float(const char* name) {
    Need(kWireFixed32, name);
    float value = 0;
    std::memcpy(&value, bytes_.data(), sizeof value);
    return value;
  }
  [[noreturn]] void Fail(std::string_view name, std::string_view rule) const { in_.Fail(name, rule); }

 private:
  uint64_t Varint(std::string_view name) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = in_.U8(name);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if ((byte & 0x80) == 0) return value;
    }
    in_.Fail(name, "is a number of more than 64 bits");
  }
  [[nodiscard]] std::string Name() const { return fmt::format("field {}", field_); }
  void Need(uint32_t wire, const char* name) const {
    if (wire_ != wire) in_.Fail(name, fmt::format("has wire type {}: must be {}", wire_, wire));
  }

  ByteReader in_;
  uint32_t field_ = 0, wire_ = 0;
  uint64_t number_ = 0;
  std::span<const std::byte> bytes_;
};

// ---- Reading ----

class PiecesReader {
 public:
  PiecesReader(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  SentencePieceFile Read() {
    CountPieces();
    ProtoMessage model(bytes_, file_);
    while (model.Next()) {
      switch (model.field()) {
        case kFieldPieces: ReadPiece(model.Bytes("pieces")); break;
        case kFieldTrainer: ReadTrainer(model.Bytes("trainer_spec")); break;
        case kFieldNormalizer: ReadNormalizer(model.Bytes("normalizer_spec"), "normalizer_spec"); break;
        case kFieldDenormalizer: ReadNormalizer(model.Bytes("denormalizer_spec"), "denormalizer_spec"); break;
        default: break;  // tests of its trainer, notes of other programs
      }
    }
    out_.pieces = TokenTable(std::move(texts_));
    Check();
    return std::move(out_);
  }

 private:
  [[noreturn]] void Fail(const std::string& field, const std::string& rule) const {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {} {}", file_, field, rule));
  }
  [[noreturn]] void FailPiece(size_t id, const std::string& rule) const { Fail(fmt::format("pieces[{}]", id), rule); }

  // Room for all, taken once.
  void CountPieces() {
    size_t n = 0, bytes = 0;
    ProtoMessage model(bytes_, file_);
    while (model.Next())
      if (model.field() == kFieldPieces) ++n, bytes += model.Bytes("pieces").size();
    if (n < 1 || n > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
      Fail("pieces", fmt::format("are {}: must be 1 to 2^31 - 1", n));
    texts_.Reserve(n, bytes);
    out_.scores.reserve(n);
    out_.types.reserve(n);
  }

  void ReadPiece(std::span<const std::byte> bytes) {
    const size_t id = out_.scores.size();
    ProtoMessage piece(bytes, fmt::format("{}: pieces[{}]", file_, id));
    std::string_view text;
    float score = 0;
    int64_t type = kNormal;
    while (piece.Next()) {
      if (piece.field() == kFieldText) text = piece.Text("piece");
      if (piece.field() == kFieldScore) score = piece.Float("score");
      if (piece.field() == kFieldType) type = piece.Int("type");
    }
    if (text.empty()) FailPiece(id, "has no text");
    if (ValidUtf8Prefix(text) != text.size()) FailPiece(id, "is not valid UTF-8");
    if (!std::isfinite(score)) FailPiece(id, fmt::format("has the score {}: must be finite", score));
    if (type < kNormal || type > kByte) FailPiece(id, fmt::format("has the type {}: must be 1 to 6", type));
    if (type == kNormal && text.size() > kMaxSpmTokenBytes)
      FailPiece(id, fmt::format("has {} bytes: must be at most {}", text.size(), kMaxSpmTokenBytes));
    texts_.Add(text);
    out_.scores.push_back(score);
    out_.types.push_back(static_cast<int32_t>(type));
  }

  void ReadTrainer(std::span<const std::byte> bytes) {
    ProtoMessage spec(bytes, file_ + ": trainer_spec");
    while (spec.Next()) {
      switch (spec.field()) {
        case kFieldModelType: model_type_ = spec.Int("model_type"); break;
        case kFieldSuffix:
          if (spec.Bool("treat_whitespace_as_suffix"))
            spec.Fail("treat_whitespace_as_suffix", "= true: only false is supported");
          break;
        case kFieldByteFallback: out_.byte_fallback = spec.Bool("byte_fallback"); break;
        case kFieldUnkId: ids_[0] = spec.Int("unk_id"); break;
        case kFieldBosId: ids_[1] = spec.Int("bos_id"); break;
        case kFieldEosId: ids_[2] = spec.Int("eos_id"); break;
        case kFieldPadId: ids_[3] = spec.Int("pad_id"); break;
        default: break;  // how it was trained
      }
    }
  }

  // `name`: normalizer_spec, or denormalizer_spec, of which only the table does something.
  void ReadNormalizer(std::span<const std::byte> bytes, const char* name) {
    ProtoMessage spec(bytes, fmt::format("{}: {}", file_, name));
    const bool before = std::string_view(name) == "normalizer_spec";
    if (before) remove_spaces_ = true;  // unless it says otherwise
    std::string_view rule;
    while (spec.Next()) {
      if (spec.field() == kFieldRule) rule = spec.Text("name");
      if (spec.field() == kFieldTable && !spec.Bytes("precompiled_charsmap").empty())
        spec.Fail("precompiled_charsmap",
                  fmt::format("has {} bytes (rule {}): only texts as they are, rule identity, are supported",
                              spec.Bytes("precompiled_charsmap").size(), OneLine(rule, 40)));
      if (!before) continue;
      if (spec.field() == kFieldAddPrefix) out_.add_prefix = spec.Bool("add_dummy_prefix");
      if (spec.field() == kFieldRemoveSpaces) remove_spaces_ = spec.Bool("remove_extra_whitespaces");
      if (spec.field() == kFieldEscape && !spec.Bool("escape_whitespaces"))
        spec.Fail("escape_whitespaces", "= false: only true is supported");
    }
  }

  void Check() {
    if (model_type_ != kModelTypeBpe)
      Fail("trainer_spec.model_type",
           fmt::format("= {} ({}): only 2 (BPE) is supported", model_type_,
                       model_type_ >= 1 && model_type_ <= 4 ? kModelTypeNames[model_type_] : "unknown"));
    if (remove_spaces_) Fail("normalizer_spec.remove_extra_whitespaces", "= true: only false is supported");
    const int32_t twice = out_.pieces.twice();
    if (twice >= 0)
      FailPiece(static_cast<size_t>(twice),
                fmt::format("= \"{}\": is there twice", OneLine(out_.pieces.Text(twice), 60)));
    CheckBytes();
    const auto id = [&](int which, const char* name) -> std::optional<int32_t> {
      const int64_t value = static_cast<int32_t>(ids_[which]);
      if (value < 0) return std::nullopt;  // none
      if (value >= out_.pieces.size())
        Fail(StrCat("trainer_spec.", name), fmt::format("= {}: must be below {}", value, out_.pieces.size()));
      return static_cast<int32_t>(value);
    };
    const auto unk = id(0, "unk_id");
    if (!unk || out_.types[static_cast<size_t>(*unk)] != kUnknown)
      Fail("trainer_spec.unk_id", fmt::format("= {}: must be the id of an unknown piece (type 2)", ids_[0]));
    out_.unk = *unk;
    out_.bos = id(1, "bos_id"), out_.eos = id(2, "eos_id"), out_.pad = id(3, "pad_id");
  }

  void CheckBytes() {
    size_t bytes = 0;
    for (size_t i = 0; i < out_.types.size(); ++i) {
      if (out_.types[i] != kByte) continue;
      if (!IsByteToken(out_.pieces.Text(static_cast<int32_t>(i))))
        FailPiece(i, fmt::format("= \"{}\": a byte is written <0x00> to <0xFF>",
                                 OneLine(out_.pieces.Text(static_cast<int32_t>(i)), 60)));
      ++bytes;
    }
    if (bytes != (out_.byte_fallback ? 256u : 0u))
      Fail("trainer_spec.byte_fallback", fmt::format("= {}: there are {} pieces of bytes", out_.byte_fallback, bytes));
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  SentencePieceFile out_;
  TextList texts_;
  int64_t model_type_ = 1;
  bool remove_spaces_ = true;
  int64_t ids_[4] = {0, 1, 2, -1};  // unk, bos, eos, pad, as SentencePiece has them where a file does not say
};

// ---- Writing ----

class PiecesWriter {
 public:
  PiecesWriter& Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
    return *this;
  }
  PiecesWriter& Int(uint32_t field, int64_t value) {
    return Tag(field, kWireVarint).Varint(static_cast<uint64_t>(value));
  }
  PiecesWriter& Text(uint32_t field, std::string_view text) {
    Tag(field, kWireBytes).Varint(text.size());
    out_ += text;
    return *this;
  }
  PiecesWriter& Float(uint32_t field, float value) {
    Tag(field, kWireFixed32);
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  [[nodiscard]] const std::string& text() const { return out_; }

 private:
  PiecesWriter& Tag(uint32_t field, Wire wire) { return Varint(uint64_t{field} << 3 | wire); }
  std::string out_;
};

bool IsAddedType(int32_t type) { return type == kControl || type == kUnknown || type == kUserDefined; }

}  // namespace

SentencePieceFile ReadSentencePiece(std::span<const std::byte> bytes, const std::string& file) {
  return PiecesReader(bytes, file).Read();
}

std::string SentencePieceBytes(const SentencePieceFile& file) {
  PiecesWriter out;
  for (int32_t id = 0; id < file.pieces.size(); ++id) {
    const auto i = static_cast<size_t>(id);
    PiecesWriter piece;
    piece.Text(kFieldText, file.pieces.Text(id)).Float(kFieldScore, file.scores[i]);
    if (file.types[i] != kNormal) piece.Int(kFieldType, file.types[i]);
    out.Text(kFieldPieces, piece.text());
  }
  PiecesWriter trainer, normalizer;
  trainer.Int(kFieldModelType, kModelTypeBpe)
      .Int(kFieldVocabSize, file.pieces.size())
      .Int(kFieldByteFallback, file.byte_fallback);
  trainer.Int(kFieldUnkId, file.unk).Int(kFieldBosId, file.bos.value_or(-1)).Int(kFieldEosId, file.eos.value_or(-1));
  trainer.Int(kFieldPadId, file.pad.value_or(-1));
  constexpr uint32_t kPieceNames[] = {45, 46, 47, 48};  // of unk, bos, eos, pad
  const std::optional<int32_t> named[] = {file.unk, file.bos, file.eos, file.pad};
  for (size_t i = 0; i < std::size(named); ++i)
    if (named[i]) trainer.Text(kPieceNames[i], file.pieces.Text(*named[i]));
  normalizer.Text(kFieldRule, "identity")
      .Int(kFieldAddPrefix, file.add_prefix)
      .Int(kFieldRemoveSpaces, 0)
      .Int(kFieldEscape, 1);
  return out.Text(kFieldTrainer, trainer.text()).Text(kFieldNormalizer, normalizer.text()).text();
}

TokenizerFile TokenizerFileOf(SentencePieceFile pieces, const SentencePieceOptions& options, const std::string& file) {
  TokenizerFile out;
  std::vector<bool> mergeable(pieces.types.size());
  for (size_t i = 0; i < mergeable.size(); ++i) {
    const int32_t type = pieces.types[i], id = static_cast<int32_t>(i);
    mergeable[i] = type == kNormal || type == kUnused;
    if (IsAddedType(type))
      out.added.push_back({.content = std::string(pieces.pieces.Text(id)), .id = id, .special = type != kUserDefined});
  }
  const size_t most = kMergesPerPiece * mergeable.size() + kFreeMerges;
  try {
    out.merges = MergesFromScores(pieces.pieces, pieces.scores, mergeable, most);
  } catch (const Error& e) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: pieces: {}", file, e.what()));
  }
  out.tokens = std::move(pieces.pieces);
  out.in_model.assign(mergeable.size(), true);  // the special ones too, so that `tokenizers` keeps their ids
  out.options.byte_fallback = pieces.byte_fallback;
  out.options.fuse_unk = true;
  out.options.unk_id = pieces.unk;
  const bool prefix = options.add_prefix_space.value_or(pieces.add_prefix);
  out.steps["normalizer"] = options.legacy ? SpmNormalizer(prefix) : nlohmann::json();
  out.steps["pre_tokenizer"] = options.legacy ? nlohmann::json() : SpmPreTokenizer(prefix);
  out.steps["decoder"] = SpmDecoder(prefix);
  out.steps["post_processor"] =
      AroundText(out, options.add_bos ? pieces.bos : std::nullopt, options.add_eos ? pieces.eos : std::nullopt);
  return out;
}

std::optional<SentencePieceFile> SentencePieceOfGguf(const GgufFile& file) {
  if (file.FindText(kModel) != "llama" || file.FindText(kPre) == kHydraPre) return std::nullopt;
  const auto scores = file.FindFloats(kScores);
  const auto types = file.FindInts(kTypes);
  const auto texts = file.Texts(kTokens);
  if (!scores || scores->size() != texts.size() || (types && types->size() != texts.size())) return std::nullopt;
  SentencePieceFile out;
  out.scores = *scores;
  std::vector<std::string_view> pieces(texts.begin(), texts.end());
  size_t bytes = 0, unknown = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto type = static_cast<int32_t>(types ? (*types)[i] : kNormal);
    if (pieces[i].empty()) return std::nullopt;
    if (type == kUnknown) out.unk = static_cast<int32_t>(i), ++unknown;
    bytes += type == kByte;
    out.types.push_back(type);
  }
  out.pieces = TokenTable(pieces);
  if (unknown != 1 || (bytes != 0 && bytes != 256) || out.pieces.twice() >= 0) return std::nullopt;
  out.byte_fallback = bytes == 256;
  out.add_prefix = file.FindBool(kAddPrefix).value_or(true);
  const auto id = [&](const char* name, int64_t missing) -> std::optional<int32_t> {
    const int64_t value = file.FindInt(fmt::format("tokenizer.ggml.{}_token_id", name)).value_or(missing);
    return value >= 0 && value < out.pieces.size() ? std::optional(static_cast<int32_t>(value)) : std::nullopt;
  };
  out.bos = id("bos", 1), out.eos = id("eos", 2), out.pad = id("padding", -1);
  return out;
}

}  // namespace hydra
