// SPDX-License-Identifier: Apache-2.0
// The forms, how one is chosen, and how each is written.
#include "hydra/text/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/gguf.h"
#include "hydra/model/config.h"
#include "hydra/text/template_text.h"

namespace hydra {
namespace {

struct FormInfo {
  ChatForm form;
  const char* name;
  std::vector<const char*> markers;  // tokens of the vocabulary; where there are none, it tells nothing
  std::vector<const char*> ends;     // tokens that end an answer, where the vocabulary has them
};

// MiniCPM's user marker, U+7528 U+6237 in angle brackets.
constexpr const char* kMinicpmUser = "<\xE7\x94\xA8\xE6\x88\xB7>";

const std::array<FormInfo, 5>& Forms() {
  static const std::array<FormInfo, 5> forms{{
      {ChatForm::kChatml, "chatml", {"<|im_start|>", "<|im_end|>"}, {"<|im_end|>"}},
      {ChatForm::kLlama2, "llama2", {}, {}},
      {ChatForm::kLlama3,
       "llama3",
       {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
       {"<|eot_id|>", "<|eom_id|>"}},
      {ChatForm::kMinicpm, "minicpm", {kMinicpmUser, "<AI>"}, {}},
      {ChatForm::kPlain, "plain", {}, {}},
  }};
  return forms;
}
const FormInfo& Of(ChatForm form) { return Forms()[static_cast<size_t>(form)]; }

// Published vocabularies of this form spell its markers with several tokens; the others cannot do without theirs.
bool MarkersMayBeText(ChatForm form) { return form == ChatForm::kMinicpm; }

constexpr const char* kNames = "chatml|llama2|llama3|minicpm|plain";

const FormInfo* ByName(std::string_view name) {
  const auto it = std::ranges::find(Forms(), name, [](const FormInfo& f) { return std::string_view(f.name); });
  return it == Forms().end() ? nullptr : &*it;
}

struct KnownText {
  const char* sha256;
  ChatForm form;
  const char* default_system;
};
// clang-format off
constexpr KnownText kKnownTexts[] = {
    // SmolLM2-Instruct
    {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
     ChatForm::kChatml, "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    // ChatML as most write it
    {"fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e",
     ChatForm::kChatml, ""},
    // the same, line ends inside
    {"153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3",
     ChatForm::kChatml, ""},
    // Qwen2-Instruct
    {"793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb",
     ChatForm::kChatml, "You are a helpful assistant."},
    // Llama-3-Instruct
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122",
     ChatForm::kLlama3, ""},
    // Llama-3-Instruct, first release
    {"b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2",
     ChatForm::kLlama3, ""},
    // MiniCPM
    {"ae9b050c5a5b0295cb09269e67bf832fa08675dd845c7b3ea4c2130bcacc5c26",
     ChatForm::kMinicpm, ""},
    // Qwen2.5-Instruct
    {"cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f",
     ChatForm::kChatml, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
};
// clang-format on

const char* MissingMarker(const FormInfo& form, const Tokenizer& tokenizer) {
  for (const char* marker : form.markers)
    if (!tokenizer.TokenId(marker)) return marker;
  return nullptr;
}

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n\v\f");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n\v\f") + 1 - begin);
}

// Collects text and markers; neighbouring text is encoded as one, as it would be in the rendered template.
class Writer {
 public:
  explicit Writer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  Writer& Text(std::string_view text) {
    text_ += text;
    return *this;
  }
  Writer& Marker(const char* marker) {
    const auto id = tokenizer_.TokenId(marker);
    HYDRA_CHECK(id.has_value(), marker, " was a token when the template was chosen");
    return Id(*id);
  }
  Writer& Id(std::optional<int32_t> id) {  // none: nothing
    Flush();
    if (id) ids_.push_back(*id);
    return *this;
  }
  // What follows is another text, whatever it is.
  void Flush() {
    if (!text_.empty()) tokenizer_.Encode(text_, {.parse_special = false, .continues = goes_on_}, scratch_, ids_);
    text_.clear();
  }
  // What follows goes on behind what is there, in tokens of its own.
  void GoOn() {
    Flush();
    goes_on_ = true;
  }
  std::vector<int32_t> Finish() {
    Flush();
    return std::move(ids_);
  }

 private:
  const Tokenizer& tokenizer_;
  Tokenizer::Scratch scratch_;
  std::string text_;
  bool goes_on_ = false;
  std::vector<int32_t> ids_;
};

using Messages = std::vector<ChatMessage>;

// <|im_start|>ROLE\nCONTENT<|im_end|>\n
void WriteChatml(const Messages& messages, bool open, Writer& out) {
  for (const ChatMessage& m : messages) {
    out.Marker("<|im_start|>").Text(m.role).Text("\n").Text(m.content);
    out.Marker("<|im_end|>").Text("\n");
  }
  if (open) out.Marker("<|im_start|>").Text("assistant\n");
}

// <bos><|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>
void WriteLlama3(const Messages& messages, bool open, std::optional<int32_t> bos, Writer& out) {
  out.Id(bos);
  const auto head = [&](std::string_view role) {
    out.Marker("<|start_header_id|>").Text(role).Marker("<|end_header_id|>").Text("\n\n");
  };
  for (const ChatMessage& m : messages) {
    head(m.role);
    out.Text(Trimmed(m.content)).Marker("<|eot_id|>");
  }
  if (open) head("assistant");
}

// <bos>[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nUSER [/INST] ANSWER <eos>, the system message in the first turn only.
void WriteLlama2(const Messages& messages, const Tokenizer& tokenizer, Writer& out) {
  std::string system;
  for (const ChatMessage& m : messages) {
    if (m.role == "system") {
      system = fmt::format("<<SYS>>\n{}\n<</SYS>>\n\n", m.content);
    } else if (m.role == "user") {
      out.Id(tokenizer.bos_id()).Text("[INST] ").Text(Trimmed(system + m.content)).Text(" [/INST]");
      system.clear();
    } else {
      out.Text(" ").Text(Trimmed(m.content)).Text(" ").Id(tokenizer.eos_id());
    }
  }
}

// <bos><USER>QUESTION<AI>ANSWER, a system message as it is. Where the vocabulary has no such tokens, all is text, as
// the published template renders it, but that no token reaches over the beginning of an answer.
void WriteMinicpm(const Messages& messages, const Tokenizer& tokenizer, Writer& out) {
  const bool tokens = MissingMarker(Of(ChatForm::kMinicpm), tokenizer) == nullptr;
  const auto marker = [&](const char* text) { tokens ? out.Marker(text) : out.Text(text); };
  out.Id(tokenizer.bos_id());
  for (const ChatMessage& m : messages) {
    if (m.role == "user") marker(kMinicpmUser);
    out.Text(Trimmed(m.content));
    if (m.role != "user") continue;
    marker("<AI>");
    if (!tokens) out.GoOn();
  }
}

// For models without a form: SYSTEM\n\nUser: QUESTION\nAssistant: ANSWER\n. Each message is a text of its own, so that
// a longer conversation begins with the ids of a shorter one.
void WritePlain(const Messages& messages, bool open, std::optional<int32_t> bos, Writer& out) {
  out.Id(bos);
  for (const ChatMessage& m : messages) {
    if (m.role == "system") {
      out.Text(m.content).Text("\n\n").Flush();
    } else if (m.role == "user") {
      out.Text("User: ").Text(m.content).Text("\n").Flush();
    } else {
      out.Text("Assistant:").Flush();
      out.Text(m.content.empty() ? "" : " ").Text(m.content).Text("\n").Flush();
    }
  }
  if (open) out.Text("Assistant:");
}

void CheckMessages(const Messages& messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant")
      throw Error(ErrorCode::kUsage,
                  fmt::format("messages[{}].role = \"{}\": must be system, user or assistant", i, OneLine(role, 40)));
    if (role == "system" && i > 0)
      throw Error(ErrorCode::kUsage, fmt::format("messages[{}].role = \"system\": only the first message may be", i));
  }
}

// The form of a template's text and the system line that it puts first; null where the text is not known. Texts that
// Jinja reads alike are one: line ends may differ, and one at the end of the text.
const KnownText* FindKnown(std::string_view text) {
  const std::string read = AsJinjaReads(text);
  for (const std::string& form : {read, read + "\n"}) {
    const std::string sha256 = Sha256Hex(form);
    for (const KnownText& known : kKnownTexts)
      if (sha256 == known.sha256) return &known;
  }
  return nullptr;
}

// The one form whose markers are all tokens of the vocabulary; null where there is none.
const FormInfo* ByMarkers(const std::string& where, const Tokenizer& tokenizer) {
  const FormInfo* found = nullptr;
  for (const FormInfo& form : Forms()) {
    if (form.markers.empty() || MissingMarker(form, tokenizer) != nullptr) continue;
    if (found != nullptr)
      throw Error(ErrorCode::kConfig,
                  fmt::format("{}: the vocabulary has the markers of {} and {}: use --chat-template {}", where,
                              found->name, form.name, kNames));
    found = &form;
  }
  return found;
}

// Whether the config of a model says that it is of the family whose published models have the minicpm form.
bool IsOfMinicpm(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path) && GgufFile::IsGguf(path)) {
    const GgufFile file = GgufFile::Open(path);
    const auto config = file.FindText("hydra.config");
    return config && ParseConfig(*config, path).family == Family::kMiniCpm;
  }
  const fs::path config = (fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path()) / "config.json";
  return fs::exists(config) && LoadConfig(config.string()).family == Family::kMiniCpm;
}

}  // namespace

ChatTemplate ChatTemplate::Load(const std::string& path, const std::string& name, const Tokenizer& tokenizer,
                                std::vector<std::string>* warnings) {
  const TemplateTexts said = ReadTemplateTexts(path);
  const bool silent = name.empty() && said.chosen.empty() && FindKnown(said.text) == nullptr;
  if (silent && ByMarkers(path, tokenizer) == nullptr && IsOfMinicpm(path)) {
    if (warnings != nullptr)
      warnings->push_back(fmt::format("{}: {} chat template: minicpm is used, the form of its family", path,
                                      said.text.empty() ? "no" : "an unknown"));
    return ChatTemplate(ChatForm::kMinicpm);
  }
  return Choose(path, name, said.chosen, said.text, tokenizer, warnings);
}

ChatTemplate ChatTemplate::Choose(const std::string& where, const std::string& name, const std::string& chosen,
                                  std::string_view text, const Tokenizer& tokenizer,
                                  std::vector<std::string>* warnings) {
  const auto need_markers = [&](ChatForm form) {
    if (MarkersMayBeText(form)) return;
    if (const char* missing = MissingMarker(Of(form), tokenizer))
      throw Error(ErrorCode::kConfig, fmt::format("{}: chat template {} needs the token {}: the vocabulary lacks it",
                                                  where, Of(form).name, missing));
  };
  const KnownText* known = FindKnown(text);
  if (!name.empty() || !chosen.empty()) {
    const FormInfo* form = ByName(name.empty() ? chosen : name);
    if (form == nullptr && !name.empty())
      throw Error(ErrorCode::kUsage, fmt::format("--chat-template {}: must be {}", OneLine(name, 40), kNames));
    if (form == nullptr)
      throw Error(ErrorCode::kConfig,
                  fmt::format("{}: hydralm_chat_template = \"{}\": must be {}", where, OneLine(chosen, 40), kNames));
    need_markers(form->form);
    return ChatTemplate(form->form, known != nullptr && known->form == form->form ? known->default_system : "");
  }
  if (known != nullptr) {
    need_markers(known->form);
    return ChatTemplate(known->form, known->default_system);
  }
  const FormInfo* const found = ByMarkers(where, tokenizer);
  if (found == nullptr)
    throw Error(ErrorCode::kConfig,
                fmt::format("chat template of {} is not known: use --chat-template {}", where, kNames));
  if (warnings != nullptr)
    warnings->push_back(fmt::format("{}: {} chat template: {} is used, whose markers are in the vocabulary", where,
                                    text.empty() ? "no" : "an unknown", found->name));
  return ChatTemplate(found->form);
}

const char* ChatTemplate::name() const { return Of(form_).name; }

std::vector<int32_t> ChatTemplate::Encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                          bool open) const {
  CheckMessages(messages);
  Messages all = messages;
  const bool has_system = !messages.empty() && messages[0].role == "system";
  if (!default_system_.empty() && !has_system) all.insert(all.begin(), {"system", default_system_});
  Writer out(tokenizer);
  switch (form_) {
    case ChatForm::kChatml: WriteChatml(all, open, out); break;
    case ChatForm::kLlama2: WriteLlama2(all, tokenizer, out); break;
    case ChatForm::kLlama3: WriteLlama3(all, open, tokenizer.bos_id(), out); break;
    case ChatForm::kMinicpm: WriteMinicpm(all, tokenizer, out); break;
    case ChatForm::kPlain: WritePlain(all, open, tokenizer.bos_id(), out); break;
  }
  return out.Finish();
}

std::vector<int32_t> ChatTemplate::EndIds(const Tokenizer& tokenizer) const {
  std::vector<int32_t> ids;
  for (const char* end : Of(form_).ends)
    if (const auto id = tokenizer.TokenId(end)) ids.push_back(*id);
  for (const auto& id : {tokenizer.eos_id(), tokenizer.eot_id()})
    if (id && std::ranges::find(ids, *id) == ids.end()) ids.push_back(*id);
  return ids;
}

}  // namespace hydra
