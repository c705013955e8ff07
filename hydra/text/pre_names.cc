// SPDX-License-Identifier: Apache-2.0
// The table of pre-tokenizers by name. Patterns are those that llama.cpp's list has for a name, in the form that the
// model's tokenizer.json has where llama.cpp writes an approximation of it. Names are left out whose steps are no
// patterns over bytes (kimi-k2, gemma4), or patterns that our engine does not run alike (tiny_aya, superbpe).
#include "hydra/text/pre_names.h"

#include <algorithm>
#include <initializer_list>

#include "hydra/text/pretokenizer_scan.h"

namespace hydra {
namespace {

using nlohmann::json;

// ---- Patterns that have no scanner of their own ----

// Llama 3's with marks as letters, digits one by one.
constexpr std::string_view kQwen35Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Words split where small letters are followed by capitals; with contractions (GPT-4o) and without (Tekken).
constexpr std::string_view kTekkenRegex =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4oRegex =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBailingRegex =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kSeedCoderRegex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kMinicpm5Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Words, as BLOOM has them: all between white space and the punctuation of a few languages.
constexpr std::string_view kBloomRegex = R"( ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+)";
constexpr std::string_view kDeepseekV3Regex =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Letters that have a case, as DeepSeek LLM lists them.
constexpr std::string_view kDeepseekWords =
    R"(\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373)"
    R"(\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f)"
    R"(\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77)"
    R"(\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d)"
    R"(\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4)"
    R"(\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139)"
    R"(\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d)"
    R"(\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a)"
    R"(\uff41-\uff5a\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2})"
    R"(\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+)";
constexpr std::string_view kDeepseekPunctuation = R"(\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+)";
constexpr std::string_view kDeepseekScripts = R"([\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+)";
constexpr std::string_view kCjk = R"([\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+)";

// ---- Steps ----

json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

// Each pattern splits what the ones before it left whole; then bytes.
json Splits(std::initializer_list<std::string_view> patterns) {
  json steps = json::array();
  for (const std::string_view pattern : patterns)
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", std::string(pattern)}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  steps.push_back(ByteLevel(false));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

json DigitsThenGpt2() {
  return {{"type", "Sequence"},
          {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true)}}};
}

std::vector<PreSteps> MakeKnownPres() {
  const json nfc = {{"type", "NFC"}};
  return {
      {{"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum",
        "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"},
       ByteLevel(true),
       nullptr},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"},
       Splits({kLlama3Regex}),
       nullptr,
       /*ignore_merges=*/true,
       /*add_bos=*/true},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"},
       DigitsThenGpt2(),
       nullptr},
      {{"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"}, Splits({kQwen2Regex}), nfc},
      {{"stablelm2", "hunyuan", "solar-open", "grok-2"}, Splits({kQwen2Regex}), nullptr},
      {{"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"}, Splits({kLlama3Regex}), nullptr},
      {{"qwen35"}, Splits({kQwen35Regex}), nfc},
      {{"deepseek-llm"},
       Splits({R"([\r\n])", kDeepseekWords, kDeepseekPunctuation, R"(\s+$)", kDeepseekScripts, R"(\p{N}+)"}),
       nullptr},
      {{"deepseek-coder"},
       Splits({R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekScripts, R"(\p{N})"}),
       nullptr},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
       Splits({R"(\p{N}{1,3})", kCjk, kDeepseekV3Regex}),
       nullptr},
      {{"tekken"}, Splits({kTekkenRegex}), nullptr, /*ignore_merges=*/true, /*add_bos=*/true},
      {{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, Splits({kGpt4oRegex}), nullptr},
      {{"bailingmoe", "bailingmoe2", "llada-moe"}, Splits({kBailingRegex}), nullptr},
      {{"seed-coder"}, Splits({kSeedCoderRegex}), nullptr},
      {{"minicpm5"}, Splits({R"(\p{N}{1,3})", kMinicpm5Regex}), nullptr, /*ignore_merges=*/true},
      {{"bloom", "poro-chat", "gpt3-finnish"}, Splits({kBloomRegex}), nullptr},
      {{"viking"}, Splits({kBloomRegex, R"(\p{N})"}), nullptr},
      {{"falcon"}, Splits({R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2Regex, "[0-9][0-9][0-9]"}), nullptr},
      {{kDefaultPre}, Splits({R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Regex, R"(\p{N}+)", "[0-9][0-9][0-9]"}), nullptr},
  };
}

}  // namespace

const std::vector<PreSteps>& KnownPres() {
  static const std::vector<PreSteps> known = MakeKnownPres();
  return known;
}

const PreSteps* FindPre(std::string_view name) {
  for (const PreSteps& known : KnownPres())
    if (std::ranges::find(known.names, name) != known.names.end()) return &known;
  return nullptr;
}

std::string PreNames() {
  std::string out;
  for (const PreSteps& known : KnownPres())
    for (const std::string_view name : known.names) out.append(out.empty() ? "" : ", ").append(name);
  return out;
}

}  // namespace hydra
