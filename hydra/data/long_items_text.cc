// SPDX-License-Identifier: Apache-2.0
// Questions that a document asks by itself: the word that comes next, the true continuation; each with answers of the
// same document that it is chosen from.
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "hydra/base/error.h"
#include "hydra/data/long_items.h"

namespace hydra {
namespace {

constexpr size_t kContinued = 32, kOtherTexts = 3;  // tokens of a continuation; false ones beside it
constexpr size_t kWordLetters = 5, kOtherWords = 9;
constexpr size_t kLongAgo = 256;  // tokens since a word was said last
constexpr double kAsked = 0.25;   // questions stand in the last part of the text

using TokenIds = std::vector<int32_t>;
TokenIds Part(const TokenIds& ids, size_t begin, size_t end) {
  return {ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end)};
}

bool AreLetters(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); });
}

// A word behind a space: tokens [begin, end).
struct Word {
  std::string text;
  size_t begin, end;
};

// Words of letters alone, of kWordLetters at least, in ids[begin, end).
std::vector<Word> WordsOf(const Tokenizer& tokenizer, const TokenIds& ids, size_t begin, size_t end) {
  std::vector<Word> words;
  for (size_t at = begin; at < end;) {
    Word word{std::string(tokenizer.TokenBytes(ids[at])), at, at + 1};
    at = word.end;
    if (word.text.size() < 2 || word.text[0] != ' ' || !AreLetters(word.text.substr(1))) continue;
    for (; at < end; word.end = ++at) {
      const std::string_view more = tokenizer.TokenBytes(ids[at]);
      if (more.empty() || !AreLetters(more)) break;
      word.text += more;
    }
    if (word.text.size() > kWordLetters) words.push_back(std::move(word));
  }
  return words;
}

template <class T>
void Shuffle(std::vector<T>& list, Rng& rng) {
  for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[rng.Below(i)]);
}

// The part of a document that a text is, and where in it questions may be asked.
struct Window {
  const TokenIds& ids;  // of the document
  size_t begin, end;
  size_t asked_begin, asked_end;
};

struct TextQuestion {
  size_t at = 0;  // the prompt ends here
  TokenIds gold;
  std::vector<TokenIds> others;
};

// The last word that was said before, but long ago; the others are such words, too, as far as there are any.
std::optional<TextQuestion> AskWord(const Tokenizer& tokenizer, const Window& window, Rng& rng) {
  std::map<std::string, const Word*> last;  // before the word at hand
  const std::vector<Word> words = WordsOf(tokenizer, window.ids, window.begin, window.asked_end);
  std::optional<TextQuestion> found;
  for (const Word& word : words) {
    const auto seen = last.find(word.text);
    if (word.begin >= window.asked_begin && seen != last.end() && word.begin - seen->second->begin >= kLongAgo &&
        last.size() > kOtherWords) {
      found = TextQuestion{word.begin, Part(window.ids, word.begin, word.end), {}};
      std::vector<const Word*> others;
      for (const auto& [text, other] : last)
        if (text != word.text) others.push_back(other);
      Shuffle(others, rng);
      const auto long_ago = [&](const Word* other) { return word.begin - other->begin >= kLongAgo; };
      std::ranges::stable_partition(others, long_ago);
      for (size_t i = 0; i < kOtherWords; ++i)
        found->others.push_back(Part(window.ids, others[i]->begin, others[i]->end));
    }
    last[word.text] = &word;
  }
  return found;
}

// What follows the last end of a sentence; the others begin sentences elsewhere in the document.
std::optional<TextQuestion> AskContinuation(const std::vector<bool>& ends_sentence, const Window& window, Rng& rng) {
  const auto begins = [&](size_t at) {
    return at > 0 && at + kContinued <= window.ids.size() && ends_sentence[static_cast<size_t>(window.ids[at - 1])];
  };
  std::optional<TextQuestion> found;
  for (size_t at = window.asked_begin; at < window.asked_end; ++at)
    if (begins(at)) found = TextQuestion{at, Part(window.ids, at, at + kContinued), {}};
  if (!found) return std::nullopt;
  std::vector<size_t> places;
  for (size_t at = 1; at + kContinued <= window.ids.size(); ++at) {
    const bool read = at + kContinued > window.begin && at < window.end + kContinued;
    if (!read && begins(at)) places.push_back(at);
  }
  Shuffle(places, rng);
  std::set<TokenIds> others;
  for (const size_t at : places) {
    if (others.size() == kOtherTexts) break;
    TokenIds other = Part(window.ids, at, at + kContinued);
    if (other != found->gold && others.insert(other).second) found->others.push_back(std::move(other));
  }
  return others.size() == kOtherTexts ? found : std::nullopt;
}

}  // namespace

ItemHaystack HaystackMaker::MakeFromText(const HaystackOptions& options, Rng& rng) const {
  const TokenIds before = PromptFrame::Raw(tokenizer_).before;
  const auto n = static_cast<size_t>(options.length - options.answer_room) - before.size();
  const size_t questions = std::max<size_t>(1, options.depths.size());
  for (const size_t index : DocumentsByChance(rng)) {
    const ItemDocuments::Document& document = documents_.documents[index];
    if (document.ids.size() < n) continue;
    const size_t begin = rng.Below(document.ids.size() - n + 1), end = begin + n;
    ItemHaystack out{.shared = before, .questions = {}, .docs = {document.name}};
    const auto span = static_cast<size_t>(kAsked * static_cast<double>(n));
    size_t done = begin;
    for (size_t q = 0; q < questions; ++q) {
      const Window window{document.ids, begin, end, end - span + span * q / questions,
                          end - span + span * (q + 1) / questions};
      std::optional<TextQuestion> asked = options.kind == LongItemKind::kCloze
                                              ? AskWord(tokenizer_, window, rng)
                                              : AskContinuation(ends_sentence_, window, rng);
      if (!asked) continue;
      if (out.questions.empty()) {
        TokenIds text = Part(document.ids, begin, asked->at);
        out.shared.insert(out.shared.end(), text.begin(), text.end());
        done = asked->at;
      }
      out.questions.push_back(
          {.ids = Part(document.ids, done, asked->at), .gold = asked->gold, .others = asked->others});
    }
    if (!out.questions.empty()) return out;
  }
  throw Error(ErrorCode::kData,
              StrCat("the split ", ItemSplitName(split_), " has no document of ", n, " tokens that ",
                     LongItemKindName(options.kind), " can ask for: give longer documents or take shorter --lengths"));
}

}  // namespace hydra
