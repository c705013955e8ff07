// SPDX-License-Identifier: Apache-2.0
// BPE training over counted words, incrementally: each merge touches only the words that hold its pair.
// Not here: encoding (bpe.cc).
#include "hydra/text/bpe_train.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/bpe.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

// Counts of words, in the order of their first appearance. Words of up to 15 bytes lie in the table itself.
class WordCounts {
 public:
  WordCounts() : slots_(size_t{1} << 14, -1) {}

  void Add(std::string_view word) {
    const bool small = word.size() <= PieceCache::kMaxPieceBytes;
    const PieceCache::Key key = small ? PieceCache::MakeKey(word) : LongKey(word);
    size_t i = Slot(key);
    for (; slots_[i] >= 0; i = (i + 1) & (slots_.size() - 1)) {
      Word& known = words_[static_cast<size_t>(slots_[i])];
      if (known.key == key && (small || Text(known) == word)) {
        ++known.count;
        return;
      }
    }
    slots_[i] = static_cast<int32_t>(words_.size());
    words_.push_back({key, arena_.size(), word.size(), 1});
    arena_.append(word);
    HYDRA_CHECK(words_.size() < size_t{1} << 31, "too many distinct words");
    if (words_.size() * 2 > slots_.size()) Grow();
  }

  [[nodiscard]] size_t size() const { return words_.size(); }
  [[nodiscard]] uint64_t count(size_t i) const { return words_[i].count; }
  [[nodiscard]] std::string_view text(size_t i) const { return Text(words_[i]); }

 private:
  struct Word {
    PieceCache::Key key;
    uint64_t offset, bytes, count;
  };
  // Two hashes of the word, told from short keys by the top byte.
  static PieceCache::Key LongKey(std::string_view word) {
    const uint64_t hash = std::hash<std::string_view>{}(word);
    return {hash, (hash * 0x9E3779B97F4A7C15u) | uint64_t{0xFF} << 56};
  }
  [[nodiscard]] size_t Slot(const PieceCache::Key& key) const {
    uint64_t h = (key.low ^ (key.high * 0xD6E8FEB86659FD93u)) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    return static_cast<size_t>(h >> 20) & (slots_.size() - 1);
  }
  [[nodiscard]] std::string_view Text(const Word& word) const {
    return std::string_view(arena_).substr(word.offset, word.bytes);
  }
  void Grow() {
    slots_.assign(slots_.size() * 2, -1);
    for (size_t w = 0; w < words_.size(); ++w) {
      size_t i = Slot(words_[w].key);
      while (slots_[i] >= 0) i = (i + 1) & (slots_.size() - 1);
      slots_[i] = static_cast<int32_t>(w);
    }
  }

  std::vector<int32_t> slots_;  // indices of words_, -1 = empty
  std::vector<Word> words_;
  std::string arena_;
};

// The merges, found one by one. Bookkeeping follows the BpeTrainer of `tokenizers`, so that ties fall alike: a queue
// of (count, pair, words), counts corrected when an entry comes up, a fresh entry for each pair a merge creates.
class MergeFinder {
 public:
  MergeFinder(const WordCounts& counts, const std::array<int32_t, 256>& byte_ids) : pairs_(1 << 16) {
    starts_.reserve(counts.size() + 1);
    for (size_t w = 0; w < counts.size(); ++w) {
      starts_.push_back(symbols_.size());
      lengths_.push_back(static_cast<uint32_t>(counts.text(w).size()));
      counts_.push_back(static_cast<int64_t>(counts.count(w)));
      for (const char byte : counts.text(w)) symbols_.push_back(byte_ids[static_cast<unsigned char>(byte)]);
    }
    CountAll();
  }

  struct Best {
    int32_t left = -1, right = -1;
    int64_t count = 0;
    std::vector<uint32_t> words;
  };

  // The most frequent pair, of equal ones that of the lowest ids; count 0 where there is none left.
  Best Next() {
    while (!queue_.empty()) {
      Entry top = queue_.top();
      queue_.pop();
      const int64_t now = stats_[PairIndex(top.left, top.right)].count;
      if (top.count != now) {
        top.count = now;
        if (now > 0) queue_.push(top);
        continue;
      }
      return {top.left, top.right, top.count, std::move(lists_[top.list])};
    }
    return {};
  }

  // Replaces the pair by `result` in its words.
  void Apply(const Best& best, int32_t result) {
    changed_.clear();
    for (const uint32_t word : best.words) MergeIn(word, best.left, best.right, result);
    PushChanged();
  }

 private:
  struct Entry {
    int64_t count;
    int32_t left, right;
    size_t list;  // in lists_: the words to look at
    friend bool operator<(const Entry& a, const Entry& b) {
      if (a.count != b.count) return a.count < b.count;
      return a.left != b.left ? a.left > b.left : a.right > b.right;
    }
  };
  struct Stat {
    int64_t count = 0;
    int32_t left = 0, right = 0;
    std::vector<uint32_t> words;  // that gained the pair since the last push, ascending
  };

  size_t PairIndex(int32_t left, int32_t right) {
    uint64_t& index = pairs_.At(left, right);
    if (index == PairMap::kNone) {
      index = stats_.size();
      stats_.push_back({0, left, right, {}});
    }
    return index;
  }

  void Gain(int32_t left, int32_t right, uint32_t word) {
    const size_t index = PairIndex(left, right);
    Stat& stat = stats_[index];
    stat.count += counts_[word];
    if (stat.words.empty()) changed_.push_back(index);
    if (stat.words.empty() || stat.words.back() != word) stat.words.push_back(word);
  }

  void CountAll() {
    for (size_t w = 0; w < lengths_.size(); ++w) {
      const int32_t* s = symbols_.data() + starts_[w];
      for (uint32_t i = 0; i + 1 < lengths_[w]; ++i) Gain(s[i], s[i + 1], static_cast<uint32_t>(w));
    }
    PushChanged();
  }

  void PushChanged() {
    for (const size_t index : changed_) {
      Stat& stat = stats_[index];
      if (stat.count > 0) {
        queue_.push({stat.count, stat.left, stat.right, lists_.size()});
        lists_.push_back(std::move(stat.words));
      }
      stat.words = {};
    }
    changed_.clear();
  }

  // Counts of the pair itself stay as they are; it is used up all the same, since its entry has left the queue.
  void MergeIn(uint32_t word, int32_t left, int32_t right, int32_t result) {
    int32_t* s = symbols_.data() + starts_[word];
    const uint32_t n = lengths_[word];
    uint32_t out = 0;
    for (uint32_t i = 0; i < n;) {
      if (i + 1 >= n || s[i] != left || s[i + 1] != right) {
        s[out++] = s[i++];
        continue;
      }
      if (out > 0) {
        stats_[PairIndex(s[out - 1], left)].count -= counts_[word];
        Gain(s[out - 1], result, word);
      }
      i += 2;
      s[out++] = result;
      if (i < n) {
        stats_[PairIndex(right, s[i])].count -= counts_[word];
        Gain(result, s[i], word);
      }
    }
    lengths_[word] = out;
  }

  std::vector<int32_t> symbols_;  // of all words, one after the other
  std::vector<size_t> starts_;
  std::vector<uint32_t> lengths_;
  std::vector<int64_t> counts_;
  PairMap pairs_;  // to indices of stats_
  std::vector<Stat> stats_;
  std::vector<size_t> changed_;
  std::vector<std::vector<uint32_t>> lists_;
  std::priority_queue<Entry> queue_;
};

nlohmann::ordered_json ByteLevelJson(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

nlohmann::ordered_json PreTokenizerJson(SplitPattern pattern) {
  if (pattern == SplitPattern::kGpt2) return ByteLevelJson(true);
  const std::string_view regex = pattern == SplitPattern::kLlama3 ? kLlama3Regex : kQwen2Regex;
  nlohmann::ordered_json split = {
      {"type", "Split"}, {"pattern", {{"Regex", std::string(regex)}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"type", "Sequence"},
          {"pretokenizers", nlohmann::ordered_json::array({std::move(split), ByteLevelJson(false)})}};
}

std::string Quote(std::string_view text) { return nlohmann::json(std::string(text)).dump(); }

}  // namespace

struct BpeTrainer::Impl {
  BpeTrainOptions options;
  WordCounts counts;
  uint64_t bytes = 0, words = 0, reported = 0;
  std::string mended;
  std::vector<std::string> tokens;  // by id, as tokenizer.json spells them
  std::unordered_map<std::string, int32_t> ids;
  std::vector<std::pair<int32_t, int32_t>> merges;

  void Report(BpeTrainProgress::Phase phase, uint64_t done, uint64_t total) const {
    if (options.progress) options.progress({phase, done, total});
  }
  int32_t Token(const std::string& text) {
    const auto [found, is_new] = ids.try_emplace(text, static_cast<int32_t>(tokens.size()));
    if (is_new) tokens.push_back(text);
    return found->second;
  }
  std::array<int32_t, 256> StartVocabulary();
  void FindMerges(MergeFinder& finder);
  [[nodiscard]] std::string Json() const;
};

BpeTrainer::BpeTrainer(BpeTrainOptions options) : impl_(std::make_unique<Impl>()) {
  impl_->options = std::move(options);
  const auto& special = impl_->options.special_tokens;
  for (size_t i = 0; i < special.size(); ++i) {
    const std::string& text = special[i];
    if (text.empty() || ValidUtf8Prefix(text) != text.size()) {
      throw Error(ErrorCode::kUsage, fmt::format("special token {}: must be valid UTF-8 and not empty", i));
    }
    const bool is_byte = text.size() <= 2 && ByteLevelByte(DecodeUtf8(text.data()).value) >= 0 &&
                         text.size() == static_cast<size_t>(Utf8Length(text[0]));  // the byte alphabet has this token
    if (is_byte || std::find(special.begin(), special.begin() + static_cast<ptrdiff_t>(i), text) !=
                       special.begin() + static_cast<ptrdiff_t>(i)) {
      throw Error(
          ErrorCode::kUsage,
          fmt::format("special token '{}': must not be one character of the byte alphabet, nor given twice", text));
    }
  }
  const auto least = static_cast<int64_t>(256 + special.size());
  if (impl_->options.vocab_size < least || impl_->options.vocab_size > (1 << 24)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("vocab_size = {}: must be {}..{} (256 bytes and {} special tokens at least)",
                            impl_->options.vocab_size, least, 1 << 24, special.size()));
  }
}

BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::Add(std::string_view document) {
  Impl& impl = *impl_;
  const std::string_view text = MendUtf8(document, impl.mended);
  ScanPieces(impl.options.pattern, text, [&](std::string_view piece) {
    impl.counts.Add(piece);
    ++impl.words;
  });
  impl.bytes += document.size();
  constexpr uint64_t kReportBytes = 4 << 20;
  if (impl.bytes - impl.reported >= kReportBytes) {
    impl.reported = impl.bytes;
    impl.Report(BpeTrainProgress::Phase::kCount, impl.bytes, 0);
  }
}

// Special tokens, then the byte alphabet by code points.
std::array<int32_t, 256> BpeTrainer::Impl::StartVocabulary() {
  for (const auto& text : options.special_tokens) Token(text);
  std::array<std::pair<char32_t, uint8_t>, 256> alphabet;
  for (size_t byte = 0; byte < 256; ++byte) {
    alphabet[byte] = {ByteLevelChar(static_cast<uint8_t>(byte)), static_cast<uint8_t>(byte)};
  }
  std::sort(alphabet.begin(), alphabet.end());
  std::array<int32_t, 256> byte_ids{};
  for (const auto& [c, byte] : alphabet) {
    std::string text;
    AppendUtf8(c, text);
    byte_ids[byte] = Token(text);
  }
  return byte_ids;
}

void BpeTrainer::Impl::FindMerges(MergeFinder& finder) {
  const auto wanted = static_cast<size_t>(options.vocab_size);
  const auto least = static_cast<int64_t>(std::max<uint64_t>(1, options.min_count));
  while (tokens.size() < wanted) {
    const MergeFinder::Best best = finder.Next();
    if (best.count < least) break;
    const auto text = tokens[static_cast<size_t>(best.left)] + tokens[static_cast<size_t>(best.right)];
    merges.emplace_back(best.left, best.right);
    finder.Apply(best, Token(text));
    if (tokens.size() % 256 == 0) Report(BpeTrainProgress::Phase::kMerge, tokens.size(), wanted);
  }
}

// Written piece by piece: large, and to be read by people too.
std::string BpeTrainer::Impl::Json() const {
  auto added = nlohmann::ordered_json::array();
  for (size_t i = 0; i < options.special_tokens.size(); ++i) {
    added.push_back({{"id", i},
                     {"content", options.special_tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
  out += fmt::format("  \"added_tokens\": {},\n  \"normalizer\": null,\n", added.dump());
  out += fmt::format("  \"pre_tokenizer\": {},\n", PreTokenizerJson(options.pattern).dump());
  out += fmt::format("  \"post_processor\": null,\n  \"decoder\": {},\n", ByteLevelJson(true).dump());
  out +=
      "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
      "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
  for (size_t id = 0; id < tokens.size(); ++id) {
    out += fmt::format("{}\n      {}: {}", id == 0 ? "" : ",", Quote(tokens[id]), id);
  }
  out += "\n    },\n    \"merges\": [";
  // A pair that came up twice counts by its later place, as in `tokenizers`.
  PairMap last(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) last.At(merges[i].first, merges[i].second) = i;
  bool first = true;
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto [left, right] = merges[i];
    if (last.Find(left, right) != i) continue;
    out += first ? "\n      " : ",\n      ";
    out += Quote(tokens[static_cast<size_t>(left)] + " " + tokens[static_cast<size_t>(right)]);
    first = false;
  }
  return out + "\n    ]\n  }\n}\n";
}

bool BpeTrainer::empty() const { return impl_->words == 0; }

BpeTrainResult BpeTrainer::Train() {
  Impl& impl = *impl_;
  if (empty()) throw Error(ErrorCode::kData, "the corpus is empty: a tokenizer needs text to be trained on");
  impl.Report(BpeTrainProgress::Phase::kCount, impl.bytes, 0);
  MergeFinder finder(impl.counts, impl.StartVocabulary());
  impl.FindMerges(finder);
  impl.Report(BpeTrainProgress::Phase::kMerge, impl.tokens.size(), static_cast<uint64_t>(impl.options.vocab_size));
  return {.json = impl.Json(),
          .vocab_size = static_cast<int>(impl.tokens.size()),
          .bytes = impl.bytes,
          .words = impl.words,
          .distinct = impl.counts.size()};
}

BpeTrainResult TrainBpe(const std::vector<std::string_view>& documents, const BpeTrainOptions& options) {
  BpeTrainer trainer(options);
  for (const auto document : documents) trainer.Add(document);
  return trainer.Train();
}

}  // namespace hydra
