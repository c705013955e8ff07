// SPDX-License-Identifier: Apache-2.0
// Haystacks: filler of whole documents or parts of them, what is planted at sentence ends, and questions.
#include "hydra/data/long_items.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "hydra/base/error.h"
#include "hydra/data/planted_words.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

constexpr int64_t kCopyWords = 48, kCopyShown = 16, kNamedWords = 4;
constexpr int64_t kToSentence = 64;                      // tokens that something planted is moved by at most
constexpr double kMostPlanted = 0.9, kListShare = 0.75;  // of the text; of it where a list is as long as it can be
constexpr double kFirstDepth = 0.02, kLastDepth = 0.9;   // of depths by chance

constexpr const char* kKindNames[] = {"summary", "copy", "lookup", "passkey", "cloze", "continuation"};

struct Phrases {
  const char* before;    // begins the text
  const char* question;  // ends the user's message; %s is what is asked for
  const char* begun;     // begins the answer
};
constexpr Phrases kChatPhrases[] = {
    {"Read the following text.\n\n",
     "\n\nWrite a summary of the text above in about eighty words, from its beginning to its end.", ""},
    {"One line of the following text is a list of words. Remember it.\n\n",
     "\n\nWhich line of the text above is the list of words that begins with%s? Repeat that line exactly.", ""},
    {"The following text has lines with a name and a number. Remember them.\n\n",
     "\n\nWhat is the number of %s in the text above? Answer with its line.", "%s:"},
    {"The following text holds a pass key. Remember it.\n\n", "\n\nWhat is the pass key in the text above?",
     "The pass key is"}};
constexpr Phrases kRawPhrases[] = {{"", "\n\nIn summary, the text above says that", ""},
                                   {"", "\n\n", ""},
                                   {"", "\n", "%s:"},
                                   {"", "\n\n", "The pass key is"}};

std::string With(const char* phrase, const std::string& what) {
  std::string text = phrase;
  const size_t at = text.find("%s");
  return at == std::string::npos ? text : text.replace(at, 2, what);
}

void Append(std::vector<int32_t>& to, const std::vector<int32_t>& ids) { to.insert(to.end(), ids.begin(), ids.end()); }

// What two lists begin and end with alike.
void SharedEnds(const std::vector<int32_t>& a, const std::vector<int32_t>& b, PromptFrame* frame) {
  const auto shorter = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  const auto begin = std::mismatch(a.begin(), a.begin() + shorter, b.begin()).first - a.begin();
  const auto end =
      std::min(std::mismatch(a.rbegin(), a.rbegin() + shorter, b.rbegin()).first - a.rbegin(), shorter - begin);
  frame->before.assign(a.begin(), a.begin() + begin);
  frame->after.assign(a.end() - end, a.end());
}

}  // namespace

const char* LongItemKindName(LongItemKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

LongItemKind ParseLongItemKind(const std::string& name, const std::string& where) {
  const std::vector<std::string> names(std::begin(kKindNames), std::end(kKindNames));
  const auto found = std::ranges::find(names, name);
  if (found != names.end()) return static_cast<LongItemKind>(found - names.begin());
  throw Error(ErrorCode::kUsage,
              StrCat(where, " ", OneLine(name, 40), ": must be summary, copy, lookup, passkey, cloze or ",
                     "continuation", DidYouMean(name, names)));
}

bool ForEvaluation(const std::string& name) {
  const auto found = std::ranges::find(kKindNames, name);
  return found != std::end(kKindNames) && ForEvaluation(static_cast<LongItemKind>(found - std::begin(kKindNames)));
}

ItemDocuments ItemDocuments::Load(const std::string& folder, const Tokenizer& tokenizer, ItemSplit split) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw Error(ErrorCode::kIo, folder + ": no such folder");
  std::vector<std::string> names;
  fs::recursive_directory_iterator at(folder, error);
  for (const fs::recursive_directory_iterator end; !error && at != end; at.increment(error)) {
    if (at->path().filename().string().starts_with(".")) {
      if (at->is_directory()) at.disable_recursion_pending();
      continue;
    }
    if (at->is_regular_file()) names.push_back(fs::relative(at->path(), folder).generic_string());
  }
  if (error) throw Error(ErrorCode::kIo, StrCat(folder, ": cannot be listed: ", error.message()));
  std::ranges::sort(names);
  ItemDocuments out;
  Tokenizer::Scratch scratch;
  for (const std::string& name : names) {
    if (SplitOfName(name) != split) continue;
    Document& document = out.documents.emplace_back(Document{name, {}});
    tokenizer.Encode(ReadText((fs::path(folder) / name).string()), {.parse_special = false}, scratch, document.ids);
    if (document.ids.empty()) out.documents.pop_back();
  }
  for (const Document& document : out.documents) out.tokens += static_cast<int64_t>(document.ids.size());
  if (out.documents.empty())
    throw Error(ErrorCode::kData, StrCat(folder, ": no text of its ", names.size(), " files falls into the split ",
                                         ItemSplitName(split), ": give more documents"));
  return out;
}

PromptFrame PromptFrame::Raw(const Tokenizer& tokenizer) {
  PromptFrame frame;
  SharedEnds(tokenizer.Encode("a", {.add_special = true}), tokenizer.Encode("b", {.add_special = true}), &frame);
  frame.after.clear();  // an end of text
  return frame;
}

PromptFrame PromptFrame::Chat(const Tokenizer& tokenizer, const ChatTemplate& form) {
  PromptFrame frame;
  const auto encode = [&](const char* text) { return form.Encode(tokenizer, {{"user", text}}, /*open=*/true); };
  SharedEnds(encode("a"), encode("b"), &frame);
  frame.chat = true;
  return frame;
}

// Ids that go into the text at a depth.
struct HaystackMaker::Planted {
  double depth;
  std::vector<int32_t> ids;
};

// A question before the text is there: which of what is planted it asks for, or -1.
struct HaystackMaker::Asked {
  std::vector<int32_t> before, ids, gold;  // begins the text; ends the prompt; the answer
  int64_t planted = -1;
};

HaystackMaker::HaystackMaker(const Tokenizer& tokenizer, PromptFrame frame, ItemDocuments documents, ItemSplit split)
    : tokenizer_(tokenizer),
      frame_(std::move(frame)),
      documents_(std::move(documents)),
      split_(split),
      words_(PlantedWords(split)) {
  ends_sentence_.resize(static_cast<size_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.TokenBytes(id);
    ends_sentence_[static_cast<size_t>(id)] =
        !bytes.empty() && std::string_view(".!?\n").find(bytes.back()) != std::string_view::npos;
  }
}

std::vector<int32_t> HaystackMaker::Ids(std::string_view text) const {
  return tokenizer_.Encode(text, {.parse_special = false});
}

std::vector<size_t> HaystackMaker::DocumentsByChance(Rng& rng) const {
  std::vector<size_t> order(documents_.documents.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  return order;
}

// n tokens of the split's documents in an order by chance: whole ones, then a part of one. `ends`: the first and last
// half of a longer part of one document, where one is long enough.
std::vector<int32_t> HaystackMaker::TakeText(int64_t n, bool ends, Rng& rng, std::vector<std::string>* docs) const {
  if (documents_.tokens < n)
    throw Error(ErrorCode::kData, StrCat("the split ", ItemSplitName(split_), " has ", documents_.tokens,
                                         " tokens of text: a prompt needs ", n));
  std::vector<int32_t> text;
  for (const size_t index : DocumentsByChance(rng)) {
    const ItemDocuments::Document& document = documents_.documents[index];
    const auto size = static_cast<int64_t>(document.ids.size()), left = n - static_cast<int64_t>(text.size());
    if (left == 0) break;
    docs->push_back(document.name);
    if (size < left) {
      Append(text, document.ids);
      continue;
    }
    const int64_t part = ends && text.empty() ? std::min(size, 2 * left) : left;
    auto start = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(size - part + 1)));
    for (int64_t i = 0; i < kToSentence && start + part < size && start > 0; ++i, ++start)
      if (ends_sentence_[static_cast<size_t>(document.ids[static_cast<size_t>(start - 1)])]) break;
    const auto first = document.ids.begin() + start;
    const int64_t head = (left + 1) / 2;
    text.insert(text.end(), first, first + head);
    text.insert(text.end(), first + part - (left - head), first + part);
  }
  return text;
}

HaystackMaker::Asked HaystackMaker::AskSummary() const {
  const Phrases& phrases = (frame_.chat ? kChatPhrases : kRawPhrases)[0];
  Asked asked{.before = Ids(phrases.before), .ids = Ids(phrases.question), .gold = {}};
  Append(asked.ids, frame_.after);
  return asked;
}

HaystackMaker::Asked HaystackMaker::AskCopy(double depth, int64_t answer_room, Rng& rng,
                                            std::vector<Planted>* planted) const {
  const Phrases& phrases = (frame_.chat ? kChatPhrases : kRawPhrases)[1];
  std::vector<std::string> words = words_;
  Asked asked{.before = Ids(phrases.before), .ids = {}, .gold = {}};
  std::vector<int32_t> shown, line = Ids("\n");
  std::string named;
  for (int64_t i = 0; i < kCopyWords; ++i) {  // a shuffle as far as it is needed
    const auto at = static_cast<size_t>(i);
    std::swap(words[at], words[at + rng.Below(words.size() - at)]);
    const std::vector<int32_t> ids = Ids(" " + words[at]);
    // Fewer words where a tokenizer spells them with many tokens.
    if (i > kCopyShown && static_cast<int64_t>(asked.gold.size() + ids.size()) > answer_room) break;
    Append(line, ids);
    Append(i < kCopyShown ? shown : asked.gold, ids);
    if (i < kNamedWords) named += " " + words[at];
  }
  Append(line, Ids("\n"));
  asked.planted = static_cast<int64_t>(planted->size());
  planted->push_back({depth, std::move(line)});
  asked.ids = Ids(With(phrases.question, named));
  Append(asked.ids, frame_.after);
  Append(asked.ids, shown);
  return asked;
}

HaystackMaker::Asked HaystackMaker::AskPasskey(double depth, Rng& rng, std::vector<Planted>* planted) const {
  const Phrases& phrases = (frame_.chat ? kChatPhrases : kRawPhrases)[3];
  Asked asked{.before = Ids(phrases.before),
              .ids = Ids(phrases.question),
              .gold = Ids(" " + std::to_string(PlantedNumber(split_, rng))),
              .planted = static_cast<int64_t>(planted->size())};
  std::vector<int32_t> line = Ids(" The pass key is");
  Append(line, asked.gold);
  Append(line, Ids(". Remember it."));
  planted->push_back({depth, std::move(line)});
  Append(asked.ids, frame_.after);
  Append(asked.ids, Ids(phrases.begun));
  return asked;
}

std::vector<HaystackMaker::Asked> HaystackMaker::AskLookup(const HaystackOptions& options,
                                                           const std::vector<double>& depths, Rng& rng,
                                                           std::vector<Planted>* planted) const {
  const Phrases& phrases = (frame_.chat ? kChatPhrases : kRawPhrases)[2];
  struct Pair {
    std::string name;
    std::vector<int32_t> number;
  };
  std::vector<Pair> pairs;
  std::set<std::string> names;
  const auto draw = [&] { return words_[rng.Below(words_.size())]; };
  int64_t tokens = 0;
  const auto room = static_cast<int64_t>(kListShare * static_cast<double>(options.length - options.answer_room));
  while (options.pairs > 0 ? static_cast<int64_t>(pairs.size()) < options.pairs : tokens < room) {
    const std::string name = draw() + "-" + draw();
    if (!names.insert(name).second) continue;
    pairs.push_back({name, Ids(" " + std::to_string(PlantedNumber(split_, rng)))});
    std::vector<int32_t> line = Ids("\n" + name + ":");
    Append(line, pairs.back().number);
    Append(line, Ids("\n"));
    tokens += static_cast<int64_t>(line.size());
    planted->push_back({0, std::move(line)});
  }
  // Spread evenly, each at a place of its own part of the text.
  for (size_t i = 0; i < planted->size(); ++i)
    (*planted)[i].depth = (static_cast<double>(i) + rng.Uniform()) / static_cast<double>(planted->size());
  std::vector<Asked> asked;
  for (const double depth : depths) {
    const auto nearest =
        std::ranges::min_element(*planted, {}, [&](const Planted& one) { return std::abs(one.depth - depth); });
    const auto at = nearest - planted->begin();
    const Pair& pair = pairs[static_cast<size_t>(at)];
    Asked one{.before = Ids(phrases.before),
              .ids = Ids(With(phrases.question, pair.name)),
              .gold = pair.number,
              .planted = static_cast<int64_t>(at)};
    Append(one.ids, frame_.after);
    Append(one.ids, Ids(With(phrases.begun, pair.name)));
    asked.push_back(std::move(one));
  }
  return asked;
}

std::vector<HaystackMaker::Asked> HaystackMaker::Ask(const HaystackOptions& options, Rng& rng,
                                                     std::vector<Planted>* planted) const {
  std::vector<double> depths = options.depths;
  if (depths.empty()) depths.push_back(kFirstDepth + (kLastDepth - kFirstDepth) * rng.Uniform());
  switch (options.kind) {
    case LongItemKind::kSummary: return {AskSummary()};
    case LongItemKind::kLookup: return AskLookup(options, depths, rng, planted);
    default: break;
  }
  if (options.kind == LongItemKind::kPasskey && depths.size() > 1)
    throw Error(ErrorCode::kUsage, "passkey: a text has one pass key: ask at one depth");
  std::vector<Asked> asked;
  for (const double depth : depths)
    asked.push_back(options.kind == LongItemKind::kCopy ? AskCopy(depth, options.answer_room, rng, planted)
                                                        : AskPasskey(depth, rng, planted));
  return asked;
}

ItemHaystack HaystackMaker::Make(const HaystackOptions& options) const {
  HYDRA_CHECK(options.length > options.answer_room && options.answer_room > 0, options.length);
  const auto stream = static_cast<uint64_t>(options.kind) * 1'000'003 + static_cast<uint64_t>(options.length);
  Rng rng(options.seed * 0x9E3779B97F4A7C15 + static_cast<uint64_t>(options.number), stream);
  if (options.kind == LongItemKind::kCloze || options.kind == LongItemKind::kContinuation)
    return MakeFromText(options, rng);
  std::vector<Planted> planted;
  const std::vector<Asked> asked = Ask(options, rng, &planted);
  if (options.kind == LongItemKind::kCopy && !options.planted)
    for (Planted& one : planted) one.ids.clear();
  int64_t longest = 0, inserted = 0;
  for (const Asked& one : asked) longest = std::max(longest, static_cast<int64_t>(one.ids.size()));
  for (const Planted& one : planted) inserted += static_cast<int64_t>(one.ids.size());
  const int64_t room = options.length - options.answer_room - longest -
                       static_cast<int64_t>(frame_.before.size() + asked.front().before.size());
  if (static_cast<double>(inserted) > kMostPlanted * static_cast<double>(room))
    throw Error(ErrorCode::kUsage, StrCat(LongItemKindName(options.kind), ": a length of ", options.length, " has ",
                                          std::max<int64_t>(0, room), " tokens of text: ", inserted,
                                          " are planted: ask less or take longer texts"));
  ItemHaystack out;
  const std::vector<int32_t> filler = TakeText(room - inserted, options.kind == LongItemKind::kSummary, rng, &out.docs);
  out.shared = frame_.before;
  Append(out.shared, asked.front().before);
  std::vector<size_t> order(planted.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return planted[i].depth; });
  std::vector<double> depths(planted.size());
  const auto n = static_cast<int64_t>(filler.size());
  int64_t done = 0;
  for (const size_t index : order) {
    const auto at = std::clamp<int64_t>(std::llround(planted[index].depth * static_cast<double>(n)), done, n);
    int64_t end = at;  // the next end of a sentence, where one is near
    while (end < n && end - at < kToSentence &&
           (end == 0 || !ends_sentence_[static_cast<size_t>(filler[static_cast<size_t>(end - 1)])]))
      ++end;
    if (end - at == kToSentence) end = at;
    out.shared.insert(out.shared.end(), filler.begin() + done, filler.begin() + end);
    depths[index] = static_cast<double>(out.shared.size()) / static_cast<double>(room);
    Append(out.shared, planted[index].ids);
    done = end;
  }
  out.shared.insert(out.shared.end(), filler.begin() + done, filler.end());
  for (const Asked& one : asked)
    out.questions.push_back({.ids = one.ids,
                             .gold = one.gold,
                             .depth = one.planted < 0 ? -1 : std::min(1.0, depths[static_cast<size_t>(one.planted)])});
  return out;
}

}  // namespace hydra
