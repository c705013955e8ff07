// SPDX-License-Identifier: Apache-2.0
// Sources and targets of conversions, and the tokenizer files between them.
#include "hydra/cli/verb_convert_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/model/gguf_model.h"
#include "hydra/text/sentencepiece_file.h"
#include "hydra/text/tokenizer_folder.h"
#include "hydra/text/tokenizer_gguf.h"

namespace hydra::cli {
namespace {

namespace fs = std::filesystem;

fs::path HomeOf(const std::string& path) {
  if (fs::is_directory(path)) return path;
  const fs::path home = fs::path(path).parent_path();
  return home.empty() ? fs::path(".") : home;
}

Error PreOfFolder(const std::string& path, const std::string& pre) {
  return {ErrorCode::kUsage,
          StrCat("--pre ", pre, ": ", path, " is no GGUF file: its tokenizer says the steps itself")};
}

// Whether a GGUF file has a tokenizer; throws for a --pre that then says nothing.
bool HasTokenizer(const GgufFile& file, const std::string& pre) {
  if (file.Find("tokenizer.ggml.model") != nullptr) return true;
  if (!pre.empty()) throw Error(ErrorCode::kUsage, StrCat("--pre ", pre, ": ", file.path(), " has no tokenizer"));
  return false;
}

bool Same(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  return fs::equivalent(a, b, ignored);
}

void CheckTarget(const std::string& source, const std::string& target, TargetKind kind) {
  const auto refuse = [&](const char* rule) { throw Error(ErrorCode::kUsage, StrCat("-o ", target, ": ", rule)); };
  if (target.empty())
    throw Error(ErrorCode::kUsage, StrCat("-o: needs the name of a ",
                                          kind == TargetKind::kGguf ? ".gguf file" : "folder", ": it is empty"));
  if (!fs::exists(target)) return;
  const bool of_folder = fs::is_directory(source) || !GgufFile::IsGguf(source);  // else the folder is not its own
  if (Same(source, target) || (of_folder && Same(HomeOf(source), target))) refuse("is the source: choose another name");
  if (kind == TargetKind::kFolder) {
    if (!fs::is_directory(target)) refuse("is no folder: choose another name");
    return;
  }
  if (fs::is_directory(target)) refuse("is a folder: a .gguf file goes there, so choose another name");
  if (!fs::is_regular_file(target)) refuse("is no regular file: choose another name");
  if (fs::file_size(target) > 0 && !GgufFile::IsGguf(target)) refuse("is another kind of file: choose another name");
}

// Sets a GGUF file's tokenizer keys from those of another GGUF file or from a model folder.
void SetTokenizer(const WeightSource& source, const std::string& pre, GgufMetadata* metadata) {
  if (GgufFile::IsGguf(source.path)) {
    const GgufFile file = GgufFile::Open(source.path);
    if (HasTokenizer(file, pre) && !pre.empty()) (void)ReadGgufTokenizer(file, pre);  // throws for an unknown name
    for (const GgufEntry& entry : file.entries())
      if (entry.key.starts_with("tokenizer.") || entry.key.starts_with("hydralm.")) metadata->Set(entry);
    if (pre.empty()) return;
    metadata->Remove("tokenizer.huggingface.json");  // the tokenizer of the name that counted before
    metadata->SetText("tokenizer.ggml.pre", pre);
    return;
  }
  if (!pre.empty()) throw PreOfFolder(source.path, pre);
  const fs::path home = HomeOf(source.path);
  if (!HasTokenizerFile(home.string())) return;
  const ModelConfig& config = source.config;
  SetGgufTokenizer(home.string(),
                   {.vocab_size = config.vocab_size,
                    .bos = config.bos_token_id,
                    .pad = config.pad_token_id,
                    .eos = config.EosTokenIds()},
                   metadata);
}

void WriteTokenizerFiles(const WeightSource& source, const fs::path& to, const std::string& pre) {
  if (GgufFile::IsGguf(source.path)) {
    const GgufFile file = GgufFile::Open(source.path);
    if (!HasTokenizer(file, pre)) return;
    const GgufTokenizer tokenizer = ReadGgufTokenizer(file, pre);
    PrintWarnings(tokenizer.file.warnings);
    const std::string text = TokenizerJson(tokenizer), config = TokenizerConfigJsonOfGguf(file);
    WriteFileAtomic((to / "tokenizer.json").string(), text);
    WriteFileAtomic((to / "tokenizer_config.json").string(), config);
    if (const auto pieces = SentencePieceOfGguf(file))
      WriteFileAtomic((to / "tokenizer.model").string(), SentencePieceBytes(*pieces));
    return;
  }
  if (!pre.empty()) throw PreOfFolder(source.path, pre);
  const fs::path home = HomeOf(source.path);
  for (const char* name : kModelTextFiles)
    if (const fs::path from = home / name; fs::exists(from))
      WriteFileAtomic((to / name).string(), ReadFile(from.string()));
  if (fs::exists(home / "tokenizer.model") && !fs::exists(home / "tokenizer.json"))
    WriteFileAtomic((to / "tokenizer.json").string(), WholeTokenizerJson(home.string()));
}

}  // namespace

void RefuseFileName(const std::string& target) {
  static const std::set<std::string> kEndings{
      ".txt",  ".json", ".jsonl", ".md",  ".csv", ".log", ".bin", ".safetensors", ".npy",  ".npz",  ".pt",  ".pth",
      ".ckpt", ".onnx", ".ggml",  ".tok", ".zip", ".tar", ".gz",  ".zst",         ".toml", ".yaml", ".yml", ".state"};
  if (kEndings.contains(fs::path(target).extension().string()) && !fs::is_directory(target))
    throw Error(ErrorCode::kUsage, StrCat("-o ", target,
                                          ": is the name of a file, and a folder would be made: give a folder's or a "
                                          ".gguf file's name, or --to hf"));
}

WeightSource OpenSource(const std::string& source, const std::string& target, TargetKind kind, OpenFn open) {
  CheckTarget(source, target, kind);
  std::vector<std::string> warnings;
  WeightSource opened = open(source, &warnings);
  PrintWarnings(warnings);
  // From here on a signal ends the work between two tensors, so that the folder or file under way is taken away.
  InstallStopSignals();
  opened.tensor = [read = std::move(opened.tensor)](const TensorSpec& spec) {
    ThrowIfStopped();
    return read(spec);
  };
  return opened;
}

ConvertReport WriteGgufModel(const WeightSource& source, const std::string& target, const TypeOfTensor& type_of,
                             const std::string& pre) {
  return WriteModelGguf(source, target, type_of, [&](GgufMetadata& metadata) { SetTokenizer(source, pre, &metadata); });
}

ConvertReport WriteFolderModel(const WeightSource& source, const std::string& target, std::optional<DType> dtype,
                               int64_t shard_bytes, const std::string& pre) {
  return WriteModelFolder(source, target, dtype, shard_bytes,
                          [&](const std::string& folder) { WriteTokenizerFiles(source, folder, pre); });
}

std::optional<Tokenizer> TokenizerOf(const std::string& model, const std::string& pre) {
  if (GgufFile::IsGguf(model)) {
    const GgufFile file = GgufFile::Open(model);
    if (file.Find("tokenizer.ggml.model") == nullptr) return std::nullopt;
    return Tokenizer::FromGguf(file, {.pre = pre});
  }
  const fs::path home = HomeOf(model);
  if (!HasTokenizerFile(home.string())) return std::nullopt;
  return Tokenizer::Load(home.string());
}

nlohmann::ordered_json ReportJson(const std::string& target, const ConvertReport& report) {
  return {{"file", target}, {"bytes_before", report.bytes_before}, {"bytes_after", report.bytes_after}};
}

std::string BytesText(const ConvertReport& report) {
  return fmt::format("{} -> {} bytes", WithCommas(static_cast<uint64_t>(report.bytes_before)),
                     WithCommas(static_cast<uint64_t>(report.bytes_after)));
}

}  // namespace hydra::cli
