// SPDX-License-Identifier: Apache-2.0
// Makes items text by text: a text and its questions, the model's answers, a line in FILE.part; then the file itself.
#include "hydra/cli/verb_data_items.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "hydra/base/error.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/progress_bar.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/data/items.h"
#include "hydra/data/long_items.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/runtime/answer_scores.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/text/chat_template.h"

namespace hydra::cli {
namespace {

constexpr int64_t kAnswerRoom = 128;  // tokens of a length that are left to the answer
constexpr int64_t kLeastLength = 2 * kAnswerRoom;
constexpr int64_t kLeastAnswer = 16;  // tokens of a summary
constexpr int64_t kGram = 8;
constexpr double kMostRepeats = 0.5;  // share of a summary's 8-grams that it had before

struct ItemsFlags {
  ModelFlags model;
  std::string text, out, kinds = "summary,copy,lookup", split = "calib", form = "auto", keep = "auto", chat_template;
  std::vector<int64_t> lengths = {1024, 2048, 4096}, pairs = {8, 32};
  int64_t items = 16, seed = 1, depths = 0, tries = 20;
  bool without = false;
};

// One text of the file: the kind of its questions, which one of its kind and length.
struct ItemSlot {
  int64_t length;
  LongItemKind kind;
};

std::vector<LongItemKind> KindsOf(const ItemsFlags& flags, ItemSplit split) {
  std::vector<LongItemKind> kinds;
  for (size_t begin = 0; begin <= flags.kinds.size();) {
    const size_t end = std::min(flags.kinds.find(',', begin), flags.kinds.size());
    kinds.push_back(ParseLongItemKind(flags.kinds.substr(begin, end - begin), "--kinds"));
    if (std::ranges::count(kinds, kinds.back()) > 1)
      throw Error(ErrorCode::kUsage,
                  fmt::format("--kinds {}: {} is there twice", flags.kinds, LongItemKindName(kinds.back())));
    begin = end + 1;
  }
  const auto evaluates = std::ranges::find_if(kinds, [](LongItemKind kind) { return ForEvaluation(kind); });
  if (split == ItemSplit::kCalib && kinds.size() > 1 && evaluates != kinds.end())
    throw Error(ErrorCode::kUsage, fmt::format("--kinds {}: {} is for evaluation: alone, or with --split valid or test",
                                               flags.kinds, LongItemKindName(*evaluates)));
  return kinds;
}

// Half summaries, where they are asked for, then the others in turn. Items with even and odd numbers are compared, so
// that each pair of them is of one kind or changes sides the next time.
LongItemKind KindAt(const std::vector<LongItemKind>& kinds, int64_t i) {
  std::vector<LongItemKind> others;
  bool summaries = false;
  for (const LongItemKind kind : kinds) {
    if (kind == LongItemKind::kSummary)
      summaries = true;
    else
      others.push_back(kind);
  }
  if (others.empty()) return LongItemKind::kSummary;
  const int64_t n = summaries ? 4 : 2, round = i / n, place = i % n - (n - 2);
  if (place < 0) return LongItemKind::kSummary;
  const int64_t at = 2 * round + (round % 2 == 0 ? place : 1 - place);
  return others[static_cast<size_t>(at % static_cast<int64_t>(others.size()))];
}

std::vector<ItemSlot> SlotsOf(const ItemsFlags& flags, const std::vector<LongItemKind>& kinds) {
  std::vector<ItemSlot> slots;
  for (const int64_t length : flags.lengths) {
    if (length < kLeastLength)
      throw Error(ErrorCode::kUsage, fmt::format("--lengths {}: must be {} or more: {} tokens are left to the answer",
                                                 length, kLeastLength, kAnswerRoom));
    for (int64_t i = 0; i < flags.items; ++i) slots.push_back({length, KindAt(kinds, i)});
  }
  return slots;
}

std::vector<double> DepthsOf(const ItemsFlags& flags) {
  std::vector<double> depths;
  for (int64_t i = 0; i < flags.depths; ++i)
    depths.push_back((static_cast<double>(i) + 0.5) / static_cast<double>(flags.depths));
  return depths;
}

// Share of a text's 8-grams that stood in it before.
double RepeatedShare(const std::vector<int32_t>& ids) {
  std::set<std::vector<int32_t>> seen;
  int64_t repeated = 0;
  const auto n = static_cast<int64_t>(ids.size()) - kGram + 1;
  for (int64_t i = 0; i < n; ++i)
    if (!seen.insert({ids.begin() + i, ids.begin() + i + kGram}).second) ++repeated;
  return n > 0 ? static_cast<double>(repeated) / static_cast<double>(n) : 0;
}

// What answers the questions, and what it is told beside them.
struct Answerer {
  const Runner& runner;
  std::vector<int32_t> end_ids;
  Controls controls;
};

// The most probable continuation, with its mean loss; without the token that ends it.
struct OwnAnswer {
  std::vector<int32_t> ids;
  double nll = 0;
};
OwnAnswer GreedyAnswer(const Answerer& by, const std::vector<int32_t>& prompt) {
  const Model& model = by.runner.model;
  const int64_t V = model.config().vocab_size;
  SequenceState state(model, by.controls);
  ForwardScratch scratch;
  OwnAnswer answer;
  std::span<const float> logits = model.Prefill(state, prompt, *by.runner.pool, scratch);
  while (static_cast<int64_t>(answer.ids.size()) < kAnswerRoom) {
    ThrowIfStopped();
    const int32_t id = BestId(logits, V);
    if (std::ranges::find(by.end_ids, id) != by.end_ids.end()) break;
    double sum = 0;
    const float top = logits[static_cast<size_t>(id)];
    for (int64_t i = 0; i < V; ++i) sum += std::exp(static_cast<double>(logits[static_cast<size_t>(i)] - top));
    answer.nll += std::log(sum);
    answer.ids.push_back(id);
    if (static_cast<int64_t>(answer.ids.size()) < kAnswerRoom) logits = model.Step(state, id, *by.runner.pool, scratch);
  }
  if (!answer.ids.empty()) answer.nll /= static_cast<double>(answer.ids.size());
  return answer;
}

// Adds a text's questions, without answers.
void AddItems(const ItemHaystack& text, const HaystackOptions& options, const std::string& group,
              std::vector<LongItem>* items) {
  for (const ItemQuestion& q : text.questions) {
    LongItem item{.id = fmt::format("{}-{}", group, items->size()),
                  .kind = LongItemKindName(options.kind),
                  .length = options.length,
                  .ids = text.shared,
                  .gold = q.gold,
                  .others = q.others,
                  .group = group,
                  .prefix = static_cast<int64_t>(text.shared.size()),
                  .depth = q.depth,
                  .docs = text.docs};
    if (!options.planted) item.kind += "-without";
    item.ids.insert(item.ids.end(), q.ids.begin(), q.ids.end());
    item.answer_begin = static_cast<int64_t>(item.ids.size());
    items->push_back(std::move(item));
  }
}

// The questions about one text. One text has one pass key, so several depths are as many texts, which begin alike.
std::vector<LongItem> QuestionsOf(const HaystackMaker& maker, const HaystackOptions& options,
                                  const std::string& group) {
  std::vector<LongItem> items;
  if (options.kind != LongItemKind::kPasskey || options.depths.size() <= 1) {
    AddItems(maker.Make(options), options, group, &items);
    return items;
  }
  for (const double depth : options.depths) {
    HaystackOptions one = options;
    one.depths = {depth};
    AddItems(maker.Make(one), options, group, &items);
  }
  const std::vector<int32_t>& first = items[0].ids;
  auto alike = static_cast<std::ptrdiff_t>(first.size());
  for (const LongItem& item : items)
    alike = std::min(alike, std::ranges::mismatch(first, item.ids).in1 - first.begin());
  for (LongItem& item : items) item.prefix = alike;
  return items;
}

void SetAnswer(const std::vector<int32_t>& answer, LongItem* item) {
  item->ids.insert(item->ids.end(), answer.begin(), answer.end());
  item->answer_end = static_cast<int64_t>(item->ids.size());
}

// Adds the right answers, and how the model would have done.
void AnswerKnown(const Answerer& by, std::vector<LongItem>* items) {
  std::vector<AnswerTask> tasks;
  for (const LongItem& item : *items)
    tasks.push_back({.prompt = item.prompt(), .answer = item.gold, .others = {item.others.begin(), item.others.end()}});
  const std::vector<AnswerScore> scores = ScoreAnswers(by.runner.model, tasks,
                                                       {.controls = by.controls,
                                                        .on_score =
                                                            [](size_t, const AnswerScore&) {
                                                              ThrowIfStopped();
                                                              return true;
                                                            }},
                                                       *by.runner.pool);
  for (size_t i = 0; i < items->size(); ++i) {
    LongItem& item = (*items)[i];
    SetAnswer(item.gold, &item);
    item.dense_nll = scores[i].nll / static_cast<double>(scores[i].tokens);
    item.dense_right = item.others.empty() ? scores[i].exact : scores[i].chosen;
  }
}

// The item of a summary; none where the model's answer is too short or repeats itself.
std::vector<LongItem> AskSummary(const Answerer& by, std::vector<LongItem> items) {
  const OwnAnswer answer = GreedyAnswer(by, items[0].ids);
  if (static_cast<int64_t>(answer.ids.size()) < kLeastAnswer || RepeatedShare(answer.ids) > kMostRepeats) return {};
  SetAnswer(answer.ids, items.data());
  items[0].dense_nll = answer.nll;
  items[0].dense_right = true;  // its own words
  return items;
}

// The items of one text; none where it is not fit.
std::vector<LongItem> AskText(const ItemsFlags& flags, const HaystackMaker& maker, const Answerer& by,
                              const HaystackOptions& options, bool keep_all) {
  const std::string group = fmt::format("{}-{}-{}", LongItemKindName(options.kind), options.length, options.number);
  std::vector<LongItem> items = QuestionsOf(maker, options, group);
  if (options.kind == LongItemKind::kSummary) return AskSummary(by, std::move(items));
  AnswerKnown(by, &items);
  std::vector<LongItem> kept;
  std::vector<bool> fit;
  for (LongItem& item : items) {
    fit.push_back(keep_all || item.dense_right);
    if (fit.back()) kept.push_back(std::move(item));
  }
  if (!flags.without || options.kind != LongItemKind::kCopy || kept.empty()) return kept;
  HaystackOptions without = options;
  without.planted = false;
  items = QuestionsOf(maker, without, group + "-without");
  AnswerKnown(by, &items);
  for (size_t i = 0; i < items.size(); ++i)
    if (fit[i]) kept.push_back(std::move(items[i]));
  return kept;
}

// FILE.part: the head of the file, then a line for each text that was tried, fit or not.
class PartFile {
 public:
  // Reads what an earlier run left, if it was of the same head; kUsage where it was of another.
  PartFile(const std::string& path, const std::string& head) : path_(path) {
    std::error_code ignored;
    std::string text;
    if (std::filesystem::exists(path, ignored)) text = ReadText(path);
    text.resize(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1);  // a last line may be cut
    if (!text.empty() && !text.starts_with(head))
      throw Error(ErrorCode::kUsage, path +
                                         ": was begun with other settings, another model or other texts: give those "
                                         "again, or remove it");
    if (text.empty()) text = head;
    WriteFileAtomic(path, text);
    for (size_t begin = head.size(); begin < text.size();) {
      const size_t end = text.find('\n', begin);
      ReadLine(text.substr(begin, end - begin));
      begin = end + 1;
    }
    fd_ = OpenForAppending(path);
  }
  ~PartFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  // Texts that were tried for a slot so far.
  struct Tried {
    int64_t texts = 0;
    std::vector<LongItem> items;
  };
  [[nodiscard]] const Tried& At(size_t slot) { return tried_[slot]; }

  void Add(size_t slot, std::vector<LongItem> items) {
    Json list = Json::array();
    for (const LongItem& item : items) list.push_back(Json::parse(ItemFile::Line(item)));
    const std::string line = DumpJson({{"slot", slot}, {"items", list}}) + "\n";
    for (size_t done = 0; done < line.size();) {
      const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
      if (n < 0) ThrowIo(path_, "cannot be written", errno);
      done += static_cast<size_t>(n);
    }
    Take(slot, std::move(items));
  }

 private:
  void ReadLine(const std::string& line) {
    const Json json = ParseJsonLine(line, path_);
    if (!json.is_object() || !json.contains("slot") || !json.contains("items") || !json["items"].is_array())
      throw Error(ErrorCode::kFormat, path_ + ": items: a line has none: remove the file");
    int64_t slot = 0;
    ReadJson(json["slot"], path_ + ": slot", &slot);
    std::vector<LongItem> items;
    for (const Json& item : json["items"]) items.push_back(ItemFile::ParseItem(item.dump(), path_));
    Take(static_cast<size_t>(slot), std::move(items));
  }
  void Take(size_t slot, std::vector<LongItem> items) {
    Tried& tried = tried_[slot];
    ++tried.texts;
    for (LongItem& item : items) tried.items.push_back(std::move(item));
  }

  std::string path_;
  int fd_ = -1;
  std::map<size_t, Tried> tried_;
};

PromptFrame FrameOf(const ItemsFlags& flags, const Tokenizer& tokenizer, std::vector<int32_t>* end_ids) {
  if (flags.form == "raw") return PromptFrame::Raw(tokenizer);
  std::vector<std::string> warnings;
  try {
    const ChatTemplate form = ChatTemplate::Load(flags.model.model, flags.chat_template, tokenizer, &warnings);
    PrintWarnings(warnings);
    for (const int32_t id : form.EndIds(tokenizer)) end_ids->push_back(id);
    return PromptFrame::Chat(tokenizer, form);
  } catch (const Error& error) {
    if (flags.form == "chat" || error.code() != ErrorCode::kConfig) throw;
    return PromptFrame::Raw(tokenizer);  // no model of chats
  }
}

// Names and sizes of documents: other texts are other items.
std::string TextsSha256(const ItemDocuments& documents) {
  Sha256 hash;
  for (const ItemDocuments::Document& document : documents.documents)
    hash.Update(StrCat(document.name, "\n", document.ids.size(), "\n"));
  return Hex(hash.Finish());
}

ItemFile HeadOf(const ItemsFlags& flags, ItemSplit split, const Runner& runner, const Tokenizer& tokenizer,
                const PromptFrame& frame, const ItemDocuments& documents) {
  ItemFile file;
  file.tokenizer_sha256 = Hex(tokenizer.sha256());
  file.model_sha256 = runner.model.weights().Fingerprint();
  file.split = split;
  file.seed = flags.seed;
  file.lengths = flags.lengths;
  file.settings = DumpJson({{"kinds", flags.kinds},
                            {"items", flags.items},
                            {"form", frame.chat ? "chat" : "raw"},
                            {"keep", flags.keep},
                            {"pairs", flags.pairs},
                            {"depths", flags.depths},
                            {"tries", flags.tries},
                            {"without", flags.without},
                            {"controls", Json::parse(ControlsJson(ApplyControls(flags.model, runner.model.config())))},
                            {"texts_sha256", TextsSha256(documents)}});
  return file;
}

// Texts until one of the slot has an item. False where none had.
bool FillSlot(const ItemsFlags& flags, const ItemSlot& slot, size_t index, const HaystackMaker& maker,
              const Answerer& by, std::map<std::pair<int64_t, LongItemKind>, int64_t>* next, PartFile* part) {
  const bool keep_all = flags.keep == "all";
  int64_t& number = (*next)[{slot.length, slot.kind}];
  number += part->At(index).texts;
  while (part->At(index).items.empty() && part->At(index).texts < flags.tries) {
    const HaystackOptions options{.kind = slot.kind,
                                  .length = slot.length,
                                  .answer_room = kAnswerRoom,
                                  .depths = DepthsOf(flags),
                                  .pairs = flags.pairs[static_cast<size_t>(number) % flags.pairs.size()],
                                  .seed = static_cast<uint64_t>(flags.seed),
                                  .number = number};
    part->Add(index, AskText(flags, maker, by, options, keep_all));
    ++number;
  }
  return !part->At(index).items.empty();
}

void PrintCounts(const ItemFile& file) {
  struct Count {
    int64_t items = 0, right = 0;
    double nll = 0;
  };
  std::map<std::pair<int64_t, std::string>, Count> counts;
  for (const LongItem& item : file.items) {
    Count& count = counts[{item.length, item.kind}];
    ++count.items;
    count.right += item.dense_right ? 1 : 0;
    count.nll += item.dense_nll;
  }
  fmt::print("| length | kind | items | the model's own right | nats |\n| ---: | --- | ---: | ---: | ---: |\n");
  for (const auto& [key, count] : counts)
    fmt::print("| {} | {} | {} | {:.2f} | {:.3f} |\n", key.first, key.second, count.items,
               static_cast<double>(count.right) / static_cast<double>(count.items),
               count.nll / static_cast<double>(count.items));
}

int RunItems(ItemsFlags flags, const CLI::App* verb, const CommonFlags& common) {
  if (verb->count("--plan") > 0)
    throw Error(ErrorCode::kUsage, "data items: --plan: the model answers with all that it sees");
  const ItemSplit split = ParseItemSplit(flags.split, "--split");
  const std::vector<LongItemKind> kinds = KindsOf(flags, split);
  std::ranges::sort(flags.lengths);
  flags.lengths.erase(std::unique(flags.lengths.begin(), flags.lengths.end()), flags.lengths.end());
  if (flags.keep == "auto") flags.keep = split == ItemSplit::kTest ? "all" : "right";
  const std::vector<ItemSlot> slots = SlotsOf(flags, kinds);
  const Runner runner =
      OpenRunner(flags.model, {.quiet = common.quiet || common.json, .ctx = flags.lengths.back(), .batch = 2});
  if (runner.model.options().ctx_size < flags.lengths.back())
    throw Error(ErrorCode::kUsage,
                fmt::format("--lengths {}: --ctx-size is {}", flags.lengths.back(), runner.model.options().ctx_size));
  const Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags.model);
  Answerer by{runner, EndIds(runner.model, LoadWishes(flags.model.model), tokenizer),
              ApplyControls(flags.model, runner.model.config())};
  const PromptFrame frame = FrameOf(flags, tokenizer, &by.end_ids);
  ItemDocuments documents = ItemDocuments::Load(flags.text, tokenizer, split);
  ItemFile file = HeadOf(flags, split, runner, tokenizer, frame, documents);
  const HaystackMaker maker(tokenizer, frame, std::move(documents), split);
  PartFile part(flags.out + ".part", file.HeadLine());
  runner.Announce();
  InstallStopSignals();
  std::map<std::pair<int64_t, LongItemKind>, int64_t> next;
  std::map<std::pair<int64_t, LongItemKind>, int64_t> missing;
  double all = 0, done = 0;
  for (const ItemSlot& slot : slots) all += static_cast<double>(slot.length);
  {
    ProgressBar bar(common);
    for (size_t i = 0; i < slots.size(); ++i) {
      ThrowIfStopped();
      bar.Show(fmt::format("items {} {}", slots[i].length, LongItemKindName(slots[i].kind)), done / all,
               fmt::format("{}/{} texts", i, slots.size()));
      if (!FillSlot(flags, slots[i], i, maker, by, &next, &part)) ++missing[{slots[i].length, slots[i].kind}];
      for (const LongItem& item : part.At(i).items) file.items.push_back(item);
      done += static_cast<double>(slots[i].length);
    }
  }
  for (const auto& [key, count] : missing)
    PrintWarnings({fmt::format("{} at {}: {} of the texts are left out: the model answered none of {} right",
                               LongItemKindName(key.second), key.first, count, flags.tries)});
  if (file.items.empty()) throw Error(ErrorCode::kData, "no item was kept: take shorter --lengths, or --keep all");
  file.Save(flags.out);
  std::filesystem::remove(flags.out + ".part");
  if (common.json)
    fmt::print("{}\n", DumpJson({{"file", flags.out},
                                 {"items", file.items.size()},
                                 {"sha256", file.Sha256()},
                                 {"split", flags.split},
                                 {"settings", Json::parse(file.settings)}}));
  else if (!common.quiet)
    PrintCounts(file);
  return kDone;
}

}  // namespace

void AddDataItems(CLI::App& data, VerbContext& context) {
  auto flags = std::make_shared<ItemsFlags>();
  CLI::App* verb = context.AddVerb(data, {"items", "long texts with questions, answered by a model"},
                                   "hydralm data items -m smol.gguf --text books/ -o calib.jsonl");
  AddModelFlags(verb, &flags->model);
  verb->add_option("--text", flags->text, "folder of texts, a document a file; names decide the split")
      ->required()
      ->type_name("DIR");
  verb->add_option("-o,--output", flags->out, "the items, as JSON lines; FILE.part until they are whole")
      ->required()
      ->type_name("FILE");
  verb->add_option("--kinds", flags->kinds, "of summary, copy, lookup; for evaluation passkey, cloze, continuation")
      ->type_name("LIST");
  AddNumbers(verb, "--lengths", &flags->lengths, "tokens of an item, 128 of them for the answer", Range(1, 1 << 24));
  verb->add_option("--items", flags->items, "texts of each length")->check(Range(1, 1000000));
  verb->add_option("--split", flags->split, "calib, valid or test: documents, words and numbers of its own")
      ->type_name("NAME");
  verb->add_option("--depths", flags->depths, "questions a text, evenly over it; 0 = one, anywhere")
      ->check(Range(0, 1000));
  AddNumbers(verb, "--pairs", &flags->pairs, "lines of a lookup text, in turn; 0 = as many as there is room for",
             Range(0, 1 << 20));
  verb->add_option("--form", flags->form, "chat: a user's question; raw: the text goes on; auto: as the model is")
      ->check(CLI::IsMember({"auto", "chat", "raw"}))
      ->type_name("NAME");
  verb->add_option("--chat-template", flags->chat_template, "form of chats, where the model's files name none")
      ->type_name("NAME");
  verb->add_option("--keep", flags->keep, "right: what the model answers right; all; auto: all of test")
      ->check(CLI::IsMember({"auto", "right", "all"}))
      ->type_name("WHICH");
  verb->add_option("--tries", flags->tries, "texts that are tried for one that is kept")->check(Range(1, 100000));
  verb->add_flag("--without", flags->without, "each copy text once more without its words");
  verb->add_option("--seed", flags->seed, "of texts, words and numbers")->check(Range(0, int64_t{1} << 62));
  AddRuntimeFlags(verb, &flags->model);
  AddActivationFlag(verb, &flags->model);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunItems(*flags, verb, common); });
}

}  // namespace hydra::cli
