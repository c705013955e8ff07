// SPDX-License-Identifier: Apache-2.0
// Items whose answers depend on distant text, in files of JSON lines (specs/moa.md 2 and 9): what heads are profiled
// and plans are judged by. Not here: making them (long_items.h), answering them (cli/verb_data_items.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

// The parts of a corpus, by a hash of names: what is in one is in no other.
enum class ItemSplit { kCalib, kValid, kTest };
[[nodiscard]] const char* ItemSplitName(ItemSplit split);                                   // "calib", "valid", "test"
[[nodiscard]] ItemSplit ParseItemSplit(const std::string& name, const std::string& where);  // throws kUsage
// Of a document, or of a word or number that is planted: 60% calib, 20% valid, 20% test.
[[nodiscard]] ItemSplit SplitOfName(std::string_view name);

// One prompt with its answer.
struct LongItem {
  std::string id = {}, kind = {};                 // kind: a LongItemKind's name, or "copy-without"
  int64_t length = 0;                             // N, what plans see: prompt + room for the answer
  std::vector<int32_t> ids = {};                  // prompt and answer
  int64_t answer_begin = 0, answer_end = 0;       // of the answer in ids
  std::vector<int32_t> gold = {};                 // the right answer; empty where there is none but the model's own
  std::vector<std::vector<int32_t>> others = {};  // answers that the right one is chosen from; none: it is written
  std::string group = {};                         // items of one group begin with the same `prefix` tokens
  int64_t prefix = 0;
  double depth = -1;                   // 0 to 1: where in the text the answer lies; -1: everywhere
  double dense_nll = 0;                // mean nats of the answer's tokens, of the model that answered
  bool dense_right = false;            // whether that model writes `gold`, or chooses it
  std::vector<std::string> docs = {};  // names of the documents that the text is of

  [[nodiscard]] std::span<const int32_t> prompt() const {
    return std::span(ids).first(static_cast<size_t>(answer_begin));
  }
  [[nodiscard]] std::span<const int32_t> answer() const {
    return std::span(ids).subspan(static_cast<size_t>(answer_begin), static_cast<size_t>(answer_end - answer_begin));
  }
};

// A file: what holds for all items, and the items. `settings` is a JSON object of what they were made with.
struct ItemFile {
  std::string tokenizer_sha256, model_sha256;  // hexadecimal; of the model that answered, "" where not known
  ItemSplit split = ItemSplit::kCalib;
  int64_t seed = 0;
  std::vector<int64_t> lengths;  // ascending
  std::string settings = "{}";
  std::vector<LongItem> items;

  // Throws kFormat "FILE:LINE: FIELD ..." for what breaks the format, kIo where there is no such file.
  [[nodiscard]] static ItemFile Load(const std::string& path);
  void Save(const std::string& path) const;
  // The text of the first line, and of an item's.
  [[nodiscard]] std::string HeadLine() const;
  [[nodiscard]] static std::string Line(const LongItem& item);
  // One line of a file, as Load reads it; `where` is "FILE:LINE".
  [[nodiscard]] static LongItem ParseItem(std::string_view line, const std::string& where);
  // Throws kData where ids are of another tokenizer, or beyond the vocabulary.
  void CheckIds(const std::string& where, const std::string& tokenizer, int64_t vocab) const;
  // Of all that the items say, without who answered them: names the calibration set.
  [[nodiscard]] std::string Sha256() const;
};

}  // namespace hydra
