// SPDX-License-Identifier: Apache-2.0
// data.json and the documents of a split over its shards.
#include "hydra/data/token_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "hydra/io/json.h"

namespace hydra {
namespace {

constexpr uint64_t kMaxManifest = uint64_t{64} << 20;

std::string ManifestPath(const std::string& folder) { return (std::filesystem::path(folder) / "data.json").string(); }

// A JSON object whose keys must all be known and all be there.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) Bad(where_, "must be an object");
  }
  template <class T>
  void Read(const char* name, T* out) {
    ReadJson(Get(name), Path(name), out);
  }
  // A whole number of [0, 2^40]: sums over as many shards as a manifest can list fit 63 bits.
  void ReadCount(const char* name, int64_t* out) {
    Read(name, out);
    if (*out < 0 || *out > int64_t{1} << 40) Bad(Path(name), fmt::format("{}: must be 0 to 2^40", *out));
  }
  const Json& Get(const char* name) {
    known_.insert(name);
    const auto it = object_.find(name);
    if (it == object_.end()) Bad(Path(name), "is missing");
    return *it;
  }
  std::string Path(const char* name) const { return StrCat(where_, ": ", name); }
  void NoOthers() const {
    for (const auto& [name, value] : object_.items())
      if (!known_.contains(name)) Bad(where_, fmt::format("unknown key \"{}\"{}", name, DidYouMean(name, known_)));
  }
  [[noreturn]] static void Bad(const std::string& field, const std::string& rule) {
    throw Error(ErrorCode::kFormat, StrCat(OneLine(field), ": ", OneLine(rule)));
  }

 private:
  const Json& object_;
  std::string where_;
  std::set<std::string> known_;
};

void ReadCounts(Fields& fields, SplitCounts* counts) {
  fields.ReadCount("documents", &counts->documents);
  fields.ReadCount("tokens", &counts->tokens);
  fields.ReadCount("text_bytes", &counts->text_bytes);
}

Json CountsJson(const SplitCounts& counts) {
  return {{"documents", counts.documents}, {"tokens", counts.tokens}, {"text_bytes", counts.text_bytes}};
}

}  // namespace

void CheckDataFolder(const std::string& folder) {
  std::error_code ignored;
  const auto refuse = [&](const char* what) {
    throw Error(ErrorCode::kIo, fmt::format("{}: {}: give a folder that hydralm data build made",
                                            folder.empty() ? "\"\"" : folder, what));
  };
  if (!std::filesystem::exists(folder, ignored)) refuse("no such folder");
  if (!std::filesystem::is_directory(folder, ignored)) refuse("is no folder");
  if (!std::filesystem::exists(ManifestPath(folder), ignored)) refuse("has no data.json");
}

DataManifest DataManifest::Load(const std::string& folder) {
  CheckDataFolder(folder);
  const std::string path = ManifestPath(folder);
  const Json json = ParseJson(MappedFile(path, kMaxManifest).text(), path);
  DataManifest manifest;
  Fields top(json, path);
  std::string format;
  int64_t version = 0;
  top.Read("format", &format);
  if (format != "hydralm-data")
    Fields::Bad(top.Path("format"), fmt::format("\"{}\": must be \"hydralm-data\"", format));
  top.Read("version", &version);
  if (version != 1) Fields::Bad(top.Path("version"), fmt::format("{}: must be 1", version));
  top.Read("tokenizer_sha256", &manifest.tokenizer_sha256);
  if (manifest.tokenizer_sha256.size() != 64 ||
      manifest.tokenizer_sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
    Fields::Bad(top.Path("tokenizer_sha256"), "must be 64 hexadecimal digits");
  top.ReadCount("vocab_size", &manifest.vocab_size);
  top.ReadCount("eos_id", &manifest.eos_id);
  if (manifest.eos_id >= manifest.vocab_size)
    Fields::Bad(top.Path("eos_id"),
                fmt::format("{}: must be below vocab_size = {}", manifest.eos_id, manifest.vocab_size));
  top.Read("val_fraction", &manifest.val_fraction);
  if (!(manifest.val_fraction >= 0 && manifest.val_fraction <= 1))
    Fields::Bad(top.Path("val_fraction"), fmt::format("{}: must be 0 to 1", manifest.val_fraction));

  if (json.contains("domains")) top.Read("domains", &manifest.domains);
  if (std::set<std::string>(manifest.domains.begin(), manifest.domains.end()).size() != manifest.domains.size())
    Fields::Bad(top.Path("domains"), "a name is there twice");

  const Json& shards = top.Get("shards");
  if (!shards.is_array()) Fields::Bad(top.Path("shards"), "must be a list");
  std::set<std::string> files;
  for (size_t i = 0; i < shards.size(); ++i) {
    Fields fields(shards[i], fmt::format("{}: shards[{}]", path, i));
    Shard& shard = manifest.shards.emplace_back();
    fields.Read("file", &shard.file);
    if (!IsPlainFileName(shard.file))
      Fields::Bad(fields.Path("file"),
                  fmt::format("\"{}\": must be a plain file name in the same folder", shard.file.substr(0, 256)));
    if (!files.insert(shard.file).second)
      Fields::Bad(fields.Path("file"), fmt::format("{}: is there twice", shard.file));
    fields.Read("split", &shard.split);
    if (shard.split != "train" && shard.split != "val")
      Fields::Bad(fields.Path("split"), fmt::format("\"{}\": must be train or val", shard.split.substr(0, 256)));
    ReadCounts(fields, &shard.counts);
    fields.NoOthers();
  }
  // Sums repeat what the shards say; a person reads them, and they must not lie.
  for (const char* split : {"train", "val"}) {
    Fields fields(top.Get(split), top.Path(split));
    SplitCounts said;
    ReadCounts(fields, &said);
    fields.NoOthers();
    const SplitCounts sum = manifest.Totals(split);
    if (said.documents != sum.documents || said.tokens != sum.tokens || said.text_bytes != sum.text_bytes)
      Fields::Bad(top.Path(split),
                  fmt::format("{} documents, {} tokens, {} bytes: the shards have {}, {}, {}", said.documents,
                              said.tokens, said.text_bytes, sum.documents, sum.tokens, sum.text_bytes));
  }
  top.NoOthers();
  return manifest;
}

void DataManifest::Save(const std::string& folder, const FileOps& ops) const {
  WriteFileAtomic(ManifestPath(folder), Text(), ops);
}

std::string DataManifest::Text() const {
  Json list = Json::array();
  for (const Shard& shard : shards) {
    Json row = {{"file", shard.file}, {"split", shard.split}};
    row.update(CountsJson(shard.counts));
    list.push_back(row);
  }
  Json json = {{"format", "hydralm-data"}, {"version", 1},     {"tokenizer_sha256", tokenizer_sha256},
               {"vocab_size", vocab_size}, {"eos_id", eos_id}, {"val_fraction", val_fraction}};
  if (!domains.empty()) json["domains"] = domains;
  json["train"] = CountsJson(Totals("train"));
  json["val"] = CountsJson(Totals("val"));
  json["shards"] = list;
  return json.dump(2) + "\n";
}

SplitCounts DataManifest::Totals(std::string_view split) const {
  SplitCounts sum;
  for (const Shard& shard : shards) {
    if (shard.split != split) continue;
    sum.documents += shard.counts.documents;
    sum.tokens += shard.counts.tokens;
    sum.text_bytes += shard.counts.text_bytes;
  }
  return sum;
}

std::string DataManifest::NewTokenizerName() const {
  return fmt::format("tokenizer-{}.json", tokenizer_sha256.substr(0, 16));
}

std::string DataManifest::TokenizerPath(const std::string& folder) const {
  const std::filesystem::path path(folder);
  std::error_code ignored;
  const std::filesystem::path fresh = path / NewTokenizerName();
  return (std::filesystem::exists(fresh, ignored) ? fresh : path / "tokenizer.json").string();
}

void CheckShard(const TokenShard& shard, const DataManifest::Shard& row, const DataManifest& manifest) {
  const auto differ = [&](const char* field, const std::string& found, const std::string& said) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {} = {}: data.json says {}", shard.path(), field, found, said));
  };
  const std::string sha = Hex(shard.header().tokenizer);
  if (sha != manifest.tokenizer_sha256) differ("tokenizer SHA-256", sha, manifest.tokenizer_sha256);
  if (shard.header().vocab_size != manifest.vocab_size)
    differ("vocab_size", std::to_string(shard.header().vocab_size), std::to_string(manifest.vocab_size));
  for (int64_t doc = 0; shard.header().has_domains && doc < shard.n_docs(); ++doc)
    if (shard.Domain(doc) >= static_cast<int>(manifest.domains.size()))
      throw Error(ErrorCode::kFormat, fmt::format("{}: domains[{}] = {}: data.json has {} domains", shard.path(), doc,
                                                  shard.Domain(doc), manifest.domains.size()));
  if (shard.n_docs() != row.counts.documents)
    differ("n_docs", std::to_string(shard.n_docs()), std::to_string(row.counts.documents));
  if (shard.n_tokens() != row.counts.tokens)
    differ("n_tokens", std::to_string(shard.n_tokens()), std::to_string(row.counts.tokens));
}

TokenDataset TokenDataset::Open(const std::string& folder, const std::string& split) { return Open(folder, split, {}); }

TokenDataset TokenDataset::Open(const std::string& folder, const std::string& split, const Expect& expect) {
  HYDRA_CHECK(split == "train" || split == "val", "split ", split);
  TokenDataset data;
  data.folder_ = folder;
  data.manifest_ = DataManifest::Load(folder);
  const DataManifest& manifest = data.manifest_;
  const std::string where = ManifestPath(folder);
  if (!expect.tokenizer_sha256.empty() && expect.tokenizer_sha256 != manifest.tokenizer_sha256)
    throw Error(ErrorCode::kData,
                fmt::format("{}: tokenizer_sha256 = {}...: the tokenizer in use has {}...: build the data with it",
                            where, manifest.tokenizer_sha256.substr(0, 12), expect.tokenizer_sha256.substr(0, 12)));
  if (expect.vocab_size > 0 && expect.vocab_size < manifest.vocab_size)
    throw Error(ErrorCode::kData, fmt::format("{}: vocab_size = {}: the model's is {}, which must be at least as large",
                                              where, manifest.vocab_size, expect.vocab_size));
  for (const DataManifest::Shard& row : manifest.shards) {
    if (row.split != split) continue;
    const TokenShard& shard =
        data.shards_.emplace_back(TokenShard::Open((std::filesystem::path(folder) / row.file).string()));
    CheckShard(shard, row, manifest);
    data.first_doc_.push_back(data.counts_.documents);
    data.counts_.documents += row.counts.documents;
    data.counts_.tokens += row.counts.tokens;
    data.counts_.text_bytes += row.counts.text_bytes;
  }
  return data;
}

bool TokenDataset::has_mask() const {
  return std::ranges::any_of(shards_, [](const TokenShard& shard) { return shard.header().has_mask; });
}

TokenDataset::Place TokenDataset::Find(int64_t doc, int64_t begin, size_t n) const {
  HYDRA_CHECK(doc >= 0 && doc < n_docs(), "document ", doc, " of ", n_docs());
  const auto after = std::ranges::upper_bound(first_doc_, doc);  // an empty shard shares its first document: skipped
  const auto i = static_cast<size_t>(after - first_doc_.begin()) - 1;
  const int64_t local = doc - first_doc_[i];
  const int64_t doc_begin = shards_[i].DocBegin(local), doc_end = shards_[i].DocEnd(local);
  HYDRA_CHECK(begin >= 0 && begin <= doc_end - doc_begin && n <= static_cast<size_t>(doc_end - doc_begin - begin),
              "tokens [", begin, ", +", n, ") of document ", doc, ", which has ", doc_end - doc_begin);
  return {&shards_[i], doc_begin + begin, doc_end};
}

int64_t TokenDataset::DocLength(int64_t doc) const {
  const Place place = Find(doc, 0, 0);
  return place.end - place.begin;
}

void TokenDataset::Read(int64_t doc, int64_t begin, std::span<int32_t> out) const {
  const Place place = Find(doc, begin, out.size());
  place.shard->Read(place.begin, out);
}

void TokenDataset::Read(int64_t doc, int64_t begin, std::span<int64_t> out) const {
  const Place place = Find(doc, begin, out.size());
  place.shard->Read(place.begin, out);
}

void TokenDataset::ReadMask(int64_t doc, int64_t begin, std::span<uint8_t> out) const {
  const Place place = Find(doc, begin, out.size());
  place.shard->ReadMask(place.begin, out);
}

int TokenDataset::Domain(int64_t doc) const {
  HYDRA_CHECK(doc >= 0 && doc < n_docs(), "document ", doc, " of ", n_docs());
  const auto shard = static_cast<size_t>(std::ranges::upper_bound(first_doc_, doc) - first_doc_.begin() - 1);
  return shards_[shard].Domain(doc - first_doc_[shard]);
}

std::vector<int32_t> TokenDataset::Document(int64_t doc) const {
  std::vector<int32_t> ids(static_cast<size_t>(DocLength(doc)));
  Read(doc, 0, ids);
  return ids;
}

void TokenDataset::Verify() const {
  for (const TokenShard& shard : shards_) shard.Verify();
}

}  // namespace hydra
