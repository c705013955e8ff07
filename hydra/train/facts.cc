// SPDX-License-Identifier: Apache-2.0
// Facts from lines of JSON.
#include "hydra/train/facts.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::train {
namespace {

Fact ParseFact(std::string_view line, const std::string& where) {
  const Json json = ParseJson(line, where);
  if (!json.is_object()) throw Error(ErrorCode::kFormat, where + ": must be an object");
  const std::vector<std::string> known{"prompt", "answer", "paraphrases"};
  for (const auto& [key, value] : json.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      throw Error(ErrorCode::kFormat, StrCat(where, ": unknown key ", OneLine(key, 40), DidYouMean(key, known)));
  Fact fact;
  for (const auto& [key, field] : {std::pair("prompt", &fact.prompt), {"answer", &fact.answer}}) {
    if (!json.contains(key)) throw Error(ErrorCode::kFormat, StrCat(where, ": ", key, ": missing"));
    ReadJson(json[key], StrCat(where, ": ", key), field);
    if (field->empty()) throw Error(ErrorCode::kFormat, StrCat(where, ": ", key, ": is empty"));
  }
  if (json.contains("paraphrases")) ReadJson(json["paraphrases"], where + ": paraphrases", &fact.paraphrases);
  for (const std::string& text : fact.paraphrases)
    if (text.empty()) throw Error(ErrorCode::kFormat, where + ": paraphrases: one is empty");
  return fact;
}

}  // namespace

std::vector<Fact> ReadFacts(const std::string& path) {
  constexpr size_t kMostBytes = 256 << 20;
  const std::string text = ReadFile(path, kMostBytes);
  std::vector<Fact> facts;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos)
      facts.push_back(ParseFact(line, StrCat(path, ":", number)));
    begin = end + 1;
  }
  if (facts.empty()) throw Error(ErrorCode::kFormat, path + ": no facts");
  return facts;
}

std::vector<FactExample> Examples(const std::vector<Fact>& facts, const Tokenizer& tokenizer, int64_t keep_out,
                                  bool held_out) {
  std::vector<FactExample> examples;
  for (size_t i = 0; i < facts.size(); ++i) {
    const Fact& fact = facts[i];
    const auto out = static_cast<size_t>(std::min<int64_t>(keep_out, static_cast<int64_t>(fact.paraphrases.size())));
    std::vector<std::string> asked(fact.paraphrases.end() - static_cast<std::ptrdiff_t>(out), fact.paraphrases.end());
    if (!held_out) {
      asked.assign(1, fact.prompt);
      asked.insert(asked.end(), fact.paraphrases.begin(), fact.paraphrases.end() - static_cast<std::ptrdiff_t>(out));
    }
    for (const std::string& prompt : asked) {
      FactExample example{.ids = tokenizer.Encode(prompt, {.parse_special = false}), .fact = i};
      example.answer = static_cast<int64_t>(example.ids.size());
      const std::vector<int32_t> answer = tokenizer.Encode(fact.answer, {.parse_special = false});
      if (answer.empty() || example.ids.empty())
        throw Error(ErrorCode::kData,
                    StrCat("fact ", i + 1, ": \"", OneLine(prompt, 40), "\": question or answer has no tokens"));
      example.ids.insert(example.ids.end(), answer.begin(), answer.end());
      examples.push_back(std::move(example));
    }
  }
  return examples;
}

}  // namespace hydra::train
