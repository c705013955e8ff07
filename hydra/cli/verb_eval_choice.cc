// SPDX-License-Identifier: Apache-2.0
// Questions, tokens, accuracies.
#include "hydra/cli/verb_eval_choice.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/io/file.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra::cli {
namespace {

ChoiceQuestion ReadQuestion(const Json& json, const std::string& where) {
  const auto need = [&](const char* key) -> const Json& {
    if (!json.is_object() || !json.contains(key))
      throw Error(ErrorCode::kFormat, StrCat(where, ": ", key, " is missing: a question has context, choices, answer"));
    return json[key];
  };
  ChoiceQuestion question{.where = where};
  ReadJson(need("context"), where + ": context", &question.context);
  ReadJson(need("choices"), where + ": choices", &question.choices);
  ReadJson(need("answer"), where + ": answer", &question.answer);
  if (json.contains("delimiter")) ReadJson(json["delimiter"], where + ": delimiter", &question.delimiter);
  const auto n = static_cast<int64_t>(question.choices.size());
  if (n < 2) throw Error(ErrorCode::kData, StrCat(where, ": choices has ", n, ": must have two or more"));
  if (question.answer < 0 || question.answer >= n)
    throw Error(ErrorCode::kData, StrCat(where, ": answer = ", question.answer, ": must be 0 to ", n - 1));
  for (size_t i = 0; i < question.choices.size(); ++i)
    if (question.choices[i].empty()) throw Error(ErrorCode::kData, StrCat(where, ": choices[", i, "] is empty"));
  return question;
}

// Bytes of a text without the white space at its end. Valid UTF-8, as JSON's strings are.
size_t WithoutSpaces(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + at);
    at += static_cast<size_t>(c.bytes);
    const bool separator = c.value >= 0x1C && c.value <= 0x1F;  // white space to Python, though not to Unicode
    if (!separator && CharClasses::Get().Of(c.value) != CharClass::kSpace) end = at;
  }
  return end;
}

double Characters(std::string_view text) {
  return static_cast<double>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// The first of the largest.
template <class F>
int64_t Best(const ChoiceScore& score, F&& value) {
  int64_t best = 0;
  for (int64_t i = 1; i < static_cast<int64_t>(score.logprobs.size()); ++i)
    if (value(static_cast<size_t>(i)) > value(static_cast<size_t>(best))) best = i;
  return best;
}

}  // namespace

std::vector<ChoiceQuestion> ReadQuestions(const std::string& path) {
  const std::string name = path == "-" ? "stdin" : path, text = ReadText(path);
  std::vector<ChoiceQuestion> questions;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    const std::string where = StrCat(name, ":", ++number);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos)
      questions.push_back(ReadQuestion(ParseJsonLine(line, where), where));
    begin = end + 1;
  }
  if (questions.empty()) throw Error(ErrorCode::kData, name + ": has no questions");
  return questions;
}

int64_t ChoiceIds::longest() const {
  size_t most = 0;
  for (const std::vector<int32_t>& choice : choices) most = std::max(most, choice.size());
  return static_cast<int64_t>(context.size() + most);
}

ChoiceIds EncodeQuestion(const ChoiceQuestion& question, const Tokenizer& tokenizer, const EncodeOptions& options) {
  const size_t end = WithoutSpaces(question.context);
  const std::string context = question.context.substr(0, end), spaces = question.context.substr(end);
  ChoiceIds all{.context = tokenizer.Encode(context, options)};
  const size_t of_context = context.empty() ? 0 : all.context.size();
  if (context.empty()) {
    const auto first = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.eos_id();
    if (!first)
      throw Error(ErrorCode::kData, question.where + ": context is empty, and the tokenizer has neither bos nor eos");
    all.context = {*first};
  }
  for (size_t i = 0; i < question.choices.size(); ++i) {
    const std::string behind = spaces + question.delimiter + question.choices[i];
    std::vector<int32_t> ids = tokenizer.Encode(context + behind, options);
    if (ids.size() <= of_context)
      throw Error(ErrorCode::kData, StrCat(question.where, ": choices[", i, "] has no token of its own"));
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(of_context));
    all.choices.push_back(std::move(ids));
  }
  return all;
}

ChoiceScore ScoreQuestion(const Model& model, const ChoiceQuestion& question, const ChoiceIds& ids,
                          const AnswerOptions& options, ThreadPool& pool) {
  std::vector<AnswerTask> tasks;
  for (const std::vector<int32_t>& choice : ids.choices) tasks.push_back({.prompt = ids.context, .answer = choice});
  ChoiceScore score;
  for (const AnswerScore& answer : ScoreAnswers(model, tasks, options, pool)) {
    score.logprobs.push_back(-answer.nll);
    score.greedy.push_back(answer.exact);
  }
  const auto logprob = [&](size_t i) { return score.logprobs[i]; };
  const auto of_character = [&](size_t i) { return score.logprobs[i] / Characters(question.choices[i]); };
  score.right = Best(score, logprob) == question.answer;
  score.right_by_characters = Best(score, of_character) == question.answer;
  return score;
}

ChoiceReport ReportOf(const std::vector<ChoiceQuestion>& questions, const std::vector<ChoiceScore>& scores) {
  std::vector<double> right, by_characters;
  ChoiceReport report;
  for (size_t i = 0; i < scores.size(); ++i) {
    right.push_back(scores[i].right ? 1 : 0);
    by_characters.push_back(scores[i].right_by_characters ? 1 : 0);
    report.chance += 1 / static_cast<double>(questions[i].choices.size()) / static_cast<double>(scores.size());
  }
  report.accuracy = MeanOf(right);
  report.by_characters = MeanOf(by_characters);
  return report;
}

Json ChoiceJson(const ChoiceReport& report, const std::vector<ChoiceScore>& scores) {
  Json questions = Json::array();
  for (const ChoiceScore& score : scores)
    questions.push_back({{"logprobs", score.logprobs},
                         {"greedy", score.greedy},
                         {"right", score.right},
                         {"right_by_characters", score.right_by_characters}});
  return {{"acc", report.accuracy.mean},
          {"acc_error", report.accuracy.error},
          {"acc_norm", report.by_characters.mean},
          {"acc_norm_error", report.by_characters.error},
          {"chance", report.chance},
          {"questions", std::move(questions)}};
}

}  // namespace hydra::cli
