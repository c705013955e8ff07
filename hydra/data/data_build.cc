// SPDX-License-Identifier: Apache-2.0
// Documents to shards. Shards are finished under NAME.part, since their number is in their names and known at the end;
// then they get names beside those of an earlier build, and data.json takes the folder from the one to the other.
#include "hydra/data/data_build.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/io/folder_lock.h"
#include "hydra/text/tokenizer_folder.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

// What messages call the tokenizer.
std::string TokenizerPath(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  const bool pieces = !fs::exists(fs::path(path) / "tokenizer.json") && fs::exists(fs::path(path) / "tokenizer.model");
  return (fs::path(path) / (pieces ? "tokenizer.model" : "tokenizer.json")).string();
}

int32_t EndOfText(const Tokenizer& tokenizer, const std::string& path) {
  if (const auto id = tokenizer.TokenId("<|endoftext|>"); id && tokenizer.IsSpecial(*id)) return *id;
  if (const auto id = tokenizer.eos_id()) return *id;
  throw Error(ErrorCode::kData,
              path + ": has no special token <|endoftext|> and names no eos: documents cannot be ended");
}

// The folder of the build. One that was made here and has nothing in it at the end, after an error, goes.
class MadeFolder {
 public:
  explicit MadeFolder(const std::string& path) : path_(path), made_(!fs::exists(path)) { MakeDirs(path); }
  ~MadeFolder() {
    if (made_) ::rmdir(path_.c_str());  // refused where there is something
  }
  MadeFolder(const MadeFolder&) = delete;
  MadeFolder& operator=(const MadeFolder&) = delete;

 private:
  const std::string path_;
  const bool made_;
};

// The shards of one split while they are written.
class SplitWriter {
 public:
  SplitWriter(const DataBuildOptions& options, std::string split, const Tokenizer& tokenizer)
      : options_(options), split_(std::move(split)), tokenizer_(tokenizer) {}
  ~SplitWriter() {  // after an error: shards that no data.json lists are no use
    for (const std::string& path : unlisted_) ::unlink(path.c_str());
  }
  SplitWriter(const SplitWriter&) = delete;
  SplitWriter& operator=(const SplitWriter&) = delete;

  void Add(std::span<const int32_t> ids, std::span<const uint8_t> mask, int domain, uint64_t text_bytes) {
    if (!writer_) {
      const std::string part = PartPath(counts_.size() + 1);
      writer_.emplace(part, static_cast<uint32_t>(tokenizer_.vocab_size()), tokenizer_.sha256(), *options_.ops);
      counts_.emplace_back();
    }
    writer_->AddDocument(ids, mask, domain);
    SplitCounts& counts = counts_.back();
    counts.documents += 1;
    counts.tokens += static_cast<int64_t>(ids.size());
    counts.text_bytes += static_cast<int64_t>(text_bytes);
    if (counts.tokens >= options_.shard_tokens) FinishShard();
  }

  void FinishShard() {
    if (!writer_) return;
    unlisted_.push_back(PartPath(counts_.size()));  // first: it may exist even when Finish fails
    writer_->Finish();
    writer_.reset();
  }

  // Gives the shards names that no other shard of the folder has, and lists them. A shard that is there already, byte
  // for byte, is kept, so that building twice from the same gives the same.
  void Publish(DataManifest* manifest) {
    for (size_t i = 0; i < counts_.size(); ++i) {
      std::string& part = unlisted_[i];
      std::string name = fmt::format("{}-{:05}-of-{:05}.tok", split_, i + 1, counts_.size());
      const std::string stem = name.substr(0, name.size() - 4);
      std::error_code ignored;
      for (int n = 2; fs::exists(fs::path(options_.out) / name, ignored) && !SameBytes(part, PathOf(name)); ++n)
        name = fmt::format("{}.{}.tok", stem, n);
      if (fs::exists(PathOf(name), ignored)) {
        ::unlink(part.c_str());
        part.clear();
      } else if (options_.ops->rename(part.c_str(), PathOf(name).c_str()) != 0) {
        ThrowIo(PathOf(name), "cannot rename " + part + " to it", errno);
      } else {
        part = PathOf(name);
      }
      manifest->shards.push_back({.file = name, .split = split_, .counts = counts_[i]});
    }
  }

  // data.json lists them.
  void Keep() { unlisted_.clear(); }

  [[nodiscard]] int64_t documents() const {
    int64_t sum = 0;
    for (const SplitCounts& counts : counts_) sum += counts.documents;
    return sum;
  }

 private:
  std::string PartPath(size_t number) const { return PathOf(fmt::format("{}-{:05}.tok.part", split_, number)); }
  std::string PathOf(const std::string& name) const { return (fs::path(options_.out) / name).string(); }
  static bool SameBytes(const std::string& a, const std::string& b) {
    const MappedFile x(a), y(b);
    return x.text() == y.text();
  }

  const DataBuildOptions& options_;
  const std::string split_;
  const Tokenizer& tokenizer_;
  std::optional<TokenShardWriter> writer_;
  std::vector<SplitCounts> counts_;  // of each shard
  // Files of this build for the counts_: under NAME.part or their own names; empty for one that was there already.
  std::vector<std::string> unlisted_;
};

// Numbers of domains, in the order in which they come.
class DomainNumbers {
 public:
  int Of(const TextDocument& document) {
    if (document.domain.empty()) return -1;
    const auto [at, is_new] = numbers_.try_emplace(document.domain, static_cast<int>(names_.size()));
    constexpr size_t kMost = 0xFFFF;
    if (is_new && names_.size() == kMost)
      throw Error(ErrorCode::kData, StrCat(document.where, ": domain \"", OneLine(document.domain, 40),
                                           "\": more than ", kMost, " domains"));
    if (is_new) names_.push_back(document.domain);
    return at->second;
  }
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }

 private:
  std::map<std::string, int> numbers_;
  std::vector<std::string> names_;
};

// Ids and loss mask of a document, the end of text included.
class DocumentEncoder {
 public:
  DocumentEncoder(const Tokenizer& tokenizer, int32_t end) : tokenizer_(tokenizer), end_(end) {}

  void Encode(const TextDocument& document) {
    ids_.clear();
    mask_.clear();
    bool all = document.end_has_loss;
    for (const TextSegment& segment : document.segments) {
      tokenizer_.Encode(segment.text, {.parse_special = segment.special, .add_special = false}, scratch_, ids_);
      mask_.resize(ids_.size(), segment.loss ? 1 : 0);
      all &= segment.loss;
    }
    ids_.push_back(end_);
    mask_.push_back(document.end_has_loss ? 1 : 0);
    if (all) mask_.clear();
  }
  [[nodiscard]] std::span<const int32_t> ids() const { return ids_; }
  [[nodiscard]] std::span<const uint8_t> mask() const { return mask_; }

 private:
  const Tokenizer& tokenizer_;
  int32_t end_;
  Tokenizer::Scratch scratch_;
  std::vector<int32_t> ids_;
  std::vector<uint8_t> mask_;
};

// "train-00001-of-00004.tok", "train-00001-of-00004.2.tok", "val-00001.tok.part": names that only a build gives.
bool IsShardName(std::string_view name) {
  for (const std::string_view split : {"train-", "val-"}) {
    if (!name.starts_with(split)) continue;
    name.remove_prefix(split.size());
    const bool part = name.ends_with(".tok.part");
    if (!part && !name.ends_with(".tok")) return false;
    name.remove_suffix(part ? 9 : 4);
    if (const size_t of = name.find("-of-"); part ? of != name.npos : of == name.npos) return false;
    return name.find_first_not_of("0123456789-of.") == name.npos;
  }
  return false;
}

// "tokenizer-0123456789abcdef.json": see DataManifest::NewTokenizerName.
bool IsNewTokenizerName(std::string_view name) {
  constexpr std::string_view kBegin = "tokenizer-", kEnd = ".json";
  return name.size() == kBegin.size() + 16 + kEnd.size() && name.starts_with(kBegin) && name.ends_with(kEnd) &&
         name.substr(kBegin.size(), 16).find_first_not_of("0123456789abcdef") == name.npos;
}

// Removes the shards and tokenizers of builds that are no more: all but those of `kept`, which is in data.json. Best
// effort: they take only space.
void RemoveOldData(const std::string& folder, const std::optional<DataManifest>& kept) {
  std::set<std::string> listed;
  if (kept)
    for (const DataManifest::Shard& shard : kept->shards) listed.insert(shard.file);
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const std::string name = entry.path().filename().string();
        (IsShardName(name) || IsNewTokenizerName(name)) && !listed.contains(name))
      old.push_back(entry.path());
  for (const fs::path& path : old) ::unlink(path.c_str());
}

// The build that the folder holds, if any. Throws kUsage where it holds files of something else by names that a build
// gives to its own.
std::optional<DataManifest> EarlierBuild(const std::string& folder, const std::string& tokenizer_text) {
  const fs::path path(folder), data = path / "data.json", tokenizer = path / "tokenizer.json";
  const auto refuse = [](const fs::path& file, const std::string& what) {
    throw Error(ErrorCode::kUsage, StrCat(file.string(), ": ", what, ": choose another folder, or remove the file"));
  };
  std::optional<DataManifest> earlier;
  if (fs::exists(data)) {
    try {
      earlier = DataManifest::Load(folder);
    } catch (const Error& error) {
      refuse(data, StrCat("is of no earlier build that can be read (", error.what(), ")"));
    }
    if (const fs::path fresh = path / earlier->NewTokenizerName(); fs::exists(fresh))
      RenameDurably(fresh.string(), tokenizer.string());  // what a killed build did not come to
  }
  const std::string there = fs::exists(tokenizer) ? ReadFile(tokenizer.string()) : std::string();
  if (there == tokenizer_text) return earlier;
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json"})
    if (fs::exists(path / name)) refuse(path / name, "is of a model, which would get the tokenizer of the data");
  if (!there.empty() && (!earlier || Sha256Hex(there) != earlier->tokenizer_sha256))
    refuse(tokenizer, "is another tokenizer than the one given, and of no earlier build");
  return earlier;
}

// Puts a new build in place of an earlier one. The order makes the folder one of the two at any time.
void Replace(const std::string& folder, const std::string& tokenizer_text, SplitWriter& train, SplitWriter& val,
             DataManifest* manifest, const FileOps& ops) {
  const fs::path path(folder);
  const std::string tokenizer = (path / "tokenizer.json").string();
  const std::string fresh = (path / manifest->NewTokenizerName()).string();
  const bool exists = fs::exists(tokenizer), same = exists && ReadFile(tokenizer) == tokenizer_text;
  if (!same) WriteFileAtomic(exists ? fresh : tokenizer, tokenizer_text, ops);
  train.Publish(manifest);
  val.Publish(manifest);
  FsyncDir(folder, ops);
  const auto keep = [&] {
    train.Keep();
    val.Keep();
  };
  try {
    manifest->Save(folder, ops);
  } catch (...) {  // its name may be there, only not yet durable
    if (const std::string data = (path / "data.json").string(); fs::exists(data) && ReadFile(data) == manifest->Text())
      keep();
    throw;
  }
  keep();
  if (exists && !same) RenameDurably(fresh, tokenizer, ops);
  RemoveOldData(folder, *manifest);
}

void CheckOptions(const DataBuildOptions& options) {
  if (options.inputs.empty()) throw Error(ErrorCode::kUsage, "data build: no input files");
  if (!(options.val_fraction >= 0 && options.val_fraction < 1))
    throw Error(ErrorCode::kUsage, fmt::format("--val {}: must be at least 0 and below 1", options.val_fraction));
  if (options.shard_tokens < 1)
    throw Error(ErrorCode::kUsage, fmt::format("--shard-tokens {}: must be at least 1", options.shard_tokens));
  std::set<int> streams;
  for (const std::string& path : options.inputs)
    if (const auto stream = path == "-" ? 0 : OwnDescriptor(path); stream && !streams.insert(*stream).second)
      throw Error(ErrorCode::kUsage, fmt::format("data build: {}: is given twice and can be read once", path));
}

}  // namespace

bool IsValidation(const TextDocument& document, double fraction) {
  Sha256 hash;
  for (const TextSegment& segment : document.segments) hash.Update(segment.text);
  const Sha256Digest digest = hash.Finish();
  uint64_t first = 0;
  for (int i = 0; i < 8; ++i) first = first << 8 | digest[static_cast<size_t>(i)];
  return std::ldexp(static_cast<double>(first), -64) < fraction;
}

DataBuildResult BuildData(const DataBuildOptions& options) {
  CheckOptions(options);
  const std::string tokenizer_file = TokenizerPath(options.tokenizer);
  std::vector<std::string> warnings;
  const Tokenizer tokenizer = Tokenizer::Load(options.tokenizer, {.warnings = &warnings});
  if (options.warn) options.warn(warnings);
  const int32_t end = EndOfText(tokenizer, tokenizer_file);
  const FileOps& ops = *options.ops;

  DataBuildProgress progress;
  for (const std::string& path : options.inputs)  // all are opened first: a wrong name fails at once
    progress.bytes_total += TextInput(path, options.input).file_bytes();
  const std::string tokenizer_text = WholeTokenizerJson(options.tokenizer);
  if (Sha256::Of(tokenizer_text) != tokenizer.sha256())
    throw Error(ErrorCode::kData, tokenizer_file + ": is no tokenizer that is read, or changed while it was");
  const MadeFolder made(options.out);
  const FolderLock lock(options.out, "hydralm data build");
  RemoveStaleTemporaries(options.out);
  RemoveOldData(options.out, EarlierBuild(options.out, tokenizer_text));  // of a killed build

  DataBuildResult result;
  SplitWriter train(options, "train", tokenizer), val(options, "val", tokenizer);
  DocumentEncoder encoder(tokenizer, end);
  DomainNumbers domains;
  InputNotes notes;
  uint64_t bytes_before = 0;
  Pace pace(0.1);
  for (const std::string& path : options.inputs) {
    TextInput input(path, options.input);
    progress.file = path;
    TextDocument document;
    while (input.Next(&document)) {
      encoder.Encode(document);
      (IsValidation(document, options.val_fraction) ? val : train)
          .Add(encoder.ids(), encoder.mask(), domains.Of(document), document.bytes());
      progress.documents += 1;
      progress.tokens += static_cast<int64_t>(encoder.ids().size());
      progress.bytes_read = bytes_before + input.bytes_read();
      if (options.progress && pace.Due()) options.progress(progress);
    }
    bytes_before += input.file_bytes();
    result.skipped += input.skipped();
    result.mended += input.mended();
    notes.Add(input);
  }
  result.notes = notes.Lines(options.input);
  if (progress.documents == 0)
    throw Error(ErrorCode::kData, fmt::format("{}{}: no document with text: the corpus is empty", options.inputs[0],
                                              options.inputs.size() > 1 ? " and the others" : ""));
  if (train.documents() == 0)
    throw Error(
        ErrorCode::kData,
        fmt::format("--val {}: all {} documents fall into the validation split: must be lower, or give more documents",
                    options.val_fraction, val.documents()));
  train.FinishShard();
  val.FinishShard();

  DataManifest& manifest = result.manifest;
  manifest.tokenizer_sha256 = Hex(tokenizer.sha256());
  manifest.vocab_size = tokenizer.vocab_size();
  manifest.eos_id = end;
  manifest.val_fraction = options.val_fraction;
  manifest.domains = domains.names();
  Replace(options.out, tokenizer_text, train, val, &manifest, ops);
  if (options.progress) {
    progress.bytes_read = progress.bytes_total;
    options.progress(progress);
  }
  return result;
}

std::vector<std::string> CheckData(const std::string& folder, const std::string& tokenizer_sha256) {
  CheckDataFolder(folder);
  const std::string manifest_path = (fs::path(folder) / "data.json").string();
  std::vector<std::string> problems;
  const auto attempt = [&](const auto& check) {
    try {
      check();
    } catch (const Error& e) {
      problems.emplace_back(e.what());
    }
  };
  std::optional<DataManifest> manifest;
  attempt([&] { manifest = DataManifest::Load(folder); });
  if (!manifest) return problems;

  attempt([&] {
    const std::string path = manifest->TokenizerPath(folder);
    const std::string sha = Sha256Hex(ReadFile(path));
    if (sha != manifest->tokenizer_sha256)
      problems.push_back(fmt::format("{}: SHA-256 {}: data.json says {}", path, sha, manifest->tokenizer_sha256));
    const int vocab = Tokenizer::Load(path).vocab_size();
    if (vocab != manifest->vocab_size)
      problems.push_back(
          fmt::format("{}: {} tokens: data.json says vocab_size = {}", path, vocab, manifest->vocab_size));
  });
  if (!tokenizer_sha256.empty() && tokenizer_sha256 != manifest->tokenizer_sha256)
    problems.push_back(fmt::format("{}: tokenizer_sha256 = {}: the tokenizer given has {}", manifest_path,
                                   manifest->tokenizer_sha256, tokenizer_sha256));
  for (const DataManifest::Shard& row : manifest->shards) {
    attempt([&] {
      const TokenShard shard = TokenShard::Open((fs::path(folder) / row.file).string());
      CheckShard(shard, row, *manifest);
      shard.Verify();
      std::vector<int32_t> last(1);
      for (int64_t doc = 0; doc < shard.n_docs(); ++doc) {
        shard.Read(shard.DocEnd(doc) - 1, last);
        if (last[0] != manifest->eos_id)
          throw Error(ErrorCode::kFormat, fmt::format("{}: document {} ends with token {}: must be the end of text, {}",
                                                      shard.path(), doc, last[0], manifest->eos_id));
      }
    });
  }
  return problems;
}

}  // namespace hydra
