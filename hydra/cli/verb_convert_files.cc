// SPDX-License-Identifier: Apache-2.0
// Tokenizer files of converted models.
#include "hydra/cli/verb_convert_files.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/model/gguf_model.h"
#include "hydra/text/tokenizer_gguf.h"

namespace hydra::cli {
namespace {

namespace fs = std::filesystem;

// Files of a model folder that are about text, not weights.
constexpr const char* kTextFiles[] = {"tokenizer.json",    "tokenizer_config.json",  "special_tokens_map.json",
                                      "added_tokens.json", "generation_config.json", "chat_template.jinja",
                                      "chat_template.json"};

std::string HomeOf(const std::string& path) {
  return fs::is_directory(path) ? path : fs::path(path).parent_path().string();
}

Error PreOfFolder(const std::string& path, const std::string& pre) {
  return {ErrorCode::kUsage,
          StrCat("--pre ", pre, ": ", path, " is no GGUF file: its tokenizer.json says the steps itself")};
}

// Throws where the name is unknown or the file has no use for it.
void CheckPre(const GgufFile& file, const std::string& pre) {
  if (file.Find("tokenizer.ggml.model") == nullptr)
    throw Error(ErrorCode::kUsage, StrCat("--pre ", pre, ": ", file.path(), " has no tokenizer"));
  (void)ReadGgufTokenizer(file, pre);
}

}  // namespace

void CheckTarget(const std::string& source, const std::string& target) {
  std::error_code ignored;
  if (fs::exists(target) && fs::equivalent(source, target, ignored))
    throw Error(ErrorCode::kUsage, StrCat("-o ", target, ": is the source: choose another name"));
}

std::function<void(GgufMetadata&)> TokenizerKeys(const WeightSource& source, const std::string& pre) {
  if (GgufFile::IsGguf(source.path)) {
    if (!pre.empty()) CheckPre(GgufFile::Open(source.path), pre);
    return [path = source.path, pre](GgufMetadata& metadata) {
      const GgufFile file = GgufFile::Open(path);
      for (const GgufEntry& entry : file.entries())
        if (entry.key.starts_with("tokenizer.") || entry.key == "hydralm.chat_template" || entry.key == "general.name")
          metadata.Set(entry);
      if (pre.empty()) return;
      metadata.Remove("tokenizer.huggingface.json");  // the tokenizer of the name that counted before
      metadata.SetText("tokenizer.ggml.pre", pre);
    };
  }
  if (!pre.empty()) throw PreOfFolder(source.path, pre);
  const std::string home = HomeOf(source.path);
  if (!fs::exists(fs::path(home) / "tokenizer.json")) return {};
  const ModelConfig& config = source.config;
  return [home, model = ModelTokens{.vocab_size = config.vocab_size,
                                    .bos = config.bos_token_id,
                                    .pad = config.pad_token_id,
                                    .eos = config.EosTokenIds()}](GgufMetadata& metadata) {
    SetGgufTokenizer(home, model, &metadata);
  };
}

void WriteTokenizerFiles(const WeightSource& source, const std::string& folder, const std::string& pre) {
  const fs::path to(folder);
  if (GgufFile::IsGguf(source.path)) {
    const GgufFile file = GgufFile::Open(source.path);
    if (!pre.empty()) CheckPre(file, pre);
    if (file.Find("tokenizer.ggml.model") == nullptr) return;
    const GgufTokenizer tokenizer = ReadGgufTokenizer(file, pre);
    for (const std::string& warning : tokenizer.file.warnings)
      std::fprintf(stderr, "hydralm: warning: %s\n", warning.c_str());
    const std::string text = TokenizerJson(tokenizer), config = TokenizerConfigJsonOfGguf(file);
    MakeDirs(folder);
    WriteFileAtomic((to / "tokenizer.json").string(), text);
    WriteFileAtomic((to / "tokenizer_config.json").string(), config);
    return;
  }
  if (!pre.empty()) throw PreOfFolder(source.path, pre);
  MakeDirs(folder);
  for (const char* name : kTextFiles)
    if (const fs::path from = fs::path(HomeOf(source.path)) / name; fs::exists(from))
      WriteFileAtomic((to / name).string(), ReadFile(from.string()));
}

std::vector<TensorChange> WorstChanges(const ConvertReport& report, size_t n) {
  std::vector<TensorChange> all = report.changes;
  std::stable_sort(all.begin(), all.end(),
                   [](const TensorChange& a, const TensorChange& b) { return a.error > b.error; });
  all.resize(std::min(all.size(), n));
  return all;
}

}  // namespace hydra::cli
