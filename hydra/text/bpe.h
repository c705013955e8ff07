// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one piece of text: a vocabulary, ranked merges, and the cache in front of them.
// Not here: how text becomes pieces (pretokenizer.h), training (bpe_train.h).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

// An open-addressed map from pairs of token ids to 64-bit values; a pair is never removed.
class PairMap {
 public:
  static constexpr uint64_t kNone = UINT64_MAX;

  explicit PairMap(size_t expected = 0);
  // kNone where the pair is absent.
  [[nodiscard]] uint64_t Find(int32_t a, int32_t b) const {
    const uint64_t key = Key(a, b);
    for (size_t i = Slot(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].value;
      if (slots_[i].key == kNone) return kNone;
    }
  }
  // The value of the pair, made kNone first where it is new. Valid until the next call.
  [[nodiscard]] uint64_t& At(int32_t a, int32_t b);
  [[nodiscard]] size_t size() const { return size_; }

 private:
  struct Entry {
    uint64_t key, value;
  };
  static uint64_t Key(int32_t a, int32_t b) {
    return uint64_t{static_cast<uint32_t>(a)} << 32 | static_cast<uint32_t>(b);
  }
  [[nodiscard]] size_t Slot(uint64_t key) const {
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15u;
    return static_cast<size_t>((key ^ key >> 32) & mask_);
  }
  void Grow(size_t slots);

  std::vector<Entry> slots_;
  size_t mask_ = 0, size_ = 0;
};

// Texts by number, one after the other in one block: a vocabulary of strings would cost several times as much.
class TextList {
 public:
  void Reserve(size_t texts, size_t bytes);
  // Throws kFormat past 4 GiB.
  void Add(std::string_view text);
  [[nodiscard]] size_t size() const { return ends_.size(); }
  [[nodiscard]] std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return {block_.data() + begin, ends_[i] - begin};
  }

 private:
  std::string block_;
  std::vector<uint32_t> ends_;
};

// Token texts by id, and ids by text.
class TokenTable {
 public:
  // Empty texts are not found; of equal ones the first.
  explicit TokenTable(TextList texts);
  explicit TokenTable(const std::vector<std::string_view>& texts);
  TokenTable() : TokenTable(TextList()) {}

  [[nodiscard]] int32_t size() const { return static_cast<int32_t>(texts_.size()); }
  [[nodiscard]] std::string_view Text(int32_t id) const { return texts_[static_cast<size_t>(id)]; }
  // The texts, without the table.
  [[nodiscard]] TextList TakeTexts() && { return std::move(texts_); }
  // -1 where there is none.
  [[nodiscard]] int32_t Find(std::string_view text) const;
  // A text that an id before it has too; -1 where all differ.
  [[nodiscard]] int32_t twice() const { return twice_; }

 private:
  TextList texts_;
  std::vector<int32_t> slots_;  // ids, -1 = empty; the size is a power of two
  int32_t twice_ = -1;
};

// Ids of pieces seen before, at most 15 bytes long: direct-mapped, so it neither grows nor needs care. One per thread.
class PieceCache {
 public:
  static constexpr size_t kMaxPieceBytes = 15;
  static constexpr size_t kInlineIds = 3;

  struct Key {
    uint64_t low = 0, high = 0;  // the bytes, the length in the last
    friend bool operator==(const Key&, const Key&) = default;
  };
  [[nodiscard]] static Key MakeKey(std::string_view piece);

  // Appends the ids of `key` to `out`; false where they are not known.
  [[nodiscard]] bool Find(const Key& key, std::vector<int32_t>& out) const {
    const Entry& entry = entries_[Slot(key)];
    if (!(entry.key == key)) return false;
    out.insert(out.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
    return true;
  }
  // Keeps `count` ids; more than kInlineIds are not kept.
  void Store(const Key& key, const int32_t* ids, size_t count);
  // Empties the cache and sizes it for texts of `text_bytes`; a larger one that belongs to `owner` is left as it is.
  void Prepare(uint64_t owner, size_t text_bytes);

 private:
  struct Entry {
    Key key;
    std::array<int32_t, kInlineIds> ids{};
    int32_t count = 0;
  };
  static_assert(sizeof(Entry) == 32);
  [[nodiscard]] size_t Slot(const Key& key) const {
    const uint64_t h = (key.low ^ (key.high * 0xD6E8FEB86659FD93u)) * 0x9E3779B97F4A7C15u;
    return static_cast<size_t>((h ^ h >> 29) >> 20) & mask_;
  }
  std::vector<Entry> entries_;
  size_t mask_ = 0;
  uint64_t owner_ = 0;
};

struct BpeOptions {
  bool byte_level = true;  // pieces are bytes, spelled in the byte-level alphabet in the vocabulary; else characters
  bool byte_fallback = false;  // characters without a token become <0x00> to <0xFF>
  bool fuse_unk = false;       // neighbouring unknown characters become one unk_token
  bool ignore_merges = false;  // a piece that is a token is that token
  int32_t unk_id = -1;         // for unknown characters; -1 drops them
};

// Immutable and thread-safe.
class BpeModel {
 public:
  struct Merge {
    int32_t left, right, result;  // ids; the index in the list is the rank
  };
  using Merges = std::deque<Merge>;  // growing takes no room for a second one
  BpeModel() = default;
  // `tokens` must outlive the model; those that `own` leaves out are not found in a text (none: all are). Of two merges
  // of one pair the later counts, as in `tokenizers`.
  BpeModel(const TokenTable* tokens, const Merges& merges, const BpeOptions& options, std::vector<bool> own = {});

  struct Scratch {
    std::vector<int32_t> ids;
    std::vector<uint64_t> ranks;
    std::vector<int32_t> prev, next;
    std::vector<uint64_t> heap;
    std::string spelled;
  };
  // Appends the ids of `piece` (valid UTF-8, or any bytes where byte_level) to `out`. n log n in its length.
  void Encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  [[nodiscard]] int32_t Find(std::string_view text) const {
    const int32_t id = tokens_->Find(text);
    return id < 0 || own_.empty() || own_[static_cast<size_t>(id)] ? id : -1;
  }
  void Symbols(std::string_view piece, std::vector<int32_t>& ids) const;
  void MergeShort(Scratch& scratch, std::vector<int32_t>& out) const;
  void MergeLong(Scratch& scratch, std::vector<int32_t>& out) const;

  const TokenTable* tokens_ = nullptr;
  std::vector<bool> own_;
  BpeOptions options_;
  PairMap merges_;                       // rank << 32 | id of the result
  std::array<int32_t, 256> byte_ids_{};  // of one-byte tokens, or of <0xXX>; -1 = none
};

}  // namespace hydra
