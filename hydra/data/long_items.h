// SPDX-License-Identifier: Apache-2.0
// Makes prompts whose answers depend on distant text (specs/moa.md 2 and 9), as token ids, to the token: words to be
// repeated, numbers to be looked up, a pass key, a summary; and what a document itself says next. Not here: the answers
// (cli/verb_data_items.h), files of items (items.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/data/items.h"
#include "hydra/text/chat_template.h"
#include "hydra/text/tokenizer.h"

namespace hydra {

enum class LongItemKind {
  kSummary,  // of a document; only the model itself can say the answer
  kCopy,     // 48 words in a row; the end repeats 16, the answer is the next 32
  kLookup,   // lines "word-word: number"; the answer is the number of one
  // For evaluation only:
  kPasskey,       // "The pass key is 48213."
  kCloze,         // the word that comes next, said before, but long ago; chosen from 10 words of the text
  kContinuation,  // the next 32 tokens, chosen from 4 passages of the document
};
constexpr bool ForEvaluation(LongItemKind kind) { return kind >= LongItemKind::kPasskey; }
[[nodiscard]] bool ForEvaluation(const std::string& name);  // of a kind
[[nodiscard]] const char* LongItemKindName(LongItemKind kind);
[[nodiscard]] LongItemKind ParseLongItemKind(const std::string& name, const std::string& where);  // throws kUsage

// The documents of a folder that fall into a split: a UTF-8 text file each, its name decides.
struct ItemDocuments {
  struct Document {
    std::string name;
    std::vector<int32_t> ids;
  };
  std::vector<Document> documents;  // by name
  int64_t tokens = 0;

  // Files of the folder and of folders in it; those whose names begin with a dot are left out. Throws kIo where there
  // is no such folder, kData where no document falls into the split or none has text.
  [[nodiscard]] static ItemDocuments Load(const std::string& folder, const Tokenizer& tokenizer, ItemSplit split);
};

// What stands around the text of a prompt, as ids. In a chat it is a user's message, and the beginning of the answer
// stands behind `after`; raw, the text is continued.
struct PromptFrame {
  std::vector<int32_t> before, after;
  bool chat = false;
  [[nodiscard]] static PromptFrame Raw(const Tokenizer& tokenizer);
  [[nodiscard]] static PromptFrame Chat(const Tokenizer& tokenizer, const ChatTemplate& form);
};

// One question about a haystack.
struct ItemQuestion {
  std::vector<int32_t> ids;                       // behind the shared part, to the end of the prompt
  std::vector<int32_t> gold;                      // empty: only the model itself can say
  std::vector<std::vector<int32_t>> others = {};  // that the right answer is chosen from, by their probability
  double depth = -1;
};

// A long text, and questions about it that all begin with it.
struct ItemHaystack {
  std::vector<int32_t> shared;  // beginning of every prompt
  std::vector<ItemQuestion> questions;
  std::vector<std::string> docs;
};

struct HaystackOptions {
  LongItemKind kind = LongItemKind::kCopy;
  int64_t length = 1024;      // N; the longest prompt has N - answer_room tokens
  int64_t answer_room = 128;  // tokens
  // One question each, 0 to 1; empty: one question at a depth by chance. Of kCloze and kContinuation their number
  // counts alone: such questions are spread over the last quarter of the text.
  std::vector<double> depths = {};
  int64_t pairs = 8;    // of kLookup: lines; 0: as many as there is room for
  bool planted = true;  // of kCopy: false leaves the words out, all else stays
  uint64_t seed = 1;
  int64_t number = 0;  // which one of this seed, kind and length
};

// Makes haystacks of one split. Immutable; the tokenizer must outlive it.
class HaystackMaker {
 public:
  HaystackMaker(const Tokenizer& tokenizer, PromptFrame frame, ItemDocuments documents, ItemSplit split);
  // Equal options give equal haystacks. Throws kData where the split has too little text for the length, or no document
  // that asks by itself, kUsage where the length has no room for what is planted.
  [[nodiscard]] ItemHaystack Make(const HaystackOptions& options) const;

 private:
  struct Planted;
  struct Asked;
  [[nodiscard]] std::vector<int32_t> Ids(std::string_view text) const;
  [[nodiscard]] std::vector<size_t> DocumentsByChance(Rng& rng) const;  // all of them
  [[nodiscard]] std::vector<int32_t> TakeText(int64_t n, bool ends, Rng& rng, std::vector<std::string>* docs) const;
  [[nodiscard]] std::vector<Asked> Ask(const HaystackOptions& options, Rng& rng, std::vector<Planted>* planted) const;
  [[nodiscard]] Asked AskCopy(double depth, int64_t answer_room, Rng& rng, std::vector<Planted>* planted) const;
  [[nodiscard]] std::vector<Asked> AskLookup(const HaystackOptions& options, const std::vector<double>& depths,
                                             Rng& rng, std::vector<Planted>* planted) const;
  [[nodiscard]] Asked AskPasskey(double depth, Rng& rng, std::vector<Planted>* planted) const;
  [[nodiscard]] Asked AskSummary() const;
  [[nodiscard]] ItemHaystack MakeFromText(const HaystackOptions& options, Rng& rng) const;  // long_items_text.cc

  const Tokenizer& tokenizer_;
  PromptFrame frame_;
  ItemDocuments documents_;
  ItemSplit split_;
  std::vector<std::string> words_;
  std::vector<bool> ends_sentence_;  // of each id
};

}  // namespace hydra
