// SPDX-License-Identifier: Apache-2.0
// The tokenizer as a whole: added tokens, normalizer, pre-tokenizer, BPE, post-processor, decoder, in that order.
// Not here: any of these steps.
#include "hydra/text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <mutex>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/io/gguf.h"
#include "hydra/text/bpe.h"
#include "hydra/text/pretokenizer.h"
#include "hydra/text/tokenizer_added.h"
#include "hydra/text/tokenizer_decoder.h"
#include "hydra/text/tokenizer_file.h"
#include "hydra/text/tokenizer_folder.h"
#include "hydra/text/tokenizer_gguf.h"
#include "hydra/text/tokenizer_write.h"

namespace hydra {

using nlohmann::json;

namespace {

// What a post-processor puts before and after a text.
struct Surround {
  std::vector<int32_t> before, after;
};

class PostProcessorReader {
 public:
  PostProcessorReader(const TokenTable& tokens, Surround& out) : tokens_(tokens), out_(out) {}

  void Read(const json& value, const std::string& where) {
    if (value.is_null()) return;
    const std::string type = tokenizer_json::StepType(value, where);
    if (type == "ByteLevel") return;  // offsets only
    if (type == "Sequence") {
      if (!value.contains("processors") || !value["processors"].is_array()) {
        tokenizer_json::Refuse(where + ".processors", "must be an array of steps");
      }
      for (size_t i = 0; i < value["processors"].size(); ++i) {
        Read(value["processors"][i], fmt::format("{}.processors[{}]", where, i));
      }
    } else if (type == "TemplateProcessing") {
      Template(value, where);
    } else {
      tokenizer_json::Refuse(where + ".type", fmt::format("= '{}': unknown step; supported are ByteLevel, "
                                                          "TemplateProcessing, Sequence",
                                                          type));
    }
  }

 private:
  void Template(const json& value, const std::string& where) {
    if (!value.contains("single") || !value["single"].is_array())
      tokenizer_json::Refuse(where + ".single", "must be an array");
    Surround found;
    bool seen = false;
    for (size_t i = 0; i < value["single"].size(); ++i) {
      const json& piece = value["single"][i];
      const std::string field = fmt::format("{}.single[{}]", where, i);
      const bool sequence = piece.is_object() && piece.contains("Sequence");
      if (!sequence && !(piece.is_object() && piece.contains("SpecialToken") && piece["SpecialToken"].is_object())) {
        tokenizer_json::Refuse(field, "must be a Sequence or a SpecialToken");
      }
      if (sequence && seen) tokenizer_json::Refuse(field, "must not name the text twice");
      if (sequence) {
        seen = true;
        continue;
      }
      Special(value, tokenizer_json::String(piece["SpecialToken"], "id", field + ".SpecialToken"), where,
              seen ? found.after : found.before);
      CheckSize(found, where);
    }
    if (!seen) tokenizer_json::Refuse(where + ".single", "must name the text (Sequence A)");
    // An outer template goes around an inner one.
    out_.before.insert(out_.before.begin(), found.before.begin(), found.before.end());
    out_.after.insert(out_.after.end(), found.after.begin(), found.after.end());
    CheckSize(out_, where);
  }

  static void CheckSize(const Surround& around, const std::string& where) {
    constexpr size_t kMaxTokens = 1024;
    if (around.before.size() + around.after.size() > kMaxTokens)
      tokenizer_json::Refuse(where + ".single", fmt::format("puts more than {} tokens around a text", kMaxTokens));
  }

  void Special(const json& value, const std::string& name, const std::string& where, std::vector<int32_t>& ids) {
    const std::string field = fmt::format("{}.special_tokens[\"{}\"]", where, name);
    const auto found = value.find("special_tokens");
    static const json kNone;
    const json& tokens = found == value.end() ? kNone : *found;
    if (!tokens.is_object() || !tokens.contains(name) || !tokens[name].is_object() || !tokens[name].contains("ids") ||
        !tokens[name]["ids"].is_array()) {
      tokenizer_json::Refuse(field, "is missing, but the template names it");
    }
    for (const json& id : tokens[name]["ids"]) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= tokens_.size()) {
        tokenizer_json::Refuse(field + ".ids", fmt::format("= {}: no token has this id, the vocabulary ends at {}",
                                                           id.dump(), tokens_.size() - 1));
      }
      ids.push_back(id.get<int32_t>());
    }
  }

  const TokenTable& tokens_;
  Surround& out_;
};

uint64_t NextSerial() {
  static std::atomic<uint64_t> serial{0};  // tells caches of one tokenizer from another's; no other meaning
  return ++serial;
}

}  // namespace

struct Tokenizer::Impl {
  uint64_t serial = NextSerial();
  TokenTable tokens;  // as the file spells them, the added ones too
  BpeModel bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  AddedTokenFinder raw_added, normalized_added;
  std::vector<bool> special;
  Surround surround;
  TextList bytes;  // that tokens stand for, by id
  std::optional<int32_t> bos, eos, eot;
  // Of the tokenizer.json: of its text where there was one, else when first asked for: writing it takes long.
  mutable std::array<uint8_t, 32> sha256{};
  std::optional<TokenizerFile> unhashed;  // without the tokens' texts
  mutable std::once_flag hash_once;
  [[nodiscard]] const std::array<uint8_t, 32>& Hash() const;

  void Build(TokenizerFile& file, const std::string& name);
  static void HideSpecial(TokenizerFile& file);
  void BuildAdded(const std::vector<AddedToken>& added);
  void BuildBytes();
  void GuessEnds();
  void EncodeText(std::string_view text, bool at_start, Scratch::Data& scratch, std::vector<int32_t>& ids) const;
  void EncodePiece(std::string_view piece, Scratch::Data& scratch, std::vector<int32_t>& ids) const;
  [[nodiscard]] std::optional<std::vector<TextMark>> MarksOf(std::string_view part, size_t offset,
                                                             std::span<const TextMark> strange, TextStart start) const;
  void CheckId(int32_t id) const {
    if (id < 0 || id >= tokens.size()) {
      throw Error(ErrorCode::kData, fmt::format("token id {}: must be 0..{}", id, tokens.size() - 1));
    }
  }
  [[nodiscard]] std::string_view BytesOf(int32_t id) const { return bytes[static_cast<size_t>(id)]; }
};

struct Tokenizer::Scratch::Data {
  PieceCache cache;
  BpeModel::Scratch bpe;
  std::string mended;
};

Tokenizer::Scratch::Scratch() : data_(std::make_unique<Data>()) {}
Tokenizer::Scratch::~Scratch() = default;
Tokenizer::Scratch::Scratch(Scratch&&) noexcept = default;
Tokenizer::Scratch& Tokenizer::Scratch::operator=(Scratch&&) noexcept = default;

// ---- Loading ----

Tokenizer Tokenizer::Load(const std::string& path, const TokenizerLoadOptions& options) {
  if (!std::filesystem::is_directory(path) && GgufFile::IsGguf(path)) return FromGguf(GgufFile::Open(path), options);
  if (!options.pre.empty())
    throw Error(ErrorCode::kUsage,
                fmt::format("--pre {}: {} is no GGUF file: its tokenizer says the steps itself", options.pre, path));
  FolderTokenizer read = ReadFolderTokenizer(path);
  auto impl = std::make_shared<Impl>();
  impl->sha256 = read.sha256;
  impl->Build(read.file, read.name);
  if (read.bos.said) impl->bos = read.bos.id;
  if (read.eos.said) impl->eos = read.eos.id;
  if (options.warnings != nullptr)
    options.warnings->insert(options.warnings->end(), read.file.warnings.begin(), read.file.warnings.end());
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::FromJson(std::string_view text, const std::string& name) {
  auto impl = std::make_shared<Impl>();
  impl->sha256 = Sha256::Of(text);
  TokenizerFile parsed = ParseTokenizerFile(text, name);
  impl->Build(parsed, name);
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::FromGguf(const GgufFile& file, const TokenizerLoadOptions& options) {
  auto impl = std::make_shared<Impl>();
  GgufTokenizer read = ReadGgufTokenizer(file, options.pre);
  if (!read.json.empty()) {
    impl->sha256 = Sha256::Of(read.json);
    read.file = ParseTokenizerFile(read.json, file.path() + ": tokenizer.huggingface.json");
  } else {
    impl->unhashed.emplace();
  }
  impl->Build(read.file, file.path());
  if (read.bos) impl->bos = read.bos;
  if (read.eos) impl->eos = read.eos;
  impl->eot = read.eot;
  for (const auto& id : {impl->bos, impl->eos, impl->eot})
    if (id) impl->CheckId(*id);
  if (options.warnings != nullptr)
    options.warnings->insert(options.warnings->end(), read.file.warnings.begin(), read.file.warnings.end());
  return Tokenizer(std::move(impl));
}

const std::array<uint8_t, 32>& Tokenizer::Impl::Hash() const {
  std::call_once(hash_once, [this] {
    if (!unhashed) return;
    TokenizerFile whole = *unhashed;
    whole.tokens = tokens;
    sha256 = TokenizerJsonSha256(whole);
  });
  return sha256;
}

void Tokenizer::Impl::Build(TokenizerFile& file, const std::string& name) {
  tokens = std::move(file.tokens);
  if (unhashed) {
    unhashed->in_model = file.in_model;
    unhashed->options = file.options;
    unhashed->added = file.added;
    unhashed->steps = file.steps;
  }
  normalizer = Normalizer::FromJson(file.steps["normalizer"], name + ": normalizer");
  pre_tokenizer = PreTokenizer::FromJson(file.steps["pre_tokenizer"], name + ": pre_tokenizer");
  decoder = TokenDecoder::FromJson(file.steps["decoder"], name + ": decoder");
  PostProcessorReader(tokens, surround).Read(file.steps["post_processor"], name + ": post_processor");
  file.options.byte_level = pre_tokenizer.byte_level();
  HideSpecial(file);
  bpe = BpeModel(&tokens, file.merges, file.options, std::move(file.in_model));
  if (unhashed) unhashed->merges.swap(file.merges);
  file.merges = {};  // not needed any more, and there may be 10^5
  special.assign(static_cast<size_t>(tokens.size()), false);
  for (const AddedToken& token : file.added) special[static_cast<size_t>(token.id)] = token.special;
  BuildAdded(file.added);
  BuildBytes();
  GuessEnds();
}

// A special token is found where the text is searched for special tokens, and nowhere else: not by ignore_merges, which
// would take a piece of a stranger's text for it.
void Tokenizer::Impl::HideSpecial(TokenizerFile& file) {
  if (!file.options.ignore_merges) return;
  for (const AddedToken& token : file.added) {
    const bool one_character = token.content.size() == static_cast<size_t>(Utf8Length(token.content[0]));
    if (token.special && !token.single_word && !token.normalized && !one_character)
      file.in_model[static_cast<size_t>(token.id)] = false;
  }
}

void Tokenizer::Impl::BuildAdded(const std::vector<AddedToken>& added) {
  std::vector<AddedToken> raw, normalized;
  std::vector<std::string> raw_texts, normalized_texts;
  for (const AddedToken& token : added) {
    // Without a normalizer both kinds are looked for in the same text, yet one after the other, as `tokenizers` does.
    if (token.normalized) {
      normalized.push_back(token);
      normalized_texts.push_back(normalizer.empty() ? token.content : normalizer.Apply(token.content));
    } else {
      raw.push_back(token);
      raw_texts.push_back(token.content);
    }
  }
  raw_added = AddedTokenFinder(std::move(raw), raw_texts);
  normalized_added = AddedTokenFinder(std::move(normalized), normalized_texts);
}

void Tokenizer::Impl::BuildBytes() {
  size_t made = 0, most = 1 << 16, texts = 0;
  for (int32_t id = 0; id < tokens.size(); ++id) texts += tokens.Text(id).size();
  bytes.Reserve(static_cast<size_t>(tokens.size()), texts);
  for (int32_t id = 0; id < tokens.size(); ++id) {
    const std::string token = decoder.TokenBytes(tokens.Text(id));
    most += tokens.Text(id).size();
    made += token.size();
    tokenizer_json::CheckGrowth(made, most);
    bytes.Add(token);
  }
}

// For files without a tokenizer_config.json beside them.
void Tokenizer::Impl::GuessEnds() {
  const auto first_of = [&](std::initializer_list<const char*> names) -> std::optional<int32_t> {
    for (const char* name : names) {
      const int32_t id = tokens.Find(name);
      if (id >= 0 && special[static_cast<size_t>(id)]) return id;
    }
    return std::nullopt;
  };
  bos = first_of({"<|begin_of_text|>", "<s>", "<bos>"});
  eos = first_of({"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"});
}

// ---- Encoding ----

std::vector<int32_t> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  Scratch scratch;
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  Encode(text, options, scratch, ids);
  return ids;
}

void Tokenizer::Encode(std::string_view text, const EncodeOptions& options, Scratch& scratch,
                       std::vector<int32_t>& ids) const {
  const Impl& impl = *impl_;
  Scratch::Data& data = *scratch.data_;
  data.cache.Prepare(impl.serial, text.size());
  if (options.add_special) ids.insert(ids.end(), impl.surround.before.begin(), impl.surround.before.end());
  const std::string_view valid = MendUtf8(text, data.mended);
  HYDRA_CHECK(options.strange.empty() || valid.data() == text.data(), "marked text is not valid UTF-8");
  impl.raw_added.Split(valid, options.parse_special, options.strange, [&](std::string_view part, int32_t added) {
    if (added >= 0) {
      ids.push_back(added);
      return;
    }
    const bool begins = part.data() == valid.data(), first = begins && !options.continues;
    const TextStart start = begins && options.continues ? TextStart::kGoesOn : TextStart::kOwn;
    const auto marks = impl.MarksOf(part, static_cast<size_t>(part.data() - valid.data()), options.strange, start);
    std::string normalized;
    if (!impl.normalizer.empty()) part = normalized = impl.normalizer.Apply(part, start);
    impl.normalized_added.Split(part, options.parse_special && marks, marks ? *marks : std::vector<TextMark>(),
                                [&](std::string_view inner, int32_t inner_added) {
                                  if (inner_added >= 0) {
                                    ids.push_back(inner_added);
                                  } else {
                                    impl.EncodeText(inner, first && inner.data() == part.data(), data, ids);
                                  }
                                });
  });
  if (options.add_special) ids.insert(ids.end(), impl.surround.after.begin(), impl.surround.after.end());
}

// Where the strange bytes of a part are once it is normalized: a text's beginning, normalized alone, is as long as
// within the whole, up to what its last character becomes together with the next one. None where finding out would take
// too long: no special token is then looked for.
std::optional<std::vector<TextMark>> Tokenizer::Impl::MarksOf(std::string_view part, size_t offset,
                                                              std::span<const TextMark> strange,
                                                              TextStart start) const {
  constexpr size_t kMostWork = size_t{64} << 20;  // bytes
  std::vector<TextMark> marks;
  if (strange.empty() || !normalized_added.has_special()) return marks;
  auto mark = std::ranges::partition_point(strange, [&](const TextMark& m) { return m.end <= offset; });
  for (; mark != strange.end() && mark->begin < offset + part.size(); ++mark) {
    TextMark inside = {std::max(mark->begin, offset) - offset, std::min(mark->end - offset, part.size()), mark->source};
    if (!normalizer.empty()) {
      if ((marks.size() + 1) * part.size() > kMostWork) return std::nullopt;
      if (inside.begin > 0) inside.begin = normalizer.Apply(part.substr(0, inside.begin), start).size();
      inside.end = normalizer.Apply(part.substr(0, inside.end), start).size();
    }
    marks.push_back(inside);
  }
  return marks;
}

void Tokenizer::Impl::EncodeText(std::string_view text, bool at_start, Scratch::Data& scratch,
                                 std::vector<int32_t>& ids) const {
  if (const auto known = pre_tokenizer.known()) {
    ScanPieces(*known, text, [&](std::string_view piece) { EncodePiece(piece, scratch, ids); });
  } else {
    pre_tokenizer.ForEachPiece(text, at_start, [&](std::string_view piece) { EncodePiece(piece, scratch, ids); });
  }
}

inline void Tokenizer::Impl::EncodePiece(std::string_view piece, Scratch::Data& scratch,
                                         std::vector<int32_t>& ids) const {
  if (piece.size() > PieceCache::kMaxPieceBytes) {
    bpe.Encode(piece, scratch.bpe, ids);
    return;
  }
  const PieceCache::Key key = PieceCache::MakeKey(piece);
  if (scratch.cache.Find(key, ids)) return;
  const size_t before = ids.size();
  bpe.Encode(piece, scratch.bpe, ids);
  scratch.cache.Store(key, ids.data() + before, ids.size() - before);
}

// ---- Decoding ----

std::string Tokenizer::Decode(std::span<const int32_t> ids, const DecodeOptions& options) const {
  const Impl& impl = *impl_;
  const auto skip = [&](int32_t id) { return options.skip_special && impl.special[static_cast<size_t>(id)]; };
  for (const int32_t id : ids) impl.CheckId(id);
  if (impl.decoder.byte_level()) {
    std::string bytes, mended;
    for (const int32_t id : ids) {
      if (!skip(id)) bytes.append(impl.BytesOf(id));
    }
    if (ValidUtf8Prefix(bytes) == bytes.size()) return bytes;
    return std::string(MendUtf8(bytes, mended));
  }
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    if (!skip(id)) tokens.emplace_back(impl.tokens.Text(id));
  }
  return impl.decoder.Decode(std::move(tokens));
}

// ---- What there is ----

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  impl_->CheckId(id);
  return impl_->BytesOf(id);
}

std::string_view Tokenizer::TokenText(int32_t id) const {
  impl_->CheckId(id);
  return impl_->tokens.Text(id);
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view text) const {
  const int32_t id = impl_->tokens.Find(text);
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  impl_->CheckId(id);
  return impl_->special[static_cast<size_t>(id)];
}

std::vector<int32_t> Tokenizer::SpecialIds() const {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (impl_->special[static_cast<size_t>(id)]) ids.push_back(id);
  }
  return ids;
}

int Tokenizer::vocab_size() const { return impl_->tokens.size(); }
std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos; }
std::optional<int32_t> Tokenizer::eot_id() const { return impl_->eot; }
bool Tokenizer::StartsWithTwoBos(std::span<const int32_t> ids) const {
  return impl_->bos && ids.size() >= 2 && ids[0] == *impl_->bos && ids[1] == *impl_->bos;
}
bool Tokenizer::byte_level() const { return impl_->pre_tokenizer.byte_level(); }
const std::array<uint8_t, 32>& Tokenizer::sha256() const { return impl_->Hash(); }
const std::string& Tokenizer::pattern() const { return impl_->pre_tokenizer.description(); }

}  // namespace hydra
