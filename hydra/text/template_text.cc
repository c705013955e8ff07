// SPDX-License-Identifier: Apache-2.0
// Where chat templates are kept: three files of a model folder, keys of a GGUF file.
#include "hydra/text/template_text.h"

#include <filesystem>

#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxTemplateBytes = uint64_t{16} << 20;
constexpr std::string_view kGgufTemplate = "tokenizer.chat_template";

Json ReadTemplateFile(const fs::path& path) {
  return fs::exists(path) ? ParseJson(MappedFile(path.string(), kMaxTemplateBytes).text(), path.string()) : Json();
}

std::string TextOf(const Json& object, const char* key) {
  return object.is_object() && object.contains(key) && object[key].is_string() ? object[key].get<std::string>()
                                                                               : std::string();
}

// Of several templates the one named "default" is for plain conversations, or the only one.
void Choose(std::vector<std::pair<std::string, std::string>> named, TemplateTexts* out) {
  for (auto& [name, text] : named) {
    if (out->text.empty() && (name == "default" || named.size() == 1)) {
      out->text = std::move(text);
    } else if (name != "default") {
      out->others.emplace_back(std::move(name), std::move(text));
    }
  }
}

// What the key "chat_template" of a JSON file says.
void ReadValue(const Json& object, TemplateTexts* out) {
  if (!object.is_object() || !object.contains("chat_template")) return;
  const Json& value = object["chat_template"];
  if (value.is_string()) out->text = value.get<std::string>();
  std::vector<std::pair<std::string, std::string>> named;
  if (value.is_array()) {
    for (const Json& entry : value) named.emplace_back(TextOf(entry, "name"), TextOf(entry, "template"));
  } else if (value.is_object()) {
    for (const auto& [name, text] : value.items()) named.emplace_back(name, TextOf(value, name.c_str()));
  }
  Choose(std::move(named), out);
}

// The named special tokens of tokenizer_config.json, or, where that lacks one, of special_tokens_map.json: a text or an
// object with "content".
void ReadNamedTokens(const Json& config, const Json& map, TemplateTexts* out) {
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
    for (const Json* object : {&config, &map}) {
      if (!object->is_object() || !object->contains(key)) continue;
      const Json& value = (*object)[key];
      const std::string text = value.is_string() ? value.get<std::string>() : TextOf(value, "content");
      if (!text.empty()) out->tokens.emplace_back(key, text);
      break;
    }
}

// Those that a GGUF file names by their ids.
void ReadNamedTokens(const GgufFile& file, TemplateTexts* out) {
  constexpr std::pair<const char*, const char*> kKeys[] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                                                           {"eos_token", "tokenizer.ggml.eos_token_id"},
                                                           {"unk_token", "tokenizer.ggml.unknown_token_id"},
                                                           {"sep_token", "tokenizer.ggml.seperator_token_id"},
                                                           {"pad_token", "tokenizer.ggml.padding_token_id"}};
  if (file.Find("tokenizer.ggml.tokens") == nullptr) return;
  for (const auto& [name, key] : kKeys) {
    const auto id = file.FindInt(key);
    if (!id || *id < 0) continue;
    file.ForEachText("tokenizer.ggml.tokens", [&, name = name](size_t i, std::string_view text) {
      if (i == static_cast<size_t>(*id)) out->tokens.emplace_back(name, text);
    });
  }
}

}  // namespace

TemplateTexts ReadTemplateTexts(const GgufFile& file) {
  TemplateTexts out;
  ReadNamedTokens(file, &out);
  out.chosen = file.FindText("hydralm.chat_template").value_or("");
  out.text = file.FindText(kGgufTemplate).value_or("");
  std::vector<std::pair<std::string, std::string>> named;
  for (const GgufEntry& entry : file.entries())
    if (entry.key.size() > kGgufTemplate.size() + 1 && entry.key.starts_with(kGgufTemplate) &&
        entry.key[kGgufTemplate.size()] == '.')
      named.emplace_back(entry.key.substr(kGgufTemplate.size() + 1), file.Text(entry.key));
  Choose(std::move(named), &out);
  return out;
}

TemplateTexts ReadTemplateTexts(const std::string& path) {
  if (!fs::is_directory(path) && GgufFile::IsGguf(path)) return ReadTemplateTexts(GgufFile::Open(path));
  const fs::path folder = fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path();
  TemplateTexts out;
  const Json config = ReadTemplateFile(folder / "tokenizer_config.json");
  out.chosen = TextOf(config, "hydralm_chat_template");
  if (const fs::path own = folder / "chat_template.jinja"; fs::exists(own))
    out.text = ReadFile(own.string(), kMaxTemplateBytes);
  if (out.text.empty()) ReadValue(ReadTemplateFile(folder / "chat_template.json"), &out);
  if (out.text.empty()) ReadValue(config, &out);
  ReadNamedTokens(config, ReadTemplateFile(folder / "special_tokens_map.json"), &out);
  return out;
}

std::string AsJinjaReads(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out.push_back(text[i] == '\r' ? '\n' : text[i]);
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

}  // namespace hydra
